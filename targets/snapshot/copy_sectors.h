// SPDX-License-Identifier: Apache-2.0
// CopySectors: the data of chunks on its way between an origin and a store.
#pragma once

#include "core/async/task.h"
#include "core/base/io_status.h"
#include "core/base/units.h"
#include "core/block/block_device.h"

namespace sectormap::targets {

// Read and written at once; larger chunks are copied piece by piece, smaller neighbours together
// (kcopyd's sub-jobs have this size).
inline constexpr uint64_t kCopyPieceBytes = 512 << 10;

// [first, first + count) of `from` goes to `place` of `to`, piece by piece; the answer is the first
// failure. On one reactor, which others use between two pieces.
Task<IoStatus> CopySectors(BlockDevice& from, Sector first, BlockDevice& to, Sector place,
                           SectorCount count);

}  // namespace sectormap::targets
