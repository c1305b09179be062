// SPDX-License-Identifier: Apache-2.0
// Merger: brings what a snapshot's store holds back to the origin, while the origin, as the
// snapshot sees it, is in use (drivers/md/dm-snap.c, snapshot_merge_*).
//
// From the last exceptions back, a batch at a time: every other snapshot of the origin copies what
// is about to be overwritten; writes to these chunks wait, and those in flight end; they are copied
// to the origin; the origin is flushed; the exceptions are removed from the store, durably. A crash
// at any point leaves either the exception, or the data in the origin: the copy can be done again.
// (The kernel's batch is one run of neighbours; here it is any exceptions, as a flush is dear.)
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/task.h"
#include "core/map/give_up.h"
#include "targets/snapshot/origin_group.h"
#include "targets/snapshot/snapshot.h"

namespace sectormap::targets {

// Of one batch. Writes to a batch wait for it, so not too much; two flushes go with it, so not too
// little.
inline constexpr uint64_t kMergeBytesMax = 1 << 20;
inline constexpr uint64_t kMergeEntriesMax = 256;

// While others use the device a merge rests after each batch, so many times as long as the batch
// took, but not longer than that.
inline constexpr int kMergeRestFactor = 4;
inline constexpr std::chrono::milliseconds kMergeRestMax{100};

class Merger {
 public:
  // All outlive it.
  Merger(Snapshot& snapshot, OriginGroup& group, BlockDevice& origin, TargetHost& host)
      : snapshot_(snapshot), group_(group), origin_(origin), host_(host) {}
  // REQUIRES: stopped.
  ~Merger();

  // Control threads. Stop returns when nothing goes on any more; a batch under way ends first.
  // False: given up; Start may follow, and the merge goes on after that batch.
  void Start();
  bool Stop(const GiveUp& give_up);

  // The origin as the snapshot sees it: on a reactor. An invalid snapshot is the origin.
  Task<IoStatus> Read(IoRequest request);
  Task<IoStatus> Write(IoRequest request);

 private:
  using Segment = Snapshot::Segment;

  Task<IoStatus> ReadPieces(IoRequest request);
  Task<IoStatus> WritePieces(IoRequest request);
  // Where the first part of a write goes. A count of 0: nowhere now, its chunk is being merged.
  Segment WriteSegment(const IoRequest& request, size_t& slot);

  Task<void> Run();
  Task<void> MergeAll();
  bool ToGoOn();
  void ForgetFailure();
  // kOk: go on if `count` is not 0.
  Task<IoStatus> MergeBatch(uint64_t& count);
  Task<IoStatus> ReadBatch(std::vector<ExceptionRun>& batch);
  Task<IoStatus> CopyToOrigin(std::vector<ExceptionRun> batch);
  Task<IoStatus> CopyRun(ExceptionRun run);
  Task<void> Claim(const std::vector<ExceptionRun>& batch);
  void Release(const std::vector<ExceptionRun>& batch, bool merged);
  Task<void> Rest(nanoseconds batch_took);
  class Untracked;
  class Merged;

  Snapshot& snapshot_;
  OriginGroup& group_;
  BlockDevice& origin_;
  TargetHost& host_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> used_{false};  // since the last batch

  absl::Mutex running_mutex_;
  bool running_ ABSL_GUARDED_BY(running_mutex_) = false;
  bool again_ ABSL_GUARDED_BY(running_mutex_) = false;  // once what was to stop has ended
};

}  // namespace sectormap::targets
