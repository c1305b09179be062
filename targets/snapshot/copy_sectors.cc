// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/copy_sectors.h"

#include <algorithm>

#include "core/async/next_turn.h"
#include "core/block/aligned_bytes.h"

namespace sectormap::targets {

Task<IoStatus> CopySectors(BlockDevice& from, Sector first, BlockDevice& to, Sector place,
                           SectorCount count) {
  const SectorCount piece_max = WholeSectors(ByteCount(kCopyPieceBytes));
  const AlignedBytes buffer(Bytes(std::min(count, piece_max)).value());
  for (SectorCount done; done < count; done += piece_max) {
    const SectorCount piece = std::min(count - done, piece_max);
    const std::span<std::byte> bytes = buffer.get().first(Bytes(piece).value());
    IoStatus status = co_await from.Submit(IoRequest::Read(first + done, bytes));
    if (status != IoStatus::kOk) co_return status;
    status = co_await to.Submit(IoRequest::Write(place + done, bytes));
    if (status != IoStatus::kOk) co_return status;
    if (done + piece < count) co_await NextTurn();  // others have their turn
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap::targets
