// SPDX-License-Identifier: Apache-2.0
#include "core/block/memory_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace sectormap {

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
  return std::unique_ptr<MemoryDevice>(new MemoryDevice(static_cast<std::byte*>(bytes), size));
}

MemoryDevice::~MemoryDevice() { munmap(bytes_, Bytes(size_).value()); }

BlockLimits MemoryDevice::limits() const {
  BlockLimits limits;
  limits.can_discard = true;
  limits.discard_granularity_bytes = kSectorBytes;
  limits.discard_zeroes = true;
  limits.can_write_zeroes = true;
  return limits;
}

Task<IoStatus> MemoryDevice::Submit(IoRequest request) {
  if (request.op == IoOp::kFlush) return IoStatus::kOk;
  CHECK(RangeFits(request.first, request.count, size_));
  std::byte* place = bytes_ + ByteOffset(request.first).value();
  const size_t length = Bytes(request.count).value();
  switch (request.op) {
    case IoOp::kRead:
      std::memcpy(request.data.data(), place, length);
      break;
    case IoOp::kWrite:
      std::memcpy(place, request.data.data(), length);
      break;
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      std::memset(place, 0, length);
      break;
    case IoOp::kFlush:
      break;
  }
  return IoStatus::kOk;
}

}  // namespace sectormap
