// SPDX-License-Identifier: Apache-2.0
// OriginGroup: every live snapshot of one origin, by the identity of its backing device
// (drivers/md/dm-snap.c, struct origin). What writes to the origin asks them all first.
//
// Each reactor has a list of its own, changed on its own thread, so that a write to an origin costs
// nothing where there is no snapshot and takes no lock to find those there are.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor_pool.h"
#include "core/block/block_device.h"
#include "targets/snapshot/snapshot.h"

namespace sectormap::targets {

// Discards and write-zeroes of the origin are copied before, and passed on, in parts of this, so
// that a huge one does not hold up others.
inline constexpr SectorCount kClearAtOnce{8192};  // 4 MiB

class OriginGroup {
 public:
  // The group of `origin`; one for each device, as long as somebody holds it. Control threads.
  static std::shared_ptr<OriginGroup> Of(const std::shared_ptr<BlockDevice>& origin);

  OriginGroup() = default;
  OriginGroup(const OriginGroup&) = delete;
  OriginGroup& operator=(const OriginGroup&) = delete;
  ~OriginGroup();

  // When these return, no reactor finds the snapshot any more, or every one does. Control threads.
  void Add(Snapshot* snapshot, ReactorPool& reactors);
  void Remove(Snapshot* snapshot, ReactorPool& reactors);

  // At most one snapshot of an origin is merged at a time. False: another is. Any thread.
  bool StartMerging(const Snapshot* snapshot);
  void StopMerging(const Snapshot* snapshot);
  // Null if none.
  const Snapshot* merging() const;

  // True if no snapshot but `except` needs any of the range. On a reactor, for the rest of its
  // turn.
  bool NothingToCopy(Sector first, SectorCount count, const Snapshot* except = nullptr) {
    return std::ranges::all_of(Here(), [&](Snapshot* snapshot) {
      return snapshot == except || snapshot->IsCopied(first, count);
    });
  }

  // Passes a write, discard or write-zeroes on to `device`, the origin, when no snapshot but
  // `except` needs what it changes any more. On a reactor.
  Task<IoStatus> SubmitAfterCopies(BlockDevice& device, IoRequest request,
                                   const Snapshot* except = nullptr) {
    if (NothingToCopy(request.first, request.count, except)) return device.Submit(request);
    return CopyThenSubmit(device, request, except);
  }

  // Begins to copy what any snapshot but `except` lacks, as far as buffers go. On a reactor.
  void StartInAll(Sector first, SectorCount count, const Snapshot* except);

  // Ends when no snapshot but `except` needs the origin's range any more. kAborted: one always will
  // (Snapshot::CopyBefore), and the range must not be written. On a reactor.
  Task<IoStatus> CopyInAll(Sector first, SectorCount count, const Snapshot* except);

 private:
  struct alignas(64) Shard {
    std::vector<Snapshot*> snapshots;
  };

  std::span<Snapshot* const> Here() const { return shards_[Reactor::Current().index()].snapshots; }
  void Publish(ReactorPool& reactors) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Task<IoStatus> CopyThenSubmit(BlockDevice& device, IoRequest request, const Snapshot* except);

  std::array<Shard, kMaxReactors> shards_;

  // Held while the shards are changed; control threads only.
  absl::Mutex mutex_;
  std::vector<Snapshot*> snapshots_ ABSL_GUARDED_BY(mutex_);

  mutable absl::Mutex merging_mutex_;
  const Snapshot* merging_ ABSL_GUARDED_BY(merging_mutex_) = nullptr;
};

}  // namespace sectormap::targets
