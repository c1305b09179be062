// SPDX-License-Identifier: Apache-2.0
// What several block commands do with the medium: compare it, in pieces of bounded memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>

#include "core/async/task.h"
#include "core/base/io_status.h"
#include "core/block/block_device.h"
#include "core/block/buffer_pool.h"
#include "server/scsi/parameter_limits.h"
#include "server/scsi/range_lock.h"

namespace sectormap::scsi {

// kScratchBytes of aligned memory for the life of a command; empty if there is none to have.
class Scratch {
 public:
  Scratch()
      : bytes_(static_cast<std::byte*>(std::aligned_alloc(kBufferAlignment, kScratchBytes))) {}
  explicit operator bool() const { return bytes_ != nullptr; }
  std::span<std::byte> bytes() const { return {bytes_.get(), kScratchBytes}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
};

struct Comparison {
  IoStatus status = IoStatus::kOk;
  // Offset of the first byte that differs.
  std::optional<uint64_t> mismatch;
};

// What the medium should hold: nothing in particular, these bytes, or one block again and again.
struct Expected {
  std::span<const std::byte> bytes;  // empty: only read
  bool repeats = false;              // `bytes` is one block
};

Task<Comparison> CompareMedium(BlockDevice& disk, SectorRange range, Expected expected,
                               const Scratch& scratch);

// ORs what the medium holds into `data`, which is as long as the range.
Task<IoStatus> OrMediumInto(BlockDevice& disk, SectorRange range, std::span<std::byte> data,
                            const Scratch& scratch);

// True for zeros only.
bool IsZero(std::span<const std::byte> bytes);

}  // namespace sectormap::scsi
