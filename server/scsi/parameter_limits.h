// SPDX-License-Identifier: Apache-2.0
// The numbers that a unit tells its initiators, and keeps to.
#pragma once

#include <cstdint>

#include "server/scsi/lun.h"

namespace sectormap::scsi {

// The largest parameter data or list: what a 16-bit length can ask for. All longer lists that exist
// (REPORT LUNS) are the target's.
inline constexpr uint32_t kMaxParameterDataBytes = 64 * 1024;

// MAXIMUM COMPARE AND WRITE LENGTH in blocks: all that its one byte can say.
inline constexpr uint8_t kMaxCompareAndWriteBlocks = 255;

// MAXIMUM WRITE SAME LENGTH in blocks: all that WRITE SAME(10) can say, and little enough that a
// command that cannot be aborted in between ends within a second on an ordinary disk.
inline constexpr uint64_t kMaxWriteSameBlocks = 65535;

// MAXIMUM UNMAP LBA COUNT in blocks, of all descriptors together; and their number.
inline constexpr uint32_t kMaxUnmapBlocks = 1024 * 1024;
inline constexpr uint32_t kMaxUnmapDescriptors = 256;

// Commands that need memory beyond their buffer (compare, or, repeat a block) go over the medium in
// pieces of this many bytes.
inline constexpr size_t kScratchBytes = 64 * 1024;
static_assert(kMaxTransferBytes % kScratchBytes == 0);

}  // namespace sectormap::scsi
