// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/exception_store.h"

#include <algorithm>
#include <cstring>

#include "core/async/next_turn.h"
#include "core/block/aligned_bytes.h"

namespace sectormap::targets {
namespace {

// Of zeroes for one write, where the device cannot make them itself.
constexpr SectorCount kZeroesAtOnce{512};

}  // namespace

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
    co_await NextTurn();  // the device may do it all at once
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap::targets
