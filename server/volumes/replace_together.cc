// SPDX-License-Identifier: Apache-2.0
// VolumeCatalog::ReplaceTogether.
#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_spec.h"
#include "server/volumes/device_order.h"
#include "server/volumes/mirror_rows.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {
namespace {

using state::DeviceRecord;

constexpr absl::Duration kPatiencePoll = absl::Milliseconds(100);

// Whoever waits may give up: it goes on without him.
Task<void> Flush(std::shared_ptr<MappedDevice> device, std::shared_ptr<absl::Notification> ended) {
  static_cast<void>(co_await device->Submit(IoRequest::Flush()));
  ended->Notify();
}

absl::Status CheckAtRest(const DeviceRegistry::Saved& device) {
  std::string_view state;
  std::string_view advice;
  if (device.suspended) {
    state = "is suspended";
    advice = "resume it first";
  } else if (device.inactive_table.has_value()) {
    state = "has a table in the inactive slot";
    advice = "resume or clear it first";
  } else if (!device.live_table.has_value()) {
    state = "has no table";
    advice = "load one first";
  } else {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("device '", device.name, "' ", Absl(state), "; ", Absl(advice)));
}

// What recipes make files for: the stores of snapshots and the logs of mirrors.
std::set<std::string> StoresAndLogs(const std::string& table) {
  std::set<std::string> names;
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table);
  if (!spec.ok()) return names;
  for (const TableRow& row : spec->Rows()) {
    if ((row.type == "snapshot" || row.type == "snapshot-merge") && row.args.size() > 1) {
      names.insert(row.args[1]);
    }
    const std::optional<MirrorRow> mirror = MirrorRow::Parse(row);
    if (mirror.has_value() && mirror->log_type == "disk" && !mirror->log_args.empty()) {
      names.insert(mirror->log_args.front());
    }
  }
  return names;
}

}  // namespace

// One run of it. What has been done is undone by Undo(), in the reverse order.
class VolumeCatalog::Together {
 public:
  Together(VolumeCatalog& catalog, const TogetherRequest& request)
      : catalog_(catalog), registry_(catalog.registry_), request_(request) {}

  std::set<std::string> Names() const {
    std::set<std::string> names = Present();
    for (const auto& device : request_.create) names.insert(device.name);
    return names;
  }

  absl::Status Run() {
    RETURN_IF_ERROR(Check());
    absl::Status status = LoadAll();
    give_up_at_ = absl::Now() + kTogetherWaitMax;
    if (status.ok()) status = FlushAhead();
    give_up_at_ = absl::Now() + kTogetherWaitMax;
    if (status.ok()) status = SuspendAll();
    if (status.ok()) status = Keep();
    if (!status.ok()) {
      Undo();
      return status;
    }
    return GoOn();
  }

 private:
  std::set<std::string> Present() const {
    std::set<std::string> names(request_.hold.begin(), request_.hold.end());
    names.insert(request_.remove.begin(), request_.remove.end());
    for (const auto& table : request_.replace) names.insert(table.name);
    return names;
  }

  absl::Status Check() {
    const std::set<std::string> present = Present();
    for (const std::string& name : present) {
      ASSIGN_OR_RETURN(before_[name], registry_.Snapshot(name));
      RETURN_IF_ERROR(CheckAtRest(before_[name]));
      RETURN_IF_ERROR(CheckBuilt(name));
      const bool has_to_stay = request_.mode != SuspendMode::kNoFlush && !Removes(name);
      if (has_to_stay) RETURN_IF_ERROR(catalog_.CheckStays(name));
    }
    for (const std::string& name : request_.remove) {
      RETURN_IF_ERROR(registry_.CheckUsedOnlyBy(name, present));
    }
    return absl::OkStatus();
  }

  bool Removes(const std::string& name) const {
    return std::ranges::find(request_.remove, name) != request_.remove.end();
  }

  // Nobody knows what a table that could not be built holds, and built anew it would begin anew: a
  // store that is empty by mistake would become a valid one.
  absl::Status CheckBuilt(const std::string& name) {
    const std::shared_ptr<MappedDevice> device = registry_.Find(name);
    const auto unbuilt = device == nullptr ? std::nullopt : device->unbuilt(TableSlot::kLive);
    if (!unbuilt.has_value()) return absl::OkStatus();
    const auto takes_it_over = [&](const auto& other) { return other.table == unbuilt->text; };
    const bool goes_on = std::ranges::any_of(request_.replace, takes_it_over) ||
                         std::ranges::any_of(request_.create, takes_it_over);
    if (!goes_on) {
      if (Removes(name)) return absl::OkStatus();
      // What goes back, or takes a leg out, puts what works in its place.
      if (request_.mode == SuspendMode::kNoFlush) return absl::OkStatus();
      if (WaitsOnlyForWhatGoes(*unbuilt)) return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat("device '", name, "' could not be restored (", unbuilt->error,
                     "); resume it first, or remove what is lost"));
  }

  bool WaitsOnlyForWhatGoes(const MappedDevice::UnbuiltTable& unbuilt) const {
    bool waits = false;
    for (const std::shared_ptr<MappedDevice>& awaited : unbuilt.after) {
      if (!awaited->unbuilt(TableSlot::kLive).has_value()) continue;
      waits = true;
      if (!Removes(awaited->info().name)) return false;
    }
    return waits;
  }

  bool Goes(const std::string& name) const {
    return std::ranges::any_of(request_.replace,
                               [&](const auto& table) { return table.name == name; }) ||
           Removes(name);
  }

  struct MirrorPlace {
    Sector start;
    SectorCount length;
    MirrorRow mirror;
  };
  static std::vector<MirrorPlace> MirrorsIn(const std::string& table) {
    std::vector<MirrorPlace> mirrors;
    const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table);
    if (!spec.ok()) return mirrors;
    for (const TableRow& row : spec->Rows()) {
      auto mirror = MirrorRow::Parse(row);
      if (mirror.has_value()) mirrors.push_back({row.start, row.length, *std::move(mirror)});
    }
    return mirrors;
  }

  absl::Status CheckLeadingLegs() {
    for (const auto& [name, device] : before_) {
      if (!Goes(name)) continue;
      for (const MirrorPlace& place : MirrorsIn(*device.live_table)) {
        if (request_.even_if_stale && place.mirror.HoldsFailedWrites()) continue;
        const auto said = request_.leading_legs.find({name, place.start});
        const size_t leading = said == request_.leading_legs.end() ? 0 : said->second;
        const auto whole = ReadWholeLegs(catalog_, name, place.start);
        if (!whole.has_value() || whole->contains(leading)) continue;
        return absl::FailedPreconditionError(LegLacksData(name, place.mirror.legs.at(leading)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status LoadOne(const std::string& name, const std::string& table, bool read_only) {
    ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(table));
    return registry_.Load(name, spec, read_only);
  }

  // Of the tables that go.
  std::vector<WholeLegs> AllWholeLegs() const {
    std::vector<WholeLegs> all;
    for (const auto& [name, device] : before_) {
      if (!Goes(name)) continue;
      const auto legs = ReadAllWholeLegs(catalog_, name, *device.live_table);
      all.insert(all.end(), legs.begin(), legs.end());
    }
    return all;
  }

  // A core log goes with its table, a disk log knows nothing of legs but that all are alike or not:
  // the next table would copy from the first leg what others have, and have nobody else to read it
  // from. Now no leg can fail any more.
  absl::Status TellOfWholeLegs() {
    const std::vector<WholeLegs> whole = AllWholeLegs();
    const auto tell = [&](const std::string& name, const std::string& text) {
      const std::shared_ptr<MappedDevice> device = registry_.Find(name);
      const auto table = device == nullptr ? nullptr : device->table(TableSlot::kInactive);
      if (table == nullptr) return absl::OkStatus();
      for (const MirrorPlace& place : MirrorsIn(text)) {
        const std::vector<size_t> legs = WholeAmong(place.mirror, place.length, whole);
        if (legs.empty()) continue;
        RETURN_IF_ERROR(
            table->Message(place.start, absl::StrCat("whole_legs ", absl::StrJoin(legs, " ")))
                .status());
      }
      return absl::OkStatus();
    };
    for (const auto& device : request_.create) RETURN_IF_ERROR(tell(device.name, device.table));
    for (const auto& table : request_.replace) RETURN_IF_ERROR(tell(table.name, table.table));
    return absl::OkStatus();
  }

  absl::Status LoadAll() {
    for (const TogetherRequest::NewDevice& device : request_.create) {
      RETURN_IF_ERROR(registry_.Create(device.name, {.uuid = device.uuid, .identity = ""}));
      created_.push_back(device.name);
      RETURN_IF_ERROR(LoadOne(device.name, device.table, device.read_only));
      RETURN_IF_ERROR(registry_.AnnounceSize(device.name));
    }
    for (const TogetherRequest::NewTable& table : request_.replace) {
      RETURN_IF_ERROR(LoadOne(table.name, table.table, before_[table.name].live_read_only));
      loaded_.push_back(table.name);
    }
    order_ = SuspendOrder(registry_, Names());
    return absl::OkStatus();
  }

  // OK: what is waited for may come.
  absl::Status Patience() const {
    if (request_.give_up && request_.give_up()) {
      return absl::CancelledError("given up before I/O had ended; nothing has been changed");
    }
    if (absl::Now() >= give_up_at_) {
      return absl::FailedPreconditionError(absl::StrCat(
          "Device or resource busy: I/O of ", absl::StrJoin(Present(), ", "),
          " has not ended for longer than ", absl::FormatDuration(kTogetherWaitMax),
          ", perhaps as a backing device does not finish it; nothing has been changed"));
    }
    // Without a flush nothing is waited for that a failed leg holds: such a recipe is the way out.
    const bool asks = request_.mode != SuspendMode::kNoFlush && catalog_.patience_;
    return asks ? catalog_.patience_() : absl::OkStatus();
  }

  // What is flushed now need not be flushed while I/O waits. A failure is the suspend's to tell.
  absl::Status FlushAhead() {
    if (request_.mode == SuspendMode::kNoFlush) return absl::OkStatus();
    for (const std::string& name : Present()) {
      const std::shared_ptr<MappedDevice> device = registry_.Find(name);
      if (device == nullptr || MeetsSuspended(registry_, name)) continue;
      const auto ended = std::make_shared<absl::Notification>();
      device->reactors()[0].Spawn(Flush(device, ended));
      while (!ended->WaitForNotificationWithTimeout(kPatiencePoll)) RETURN_IF_ERROR(Patience());
    }
    return absl::OkStatus();
  }

  absl::Status SuspendOne(const std::string& name) {
    absl::Status refusal;
    const absl::Status suspended = registry_.Suspend(name, request_.mode, [&] {
      refusal = Patience();
      return !refusal.ok();
    });
    return refusal.ok() ? suspended : refusal;
  }

  absl::Status SuspendSome(bool writers) {
    for (const std::string& name : order_) {
      if (!before_.contains(name) || request_.writers.contains(name) != writers) continue;
      RETURN_IF_ERROR(SuspendOne(name));
      suspended_.push_back(name);
    }
    return absl::OkStatus();
  }

  absl::Status SuspendAll() {
    RETURN_IF_ERROR(SuspendSome(true));
    if (request_.when_quiet) RETURN_IF_ERROR(request_.when_quiet());
    return SuspendSome(false);
  }

  // A made file goes with the last of these tables that names it, in the same transaction.
  void KeepFiles(state::Changes& changes) const {
    std::set<std::string> stay;
    for (const DeviceRecord& record : changes.put_devices) {
      stay.merge(StoresAndLogs(record.live_table.value_or("")));
    }
    std::set<std::string> go;
    for (const auto& [name, device] : before_) {
      if (Goes(name)) go.merge(StoresAndLogs(*device.live_table));
    }
    changes.use_made_files.assign(stay.begin(), stay.end());
    std::ranges::set_difference(go, stay, std::back_inserter(changes.retire_made_files));
  }

  absl::Status Keep() {
    RETURN_IF_ERROR(TellOfWholeLegs());
    state::Changes changes;
    for (const std::string& name : request_.remove) {
      changes.delete_devices.push_back(before_[name].identity);
    }
    std::vector<std::string> changed = created_;
    changed.insert(changed.end(), loaded_.begin(), loaded_.end());
    for (const std::string& name : changed) {
      ASSIGN_OR_RETURN(DeviceRegistry::Saved saved, registry_.SnapshotAfterResume(name));
      changes.put_devices.push_back(ToRecord(std::move(saved)));
    }
    KeepFiles(changes);
    RETURN_IF_ERROR(CheckLeadingLegs());
    if (request_.when_still) RETURN_IF_ERROR(request_.when_still(changes));
    absl::MutexLock hold(&catalog_.save_mutex_);
    RETURN_IF_ERROR(catalog_.store_.Apply(changes));
    for (const std::string& identity : changes.delete_devices) catalog_.kept_.erase(identity);
    for (const DeviceRecord& record : changes.put_devices) catalog_.kept_.insert(record.identity);
    kept_ = std::move(changes.put_devices);
    return absl::OkStatus();
  }

  // It is kept now: whatever fails, the rest goes on.
  absl::Status GoOn() {
    const std::set<std::string> removed(request_.remove.begin(), request_.remove.end());
    std::set<std::string> unbuilt = removed;
    std::erase_if(unbuilt, [this](const std::string& name) { return IsBuilt(name); });
    // What could not be restored serves nobody, and others may wait for it or its end.
    absl::Status first_failure = RemoveThese(unbuilt);
    for (auto name = order_.rbegin(); name != order_.rend(); ++name) {
      if (!removed.contains(*name)) first_failure.Update(registry_.Resume(*name));
    }
    for (const DeviceRecord& record : kept_) catalog_.KeepIfOtherThan(record);
    std::set<std::string> built = removed;
    for (const std::string& name : unbuilt) built.erase(name);
    first_failure.Update(RemoveThese(built));
    return first_failure;
  }

  bool IsBuilt(const std::string& name) const {
    const auto info = registry_.Info(name);
    return info.ok() && info->error.empty();
  }

  // Top-down, as one may use another. An opener that came meanwhile keeps it until it closes it.
  absl::Status RemoveThese(const std::set<std::string>& names) {
    absl::Status first_failure;
    for (const std::string& name : order_) {
      if (!names.contains(name)) continue;
      first_failure.Update(registry_.Remove(name, {.force = false, .deferred = true}));
    }
    return first_failure;
  }

  void Undo() {
    for (const std::string& name : loaded_) registry_.Clear(name).IgnoreError();
    for (auto name = created_.rbegin(); name != created_.rend(); ++name) {
      registry_.Remove(*name, {.force = false, .deferred = false}).IgnoreError();
    }
    for (auto name = suspended_.rbegin(); name != suspended_.rend(); ++name) {
      registry_.Resume(*name).IgnoreError();
    }
  }

  VolumeCatalog& catalog_;
  DeviceRegistry& registry_;
  const TogetherRequest& request_;
  std::map<std::string, DeviceRegistry::Saved> before_;  // of those that were there
  std::vector<std::string> created_, loaded_, suspended_;
  std::vector<std::string> order_;  // of suspending
  absl::Time give_up_at_ = absl::InfiniteFuture();
  std::vector<DeviceRecord> kept_;
};

absl::Status VolumeCatalog::ReplaceTogether(const TogetherRequest& request) {
  Together together(*this, request);
  ASSIGN_OR_RETURN(const NameLocks::Held turn, names_.Take(together.Names(), request.give_up));
  return together.Run();
}

void VolumeCatalog::RaiseEvent(std::string_view name) {
  if (const std::shared_ptr<MappedDevice> device = registry_.Find(name)) device->RaiseEvent();
}

}  // namespace sectormap::volumes
