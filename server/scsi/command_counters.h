// SPDX-License-Identifier: Apache-2.0
// CommandCounters: what a unit's initiators asked of it, per reactor with plain adds, summed when
// somebody asks. The transport counts, as only it knows when a command began and ended.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "core/async/clock.h"
#include "core/async/per_reactor.h"
#include "core/block/io_counters.h"
#include "server/scsi/scsi_command.h"

namespace sectormap::scsi {

enum class OpClass : uint8_t {
  kRead,
  kWrite,  // also with verify, and ORWRITE
  kUnmap,
  kWriteSame,
  kCompareWrite,
  kFlush,
  kOther,
};
inline constexpr int kOpClassCount = 7;

// By the handler in the table of commands (command_table.cc).
OpClass ClassOf(const CdbBytes& cdb);

// Upper bounds of the latency buckets; what takes longer is in the last one. An alert that compares
// with anything else would compare with a guess between two of them (sectormap.rules.yml).
inline constexpr size_t kLatencyBuckets = 19;
inline constexpr std::array<std::chrono::microseconds, kLatencyBuckets - 1> kLatencyBounds = {
    std::chrono::microseconds(25),        std::chrono::microseconds(50),
    std::chrono::microseconds(100),       std::chrono::microseconds(250),
    std::chrono::microseconds(500),       std::chrono::microseconds(1'000),
    std::chrono::microseconds(2'500),     std::chrono::microseconds(5'000),
    std::chrono::microseconds(10'000),    std::chrono::microseconds(25'000),
    std::chrono::microseconds(50'000),    std::chrono::microseconds(100'000),
    std::chrono::microseconds(250'000),   std::chrono::microseconds(500'000),
    std::chrono::microseconds(1'000'000), std::chrono::microseconds(2'500'000),
    std::chrono::microseconds(5'000'000), std::chrono::microseconds(10'000'000)};

struct CommandTotals {
  struct PerClass {
    uint64_t commands = 0;
    uint64_t bytes = 0;
    uint64_t errors = 0;
    uint64_t nanoseconds = 0;
    // Not cumulative; all of them together are `commands`.
    std::array<uint64_t, kLatencyBuckets> latency{};
  };
  std::array<PerClass, kOpClassCount> classes;
};

class CommandCounters {
 public:
  // On a reactor, when a command's status is known.
  void Count(OpClass op, uint64_t bytes, bool ok, nanoseconds duration) {
    PerClass& counters = shards_.Mine()[static_cast<int>(op)];
    counters.commands.Add(1);
    counters.bytes.Add(bytes);
    if (!ok) counters.errors.Add(1);
    counters.nanoseconds.Add(static_cast<uint64_t>(duration.count() < 0 ? 0 : duration.count()));
    counters.latency[BucketOf(duration)].Add(1);
  }

  // Any thread.
  CommandTotals Sum() const;

  static size_t BucketOf(nanoseconds duration) {
    size_t bucket = 0;
    while (bucket < kLatencyBounds.size() && duration > kLatencyBounds[bucket]) ++bucket;
    return bucket;
  }

 private:
  struct PerClass {
    LocalCounter commands, bytes, errors, nanoseconds;
    std::array<LocalCounter, kLatencyBuckets> latency;
  };
  using Shard = std::array<PerClass, kOpClassCount>;
  PerReactor<Shard> shards_;
};

}  // namespace sectormap::scsi
