// SPDX-License-Identifier: Apache-2.0
#include "core/block/memory_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace sectormap {
namespace {

// Smaller than the page of some machines (arm64 has 16 or 64 KiB): there madvise() refuses what is
// not a whole page, and the bytes are written.
constexpr uintptr_t kPageBytes = 4096;

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryDevice>> MemoryDevice::Create(SectorCount size) {
  if (size == SectorCount(0) || size > kMaxDeviceSectors) {
    return absl::InvalidArgumentError("a memory device needs a size of at least one sector");
  }
  void* bytes = mmap(nullptr, Bytes(size).value(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bytes == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a device of ", Bytes(size).value(), " bytes"));
  }
  std::shared_ptr<std::byte> owned(
      static_cast<std::byte*>(bytes),
      [length = Bytes(size).value()](std::byte* region) { munmap(region, length); });
  return std::unique_ptr<MemoryDevice>(new MemoryDevice(std::move(owned), size));
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

// Whole pages go back to the system and read as zeroes again; what is left over is written.
void MemoryDevice::Clear(std::byte* place, size_t length) {
  const auto first = reinterpret_cast<uintptr_t>(place);
  const uintptr_t pages = (first + kPageBytes - 1) & ~(kPageBytes - 1);
  const uintptr_t pages_end = (first + length) & ~(kPageBytes - 1);
  if (pages >= pages_end ||
      madvise(reinterpret_cast<void*>(pages), pages_end - pages, MADV_DONTNEED) != 0) {
    std::memset(place, 0, length);
    return;
  }
  std::memset(place, 0, pages - first);
  std::memset(reinterpret_cast<void*>(pages_end), 0, first + length - pages_end);
}

Loan MemoryDevice::Lend(Sector first, SectorCount count) {
  CHECK(RangeFits(first, count, size_));
  const std::span all(bytes_.get(), Bytes(size_).value());
  return Lent({all.subspan(ByteOffset(first).value(), Bytes(count).value()), bytes_}, count);
}

bool MemoryDevice::WriteAtOnce(Sector first, std::span<const std::byte> bytes) {
  CHECK(RangeFits(first, WholeSectors(ByteCount(bytes.size())), size_));
  std::memcpy(bytes_.get() + ByteOffset(first).value(), bytes.data(), bytes.size());
  return WroteAtOnce(bytes.size());
}

Task<IoStatus> MemoryDevice::Submit(IoRequest request) {
  if (request.op == IoOp::kFlush) return Finish(request, IoStatus::kOk);
  CHECK(RangeFits(request.first, request.count, size_));
  std::byte* place = bytes_.get() + ByteOffset(request.first).value();
  const size_t length = Bytes(request.count).value();
  switch (request.op) {
    case IoOp::kRead:
      CHECK(request.data.size() == length);
      std::memcpy(request.data.data(), place, length);
      break;
    case IoOp::kWrite:
      CHECK(request.data.size() == length);
      std::memcpy(place, request.data.data(), length);
      break;
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      Clear(place, length);
      break;
    case IoOp::kFlush:
      break;
  }
  return Finish(request, IoStatus::kOk);
}

}  // namespace sectormap
