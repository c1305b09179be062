// SPDX-License-Identifier: Apache-2.0
// IoCounters: what a device did, counted per reactor with plain adds and summed only when somebody
// asks. A reader may see a count a moment late, never a torn one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/async/per_reactor.h"
#include "core/base/io_status.h"
#include "core/block/io_request.h"

namespace sectormap {

// A counter that one thread adds to and any thread reads: a plain load, add and store.
class LocalCounter {
 public:
  void Add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct IoTotals {
  struct PerOp {
    uint64_t requests = 0;
    uint64_t bytes = 0;
    uint64_t errors = 0;
  };
  std::array<PerOp, kIoOpCount> ops;

  IoTotals& operator+=(const IoTotals& more) {
    for (int op = 0; op < kIoOpCount; ++op) {
      ops[op].requests += more.ops[op].requests;
      ops[op].bytes += more.ops[op].bytes;
      ops[op].errors += more.ops[op].errors;
    }
    return *this;
  }
};

class IoCounters {
 public:
  // On a reactor, when a request has ended.
  void Count(const IoRequest& request, IoStatus status) {
    Count(request.op, request.count, status);
  }
  void Count(IoOp kind, SectorCount count, IoStatus status) {
    PerOp& op = shards_.Mine()[static_cast<int>(kind)];
    op.requests.Add(1);
    op.bytes.Add(Bytes(count).value());
    if (status != IoStatus::kOk) op.errors.Add(1);
  }

  // Any thread.
  IoTotals Sum() const {
    IoTotals totals;
    shards_.ForEach([&totals](const Shard& shard) {
      for (int op = 0; op < kIoOpCount; ++op) {
        totals.ops[op].requests += shard[op].requests.value();
        totals.ops[op].bytes += shard[op].bytes.value();
        totals.ops[op].errors += shard[op].errors.value();
      }
    });
    return totals;
  }

 private:
  struct PerOp {
    LocalCounter requests, bytes, errors;
  };
  using Shard = std::array<PerOp, kIoOpCount>;
  PerReactor<Shard> shards_;
};

}  // namespace sectormap
