// SPDX-License-Identifier: Apache-2.0
// What O_DIRECT asks of a FileDevice: writes beside read-modify-writes of the same blocks, and
// bounces for what is not aligned.
#include <algorithm>
#include <cstring>

#include "core/base/rounding.h"
#include "core/block/buffer_pool.h"
#include "core/block/file_device.h"

namespace sectormap {
namespace {

// One bounce; a longer request is moved piece by piece.
constexpr size_t kBounceBytes = size_t{256} << 10;
// Bounces of one reactor at a time: requests that need more wait for each other.
constexpr size_t kBouncePoolBytes = 16 * kBounceBytes;
static_assert(kBounceBytes % kDirectBlockMax == 0);

// Of this reactor. A buffer may be given back on its own reactor only, which is where it was taken:
// a request does not move.
[[gnu::noinline]] BufferPool& BouncePool() {
  thread_local BufferPool pool(kBouncePoolBytes, kBounceBytes);
  return pool;
}

}  // namespace

Task<IoStatus> FileDevice::WriteBlocks(const std::byte* bytes, uint64_t offset, uint64_t length,
                                       int flags) {
  if (block_bytes_ == kSectorBytes) return WriteFully(bytes, offset, length, flags);
  return [](FileDevice& self, const std::byte* from, uint64_t first, uint64_t count,
            int rw_flags) -> Task<IoStatus> {
    RangeLock::Hold hold(self.partial_writes_, first, first + count, RangeLock::Mode::kShared);
    co_await hold;
    co_return co_await self.WriteFully(from, first, count, rw_flags);
  }(*this, bytes, offset, length, flags);
}

Task<IoStatus> FileDevice::ReadBounced(std::byte* bytes, uint64_t offset, uint64_t length) {
  while (length > 0) {
    const uint64_t first = RoundDown(offset, block_bytes_);
    const uint64_t end = std::min(offset + length, first + kBounceBytes);
    const uint64_t block_end = RoundUp(end, block_bytes_);
    IoBuffer bounce = co_await BouncePool().Take(block_end - first);
    const IoStatus status = co_await ReadFully(bounce.bytes().data(), first, block_end - first);
    if (status != IoStatus::kOk) co_return status;
    std::memcpy(bytes, bounce.bytes().data() + (offset - first), end - offset);
    bytes += end - offset;
    length -= end - offset;
    offset = end;
  }
  co_return IoStatus::kOk;
}

Task<IoStatus> FileDevice::WriteBounced(const std::byte* bytes, uint64_t offset, uint64_t length,
                                        int flags) {
  while (length > 0) {
    const uint64_t first = RoundDown(offset, block_bytes_);
    const uint64_t end = std::min(offset + length, first + kBounceBytes);
    const uint64_t block_end = RoundUp(end, block_bytes_);
    const bool partial_head = offset != first;
    const bool partial_tail = end != block_end;
    // The buffer before the range: whoever holds a range never waits for a buffer.
    IoBuffer bounce = co_await BouncePool().Take(block_end - first);
    std::byte* const place = bounce.bytes().data();
    RangeLock::Hold hold(
        partial_writes_, first, block_end,
        partial_head || partial_tail ? RangeLock::Mode::kAlone : RangeLock::Mode::kShared);
    if (block_bytes_ > kSectorBytes) co_await hold;

    if (partial_head) {
      const IoStatus status = co_await ReadFully(place, first, block_bytes_);
      if (status != IoStatus::kOk) co_return status;
    }
    const uint64_t tail = block_end - block_bytes_;
    if (partial_tail && !(partial_head && tail == first)) {
      const IoStatus status = co_await ReadFully(place + (tail - first), tail, block_bytes_);
      if (status != IoStatus::kOk) co_return status;
    }
    std::memcpy(place + (offset - first), bytes, end - offset);
    const IoStatus status = co_await WriteFully(place, first, block_end - first, flags);
    if (status != IoStatus::kOk) co_return status;
    bytes += end - offset;
    length -= end - offset;
    offset = end;
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap
