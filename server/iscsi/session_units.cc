// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/session_units.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/base/check.h"

namespace sectormap::iscsi {

SessionUnits::SessionUnits(Context context) : context_(std::move(context)) { Refresh(); }

SessionUnits::~SessionUnits() {
  CHECK(leaving_.empty());
  for (auto& [number, unit] : units_) {
    CHECK(unit->users == 0 && unit->tasks == 0);
    unit->nexus.reset();
    context_.memory.Leave(unit->share);
  }
}

Unit* SessionUnits::Attach(uint64_t number) {
  auto entry = std::lower_bound(
      map_->begin(), map_->end(), number,
      [](const LunEntry& candidate, uint64_t wanted) { return candidate.number < wanted; });
  if (entry == map_->end() || entry->number != number) return nullptr;
  auto unit = std::make_unique<Unit>();
  unit->number = number;
  unit->lun = entry->lun;
  unit->read_only = entry->read_only;
  unit->counters = entry->counters;
  unit->nexus =
      entry->lun->Attach(context_.identity, number, entry->read_only, context_.nexus_tasks);
  unit->share = context_.memory.Join(entry->lun.get(), context_.identity.initiator_name);
  Unit* attached = unit.get();
  units_.emplace(number, std::move(unit));
  return attached;
}

void SessionUnits::Reload() {
  generation_ = context_.luns->generation();
  map_ = context_.luns->map();
  numbers_.clear();
  for (const LunEntry& entry : *map_) numbers_.push_back(entry.number);
  change_ = std::make_shared<scsi::LunListChange>();
  std::vector<uint64_t> gone;
  for (auto& [number, unit] : units_) {
    auto same = [&held = *unit](const LunEntry& entry) {
      return entry.number == held.number && entry.lun == held.lun &&
             entry.read_only == held.read_only;
    };
    if (std::any_of(map_->begin(), map_->end(), same)) {
      unit->lun->TellLunsChanged(*unit->nexus, change_);
    } else {
      gone.push_back(number);
    }
  }
  for (const uint64_t number : gone) Leave(number);
}

void SessionUnits::Leave(uint64_t number) {
  auto place = units_.find(number);
  Unit& unit = *place->second;
  unit.leaving = true;
  leaving_.push_back(std::move(place->second));
  units_.erase(place);
  ++unit.users;  // until it is done here
  context_.abort_tasks(unit);
  Release(unit);
}

void SessionUnits::OnLunsChanged(absl::AnyInvocable<void()> released) {
  Refresh();
  released_calls_.push_back(std::move(released));
  CallReleased();
}

Unit* SessionUnits::Use(const scsi::LunField& lun) {
  Refresh();
  const std::optional<uint64_t> number = scsi::DecodeLun(lun);
  Unit* unit = number ? Find(*number) : nullptr;
  return unit == nullptr ? nullptr : Use(*unit);
}

std::vector<Unit*> SessionUnits::UseAll() {
  Refresh();
  std::vector<Unit*> units;
  for (const LunEntry& entry : *map_) units.push_back(Use(*Find(entry.number)));
  return units;
}

void SessionUnits::Release(Unit& unit) {
  CHECK(unit.users > 0);
  if (--unit.users != 0 || !unit.leaving) return;
  unit.nexus.reset();
  unit.lun.reset();
  EraseIfDone(unit);
  CallReleased();
}

void SessionUnits::EraseIfDone(Unit& unit) {
  if (!unit.leaving || unit.users != 0 || unit.tasks != 0) return;
  context_.memory.Leave(unit.share);
  std::erase_if(leaving_, [&](const auto& candidate) { return candidate.get() == &unit; });
}

void SessionUnits::CallReleased() {
  const auto in_use = [](const auto& unit) { return unit->users != 0; };
  if (std::any_of(leaving_.begin(), leaving_.end(), in_use)) return;
  for (auto& call : std::exchange(released_calls_, {})) call();
}

}  // namespace sectormap::iscsi
