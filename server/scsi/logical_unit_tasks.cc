// SPDX-License-Identifier: Apache-2.0
// What one nexus does to the tasks of the others: task management, and PERSISTENT RESERVE OUT,
// which may preempt and abort.
#include <algorithm>
#include <utility>

#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {

// One caller that waits for tasks of other nexuses to end.
struct AbortWait {
  size_t left = 0;
  WaitQueue done;
};

void LogicalUnit::TellAttentions(const ReservationOutcome& outcome) {
  for (const ReservationOutcome::Notice& notice : outcome.notices) {
    for (LunNexus* nexus : nexuses_) {
      if (nexus->name() == notice.nexus) AddAttention(*nexus, notice.attention);
    }
  }
}

Task<ReservationOutcome> LogicalUnit::ChangeReservations(LunNexus& nexus,
                                                         ReservationRequest request,
                                                         AbortSignal& abort) {
  Reactor& origin = Reactor::Current();
  co_await reactors_[home_].Switch();
  while (changing_reservations_) co_await reservation_turn_.Wait();
  changing_reservations_ = true;

  // On a copy, which takes effect when it is durable.
  Reservations next = reservations();
  const std::string record_before = next.ToRecord();
  ReservationOutcome outcome = next.Apply(nexus.name(), request);
  if (outcome.changed) {
    std::string record = next.ToRecord();
    if (options_.store != nullptr && record != record_before) {
      const absl::Status saved =
          co_await options_.store->SaveReservations(backing_.identity, std::move(record));
      if (!saved.ok()) {
        outcome = {};
        outcome.status = ScsiStatus::kCheckCondition;
        outcome.sense = kInternalTargetFailure;
      }
    }
  }
  co_await reactors_[home_].Switch();
  if (outcome.changed) {
    absl::MutexLock lock(&mutex_);
    reservations_ = std::move(next);
    TellAttentions(outcome);
    UpdateAllGates();
  }
  changing_reservations_ = false;
  reservation_turn_.WakeOne();
  co_await origin.Switch();

  if (!outcome.aborted.empty()) {
    const std::vector<NexusName>& aborted = outcome.aborted;
    std::vector<NexusPlace> places = PlacesOf([&](const LunNexus& other) {
      return &other != &nexus &&
             std::find(aborted.begin(), aborted.end(), other.name()) != aborted.end();
    });
    co_await AbortTasksOf(std::move(places), abort);
  }
  co_return outcome;
}

// --- Task management ---

template <typename Predicate>
std::vector<LogicalUnit::NexusPlace> LogicalUnit::PlacesOf(Predicate matches) const {
  absl::MutexLock lock(&mutex_);
  std::vector<NexusPlace> places;
  for (const LunNexus* nexus : nexuses_) {
    if (nexus->tasks != nullptr && matches(*nexus)) places.push_back({nexus->id, nexus->reactor});
  }
  return places;
}

LunNexus* LogicalUnit::FindNexus(uint64_t id) const {
  const auto found = std::find_if(nexuses_.begin(), nexuses_.end(),
                                  [id](const LunNexus* nexus) { return nexus->id == id; });
  return found == nexuses_.end() ? nullptr : *found;
}

Task<void> LogicalUnit::AbortTasksAt(NexusPlace place, Reactor& origin,
                                     std::shared_ptr<AbortWait> wait) {
  const std::shared_ptr<LogicalUnit> self = shared_from_this();
  NexusTasks* tasks = nullptr;
  uint64_t lun_number = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (LunNexus* nexus = FindNexus(place.id); nexus != nullptr) {
      tasks = nexus->tasks;
      lun_number = nexus->lun_number;
    }
  }
  if (tasks != nullptr) co_await tasks->AbortTasks(lun_number);
  co_await origin.Switch();
  if (--wait->left == 0) wait->done.WakeAll();
}

Task<void> LogicalUnit::AbortTasksOf(std::vector<NexusPlace> places, AbortSignal& abort) {
  Reactor& origin = Reactor::Current();
  auto wait = std::make_shared<AbortWait>();
  wait->left = places.size();
  for (const NexusPlace& place : places) {
    place.reactor->Spawn(AbortTasksAt(place, origin, wait));
  }
  const WakeOnAbort wake(abort, wait->done);
  while (wait->left != 0 && !abort.raised()) co_await wait->done.Wait();
}

Task<bool> LogicalUnit::EndOthersTasks(LunNexus& from, AbortSignal& abort) {
  co_await AbortTasksOf(PlacesOf([&from](const LunNexus& other) { return other.id != from.id; }),
                        abort);
  if (abort.raised()) TellOthersOfCleared(from);
  co_return !abort.raised();
}

void LogicalUnit::TellOthersOfCleared(LunNexus& from) {
  absl::MutexLock lock(&mutex_);
  for (LunNexus* nexus : nexuses_) {
    if (nexus != &from) AddAttention(*nexus, kCommandsCleared);
  }
}

Task<void> LogicalUnit::Reset(LunNexus& from, AbortSignal& abort) {
  const bool ended = co_await EndOthersTasks(from, abort);
  if (!ended) co_return;
  absl::MutexLock lock(&mutex_);
  reserved_by_ = nullptr;
  mode_ = {};
  descriptor_sense_.store(false, std::memory_order_relaxed);
  for (LunNexus* nexus : nexuses_) AddAttention(*nexus, kBusDeviceReset);
  UpdateAllGates();
}

Task<void> LogicalUnit::ClearTaskSet(LunNexus& from, AbortSignal& abort) {
  const bool ended = co_await EndOthersTasks(from, abort);
  if (ended) TellOthersOfCleared(from);
}

}  // namespace sectormap::scsi
