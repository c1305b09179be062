// SPDX-License-Identifier: Apache-2.0
#include "core/block/memory_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/async/reactor.h"
#include "core/base/check.h"
#include "core/base/rounding.h"

namespace sectormap {
namespace {

// Smaller than the page of some machines (arm64 has 16 or 64 KiB): there madvise() refuses what is
// not a whole page, and the bytes are written.
constexpr size_t kPageBytes = 4096;

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryDevice>> MemoryDevice::Create(SectorCount size,
                                                                   uint64_t huge_pages_from_bytes) {
  if (size == SectorCount(0) || size > kMaxDeviceSectors) {
    return absl::InvalidArgumentError("a memory device needs a size of at least one sector");
  }
  const size_t length = Bytes(size).value();
  const size_t huge_pages = length < huge_pages_from_bytes ? 0 : length / kHugePageBytes;
  const size_t mapped = length + (huge_pages == 0 ? 0 : kHugePageBytes);
  void* region = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a device of ", length, " bytes"));
  }
  auto* bytes = static_cast<std::byte*>(region);
  if (huge_pages != 0) {
    const auto begin = reinterpret_cast<uintptr_t>(region);
    bytes += RoundUp(begin, kHugePageBytes) - begin;
    PreferHugePages(bytes, length);
  }
  std::shared_ptr<std::byte> owned(bytes, [region, mapped](std::byte*) { munmap(region, mapped); });
  return std::unique_ptr<MemoryDevice>(new MemoryDevice(std::move(owned), size, huge_pages));
}

BlockLimits MemoryDevice::limits() const {
  BlockLimits limits;
  limits.can_discard = true;
  limits.discard_granularity_bytes = kSectorBytes;
  limits.discard_zeroes = true;
  limits.can_write_zeroes = true;
  limits.can_lend = true;
  return limits;
}

MemoryDevice::Pages MemoryDevice::PagesOf(size_t offset, size_t length) const {
  return {offset / kHugePageBytes,
          std::min(backed_.size(), (offset + length - 1) / kHugePageBytes + 1)};
}

bool MemoryDevice::IsBacked(size_t offset, size_t length) const {
  const Pages pages = PagesOf(offset, length);
  for (size_t page = pages.first; page < pages.end; ++page) {
    if (!backed_[page].load(std::memory_order_relaxed)) return false;
  }
  return true;
}

// Whatever the kernel answers: a page that it did not make it will make under the write.
Task<void> MemoryDevice::Back(size_t offset, size_t length) {
  const Pages pages = PagesOf(offset, length);
  for (size_t page = pages.first; page < pages.end; ++page) {
    RangeLock::Hold alone(backing_, page, page + 1, RangeLock::Mode::kAlone);
    co_await alone;
    if (backed_[page].load(std::memory_order_relaxed)) continue;
    co_await Reactor::Current().Submit([&](io_uring_sqe* sqe) {
      io_uring_prep_madvise(sqe, bytes_.get() + page * kHugePageBytes, kHugePageBytes,
                            MADV_POPULATE_WRITE);
    });
    backed_[page].store(true, std::memory_order_relaxed);
  }
}

Task<IoStatus> MemoryDevice::BackAndWrite(IoRequest request) {
  const size_t offset = ByteOffset(request.first).value();
  co_await Back(offset, request.data.size());
  Write(offset, request.data);
  co_return Finish(request, IoStatus::kOk);
}

// The parts one by one: the contract keeps each sector whole, not the request.
void MemoryDevice::Write(size_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t length = WriteTurns::InPart(offset, bytes.size());
    const WriteTurns::OfPart turn(turns_, offset);
    std::memcpy(bytes_.get() + offset, bytes.data(), length);
    offset += length;
    bytes = bytes.subspan(length);
  }
}

// A round is whole huge pages, so that one goes back in one piece.
void MemoryDevice::Clear(size_t offset, size_t length) {
  static_assert(WriteTurns::kRoundBytes % kHugePageBytes == 0);
  const size_t end = offset + length;
  while (offset < end) {
    const size_t piece = WriteTurns::InRound(offset, end - offset);
    ClearInRound(offset, piece);
    offset += piece;
  }
}

// Whole pages go back to the system and read as zeroes again; what is left over is written. That
// may make a huge page on the reactor, of a discard that ends inside a page where nothing was
// written.
void MemoryDevice::ClearInRound(size_t offset, size_t length) {
  const WriteTurns::OfRange turns(turns_, offset, length);
  const size_t end = offset + length;
  const size_t pages = RoundUp(offset, kPageBytes);
  const size_t pages_end = RoundDown(end, kPageBytes);
  std::byte* all = bytes_.get();
  for (size_t page = RoundUp(offset, kHugePageBytes) / kHugePageBytes;
       page < backed_.size() && (page + 1) * kHugePageBytes <= end; ++page) {
    backed_[page].store(false, std::memory_order_relaxed);
  }
  if (pages >= pages_end || madvise(all + pages, pages_end - pages, MADV_DONTNEED) != 0) {
    std::memset(all + offset, 0, length);
    return;
  }
  std::memset(all + offset, 0, pages - offset);
  std::memset(all + pages_end, 0, end - pages_end);
}

Loan MemoryDevice::Lend(Sector first, SectorCount count) {
  CHECK(RangeFits(first, count, size_));
  const std::span all(bytes_.get(), Bytes(size_).value());
  return Lent({all.subspan(ByteOffset(first).value(), Bytes(count).value()), bytes_}, count);
}

bool MemoryDevice::WriteAtOnce(Sector first, std::span<const std::byte> bytes) {
  CHECK(RangeFits(first, WholeSectors(ByteCount(bytes.size())), size_));
  const size_t offset = ByteOffset(first).value();
  if (!IsBacked(offset, bytes.size())) return false;
  Write(offset, bytes);
  return WroteAtOnce(bytes.size());
}

Task<IoStatus> MemoryDevice::Submit(IoRequest request) {
  if (request.op == IoOp::kFlush) return Finish(request, IoStatus::kOk);
  CHECK(RangeFits(request.first, request.count, size_));
  const size_t offset = ByteOffset(request.first).value();
  const size_t length = Bytes(request.count).value();
  CHECK(!request.has_data() || request.data.size() == length);
  switch (request.op) {
    case IoOp::kRead:
      std::memcpy(request.data.data(), bytes_.get() + offset, length);
      break;
    case IoOp::kWrite:
      if (!IsBacked(offset, length)) return BackAndWrite(request);
      Write(offset, request.data);
      break;
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      Clear(offset, length);
      break;
    case IoOp::kFlush:
      break;
  }
  return Finish(request, IoStatus::kOk);
}

}  // namespace sectormap
