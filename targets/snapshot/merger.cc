// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/merger.h"

#include <algorithm>

#include "core/async/next_turn.h"
#include "core/async/pieces.h"
#include "core/base/check.h"
#include "targets/snapshot/copy_sectors.h"

namespace sectormap::targets {

// co_await: until something of the batch is no longer tracked; at once if nothing of it is.
class Merger::Untracked {
 public:
  explicit Untracked(Snapshot& snapshot) : snapshot_(snapshot) {}
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle) {
    absl::MutexLock lock(&snapshot_.mutex_);
    const bool tracked = std::ranges::any_of(snapshot_.merging_chunks_, [this](uint64_t chunk) {
      snapshot_.mutex_.AssertHeld();
      return snapshot_.IsTracked(chunk, chunk);
    });
    waits_ = tracked;
    if (tracked) snapshot_.untracked_waiters_.Add(waiter_, handle);
    return tracked;
  }
  // True: look again.
  bool await_resume() noexcept { return waits_; }

 private:
  Snapshot& snapshot_;
  bool waits_ = false;
  WaiterList::Waiter waiter_;
};

// co_await: until the batch that the chunk belongs to has been merged; at once if it is in none.
class Merger::Merged {
 public:
  Merged(Snapshot& snapshot, uint64_t chunk) : snapshot_(snapshot), chunk_(chunk) {}
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle) {
    absl::MutexLock lock(&snapshot_.mutex_);
    const bool waits = std::ranges::binary_search(snapshot_.merging_chunks_, chunk_);
    if (waits) snapshot_.merged_waiters_.Add(waiter_, handle);
    return waits;
  }
  void await_resume() noexcept {}

 private:
  Snapshot& snapshot_;
  const uint64_t chunk_;
  WaiterList::Waiter waiter_;
};

Merger::~Merger() {
  absl::MutexLock lock(&running_mutex_);
  CHECK(!running_);
}

void Merger::Start() {
  {
    absl::MutexLock lock(&running_mutex_);
    if (running_) {
      again_ = stopping_;
      return;
    }
    running_ = true;
    stopping_ = false;
  }
  ForgetFailure();
  host_.reactors()[0].Spawn(Run());
}

bool Merger::Stop(const GiveUp& give_up) {
  absl::MutexLock lock(&running_mutex_);
  stopping_ = true;
  again_ = false;
  auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(running_mutex_) { return !running_; };
  return AwaitUnless(give_up, running_mutex_, absl::Condition(&stopped));
}

bool Merger::ToGoOn() {
  {
    absl::MutexLock lock(&running_mutex_);
    running_ = std::exchange(again_, false);
    if (!running_) return false;
    stopping_ = false;
  }
  ForgetFailure();
  return true;
}

void Merger::ForgetFailure() {
  absl::MutexLock lock(&snapshot_.mutex_);
  snapshot_.merge_failed_ = false;
}

// --- I/O ---

Task<IoStatus> Merger::Read(IoRequest request) {
  used_.store(true, std::memory_order_relaxed);
  Segment segment;
  {
    absl::MutexLock lock(&snapshot_.mutex_);
    if (!snapshot_.IsLost()) {
      segment = snapshot_.SegmentAt(request.first, request.count);
    } else {
      segment.count = request.count;
    }
  }
  if (segment.count < request.count) return ReadPieces(request);
  if (!segment.in_store) return origin_.Submit(request);
  request.first = segment.place;
  return snapshot_.cow_->Submit(request);
}

Task<IoStatus> Merger::ReadPieces(IoRequest request) {
  Pieces pieces;
  for (SectorCount done; done < request.count;) {
    const IoRequest rest = request.Part(done, request.count - done);
    SectorCount count;
    {
      absl::MutexLock lock(&snapshot_.mutex_);
      count = snapshot_.SegmentAt(rest.first, rest.count).count;
    }
    done += count;
    if (pieces.Add(Read(rest.Part(SectorCount(0), count)))) co_await pieces.Join();
  }
  co_return co_await pieces.Join();
}

Merger::Segment Merger::WriteSegment(const IoRequest& request, size_t& slot) {
  absl::MutexLock lock(&snapshot_.mutex_);
  if (snapshot_.IsLost()) return {.count = request.count};
  Segment segment = snapshot_.SegmentAt(request.first, request.count);
  if (!segment.in_store) return segment;
  const uint64_t first = snapshot_.ChunkOf(request.first);
  const auto merging = std::ranges::lower_bound(snapshot_.merging_chunks_, first);
  if (merging != snapshot_.merging_chunks_.end()) {
    const Sector start(*merging << snapshot_.chunk_shift_);
    if (start <= request.first) return {};
    segment.count = std::min(segment.count, start - request.first);
  }
  const Sector last = request.first + segment.count - SectorCount(1);
  slot = snapshot_.Track(first, snapshot_.ChunkOf(last));
  return segment;
}

Task<IoStatus> Merger::Write(IoRequest request) {
  used_.store(true, std::memory_order_relaxed);
  if (!request.has_data()) return WritePieces(request);
  size_t slot = 0;
  const Segment segment = WriteSegment(request, slot);
  if (segment.count < request.count) {
    if (segment.in_store) snapshot_.Untrack(slot);
    return WritePieces(request);
  }
  if (!segment.in_store) return group_.SubmitAfterCopies(origin_, request, &snapshot_);
  request.first = segment.place;
  return snapshot_.EndTracked(snapshot_.cow_->Submit(request), slot);
}

Task<IoStatus> Merger::WritePieces(IoRequest request) {
  for (SectorCount done; done < request.count;) {
    IoRequest part = request.Part(done, request.count - done);
    size_t slot = 0;
    const Segment segment = WriteSegment(part, slot);
    if (segment.count == SectorCount(0)) {
      co_await Merged(snapshot_, snapshot_.ChunkOf(part.first));
      continue;
    }
    part = part.Part(SectorCount(0), segment.count);
    IoStatus status = IoStatus::kOk;
    if (segment.in_store) {
      part.first = segment.place;
      status = co_await snapshot_.EndTracked(snapshot_.cow_->Submit(part), slot);
    } else {
      status = co_await group_.SubmitAfterCopies(origin_, part, &snapshot_);
    }
    if (status != IoStatus::kOk) co_return status;
    done += part.count;
  }
  co_return IoStatus::kOk;
}

// --- Merging ---

Task<void> Merger::Run() {
  do {
    co_await MergeAll();
  } while (ToGoOn());
}

Task<void> Merger::MergeAll() {
  bool ended = false;  // nothing is left, and something was
  uint64_t merged = 0;
  IoStatus status = IoStatus::kOk;
  while (!stopping_ && snapshot_.is_valid()) {
    const MonotonicTime start = Reactor::Current().clock().Now();
    uint64_t count = 0;
    status = co_await MergeBatch(count);
    ended = status == IoStatus::kOk && count == 0 && merged > 0;
    if (status != IoStatus::kOk || count == 0) break;
    merged += count;
    co_await Rest(Reactor::Current().clock().Now() - start);
  }
  if (status != IoStatus::kOk) {
    absl::MutexLock lock(&snapshot_.mutex_);
    snapshot_.merge_failed_ = true;
  }
  if (status != IoStatus::kOk || ended) host_.RaiseEvent();
}

// At least one turn of the reactor, so that others have theirs.
Task<void> Merger::Rest(nanoseconds batch_took) {
  co_await NextTurn();
  if (!used_.exchange(false, std::memory_order_relaxed) || stopping_) co_return;
  co_await Reactor::Current().Sleep(
      std::min<nanoseconds>(batch_took * kMergeRestFactor, kMergeRestMax));
}

// The last exceptions on the medium, which have to be those that we know.
Task<IoStatus> Merger::ReadBatch(std::vector<ExceptionRun>& batch) {
  const uint64_t most =
      std::clamp<uint64_t>(kMergeBytesMax / snapshot_.ChunkBytes(), 1, kMergeEntriesMax);
  const IoStatus status = co_await snapshot_.store_->ReadLast(most, batch);
  if (status != IoStatus::kOk) co_return status;
  absl::MutexLock lock(&snapshot_.mutex_);
  const bool known = std::ranges::all_of(batch, [this](const ExceptionRun& run) {
    snapshot_.mutex_.AssertHeld();
    const ExceptionTable::Found found = snapshot_.exceptions_.Find(run.old_chunk);
    return found.exists && found.new_chunk == run.new_chunk;
  });
  co_return known ? IoStatus::kOk : IoStatus::kIoError;
}

Task<IoStatus> Merger::MergeBatch(uint64_t& count) {
  std::vector<ExceptionRun> batch;
  IoStatus status = co_await ReadBatch(batch);
  count = batch.size();
  if (status != IoStatus::kOk || count == 0) co_return status;

  const SectorCount chunk(snapshot_.chunk_sectors());
  for (const ExceptionRun& run : batch) {
    group_.StartInAll(Sector(run.old_chunk << snapshot_.chunk_shift_), chunk, &snapshot_);
  }
  for (const ExceptionRun& run : batch) {
    status = co_await group_.CopyInAll(Sector(run.old_chunk << snapshot_.chunk_shift_), chunk,
                                       &snapshot_);
    if (status != IoStatus::kOk) co_return status;
  }
  co_await Claim(batch);
  status = co_await CopyToOrigin(batch);
  if (status == IoStatus::kOk) status = co_await origin_.Submit(IoRequest::Flush());
  if (status == IoStatus::kOk) status = co_await snapshot_.store_->RemoveLast(count);
  Release(batch, status == IoStatus::kOk);
  co_return status;
}

Task<void> Merger::Claim(const std::vector<ExceptionRun>& batch) {
  {
    absl::MutexLock lock(&snapshot_.mutex_);
    for (const ExceptionRun& run : batch) snapshot_.merging_chunks_.push_back(run.old_chunk);
    std::ranges::sort(snapshot_.merging_chunks_);
  }
  while (co_await Untracked(snapshot_)) {
  }
}

void Merger::Release(const std::vector<ExceptionRun>& batch, bool merged) {
  WaiterList wake;
  {
    absl::MutexLock lock(&snapshot_.mutex_);
    if (merged) {
      snapshot_.store_->Forget(batch.size());
      for (const ExceptionRun& run : batch) snapshot_.RemoveException(run.old_chunk);
    }
    snapshot_.merging_chunks_.clear();
    wake.Take(snapshot_.merged_waiters_);
  }
  wake.WakeAll();
}

Task<IoStatus> Merger::CopyToOrigin(std::vector<ExceptionRun> batch) {
  std::ranges::sort(batch, {}, &ExceptionRun::old_chunk);
  std::vector<ExceptionRun> runs;
  for (const ExceptionRun& run : batch) {
    if (!runs.empty() && runs.back().old_chunk + runs.back().count == run.old_chunk &&
        runs.back().new_chunk + runs.back().count == run.new_chunk) {
      ++runs.back().count;
    } else {
      runs.push_back(run);
    }
  }
  Pieces copies;
  for (const ExceptionRun& run : runs) {
    if (!copies.Add(CopyRun(run))) continue;
    const IoStatus status = co_await copies.Join();
    if (status != IoStatus::kOk) co_return status;
  }
  co_return co_await copies.Join();
}

Task<IoStatus> Merger::CopyRun(ExceptionRun run) {
  const Sector from(run.new_chunk << snapshot_.chunk_shift_);
  const Sector to(run.old_chunk << snapshot_.chunk_shift_);
  const SectorCount count =
      std::min(SectorCount(run.count << snapshot_.chunk_shift_), origin_.size() - to.offset());
  return CopySectors(*snapshot_.cow_, from, origin_, to, count);
}

}  // namespace sectormap::targets
