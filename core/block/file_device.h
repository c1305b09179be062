// SPDX-License-Identifier: Apache-2.0
// FileDevice: a regular file or a block device of this machine.
//
// What the page cache has, or can take without waiting, is moved at once; everything else goes
// through the ring, so no request ever blocks its reactor. With O_DIRECT, requests that the medium
// cannot take as they are (a part of a block, an odd address in memory) go over a bounce buffer;
// writing a part of a block reads it first, apart from all other writes to it.
//
// If the page cache could not write to the medium what it had taken, every flush and every write
// with force_unit_access fails from then on, whoever asks.
//
// A file that is shorter than size() (truncated by somebody else) answers kIoError there, never
// made-up zeroes.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/async/per_reactor.h"
#include "core/async/wait_queue.h"
#include "core/base/descriptor.h"
#include "core/block/counted_device.h"
#include "core/block/medium.h"
#include "core/block/range_lock.h"

namespace sectormap {

// Blocks of O_DIRECT larger than this are not known, and would not fit a bounce.
inline constexpr uint32_t kDirectBlockMax = 65536;

class FileDevice final : public CountedDevice {
 public:
  enum class Mode {
    kWriteback,  // through the page cache; a flush or force_unit_access reaches the medium
    kDirect,     // O_DIRECT
  };
  struct Options {
    // Default: kWriteback for files, kDirect for block devices that can.
    std::optional<Mode> mode = std::nullopt;
    // For kDirect, at least this much at once, a power of two; 0: as the medium needs. A drive that
    // emulates 512-byte sectors writes whole physical blocks faster.
    uint32_t direct_block_bytes = 0;
  };

  // InvalidArgument, NotFound, PermissionDenied, Unavailable, each with the name and the reason.
  // Control threads only: it may block.
  static absl::StatusOr<std::unique_ptr<FileDevice>> Open(const std::string& path, bool read_only,
                                                          const Options& options);
  // As Open, over a descriptor. `name` is for error texts.
  static absl::StatusOr<std::unique_ptr<FileDevice>> Adopt(Descriptor fd, std::string name,
                                                           bool read_only, const Options& options);
  FileDevice(const FileDevice&) = delete;
  FileDevice& operator=(const FileDevice&) = delete;

  SectorCount size() const override { return SectorCount(size_.load(std::memory_order_relaxed)); }
  BlockLimits limits() const override;
  Task<IoStatus> Submit(IoRequest request) override;
  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override;
  Task<Extent> ExtentAt(Sector first) override;

  // Any thread.
  Mode mode() const { return mode_; }
  bool read_only() const { return read_only_.load(std::memory_order_relaxed); }

  // Sees that the file has grown. It never shrinks while open: somebody's table may reach that far,
  // and gets kIoError there. Control threads only.
  absl::Status RefreshSize();

  // From now on it may be written: `fd` is the same file opened for writing.
  // Requests in flight end on the old one. Control threads only, one at a time.
  absl::Status AllowWrites(Descriptor fd);

 private:
  FileDevice(Descriptor fd, std::string name, bool read_only, Mode mode,
             uint32_t direct_block_bytes, const Medium& medium);

  // Ends with whole blocks for kDirect.
  SectorCount UsableSize(SectorCount size) const;

  Task<IoStatus> Read(const IoRequest& request);
  Task<IoStatus> Write(const IoRequest& request);
  Task<IoStatus> Counted(IoRequest request, Task<IoStatus> work);
  Task<IoStatus> WriteRest(IoRequest request, uint64_t written);
  // What was written to the range is on the medium; a `length` of 0: to the end.
  Task<IoStatus> Sync(uint64_t offset, uint64_t length);
  Task<IoStatus> SyncAll() { return Sync(0, 0); }
  // Zeroes that need no bytes: kDiscard and kWriteZeroes.
  Task<IoStatus> Clear(IoRequest request);
  Task<IoStatus> ClearBlocks(bool keep_space, uint64_t offset, uint64_t length);
  Task<IoStatus> WriteZeroBytes(uint64_t offset, uint64_t length);

  // What moves without waiting: a count, or less than 1.
  ssize_t ReadNow(std::span<std::byte> bytes, uint64_t offset) const;
  ssize_t WriteNow(std::span<const std::byte> bytes, uint64_t offset);

  bool IsAligned(const void* bytes, uint64_t offset, uint64_t length) const;
  // By the ring, until all is done: `prepare` gets what has been, and how much is next.
  template <typename Prepare>
  Task<IoStatus> Transfer(uint64_t length, Prepare prepare);
  // `flags` are RWF_*.
  Task<IoStatus> ReadFully(std::byte* bytes, uint64_t offset, uint64_t length);
  Task<IoStatus> WriteFully(const std::byte* bytes, uint64_t offset, uint64_t length, int flags);
  // As above, held apart from a read-modify-write of the same blocks.
  Task<IoStatus> WriteBlocks(const std::byte* bytes, uint64_t offset, uint64_t length, int flags);
  Task<IoStatus> ReadBounced(std::byte* bytes, uint64_t offset, uint64_t length);
  Task<IoStatus> WriteBounced(const std::byte* bytes, uint64_t offset, uint64_t length, int flags);
  Task<IoStatus> Allocate(int mode, uint64_t offset, uint64_t length);

  // For what the ring gives to a kernel thread of its own, which it keeps while the medium does not
  // answer: waits until the device has a place for one.
  Task<int> CallByWorker(absl::FunctionRef<void(io_uring_sqe*)> prepare);

  Extent SeekExtent(Sector first) const;

  // Of this device on one reactor, of kRingWorkers: enough to keep a medium busy, and one that
  // hangs leaves the others theirs.
  static constexpr int kWorkersMax = 8;
  struct Workers {
    int busy = 0;
    WaitQueue place;
  };

  const Descriptor fd_;
  const std::string name_;
  const Mode mode_;
  const bool block_device_;
  const bool in_memory_;
  const bool knows_nowait_;
  const uint32_t block_bytes_;         // what offsets and lengths must be multiples of
  const uint32_t memory_align_bytes_;  // what addresses in memory must be multiples of
  const BlockLimits limits_;
  std::atomic<uint64_t> size_;
  std::atomic<bool> read_only_;
  std::atomic<bool> can_punch_hole_;
  // Learnt from the first refusal, which says so for this file system or device.
  std::atomic<bool> can_zero_range_{true};
  std::atomic<bool> can_write_now_{true};
  // Page cache only: data was lost, and every flush says so until the file is opened anew.
  std::atomic<IoStatus> lost_{IoStatus::kOk};
  PerReactor<Workers> workers_;
  RangeLock partial_writes_;  // in bytes; used only if a block is larger than a sector
};

}  // namespace sectormap
