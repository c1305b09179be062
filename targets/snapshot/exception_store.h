// SPDX-License-Identifier: Apache-2.0
// ExceptionStore: where a snapshot keeps chunks and remembers which they are
// (drivers/md/dm-exception-store.h).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/block/block_device.h"
#include "targets/snapshot/exception_table.h"

namespace sectormap::targets {

// Thread: Allocate, commit_room, usage and Forget under the snapshot's lock. Commit, ReadLast and
// RemoveLast one at a time, Invalidate at any time, without the lock, on a reactor.
class ExceptionStore {
 public:
  struct Usage {
    SectorCount allocated;  // metadata and what is skipped included
    SectorCount total;      // of the device, as it is now
    SectorCount metadata;
  };
  struct Allocation {
    uint64_t new_chunk = 0;
    uint64_t count = 0;  // 0: no room
  };

  virtual ~ExceptionStore() = default;

  // Fixed; sectors, a power of two.
  virtual uint64_t chunk_sectors() const = 0;

  // Up to `wanted` > 0 chunks that follow one another. The size of the device is looked up each
  // time: it may have grown. What was allocated is to be committed, in the same order, or the store
  // to be invalidated.
  virtual Allocation Allocate(uint64_t wanted) = 0;

  // How many chunks one commit can take now. An allocation never crosses it.
  virtual uint64_t commit_room() const = 0;

  // Makes the runs' data, then the runs themselves durable.
  virtual Task<IoStatus> Commit(std::span<const ExceptionRun> runs) = 0;

  // Says for ever that the snapshot is of no use. Durable when it ends.
  virtual Task<IoStatus> Invalidate() = 0;

  virtual Usage usage() const = 0;

  // --- Merging: from the last exception back. REQUIRES: nothing allocated is uncommitted. ---

  virtual bool can_merge() const = 0;

  // The last exceptions, the last of them at the back, at most `most` and as many as can be removed
  // at once; empty if there are none.
  virtual Task<IoStatus> ReadLast(uint64_t most, std::vector<ExceptionRun>& last) = 0;

  // Forgets the last `count` of them on the medium: durable when it ends. Then Forget(count).
  virtual Task<IoStatus> RemoveLast(uint64_t count) = 0;
  virtual void Forget(uint64_t count) = 0;
};

// Zeroes in [first, first + count) of `device`, without moving bytes if it can.
Task<IoStatus> WriteZeroesTo(BlockDevice& device, Sector first, SectorCount count);

}  // namespace sectormap::targets
