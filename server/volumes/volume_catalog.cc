// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/volume_catalog.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/map/table_spec.h"

namespace sectormap::volumes {
namespace {

using state::DeviceRecord;
using Saved = DeviceRegistry::Saved;

Saved ToSaved(DeviceRecord record) {
  return {.name = std::move(record.name),
          .uuid = std::move(record.uuid),
          .identity = std::move(record.identity),
          .live_table = std::move(record.live_table),
          .inactive_table = std::move(record.inactive_table),
          .live_read_only = record.live_read_only,
          .inactive_read_only = record.inactive_read_only,
          .suspended = record.suspended,
          .deferred_remove = record.deferred_remove};
}

// The answer to a verb that failed and had to be undone.
absl::Status Undone(absl::Status cause, const absl::Status& undo) {
  if (undo.ok()) return cause;
  absl::Status both(cause.code(),
                    absl::StrCat(std::string(cause.message()),
                                 "; it could not be undone either: ", std::string(undo.message())));
  cause.ForEachPayload(
      [&both](absl::string_view url, const absl::Cord& bytes) { both.SetPayload(url, bytes); });
  return both;
}

}  // namespace

DeviceRecord ToRecord(Saved saved) {
  return {.identity = std::move(saved.identity),
          .name = std::move(saved.name),
          .uuid = std::move(saved.uuid),
          .live_table = std::move(saved.live_table),
          .inactive_table = std::move(saved.inactive_table),
          .live_read_only = saved.live_read_only,
          .inactive_read_only = saved.inactive_read_only,
          .suspended = saved.suspended,
          .deferred_remove = saved.deferred_remove};
}

VolumeCatalog::VolumeCatalog(DeviceRegistry& registry, state::StateStore& store)
    : registry_(registry), store_(store), removals_(std::make_shared<RemovalLink>()) {
  {
    absl::MutexLock hold(&removals_->mutex);
    removals_->catalog = this;
  }
  registry_.OnDeferredRemoval([link = removals_](const std::string& name) {
    absl::MutexLock hold(&link->mutex);
    if (link->catalog == nullptr) return;
    if (link->catalog->removal_log_) link->catalog->removal_log_(name);
    absl::MutexLock save(&link->catalog->save_mutex_);
    link->catalog->Prune();
  });
}

VolumeCatalog::~VolumeCatalog() {
  absl::MutexLock hold(&removals_->mutex);
  removals_->catalog = nullptr;
}

absl::Status VolumeCatalog::Restore(const std::vector<DeviceRecord>& records) {
  std::vector<Saved> all;
  for (const DeviceRecord& record : records) all.push_back(ToSaved(record));
  const absl::Status status = registry_.RestoreAll(std::move(all));
  absl::MutexLock hold(&save_mutex_);
  for (const DeviceInfo& info : registry_.List()) kept_.insert(info.identity);
  return status;
}

absl::StatusOr<DeviceInfo> VolumeCatalog::Create(const CreateRequest& request,
                                                 const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({request.name}, give_up));
  const absl::Status created =
      registry_.Create(request.name, {.uuid = request.uuid, .identity = ""});
  if (absl::IsAlreadyExists(created) && registry_.Find(request.name) != nullptr) {
    return ExistingIsSame(request);
  }
  RETURN_IF_ERROR(created);
  absl::Status status;
  if (request.table.has_value()) {
    status = LoadAndResume(request.name, *request.table, request.read_only);
  }
  if (status.ok()) status = KeepCurrent(request.name);
  if (!status.ok()) {
    absl::Status undo = registry_.Remove(request.name, {.force = true, .deferred = false});
    // Whoever had its identity before has left the record to it.
    if (undo.ok()) undo = KeepCurrent(request.name);
    return Undone(std::move(status), undo);
  }
  return registry_.Info(request.name);
}

absl::StatusOr<DeviceInfo> VolumeCatalog::ExistingIsSame(const CreateRequest& request) const {
  ASSIGN_OR_RETURN(const Saved saved, registry_.Snapshot(request.name));
  const auto differs = [&request](std::string_view what) {
    return absl::AlreadyExistsError(
        absl::StrCat("device ", request.name, " exists already, ", std::string(what),
                     "; choose another name, or change the device with load and resume"));
  };
  if (saved.uuid != request.uuid) return differs("with another uuid");
  if (!request.table.has_value()) {
    if (saved.live_table.has_value() || saved.inactive_table.has_value()) {
      return differs("with a table");
    }
    return registry_.Info(request.name);
  }
  ASSIGN_OR_RETURN(const TableSpec wanted, TableSpec::Parse(*request.table));
  if (!saved.live_table.has_value()) return differs("without a table");
  ASSIGN_OR_RETURN(const TableSpec present, TableSpec::Parse(*saved.live_table));
  if (wanted.ToText() != present.ToText() && !registry_.LiveTableIs(request.name, wanted)) {
    return differs("with another table");
  }
  if (saved.live_read_only != request.read_only) {
    return differs(saved.live_read_only ? "read-only" : "writable");
  }
  return registry_.Info(request.name);
}

absl::Status VolumeCatalog::LoadAndResume(std::string_view name, std::string_view table,
                                          bool read_only) {
  RETURN_IF_ERROR(LoadText(name, table, read_only));
  return registry_.Resume(name);
}

absl::StatusOr<DeviceInfo> VolumeCatalog::Load(std::string_view name, std::string_view table,
                                               bool read_only, const GiveUp& give_up) {
  RETURN_IF_ERROR(AskGuard(name));
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(table));
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(const Saved before, registry_.Snapshot(name));
  if (table_guard_) RETURN_IF_ERROR(table_guard_(name, spec));
  RETURN_IF_ERROR(registry_.Load(name, spec, read_only));
  absl::Status status = KeepCurrent(name);
  if (!status.ok()) return Undone(std::move(status), PutInactiveBack(before));
  return registry_.Info(name);
}

absl::StatusOr<DeviceInfo> VolumeCatalog::Clear(std::string_view name, const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(const Saved before, registry_.Snapshot(name));
  RETURN_IF_ERROR(registry_.Clear(name));
  absl::Status status = KeepCurrent(name);
  if (!status.ok()) return Undone(std::move(status), PutInactiveBack(before));
  return registry_.Info(name);
}

// A suspend is kept before it is done: to undo it, one would have to resume, and resuming swaps in
// the inactive table.
absl::StatusOr<DeviceInfo> VolumeCatalog::Suspend(std::string_view name, SuspendMode mode,
                                                  const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(Saved before, registry_.Snapshot(name));
  DeviceRecord suspended = ToRecord(std::move(before));
  suspended.suspended = true;
  RETURN_IF_ERROR(KeepIntent(suspended));
  absl::Status status = registry_.Suspend(name, mode, give_up);
  if (!status.ok()) return Undone(std::move(status), KeepCurrent(name));
  return registry_.Info(name);
}

// So is a resume: a swapped table has served initiators already when the store refuses. The
// registry says when nothing can refuse it any more, so that a kill never finds the intent of what
// was not to happen.
absl::StatusOr<DeviceInfo> VolumeCatalog::Resume(std::string_view name, const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  std::optional<DeviceRecord> written;
  const auto intent = [&](const Saved& next) -> absl::Status {
    DeviceRecord record = ToRecord(next);
    RETURN_IF_ERROR(KeepIntent(record));
    written = std::move(record);
    return absl::OkStatus();
  };
  absl::Status status = registry_.Resume(name, SuspendMode::kFlush, intent, give_up);
  if (!status.ok()) {
    return written.has_value() ? Undone(std::move(status), KeepCurrent(name)) : status;
  }
  if (written.has_value()) KeepIfOtherThan(*written);
  return registry_.Info(name);
}

absl::StatusOr<DeviceInfo> VolumeCatalog::Replace(std::string_view name, std::string_view table,
                                                  bool read_only, SuspendMode mode,
                                                  const GiveUp& give_up) {
  RETURN_IF_ERROR(AskGuard(name));
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(table));
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(const Saved before, registry_.Snapshot(name));
  if (table_guard_) RETURN_IF_ERROR(table_guard_(name, spec));
  RETURN_IF_ERROR(registry_.Load(name, spec, read_only));
  std::optional<DeviceRecord> written;
  const auto intent = [&](const Saved& next) -> absl::Status {
    if (next.suspended) return absl::OkStatus();  // refused: what the store has comes back
    DeviceRecord record = ToRecord(next);
    RETURN_IF_ERROR(KeepIntent(record));
    written = std::move(record);
    return absl::OkStatus();
  };
  absl::Status status = SwapIn(before, mode, intent, give_up);
  if (!status.ok()) {
    return written.has_value() ? Undone(std::move(status), KeepCurrent(name)) : status;
  }
  if (written.has_value()) KeepIfOtherThan(*written);
  return registry_.Info(name);
}

absl::Status VolumeCatalog::SwapIn(const Saved& before, SuspendMode mode,
                                   const DeviceRegistry::ResumeIntent& intent,
                                   const GiveUp& give_up) {
  absl::Status status = registry_.Resume(before.name, mode, intent, give_up);
  if (status.ok()) return status;
  absl::Status undo = registry_.Clear(before.name);
  const absl::StatusOr<Saved> now = registry_.Snapshot(before.name);
  if (undo.ok() && now.ok() && now->suspended && !before.suspended) {
    // A target that refused to go live has left the device with the new table.
    if (before.live_table.has_value() && now->live_table != before.live_table) {
      undo = LoadText(before.name, *before.live_table, before.live_read_only);
    }
    if (undo.ok()) undo = registry_.Resume(before.name);
  }
  if (undo.ok()) undo = PutInactiveBack(before);
  return Undone(std::move(status), undo);
}

absl::Status VolumeCatalog::LoadText(std::string_view name, std::string_view table,
                                     bool read_only) {
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(table));
  return registry_.Load(name, spec, read_only);
}

absl::Status VolumeCatalog::PutInactiveBack(const Saved& before) {
  if (!before.inactive_table.has_value()) return registry_.Clear(before.name);
  return LoadText(before.name, *before.inactive_table, before.inactive_read_only);
}

absl::StatusOr<VolumeCatalog::Removed> VolumeCatalog::Remove(std::string_view name,
                                                             RemoveOptions options,
                                                             const GiveUp& give_up) {
  RETURN_IF_ERROR(AskGuard(name));
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(const Saved before, registry_.Snapshot(name));
  // Asked before, so that who is refused need not wait for his turn; and now, as an operation may
  // have begun meanwhile. One that begins from now on finds what this has done (CheckStays).
  RETURN_IF_ERROR(AskGuard(name));
  if (!options.force && removal_guard_) RETURN_IF_ERROR(removal_guard_(name));
  if (options.deferred) {
    // Kept first, as a removal that has been put off cannot be called back.
    DeviceRecord deferred = ToRecord(before);
    deferred.deferred_remove = true;
    RETURN_IF_ERROR(KeepIntent(deferred));
  }
  absl::Status status = registry_.Remove(name, options, give_up);
  if (!status.ok()) {
    // A forced removal may have put the error table in before it found the device busy.
    return Undone(std::move(status), KeepCurrent(name));
  }
  const std::shared_ptr<MappedDevice> still_there = registry_.Find(name);
  if (still_there != nullptr && still_there->identity() == before.identity) {
    RETURN_IF_ERROR(KeepCurrent(name));
    return Removed{.deferred = true};
  }
  status = Forget(before.identity);
  if (!status.ok()) {
    absl::Status undo = registry_.RestoreAll({before});
    if (undo.ok() && options.deferred) undo = KeepCurrent(name);
    return Undone(std::move(status), undo);
  }
  return Removed{.deferred = false};
}

absl::Status VolumeCatalog::CheckStays(std::string_view name) const {
  ASSIGN_OR_RETURN(const DeviceInfo info, registry_.Info(name));
  if (!info.deferred_remove) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "'", info.name, "' is to be removed when it is closed; if it is to stay, `sectormap message ",
      info.name, " 0 @cancel_deferred_remove` first"));
}

absl::StatusOr<DeviceInfo> VolumeCatalog::Rename(std::string_view name, std::string_view new_name,
                                                 const GiveUp& give_up) {
  RETURN_IF_ERROR(AskGuard(name));
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name, new_name}, give_up));
  RETURN_IF_ERROR(registry_.Rename(name, new_name));
  absl::Status status = KeepCurrent(new_name);
  if (!status.ok()) return Undone(std::move(status), registry_.Rename(new_name, name));
  return registry_.Info(new_name);
}

// Kept before it is set, as a uuid that has been set stays, but not before it is known to be good:
// the store would have to refuse it.
absl::StatusOr<DeviceInfo> VolumeCatalog::SetUuid(std::string_view name, std::string_view uuid,
                                                  const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(Saved before, registry_.Snapshot(name));
  if (!before.uuid.empty() && before.uuid == uuid) return registry_.Info(name);
  RETURN_IF_ERROR(registry_.CheckSetUuid(name, uuid));
  DeviceRecord named = ToRecord(std::move(before));
  named.uuid = std::string(uuid);
  RETURN_IF_ERROR(KeepIntent(named));
  absl::Status status = registry_.SetUuid(name, uuid);
  if (!status.ok()) return Undone(std::move(status), KeepCurrent(name));
  return registry_.Info(name);
}

absl::StatusOr<std::string> VolumeCatalog::Message(std::string_view name, Sector sector,
                                                   std::string_view text, const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take({name}, give_up));
  ASSIGN_OR_RETURN(const Saved before, registry_.Snapshot(name));
  ASSIGN_OR_RETURN(std::string answer, registry_.Message(name, sector, text));
  // A message may change what `table` prints.
  ASSIGN_OR_RETURN(const Saved after, registry_.Snapshot(name));
  if (ToRecord(after) != ToRecord(before)) RETURN_IF_ERROR(KeepCurrent(name));
  return answer;
}

absl::Status VolumeCatalog::KeepCurrent(std::string_view name) {
  absl::MutexLock hold(&save_mutex_);
  absl::StatusOr<Saved> saved = registry_.Snapshot(name);
  if (absl::IsNotFound(saved.status())) {
    Prune();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(saved.status());
  return Put(ToRecord(*std::move(saved)));
}

absl::Status VolumeCatalog::KeepIntent(const DeviceRecord& record) {
  absl::MutexLock hold(&save_mutex_);
  const std::shared_ptr<MappedDevice> device = registry_.Find(record.name);
  if (device == nullptr || device->identity() != record.identity) {
    return absl::NotFoundError("Device does not exist.");
  }
  return Put(record);
}

// A live table may print less than before its first resume, of what would be harmless to do again:
// if that cannot be kept now, it is with the next verb.
void VolumeCatalog::KeepIfOtherThan(const DeviceRecord& kept) {
  absl::StatusOr<Saved> now = registry_.Snapshot(kept.name);
  if (now.ok() && ToRecord(*std::move(now)) != kept) {
    static_cast<void>(KeepCurrent(kept.name));
  }
}

absl::Status VolumeCatalog::Put(const DeviceRecord& record) {
  absl::Status status = store_.PutDevice(record);
  if (absl::IsAlreadyExists(status)) {
    // The registry has given the name or the uuid to this device, so the one that had it before was
    // removed a moment ago, deferred, and its record is about to go.
    Prune();
    status = store_.PutDevice(record);
  }
  if (status.ok()) kept_.insert(record.identity);
  return status;
}

absl::Status VolumeCatalog::Forget(const std::string& identity) {
  absl::MutexLock hold(&save_mutex_);
  if (registry_.HasIdentity(identity)) return absl::OkStatus();
  RETURN_IF_ERROR(store_.DeleteDevice(identity));
  kept_.erase(identity);
  return absl::OkStatus();
}

void VolumeCatalog::Prune() {
  std::set<std::string> gone = kept_;
  for (const DeviceInfo& info : registry_.List()) gone.erase(info.identity);
  for (const std::string& identity : gone) {
    // If the record cannot go now, it goes with the next one, or at the next start (RemoveUnused).
    if (store_.DeleteDevice(identity).ok()) kept_.erase(identity);
  }
}

}  // namespace sectormap::volumes
