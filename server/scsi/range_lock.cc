// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/range_lock.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/wait_queue.h"

namespace sectormap::scsi {

// Shared with the calls posted at a hold's end, which may run after the unit has gone.
struct RangeLockState {
  struct Hold {
    uint64_t id;
    SectorRange range;
  };
  struct alignas(64) Shard {
    RangeLock::InFlight* in_flight = nullptr;
    std::vector<Hold> holds;
    WaitQueue hold_gone;   // ordinary writes that are kept out
    WaitQueue write_gone;  // exclusive operations waiting for writes in flight
  };

  RangeLockState(ReactorPool& pool, int home_index)
      : reactors(pool), home(home_index), shards(pool.size()) {}

  Shard& shard() { return shards[Reactor::Current().index()]; }

  ReactorPool& reactors;
  const int home;
  // Of `aborted`, so that a write looks no further while there is none.
  std::atomic<size_t> aborted_count{0};
  std::vector<Shard> shards;  // by the reactors that there are

  // On the home reactor: exclusive operations, queued and running, in the order they came.
  std::vector<Hold> queue;
  uint64_t next_id = 0;
  WaitQueue queue_moved;

  // Aborted writes that their device has not let go of. Any thread.
  absl::Mutex mutex;
  std::vector<SectorRange> aborted ABSL_GUARDED_BY(mutex);
};

namespace {

using Hold = RangeLockState::Hold;

bool IsHeld(const std::vector<Hold>& holds, SectorRange range) {
  return std::any_of(holds.begin(), holds.end(),
                     [&](const Hold& hold) { return hold.range.Overlaps(range); });
}

bool IsAborted(RangeLockState& state, SectorRange range) {
  absl::MutexLock lock(&state.mutex);
  return std::any_of(state.aborted.begin(), state.aborted.end(),
                     [&](const SectorRange& other) { return other.Overlaps(range); });
}

void EraseHold(std::vector<Hold>& holds, uint64_t id) {
  std::erase_if(holds, [id](const Hold& hold) { return hold.id == id; });
}

bool IsBehindOverlap(const std::vector<Hold>& queue, const Hold& self) {
  for (const Hold& hold : queue) {
    if (hold.id == self.id) return false;
    if (hold.range.Overlaps(self.range)) return true;
  }
  return false;
}

}  // namespace

RangeLock::RangeLock(ReactorPool& reactors, int home)
    : state_(std::make_shared<RangeLockState>(reactors, home)) {}

RangeLock::~RangeLock() = default;

RangeLock::InFlight::InFlight(RangeLock& lock, SectorRange range, AbortSignal& abort)
    : Listener(abort), lock_(lock), range_(range) {
  RangeLockState::Shard& shard = lock_.state_->shard();
  next_ = shard.in_flight;
  if (next_ != nullptr) next_->previous_ = this;
  shard.in_flight = this;
}

RangeLock::InFlight::~InFlight() {
  RangeLockState::Shard& shard = lock_.state_->shard();
  if (next_ != nullptr) next_->previous_ = previous_;
  (previous_ != nullptr ? previous_->next_ : shard.in_flight) = next_;
  shard.write_gone.WakeAll();
  if (aborted_) lock_.ForgetAborted(range_);
}

// In the list before the abort is answered, so that whatever is sent after that answer finds it.
void RangeLock::InFlight::OnAborted() {
  aborted_ = true;
  absl::MutexLock lock(&lock_.state_->mutex);
  lock_.state_->aborted.push_back(range_);
  lock_.state_->aborted_count.store(lock_.state_->aborted.size(), std::memory_order_release);
}

void RangeLock::ForgetAborted(SectorRange range) {
  {
    absl::MutexLock lock(&state_->mutex);
    // Of several that are equal, any.
    state_->aborted.erase(std::find(state_->aborted.begin(), state_->aborted.end(), range));
    state_->aborted_count.store(state_->aborted.size(), std::memory_order_release);
  }
  for (int i = 0; i < state_->reactors.size(); ++i) {
    state_->reactors[i].Post([state = state_] { state->shard().hold_gone.WakeAll(); });
  }
}

bool RangeLock::MustWait(SectorRange range) const {
  const std::vector<Hold>& holds = state_->shard().holds;
  if (holds.empty() && state_->aborted_count.load(std::memory_order_acquire) == 0) [[likely]] {
    return false;
  }
  return IsHeld(holds, range) || IsAborted(*state_, range);
}

Task<bool> RangeLock::WaitUntilFree(SectorRange range, AbortSignal& abort) {
  WaitQueue& hold_gone = state_->shard().hold_gone;
  const WakeOnAbort wake(abort, hold_gone);
  while (!abort.raised() && MustWait(range)) co_await hold_gone.Wait();
  co_return !abort.raised();
}

struct RangeLock::Countdown {
  int left;
  WaitQueue done;
};

// Runs on a reactor: keeps new writes out of `range`, waits for those that are in.
Task<void> RangeLock::HoldShard(std::shared_ptr<RangeLockState> state, uint64_t id,
                                SectorRange range, Reactor& origin, Countdown& countdown) {
  RangeLockState::Shard& shard = state->shard();
  shard.holds.push_back({id, range});
  auto is_written = [&shard, range] {
    for (InFlight* write = shard.in_flight; write != nullptr; write = write->next_) {
      if (write->range_.Overlaps(range)) return true;
    }
    return false;
  };
  while (is_written()) co_await shard.write_gone.Wait();
  co_await origin.Switch();
  if (--countdown.left == 0) countdown.done.WakeAll();
}

Task<RangeLock::Exclusive> RangeLock::Acquire(SectorRange range) {
  std::shared_ptr<RangeLockState> state = state_;
  Reactor& origin = Reactor::Current();
  co_await state->reactors[state->home].Switch();
  const uint64_t id = state->next_id++;
  state->queue.push_back({id, range});
  while (IsBehindOverlap(state->queue, {id, range})) co_await state->queue_moved.Wait();
  co_await origin.Switch();

  Countdown countdown{state->reactors.size(), {}};
  for (int i = 0; i < state->reactors.size(); ++i) {
    state->reactors[i].Spawn(HoldShard(state, id, range, origin, countdown));
  }
  while (countdown.left != 0) co_await countdown.done.Wait();
  co_return Exclusive(std::move(state), id);
}

RangeLock::Exclusive::~Exclusive() {
  if (state_ == nullptr) return;
  // Not waited for: a write that comes between is kept out a moment longer than it had to be.
  for (int i = 0; i < state_->reactors.size(); ++i) {
    state_->reactors[i].Post([state = state_, id = id_] {
      RangeLockState::Shard& shard = state->shard();
      EraseHold(shard.holds, id);
      shard.hold_gone.WakeAll();
    });
  }
  state_->reactors[state_->home].Post([state = state_, id = id_] {
    EraseHold(state->queue, id);
    state->queue_moved.WakeAll();
  });
}

}  // namespace sectormap::scsi
