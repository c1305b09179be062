// SPDX-License-Identifier: Apache-2.0
#include "core/block/file_device.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/async/reactor.h"
#include "core/base/check.h"
#include "core/base/rounding.h"
#include "core/base/status_macros.h"
#include "core/block/buffer_pool.h"
#include "core/block/open_error.h"

namespace sectormap {
namespace {

// What one operation of the ring moves: its length has 32 bits, and the kernel's own limit is
// slightly below 2 GiB.
constexpr uint64_t kRingBytesMax = uint64_t{1} << 30;

// A source for zeroes by hand.
constexpr size_t kZeroBytes = size_t{64} << 10;
alignas(kBufferAlignment) constexpr std::byte kZeroes[kZeroBytes]{};

absl::Status SetDirect(int fd, const std::string& name) {
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "'", name, "' cannot be opened with O_DIRECT: ", std::strerror(errno), "; use writeback"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileDevice>> FileDevice::Open(const std::string& path,
                                                             bool read_only,
                                                             const Options& options) {
  // O_NONBLOCK: the name could be a FIFO's, which would wait for its other end.
  Descriptor fd(
      open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (fd.get() < 0) return OpenError(path, read_only, errno);
  return Adopt(std::move(fd), path, read_only, options);
}

absl::StatusOr<std::unique_ptr<FileDevice>> FileDevice::Adopt(Descriptor fd, std::string name,
                                                              bool read_only,
                                                              const Options& options) {
  ASSIGN_OR_RETURN(const Medium medium, ProbeMedium(fd.get(), !read_only, name));
  const bool can_direct = medium.direct_block_bytes != 0;
  const Mode mode =
      options.mode.value_or(medium.block_device && can_direct ? Mode::kDirect : Mode::kWriteback);
  const uint32_t block = std::max(
      {medium.direct_block_bytes, options.direct_block_bytes, static_cast<uint32_t>(kSectorBytes)});
  if (fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK) != 0) {
    return absl::ErrnoToStatus(errno, name);
  }
  if (mode == Mode::kDirect) {
    if (!can_direct) {
      return absl::InvalidArgumentError(
          absl::StrCat("the file system of '", name, "' has no O_DIRECT; use writeback"));
    }
    if (!std::has_single_bit(block) || block > kDirectBlockMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", name, "' needs O_DIRECT in blocks of ", block, " bytes; a power of two up to ",
          kDirectBlockMax, " is supported; use writeback"));
    }
    if (Bytes(medium.size).value() % block != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the size of '", name, "', ", medium.size.value(),
                       " sectors, is not a multiple of the medium's block of ", block,
                       " bytes, as O_DIRECT needs: grow the file or use writeback"));
    }
    RETURN_IF_ERROR(SetDirect(fd.get(), name));
  }
  return std::unique_ptr<FileDevice>(
      new FileDevice(std::move(fd), std::move(name), read_only, mode, block, medium));
}

namespace {

BlockLimits WithBlock(BlockLimits limits, bool direct, uint32_t block_bytes) {
  if (!direct) return limits;
  limits.logical_block_bytes = block_bytes;
  limits.physical_block_bytes = std::max(limits.physical_block_bytes, block_bytes);
  return limits;
}

}  // namespace

FileDevice::FileDevice(Descriptor fd, std::string name, bool read_only, Mode mode,
                       uint32_t direct_block_bytes, const Medium& medium)
    : fd_(std::move(fd)),
      name_(std::move(name)),
      mode_(mode),
      block_device_(medium.block_device),
      in_memory_(medium.in_memory),
      knows_nowait_(medium.knows_nowait),
      block_bytes_(mode == Mode::kDirect ? direct_block_bytes : kSectorBytes),
      memory_align_bytes_(mode == Mode::kDirect ? std::max(medium.direct_memory_bytes, 1u) : 1),
      limits_(WithBlock(medium.limits, mode == Mode::kDirect, direct_block_bytes)),
      size_(UsableSize(medium.size).value()),
      read_only_(read_only),
      can_punch_hole_(medium.can_punch_hole) {}

SectorCount FileDevice::UsableSize(SectorCount size) const {
  return WholeSectors(ByteCount(RoundDown(Bytes(size).value(), block_bytes_)));
}

absl::Status FileDevice::RefreshSize() {
  ASSIGN_OR_RETURN(const SectorCount now, ProbeSize(fd_.get(), name_));
  const uint64_t usable = UsableSize(now).value();
  uint64_t known = size_.load();
  while (usable > known && !size_.compare_exchange_weak(known, usable)) {
  }
  return absl::OkStatus();
}

absl::Status FileDevice::AllowWrites(Descriptor fd) {
  ASSIGN_OR_RETURN(const Medium medium, ProbeMedium(fd.get(), true, name_));
  if (mode_ == Mode::kDirect) RETURN_IF_ERROR(SetDirect(fd.get(), name_));
  if (dup3(fd.get(), fd_.get(), O_CLOEXEC) < 0) return absl::ErrnoToStatus(errno, name_);
  can_punch_hole_.store(medium.can_punch_hole);
  read_only_.store(false);
  return absl::OkStatus();
}

BlockLimits FileDevice::limits() const {
  BlockLimits limits = limits_;
  limits.can_discard = can_punch_hole_.load(std::memory_order_relaxed);
  limits.discard_zeroes = limits.can_discard;
  if (!limits.can_discard) limits.discard_granularity_bytes = 0;
  // Every block device can: the kernel writes them where the hardware does not.
  limits.can_write_zeroes = limits.can_discard || (block_device_ && !read_only());
  return limits;
}

Task<IoStatus> FileDevice::Submit(IoRequest request) {
  if (request.op == IoOp::kFlush) return Counted(request, SyncAll());
  CHECK(RangeFits(request.first, request.count, size()));
  if (request.op == IoOp::kRead) return Read(request);
  if (read_only()) return Finish(request, IoStatus::kReadOnly);
  if (request.op == IoOp::kWrite) return Write(request);
  const BlockLimits able = limits();
  const bool can = request.op == IoOp::kDiscard ? able.can_discard : able.can_write_zeroes;
  if (!can) return Finish(request, IoStatus::kNotSupported);
  return Counted(request, Clear(request));
}

Task<IoStatus> FileDevice::Counted(IoRequest request, Task<IoStatus> work) {
  const IoStatus status = co_await work;
  co_return Finish(request, status);
}

// --- Reading and writing ---

bool FileDevice::IsAligned(const void* bytes, uint64_t offset, uint64_t length) const {
  return (offset | length) % block_bytes_ == 0 &&
         reinterpret_cast<uintptr_t>(bytes) % memory_align_bytes_ == 0;
}

// A file in memory never waits, and its file systems do not all know RWF_NOWAIT. The plain calls
// are a tenth of a microsecond cheaper than the vectored ones.
ssize_t FileDevice::ReadNow(std::span<std::byte> bytes, uint64_t offset) const {
  const auto place = static_cast<off_t>(offset);
  if (in_memory_) return pread(fd_.get(), bytes.data(), bytes.size(), place);
  if (!knows_nowait_) return 0;
  const iovec piece{bytes.data(), bytes.size()};
  return preadv2(fd_.get(), &piece, 1, place, RWF_NOWAIT);
}

ssize_t FileDevice::WriteNow(std::span<const std::byte> bytes, uint64_t offset) {
  if (!can_write_now_.load(std::memory_order_relaxed)) return 0;
  const auto place = static_cast<off_t>(offset);
  if (in_memory_) return pwrite(fd_.get(), bytes.data(), bytes.size(), place);
  const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  const ssize_t done = pwritev2(fd_.get(), &piece, 1, place, RWF_NOWAIT);
  if (done < 0 && errno == EOPNOTSUPP) can_write_now_.store(false, std::memory_order_relaxed);
  return done;
}

bool FileDevice::WriteAtOnce(Sector first, std::span<const std::byte> bytes) {
  if (mode_ == Mode::kDirect || read_only()) return false;
  const ssize_t done = WriteNow(bytes, ByteOffset(first).value());
  return done == static_cast<ssize_t>(bytes.size()) && WroteAtOnce(bytes.size());
}

Task<IoStatus> FileDevice::Read(const IoRequest& request) {
  std::byte* bytes = request.data.data();
  uint64_t offset = ByteOffset(request.first).value();
  uint64_t length = request.data.size();
  if (mode_ == Mode::kDirect) {
    return Counted(request, IsAligned(bytes, offset, length) ? ReadFully(bytes, offset, length)
                                                             : ReadBounced(bytes, offset, length));
  }
  const ssize_t done = ReadNow(request.data, offset);
  if (done == static_cast<ssize_t>(length)) return Finish(request, IoStatus::kOk);
  const uint64_t skip = done > 0 ? static_cast<uint64_t>(done) : 0;
  return Counted(request, ReadFully(bytes + skip, offset + skip, length - skip));
}

Task<IoStatus> FileDevice::Write(const IoRequest& request) {
  const std::byte* bytes = request.data.data();
  const uint64_t offset = ByteOffset(request.first).value();
  const uint64_t length = request.data.size();
  if (mode_ == Mode::kDirect) {
    const int flags = request.force_unit_access ? RWF_DSYNC : 0;
    return Counted(request, IsAligned(bytes, offset, length)
                                ? WriteBlocks(bytes, offset, length, flags)
                                : WriteBounced(bytes, offset, length, flags));
  }
  const ssize_t done = WriteNow(request.data, offset);
  const uint64_t written = done > 0 ? static_cast<uint64_t>(done) : 0;
  if (written == length && !request.force_unit_access) return Finish(request, IoStatus::kOk);
  return Counted(request, WriteRest(request, written));
}

// Writing and then waiting for the medium, not both in one call (RWF_DSYNC): that would not say
// which of them has failed.
Task<IoStatus> FileDevice::WriteRest(IoRequest request, uint64_t written) {
  const uint64_t offset = ByteOffset(request.first).value();
  const uint64_t length = request.data.size();
  IoStatus status =
      co_await WriteFully(request.data.data() + written, offset + written, length - written, 0);
  if (status == IoStatus::kOk && request.force_unit_access) status = co_await Sync(offset, length);
  co_return status;
}

Task<int> FileDevice::CallByWorker(absl::FunctionRef<void(io_uring_sqe*)> prepare) {
  Workers& workers = workers_.Mine();
  while (workers.busy == kWorkersMax) co_await workers.place.Wait();
  ++workers.busy;
  const int done = co_await Reactor::Current().Submit([&prepare](io_uring_sqe* sqe) {
    prepare(sqe);
    sqe->flags |= IOSQE_ASYNC;
  });
  --workers.busy;
  workers.place.WakeOne();
  co_return done;
}

template <typename Prepare>
Task<IoStatus> FileDevice::Transfer(uint64_t length, Prepare prepare) {
  for (uint64_t done = 0; done < length;) {
    const auto part = static_cast<unsigned>(std::min(length - done, kRingBytesMax));
    const auto move = [&](io_uring_sqe* sqe) { prepare(sqe, done, part); };
    int moved = 0;
    if (knows_nowait_) {
      moved = co_await Reactor::Current().Submit(move);
    } else {
      moved = co_await CallByWorker(move);
    }
    if (moved == -EINTR || moved == -EAGAIN) continue;
    if (moved < 0) co_return FromErrno(-moved);
    // A file that ends before size(). And no progress would be no end.
    if (moved == 0) co_return IoStatus::kIoError;
    done += static_cast<uint64_t>(moved);
  }
  co_return IoStatus::kOk;
}

Task<IoStatus> FileDevice::ReadFully(std::byte* bytes, uint64_t offset, uint64_t length) {
  return Transfer(length, [this, bytes, offset](io_uring_sqe* sqe, uint64_t done, unsigned part) {
    io_uring_prep_read(sqe, fd_.get(), bytes + done, part, offset + done);
  });
}

Task<IoStatus> FileDevice::WriteFully(const std::byte* bytes, uint64_t offset, uint64_t length,
                                      int flags) {
  return Transfer(length,
                  [this, bytes, offset, flags](io_uring_sqe* sqe, uint64_t done, unsigned part) {
                    io_uring_prep_write(sqe, fd_.get(), bytes + done, part, offset + done);
                    sqe->rw_flags = flags;
                  });
}

// --- Flush, discard, zeroes ---

// The kernel tells once of data in the page cache that did not reach the medium, whoever asks, and
// takes it for clean from then on (fsync(2), lib/errseq.c). All others who wrote are to hear it
// too.
Task<IoStatus> FileDevice::Sync(uint64_t offset, uint64_t length) {
  for (;;) {
    const int done = co_await CallByWorker([&](io_uring_sqe* sqe) {
      io_uring_prep_fsync(sqe, fd_.get(), IORING_FSYNC_DATASYNC);
      sqe->off = offset;
      sqe->len = static_cast<uint32_t>(length);
    });
    if (done == -EINTR || done == -EAGAIN) continue;
    if (done < 0 && mode_ == Mode::kDirect) co_return FromErrno(-done);
    if (done < 0) lost_.store(FromErrno(-done));
    co_return lost_.load();
  }
}

Task<IoStatus> FileDevice::Allocate(int mode, uint64_t offset, uint64_t length) {
  for (;;) {
    const int done = co_await CallByWorker([&](io_uring_sqe* sqe) {
      io_uring_prep_fallocate(sqe, fd_.get(), mode, static_cast<off_t>(offset),
                              static_cast<off_t>(length));
    });
    if (done == -EINTR || done == -EAGAIN) continue;
    co_return done < 0 ? FromErrno(-done) : IoStatus::kOk;
  }
}

Task<IoStatus> FileDevice::Clear(IoRequest request) {
  const bool keep_space = request.op == IoOp::kWriteZeroes;
  const uint64_t offset = ByteOffset(request.first).value();
  const uint64_t end = offset + Bytes(request.count).value();
  // A block device clears whole blocks only; a file anything.
  const uint64_t unit = block_device_ ? limits_.logical_block_bytes : kSectorBytes;
  const uint64_t inner = std::min(RoundUp(offset, unit), end);
  const uint64_t inner_end = std::max(RoundDown(end, unit), inner);
  IoStatus status = co_await WriteZeroBytes(offset, inner - offset);
  if (status != IoStatus::kOk) co_return status;
  if (inner < inner_end) {
    status = co_await ClearBlocks(keep_space, inner, inner_end - inner);
    if (status != IoStatus::kOk) co_return status;
  }
  status = co_await WriteZeroBytes(inner_end, end - inner_end);
  if (status == IoStatus::kOk && request.force_unit_access) status = co_await SyncAll();
  co_return status;
}

Task<IoStatus> FileDevice::ClearBlocks(bool keep_space, uint64_t offset, uint64_t length) {
  {
    RangeLock::Hold hold(partial_writes_, offset, offset + length, RangeLock::Mode::kShared);
    if (block_bytes_ > kSectorBytes) co_await hold;
    if (keep_space && can_zero_range_.load(std::memory_order_relaxed)) {
      const IoStatus status =
          co_await Allocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
      if (status != IoStatus::kNotSupported) co_return status;
      can_zero_range_.store(false, std::memory_order_relaxed);
    }
    if (can_punch_hole_.load(std::memory_order_relaxed)) {
      const IoStatus status =
          co_await Allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
      if (status != IoStatus::kNotSupported) co_return status;
      can_punch_hole_.store(false, std::memory_order_relaxed);
    }
  }
  co_return co_await WriteZeroBytes(offset, length);
}

Task<IoStatus> FileDevice::WriteZeroBytes(uint64_t offset, uint64_t length) {
  while (length > 0) {
    const uint64_t part = std::min<uint64_t>(length, kZeroBytes);
    const IoStatus status = IsAligned(kZeroes, offset, part)
                                ? co_await WriteBlocks(kZeroes, offset, part, 0)
                                : co_await WriteBounced(kZeroes, offset, part, 0);
    if (status != IoStatus::kOk) co_return status;
    offset += part;
    length -= part;
  }
  co_return IoStatus::kOk;
}

// --- Extents ---

Extent FileDevice::SeekExtent(Sector first) const {
  const uint64_t offset = ByteOffset(first).value();
  const SectorCount rest = size() - first.offset();
  const off_t data = lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) {
    if (errno != ENXIO) return {IoStatus::kOk, true, rest};
    const off_t file_end = lseek(fd_.get(), 0, SEEK_END);
    if (file_end < static_cast<off_t>(offset + kSectorBytes)) return {IoStatus::kIoError, true, {}};
    return {IoStatus::kOk, false, rest};
  }
  const uint64_t hole_sectors = (static_cast<uint64_t>(data) - offset) >> kSectorShift;
  if (hole_sectors > 0) return {IoStatus::kOk, false, std::min(SectorCount(hole_sectors), rest)};
  const off_t hole = lseek(fd_.get(), data, SEEK_HOLE);
  if (hole < 0) return {IoStatus::kOk, true, rest};
  const uint64_t data_bytes = RoundUp(static_cast<uint64_t>(hole) - offset, kSectorBytes);
  const SectorCount mapped = WholeSectors(ByteCount(data_bytes));
  return {IoStatus::kOk, true, std::clamp(mapped, SectorCount(1), rest)};
}

Task<Extent> FileDevice::ExtentAt(Sector first) {
  CHECK(first.offset() < size());
  if (block_device_) co_return co_await BlockDevice::ExtentAt(first);
  if (in_memory_) co_return SeekExtent(first);
  // The file system may have to read for the answer, and the ring has no such operation: a thread
  // for this one question, which is a rare one.
  struct Awaiter {
    const FileDevice& device;
    Sector first;
    Extent extent;
    std::thread asker;

    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      Reactor& home = Reactor::Current();
      try {
        asker = std::thread([this, handle, &home] {
          extent = device.SeekExtent(first);
          home.Post([handle] { handle.resume(); });
        });
        return true;
      } catch (const std::system_error&) {
        // No thread to be had: nothing is known, so all counts as mapped.
        extent = {IoStatus::kOk, true, device.size() - first.offset()};
        return false;
      }
    }
    Extent await_resume() {
      if (asker.joinable()) asker.join();
      return extent;
    }
  };
  co_return co_await Awaiter{*this, first, {}, {}};
}

}  // namespace sectormap
