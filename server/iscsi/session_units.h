// SPDX-License-Identifier: Apache-2.0
// SessionUnits: a session's hold on the logical units of its target: it takes one when a command
// first names it, and lets go of it when it leaves the target and nobody uses it any more.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "server/iscsi/command_memory.h"
#include "server/iscsi/target_directory.h"
#include "server/scsi/lun.h"
#include "server/scsi/lun_field.h"

namespace sectormap::iscsi {

// The session's hold on one logical unit. One that left the target lets go of its device when
// nobody uses that, and stays itself until the last task whose data is counted here has ended.
struct Unit {
  uint64_t number = 0;
  std::shared_ptr<scsi::Lun> lun;
  bool read_only = false;
  std::shared_ptr<scsi::CommandCounters> counters;
  scsi::LunNexusPtr nexus;
  SessionShare share;
  uint32_t users = 0;  // tasks and task management that may touch its device
  uint32_t tasks = 0;  // that are for it, also those whose answers are on their way
  bool leaving = false;
};

// For its connection's reactor.
class SessionUnits {
 public:
  struct Context {
    CommandMemory& memory;
    std::shared_ptr<TargetLuns> luns;
    scsi::NexusIdentity identity;
    scsi::NexusTasks* nexus_tasks;
    // The unit has left the target: none of its tasks may answer any more.
    std::function<void(const Unit&)> abort_tasks;
  };
  explicit SessionUnits(Context context);
  // REQUIRES: no unit is used.
  ~SessionUnits();
  SessionUnits(const SessionUnits&) = delete;
  SessionUnits& operator=(const SessionUnits&) = delete;

  // Sees what changed at the target: what follows is as that has it now.
  void Refresh() {
    if (context_.luns->generation() != generation_) Reload();
  }

  // Null: there is no such unit. REQUIRES: Refresh() was called since the command came.
  Unit* Find(uint64_t number) {
    auto place = units_.find(number);
    return place != units_.end() ? place->second.get() : Attach(number);
  }

  // Keeps the unit while task management works on it; null: there is no such unit.
  Unit* Use(const scsi::LunField& lun);
  static Unit* Use(Unit& unit) {
    ++unit.users;
    return &unit;
  }
  // All units of the target, each used.
  std::vector<Unit*> UseAll();
  void Release(Unit& unit);
  // One of its tasks has ended.
  void EraseIfDone(Unit& unit);

  // Of the target's units, ascending.
  std::span<const uint64_t> numbers() const { return numbers_; }
  // The initiator has been given them.
  void NoteNumbersTold() { change_->told = true; }

  // Drops units that left the target. `released` is called when nothing uses those any more.
  void OnLunsChanged(absl::AnyInvocable<void()> released);

 private:
  void Reload();
  void Leave(uint64_t number);
  Unit* Attach(uint64_t number);
  void CallReleased();

  const Context context_;
  uint64_t generation_ = 0;
  std::shared_ptr<const LunMap> map_;
  std::vector<uint64_t> numbers_;
  std::shared_ptr<scsi::LunListChange> change_;  // the last
  absl::flat_hash_map<uint64_t, std::unique_ptr<Unit>> units_;
  std::vector<std::unique_ptr<Unit>> leaving_;
  std::vector<absl::AnyInvocable<void()>> released_calls_;
};

}  // namespace sectormap::iscsi
