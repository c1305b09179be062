// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/exception_store.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/block/buffer_pool.h"
#include "targets/snapshot/waiter_list.h"

namespace sectormap::targets {
namespace {

// Of zeroes for one write, where the device cannot make them itself.
constexpr SectorCount kZeroesAtOnce{512};

}  // namespace

AlignedBytes::AlignedBytes(size_t size)
    : bytes_(static_cast<std::byte*>(
          ::operator new(std::max<size_t>(size, 1), std::align_val_t(kBufferAlignment)))),
      size_(size) {}

void AlignedBytes::Free::operator()(std::byte* bytes) const {
  ::operator delete(bytes, std::align_val_t(kBufferAlignment));
}

Task<IoStatus> WriteZeroesTo(BlockDevice& device, Sector first, SectorCount count) {
  if (count == SectorCount(0)) co_return IoStatus::kOk;
  if (device.limits().can_write_zeroes) {
    const IoStatus status = co_await device.Submit(IoRequest::WriteZeroes(first, count));
    if (status != IoStatus::kNotSupported) co_return status;
  }
  const AlignedBytes zeroes(Bytes(std::min(count, kZeroesAtOnce)).value());
  std::memset(zeroes.get().data(), 0, zeroes.get().size());
  for (SectorCount done; done < count; done += kZeroesAtOnce) {
    const SectorCount part = std::min(count - done, kZeroesAtOnce);
    const IoStatus status = co_await device.Submit(
        IoRequest::Write(first + done, zeroes.get().first(Bytes(part).value())));
    if (status != IoStatus::kOk) co_return status;
    co_await NextRound();  // the device may do it all at once
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap::targets
