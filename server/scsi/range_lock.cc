// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/range_lock.h"

#include <algorithm>

#include "core/base/check.h"

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
    WaitQueue hold_gone;   // ordinary writes that a hold keeps out
    WaitQueue write_gone;  // exclusive operations waiting for writes in flight
  };

  RangeLockState(ReactorPool& pool, int home_index)
      : reactors(pool), home(home_index), shards(pool.size()) {}

  Shard& shard() { return shards[Reactor::Current().index()]; }

  ReactorPool& reactors;
  const int home;
  std::vector<Shard> shards;  // by the reactors that there are

  // On the home reactor: exclusive operations, queued and running, in the order they came.
  std::vector<Hold> queue;
  uint64_t next_id = 0;
  WaitQueue queue_moved;
};

namespace {

using Hold = RangeLockState::Hold;

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

RangeLock::InFlight::InFlight(RangeLock& lock, SectorRange range) : lock_(lock), range_(range) {
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
}

bool RangeLock::MustWait(SectorRange range) const {
  const std::vector<Hold>& holds = state_->shard().holds;
  if (holds.empty()) [[likely]]
    return false;
  return std::any_of(holds.begin(), holds.end(),
                     [&](const Hold& hold) { return hold.range.Overlaps(range); });
}

Task<void> RangeLock::WaitUntilFree(SectorRange range) {
  while (MustWait(range)) co_await state_->shard().hold_gone.Wait();
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
