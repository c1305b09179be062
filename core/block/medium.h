// SPDX-License-Identifier: Apache-2.0
// Medium: what an open file or block device can do, found out once when it is opened.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/units.h"
#include "core/block/block_device.h"

namespace sectormap {

struct Medium {
  bool block_device = false;
  // Its bytes are RAM (tmpfs): a plain system call never waits for a disk.
  bool in_memory = false;
  // Calls can be asked not to wait (RWF_NOWAIT). Where not (FUSE, NFS), any may, even if the ring
  // makes it.
  bool knows_nowait = false;
  SectorCount size;  // whole sectors; a part of one at the end of a file is not used
  // What O_DIRECT needs of offsets and lengths, and of addresses in memory. 0: no O_DIRECT.
  uint32_t direct_block_bytes = 0;
  uint32_t direct_memory_bytes = 0;
  bool can_punch_hole = false;  // deallocates, leaves zeroes
  BlockLimits limits;           // without what needs write access: discard, write-zeroes
};

// `fd` is open, for writing too if `writable`; `name` is for error texts. Harmless to the contents.
// InvalidArgument: neither a regular file nor a block device, or smaller than a sector.
// Control threads only: it may block.
absl::StatusOr<Medium> ProbeMedium(int fd, bool writable, const std::string& name);

// The size now. Control threads only.
absl::StatusOr<SectorCount> ProbeSize(int fd, const std::string& name);

}  // namespace sectormap
