// SPDX-License-Identifier: Apache-2.0
// VolumeCatalog: the device mapper's verbs, made durable. A verb is applied to the DeviceRegistry
// and kept in the StateStore before it answers; if it cannot be kept, it is undone and the store's
// error is the answer. What has been answered is there after `kill -9`.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/map/device_registry.h"
#include "core/map/give_up.h"
#include "server/state/state_store.h"
#include "server/volumes/name_locks.h"

namespace sectormap::volumes {

// As the state store keeps it.
state::DeviceRecord ToRecord(DeviceRegistry::Saved saved);

struct CreateRequest {
  std::string name;
  std::string uuid{};
  std::optional<std::string> table{};  // dmsetup's text
  bool read_only = false;
};

// How long ReplaceTogether waits for I/O to end before it changes nothing: a backing device that is
// stuck must not keep every other recipe from its turn.
inline constexpr absl::Duration kTogetherWaitMax = absl::Seconds(30);

// What ReplaceTogether is to do. Devices that are there already must have a live table, no inactive
// one, and not be suspended. One whose table could not be built is only removed, or replaced with
// kNoFlush, or it waits for nothing but devices that are removed.
struct TogetherRequest {
  struct NewDevice {
    std::string name, uuid{}, table;
    bool read_only = false;
  };
  struct NewTable {
    std::string name, table;  // as read-only as the one before
  };
  std::vector<NewDevice> create{};  // each after those that its table names
  std::vector<NewTable> replace{};
  std::vector<std::string> hold{};    // suspended meanwhile, with the table they have
  std::vector<std::string> remove{};  // used by none but the tables that go
  SuspendMode mode = SuspendMode::kSwap;

  // Of the devices above, those that are suspended before `when_quiet` is called, while the others
  // still serve.
  std::set<std::string> writers{};
  std::function<absl::Status()> when_quiet{};
  // Called when all are suspended. What it adds to `changes` is kept in the same transaction.
  std::function<absl::Status(state::Changes& changes)> when_still{};

  // What a mirror knows of its legs goes with its table, but for which of them hold all data: those
  // do so in the next one, too, if its first leg is among them. It goes by the data of one leg, the
  // first, unless another one stands here, by device and the row's first sector. If it turns out,
  // when all are still, that this leg lacks something, the request is refused.
  std::map<std::pair<std::string, Sector>, size_t> leading_legs{};
  // It is not, but for mirrors that have answered writes which the leg lacks.
  bool even_if_stale = false;

  // Ends the waits for the turn and for I/O: Cancelled, with nothing changed.
  GiveUp give_up{};
};

// Any control thread; verbs on one device run one after the other, on different devices side by
// side. Codes are the registry's and the store's, and Cancelled: `give_up` said so before the verb
// had its turn, and nothing has changed; other cases stand with their verbs.
class VolumeCatalog {
 public:
  // Both outlive it. Changes go through the catalog only, from now on.
  VolumeCatalog(DeviceRegistry& registry, state::StateStore& store);
  ~VolumeCatalog();
  VolumeCatalog(const VolumeCatalog&) = delete;
  VolumeCatalog& operator=(const VolumeCatalog&) = delete;

  // At start: every device as it was. A device whose table cannot be built is there and says why
  // (DeviceInfo::error). Fails with the first record that could not be restored at all; such
  // records stay in the store and all others are restored.
  absl::Status Restore(const std::vector<state::DeviceRecord>& records);
  // At start, once every export holds its device: deferred removals whose last opener was the dead
  // daemon.
  void RemoveUnused() { registry_.RemoveDeferred(); }

  // From now on asked before a table is loaded, or a device removed or renamed, by name; its
  // refusal is the answer. Recipes are not asked. Once, before the first verb.
  using Guard = std::function<absl::Status(std::string_view name)>;
  void SetGuard(Guard guard) { guard_ = std::move(guard); }
  // From now on asked, too, before a device is removed without force. Once, before the first verb.
  void SetRemovalGuard(Guard guard) { removal_guard_ = std::move(guard); }

  // From now on asked, too, before a table is loaded into a device that is there. Once, before the
  // first verb.
  using TableGuard = std::function<absl::Status(std::string_view name, const TableSpec& table)>;
  void SetTableGuard(TableGuard guard) { table_guard_ = std::move(guard); }

  // From now on told of each deferred removal when it has happened, on a control thread. Once,
  // before the first verb.
  using RemovalLog = std::function<void(const std::string& name)>;
  void SetRemovalLog(RemovalLog log) { removal_log_ = std::move(log); }

  // From now on asked, ten times a second, while ReplaceTogether waits for I/O: its refusal ends
  // the wait and is the answer, with nothing changed. Once, before the first verb.
  using Patience = std::function<absl::Status()>;
  void SetPatience(Patience patience) { patience_ = std::move(patience); }

  // With a table, also loads and resumes it, and leaves nothing behind if that fails. Creating what
  // is there with the same uuid, table and mode succeeds; AlreadyExists says what differs.
  absl::StatusOr<DeviceInfo> Create(const CreateRequest& request, const GiveUp& give_up = nullptr);
  absl::StatusOr<DeviceInfo> Load(std::string_view name, std::string_view table, bool read_only,
                                  const GiveUp& give_up = nullptr);
  absl::StatusOr<DeviceInfo> Clear(std::string_view name, const GiveUp& give_up = nullptr);
  // Cancelled: it was given up, and the device is active as before.
  absl::StatusOr<DeviceInfo> Suspend(std::string_view name, SuspendMode mode,
                                     const GiveUp& give_up = nullptr);
  // Cancelled: a swap was given up; the old table serves on, the new one waits in its slot.
  absl::StatusOr<DeviceInfo> Resume(std::string_view name, const GiveUp& give_up = nullptr);
  // Load, suspend and resume. If one of them fails or is given up, the old table serves on, and a
  // table that stood in the inactive slot is there again.
  absl::StatusOr<DeviceInfo> Replace(std::string_view name, std::string_view table, bool read_only,
                                     SuspendMode mode, const GiveUp& give_up = nullptr);
  // Several devices at one instant, which is in the store as a whole or not at all: everything is
  // loaded, the devices are suspended (who uses another one first), the change is kept, the devices
  // go on (who is used first). A failure before it is kept undoes everything. I/O waits meanwhile,
  // and finds either all old tables or all new ones. FailedPrecondition: I/O that has to end first
  // did not within kTogetherWaitMax; or a device does not stay, but with kNoFlush, as what does not
  // work has to go all the same.
  absl::Status ReplaceTogether(const TogetherRequest& request);
  struct Removed {
    bool deferred = false;  // still open; goes when the last opener closes it
  };
  // Cancelled: it was given up; the device is there as before, or with the error table if that was
  // in already.
  absl::StatusOr<Removed> Remove(std::string_view name, RemoveOptions options,
                                 const GiveUp& give_up = nullptr);
  absl::StatusOr<DeviceInfo> Rename(std::string_view name, std::string_view new_name,
                                    const GiveUp& give_up = nullptr);
  // Once only. Setting the one that it has succeeds.
  absl::StatusOr<DeviceInfo> SetUuid(std::string_view name, std::string_view uuid,
                                     const GiveUp& give_up = nullptr);
  absl::StatusOr<std::string> Message(std::string_view name, Sector sector, std::string_view text,
                                      const GiveUp& give_up = nullptr);

  // A message that changes no table, for recipes: it takes no turn.
  absl::StatusOr<std::string> Ask(std::string_view name, std::string_view text,
                                  Sector sector = Sector(0)) {
    return registry_.Message(name, sector, text);
  }
  // Records that are no device's, in one transaction.
  absl::Status Keep(const state::Changes& changes) { return store_.Apply(changes); }
  // Files that the daemon made and that no recipe has in a table.
  absl::StatusOr<std::vector<std::string>> UnusedFiles() { return store_.UnusedFiles(); }
  // An event of the device (dm's event_nr), raised by what watches it from outside.
  void RaiseEvent(std::string_view name);

  // FailedPrecondition, with what to do: it is to be removed when it is closed, and what a recipe
  // records in its table would go with it.
  absl::Status CheckStays(std::string_view name) const;

  // Reading needs no durability.
  const DeviceRegistry& registry() const { return registry_; }
  // Holds a device open, as a LUN does.
  absl::StatusOr<DeviceRef> Open(std::string_view name) { return registry_.Open(name); }

 private:
  absl::StatusOr<DeviceInfo> ExistingIsSame(const CreateRequest& request) const;
  // What a deferred removal reaches the catalog by, as long as it is there.
  struct RemovalLink {
    absl::Mutex mutex;
    VolumeCatalog* catalog ABSL_GUARDED_BY(mutex) = nullptr;
  };

  class Together;

  absl::Status LoadAndResume(std::string_view name, std::string_view table, bool read_only);
  absl::Status SwapIn(const DeviceRegistry::Saved& before, SuspendMode mode,
                      const DeviceRegistry::ResumeIntent& intent, const GiveUp& give_up);
  absl::Status LoadText(std::string_view name, std::string_view table, bool read_only);
  absl::Status PutInactiveBack(const DeviceRegistry::Saved& before);

  absl::Status AskGuard(std::string_view name) const {
    return guard_ ? guard_(name) : absl::OkStatus();
  }

  // Keeps the device as it is now; nothing if it has gone meanwhile.
  absl::Status KeepCurrent(std::string_view name);
  // Keeps what the device is about to be. NotFound if it has gone meanwhile.
  absl::Status KeepIntent(const state::DeviceRecord& record);
  void KeepIfOtherThan(const state::DeviceRecord& kept);
  absl::Status Put(const state::DeviceRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(save_mutex_);
  // Deletes the record of a device that was removed, unless another one has its identity by now.
  absl::Status Forget(const std::string& identity);
  // Deletes the records of devices that the registry no longer has.
  void Prune() ABSL_EXCLUSIVE_LOCKS_REQUIRED(save_mutex_);

  DeviceRegistry& registry_;
  state::StateStore& store_;
  const std::shared_ptr<RemovalLink> removals_;
  NameLocks names_;
  Guard guard_, removal_guard_;
  TableGuard table_guard_;
  RemovalLog removal_log_;
  Patience patience_;

  // Held while a device is looked at and its record written, so that a deferred removal, which may
  // happen on any thread, cannot come in between. Never held during a verb.
  absl::Mutex save_mutex_;
  std::set<std::string> kept_ ABSL_GUARDED_BY(save_mutex_);  // identities that have a record
};

}  // namespace sectormap::volumes
