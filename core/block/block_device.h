// SPDX-License-Identifier: Apache-2.0
// BlockDevice: the one I/O contract. Backing devices, targets and mapped devices all keep it, so
// everything stacks. tests/core/block/block_device_contract.h runs over every one of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/async/task.h"
#include "core/base/io_status.h"
#include "core/base/units.h"
#include "core/block/io_request.h"

namespace sectormap {

// Where a device's physical blocks, or what it can discard, do not all begin at the same distance.
inline constexpr uint32_t kNotAligned = UINT32_MAX;

// What a layer above should know of a device to use it well. Requests of any 512-byte alignment
// work on every device; these are hints and abilities, not duties.
struct BlockLimits {
  uint32_t logical_block_bytes = 512;   // the medium's own addressing unit
  uint32_t physical_block_bytes = 512;  // smaller writes cost a read
  uint32_t io_min_bytes = 0;            // preferred smallest request; 0: none
  uint32_t io_opt_bytes = 0;            // preferred request; 0: none
  bool can_discard = false;
  uint32_t discard_granularity_bytes = 0;  // 0 if it cannot discard
  bool discard_zeroes = false;             // discarded sectors read as zeroes
  bool can_write_zeroes = false;           // without moving the bytes
  bool can_lend = false;                   // Lend() is worth a try
  // From the device's begin to the first physical block's, or the first granule's of discards.
  uint32_t physical_alignment_bytes = 0;  // or kNotAligned
  uint32_t discard_alignment_bytes = 0;   // or kNotAligned

  bool operator==(const BlockLimits&) const = default;
};

// What two devices side by side can do: the strictest of each (block/blk-settings.c,
// blk_stack_limits).
BlockLimits StackedLimits(const BlockLimits& a, const BlockLimits& b);

// Of a device that is shown from its sector `from` on, and there at sector `to`: what is aligned
// to something moves with it.
BlockLimits MovedLimits(BlockLimits limits, Sector from, Sector to = Sector(0));

// A run of sectors of one kind, for GET LBA STATUS.
struct Extent {
  IoStatus status = IoStatus::kOk;
  bool mapped = true;  // false: no space is used, reads give zeroes
  SectorCount count;   // > 0 if status is kOk
};

// Sectors shown where a device has them in memory. They do not stand still: a write changes them
// under whoever looks.
struct Loan {
  std::span<const std::byte> bytes;    // empty: nothing was lent
  std::shared_ptr<const void> memory;  // keeps them, whatever becomes of the device

  explicit operator bool() const { return !bytes.empty(); }
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  // Addresses run over [0, size()). Any thread.
  virtual SectorCount size() const = 0;

  // Any thread.
  virtual BlockLimits limits() const = 0;

  // REQUIRES: called and awaited on a reactor's thread (a device may do the work in the call; from
  // another thread: reactors.RunOn(0, [&] { return device.Submit(request); })); the range inside
  // [0, size()) and not empty, except for kFlush; data.size() == Bytes(count) for kRead and kWrite.
  // The bytes stay until the task ends. Concurrent requests may end in any order; overlapping
  // concurrent writes leave either's bytes in each sector. kDiscard and kWriteZeroes answer
  // kNotSupported where limits() says so.
  virtual Task<IoStatus> Submit(IoRequest request) = 0;

  // A read without a copy, for who can bear that the bytes are those of the moment in which they
  // are looked at: nothing waits until a loan has ended, neither a write nor a suspend. So only a
  // device that would answer a read with another device's bytes, unchanged and unwatched, passes
  // this on. An empty loan says nothing: Submit the read.
  // REQUIRES: on a reactor's thread; the range inside [0, size()) and not empty.
  virtual Loan Lend(Sector first, SectorCount count) {
    static_cast<void>(first), static_cast<void>(count);
    return {};
  }

  // A write that ends in the call, of bytes that need not stay. False: it would have to wait, or
  // the device has more to do for a write than to pass its bytes on; some of them may have been
  // written. That is no failure: Submit the write.
  // REQUIRES: on a reactor's thread; the range inside [0, size()), whole sectors, not empty.
  virtual bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) {
    static_cast<void>(first), static_cast<void>(bytes);
    return false;
  }

  // The run of equal sectors that begins at `first`, as far as is cheap to know.
  // REQUIRES: on a reactor's thread; first < size().
  virtual Task<Extent> ExtentAt(Sector first) {
    return Extent{IoStatus::kOk, true, SectorCount(size().value() - first.value())};
  }
};

}  // namespace sectormap
