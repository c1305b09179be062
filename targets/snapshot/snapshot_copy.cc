// SPDX-License-Identifier: Apache-2.0
// Copy-on-write: who needs a chunk copied, the copies, the commits that many share, and what
// becomes of a snapshot whose store is full or broken (drivers/md/dm-snap.c, __origin_write,
// pending_complete).
#include <bit>

#include "absl/strings/str_cat.h"
#include "core/async/next_turn.h"
#include "core/base/check.h"
#include "targets/snapshot/copy_sectors.h"
#include "targets/snapshot/snapshot.h"
#include "targets/snapshot/snapshot_change.h"

namespace sectormap::targets {

// --- For origins ---

bool Snapshot::IsCopiedInTable(Sector first, SectorCount count) {
  if (state_ == State::kInvalid) return true;
  absl::MutexLock lock(&mutex_);
  if (state_ == State::kInvalid) return true;
  if (state_ == State::kInvalidating) return false;
  const Chunks chunks = ChunksOf(first, count);
  return FirstUnsettled(chunks.first, chunks.end) == chunks.end;
}

void Snapshot::Enter() {
  absl::MutexLock lock(&mutex_);
  ++visitors_;
}

void Snapshot::Leave() {
  absl::MutexLock lock(&mutex_);
  --visitors_;
}

void Snapshot::StartCopies(Sector first, SectorCount count) {
  After after;
  {
    absl::MutexLock lock(&mutex_);
    const Chunks chunks = ChunksOf(first, count);
    StartMissing(chunks.first, chunks.end, Reason::kOriginWrite, after);
  }
  Run(after);
}

Task<IoStatus> Snapshot::CopyBefore(Sector first, SectorCount count) {
  Chunks chunks{0, 0};
  {
    absl::MutexLock lock(&mutex_);
    chunks = ChunksOf(first, count);
  }
  while (true) {
    After after;
    bool settled = false;
    bool abandoned = false;
    {
      absl::MutexLock lock(&mutex_);
      chunks.first = FirstUnsettled(chunks.first, chunks.end);
      abandoned = state_ == State::kAbandoned;
      settled = state_ == State::kInvalid || chunks.first == chunks.end;
      if (!settled) StartMissing(chunks.first, chunks.end, Reason::kOriginWrite, after);
    }
    Run(after);
    if (settled) co_return IoStatus::kOk;
    if (abandoned) co_return IoStatus::kAborted;
    co_await Change(*this, chunks.first);
  }
}

Task<absl::Status> Snapshot::Keep(uint64_t first, uint64_t count) {
  Enter();
  uint64_t end = 0;
  absl::Status result;
  for (bool ended = false; !ended;) {
    After after;
    {
      absl::MutexLock lock(&mutex_);
      const uint64_t length = (owner_.length.value() + chunk_sectors() - 1) >> chunk_shift_;
      end = first + std::min(count, length - std::min(length, first));
      count = end - first;
      const uint64_t next = FirstUnsettled(first, end);
      count -= next - first;
      first = next;
      if (state_ != State::kValid) {
        result = absl::FailedPreconditionError("the snapshot is invalid");
      } else if (first != end) {
        StartMissing(first, end, Reason::kKeep, after);
        if (after.no_space && PendingAt(first) == nullptr) {
          result = absl::ResourceExhaustedError(
              absl::StrCat("the store is full at chunk ", first, "; let it grow, then go on"));
        }
      }
    }
    Run(after);
    ended = first == end || !result.ok();
    if (!ended) co_await Change(*this, first);
  }
  Leave();
  co_return result;
}

// --- Copies under way ---

Snapshot::Pending* Snapshot::PendingAt(uint64_t chunk) const {
  auto next = pending_.upper_bound(chunk);
  if (next == pending_.begin()) return nullptr;
  Pending* pending = std::prev(next)->second.get();
  return chunk < pending->end() ? pending : nullptr;
}

uint64_t Snapshot::FirstUnsettled(uint64_t chunk, uint64_t end) const {
  if (!pending_.empty()) {
    if (PendingAt(chunk) != nullptr) return chunk;
    const auto next = pending_.lower_bound(chunk);
    if (next != pending_.end()) end = std::min(end, next->first);
  }
  while (chunk < end) {
    const ExceptionTable::Found found = exceptions_.Find(chunk);
    if (!found.exists) break;
    chunk += found.count;
  }
  return std::min(chunk, end);
}

Snapshot::Pending* Snapshot::NewPending(uint64_t chunk, uint64_t wanted, Reason reason,
                                        After& after) {
  const ExceptionTable::Found found = exceptions_.Find(chunk);
  CHECK(!found.exists);
  wanted = std::min({wanted, found.count, std::max(kCopyPieceBytes / ChunkBytes(), uint64_t{1})});
  const auto next = pending_.lower_bound(chunk);
  if (next != pending_.end()) wanted = std::min(wanted, next->first - chunk);
  const ExceptionStore::Allocation allocation = store_->Allocate(wanted);
  if (allocation.count == 0) {
    if (reason == Reason::kKeep) {
      after.no_space = true;
    } else if (reason == Reason::kSnapshotWrite && owner_.overflow_allowed) {
      overflowed_ = true;
      after.event = true;
    } else {
      BecomeInvalid(after);
    }
    return nullptr;
  }
  auto pending = std::make_unique<Pending>();
  pending->run = {chunk, allocation.new_chunk, allocation.count};
  Pending* result = pending.get();
  touched_.Add(chunk, allocation.count);
  pending_.emplace(chunk, std::move(pending));
  commit_order_.push_back(result);
  return result;
}

void Snapshot::StartMissing(uint64_t first, uint64_t end, Reason reason, After& after) {
  while (first < end && state_ == State::kValid) {
    if (overflowed_ && reason == Reason::kSnapshotWrite) return;
    if (const Pending* pending = PendingAt(first)) {
      first = pending->end();
      continue;
    }
    const ExceptionTable::Found found = exceptions_.Find(first);
    if (found.exists) {
      first += found.count;
      continue;
    }
    uint64_t wanted = std::min(end - first, found.count);
    if (BuffersAreOut(BufferBytes(wanted))) wanted = 1;
    if (BuffersAreOut(BufferBytes(wanted))) return;
    Pending* pending = NewPending(first, wanted, reason, after);
    if (pending == nullptr) return;
    pending->buffer_bytes = BufferBytes(pending->run.count);
    buffer_bytes_ += pending->buffer_bytes;
    after.copies.push_back(pending);
    first = pending->end();
  }
}

void Snapshot::Settle(Pending* pending, After& after) {
  after.wake.Take(pending->waiters);
  pending_.erase(pending->run.old_chunk);
}

void Snapshot::AddExceptions(Pending* pending, After& after) {
  CHECK(exceptions_.Insert(pending->run));
  pending->readers = ReadersOf(pending->run);
  after.readers |= pending->readers;
  draining_.push_back(pending);
}

void Snapshot::RemoveException(uint64_t chunk) {
  settled_.Remove(chunk);
  exceptions_.Remove(chunk);
  touched_.Remove(chunk);
}

void Snapshot::SettleDrained(After& after) {
  std::erase_if(draining_, [this, &after](Pending* pending) {
    mutex_.AssertHeld();
    if (pending->readers != 0) return false;
    if (IsTracked(pending->run.old_chunk, pending->end() - 1)) return false;
    settled_.Add(pending->run.old_chunk, pending->run.count);
    Settle(pending, after);
    return true;
  });
}

uint64_t Snapshot::ReadersOf(const ExceptionRun& run) const {
  uint64_t readers = 0;
  static_assert(kMaxReactors <= 64);
  for (int i = 0; i < owner_.host->reactors().size(); ++i) {
    if (readings_[i].Meets(run)) readers |= uint64_t{1} << i;
  }
  return readers;
}

// On the reactor, which reads nothing now: what it read before has ended or is tracked, whichever
// commit it was that asked. So another one's answer may settle all that waits: each is a visitor.
void Snapshot::TurnEnded(int reactor) {
  After after;
  {
    absl::MutexLock lock(&mutex_);
    --visitors_;
    for (Pending* pending : draining_) pending->readers &= ~(uint64_t{1} << reactor);
    SettleDrained(after);
  }
  Run(after);
}

void Snapshot::CopyFailed(IoStatus status, After& after) {
  if (status != IoStatus::kAborted) {
    BecomeInvalid(after);
  } else if (state_ == State::kValid) {
    state_ = State::kAbandoned;
  }
}

void Snapshot::BecomeInvalid(After& after) {
  if (state_ != State::kValid) return;
  state_ = State::kInvalidating;
  ++background_;
  after.invalidate = true;
}

bool Snapshot::IsTracked(uint64_t first, uint64_t last) const {
  return std::ranges::any_of(tracked_, [first, last](const Tracked& tracked) {
    return tracked.first <= last && first <= tracked.last && tracked.first <= tracked.last;
  });
}

size_t Snapshot::Track(uint64_t first, uint64_t last) {
  if (free_slots_.empty()) {
    tracked_.push_back({first, last});
    return tracked_.size() - 1;
  }
  const size_t slot = free_slots_.back();
  free_slots_.pop_back();
  tracked_[slot] = {first, last};
  return slot;
}

void Snapshot::Untrack(size_t slot) {
  After after;
  {
    absl::MutexLock lock(&mutex_);
    tracked_[slot] = {};
    free_slots_.push_back(slot);
    if (draining_.empty() && untracked_waiters_.empty()) return;
    after.wake.Take(untracked_waiters_);
    SettleDrained(after);
  }
  Run(after);
}

// Without the lock. What it begins keeps this snapshot from becoming quiet.
void Snapshot::Run(After& after) {
  after.wake.WakeAll();
  if (after.event || after.readers != 0) {
    ReactorPool* reactors = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      reactors = &owner_.host->reactors();
      // Under the lock: another device may take over at any moment, and this one go away.
      if (after.event) owner_.host->RaiseEvent();
    }
    for (uint64_t left = after.readers; left != 0; left &= left - 1) {
      const int reactor = std::countr_zero(left);
      (*reactors)[reactor].Post([this, reactor] { TurnEnded(reactor); });
    }
  }
  for (Pending* pending : after.copies) Detach(RunCopy(*pending));
  if (after.invalidate) Detach(RunInvalidate());
  if (after.commit) Detach(RunCommits());
}

Task<void> Snapshot::RunCopy(Pending& pending) {
  IoStatus status;
  {
    std::shared_ptr<BlockDevice> origin;
    {
      absl::MutexLock lock(&mutex_);
      origin = owner_.origin;
    }
    status = co_await CopyRun(*origin, pending.run);
  }
  CopyDone(pending, status);
}

Task<IoStatus> Snapshot::CopyRun(BlockDevice& origin, ExceptionRun run) {
  const Sector from(run.old_chunk << chunk_shift_);
  const Sector to(run.new_chunk << chunk_shift_);
  // The last chunk may reach past the origin's end.
  const SectorCount count =
      std::min(SectorCount(run.count << chunk_shift_), origin.size() - from.offset());
  return CopySectors(origin, from, *cow_, to, count);
}

void Snapshot::CopyDone(Pending& pending, IoStatus status) {
  After after;
  {
    absl::MutexLock lock(&mutex_);
    pending.copied = true;
    if (status != IoStatus::kOk) CopyFailed(status, after);
    buffer_bytes_ -= std::exchange(pending.buffer_bytes, 0);
    after.wake.Take(buffer_waiters_);
    if (!committing_) {
      committing_ = true;
      ++background_;
      after.commit = true;
    }
  }
  Run(after);
}

// --- Commits ---

// One at a time; a batch is whatever has been copied while the last one was under way.
Task<void> Snapshot::RunCommits() {
  std::vector<Pending*> members;
  std::vector<ExceptionRun> batch;
  while (true) {
    // What ends in this turn of the reactor comes along.
    co_await NextTurn();
    if (!TakeBatch(members, batch)) co_return;
    const IoStatus status = co_await store_->Commit(batch);
    EndBatch(members, status);
  }
}

// The copies that have ended, in the order of allocation up to the first that has not: the store's
// entries then lie in the order of its chunks, which the kernel's merge counts on.
bool Snapshot::TakeBatch(std::vector<Pending*>& members, std::vector<ExceptionRun>& batch) {
  members.clear();
  batch.clear();
  After after;
  bool found = false;
  {
    absl::MutexLock lock(&mutex_);
    if (state_ != State::kValid) {
      std::erase_if(commit_order_, [this, &after](Pending* pending) {
        mutex_.AssertHeld();
        if (!pending->copied) return false;
        Settle(pending, after);
        return true;
      });
    } else {
      uint64_t room = store_->commit_room();
      while (!commit_order_.empty() && commit_order_.front()->copied &&
             commit_order_.front()->run.count <= room) {
        members.push_back(commit_order_.front());
        batch.push_back(members.back()->run);
        room -= members.back()->run.count;
        commit_order_.pop_front();
      }
    }
    found = !members.empty();
    if (!found) committing_ = false;
  }
  Run(after);
  if (found) return true;
  absl::MutexLock lock(&mutex_);
  --background_;
  return false;
}

void Snapshot::EndBatch(std::span<Pending* const> members, IoStatus status) {
  After after;
  {
    absl::MutexLock lock(&mutex_);
    if (status != IoStatus::kOk) CopyFailed(status, after);
    for (Pending* pending : members) {
      if (state_ == State::kValid) {
        AddExceptions(pending, after);
      } else {
        Settle(pending, after);
      }
    }
    SettleDrained(after);
    visitors_ += static_cast<uint64_t>(std::popcount(after.readers));
  }
  Run(after);
}

// Writes to the origin wait until the header, or a note, says so for good: else a loss of power
// could bring back a snapshot that looks valid and lacks what they overwrote. If neither can be
// written they go on all the same: a snapshot never makes a write to its origin fail, unless the
// store has gone.
Task<void> Snapshot::RunInvalidate() {
  const IoStatus status = co_await TellInvalid();
  After after;
  {
    absl::MutexLock lock(&mutex_);
    state_ = status == IoStatus::kAborted ? State::kAbandoned : State::kInvalid;
    after.wake.Take(invalidate_waiters_);
    after.event = true;
  }
  Run(after);
  absl::MutexLock lock(&mutex_);
  --background_;
}

Task<IoStatus> Snapshot::TellInvalid() {
  const IoStatus status = co_await store_->Invalidate();
  TargetNotes* notes = nullptr;
  std::string note;
  {
    absl::MutexLock lock(&mutex_);
    header_is_wrong_ = status != IoStatus::kOk && status != IoStatus::kAborted;
    notes = owner_.host->notes();
    note = owner_.invalid_note;
  }
  if (notes == nullptr || status == IoStatus::kAborted) co_return status;
  if (status == IoStatus::kOk) {
    co_await notes->Remove(std::move(note));
  } else {
    co_await notes->Put(std::move(note));
  }
  co_return status;
}

Task<void> Snapshot::TellInvalidAgain() {
  static_cast<void>(co_await TellInvalid());
  absl::MutexLock lock(&mutex_);
  --background_;
}

}  // namespace sectormap::targets
