// SPDX-License-Identifier: Apache-2.0
#include "server/exports/export_catalog.h"

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "server/exports/default_iqn.h"
#include "server/iscsi/iscsi_name.h"

namespace sectormap::exports {
namespace {

using state::ExportKey;
using state::ExportRecord;
using state::TargetRecord;

std::optional<iscsi::ChapCredentials> ToCredentials(const std::optional<state::ChapRecord>& chap) {
  if (!chap.has_value()) return std::nullopt;
  return iscsi::ChapCredentials{chap->user, chap->secret};
}

iscsi::AccessPolicy ToPolicy(const TargetRecord& target) {
  return {.allowed_initiators = target.allowed_initiators,
          .chap = ToCredentials(target.chap),
          .mutual_chap = ToCredentials(target.mutual_chap)};
}

std::string PlaceName(const std::string& iqn, uint64_t lun_number) {
  return absl::StrCat(iqn, " LUN ", lun_number);
}

}  // namespace

ExportCatalog::ExportCatalog(volumes::VolumeCatalog& volumes, state::StateStore& store,
                             iscsi::TargetDirectory& directory, ReactorPool& reactors,
                             scsi::UnitStore* unit_store)
    : volumes_(volumes),
      store_(store),
      directory_(directory),
      reactors_(reactors),
      unit_store_(unit_store) {}

ExportCatalog::~ExportCatalog() {
  absl::MutexLock hold(&mutex_);
  for (const auto& [iqn, target] : targets_) directory_.RemoveTarget(iqn).IgnoreError();
}

std::vector<absl::Status> ExportCatalog::Restore(const state::Contents& contents) {
  absl::MutexLock verb(&verb_mutex_);
  std::map<std::string, const TargetRecord*> targets;
  for (const TargetRecord& target : contents.targets) targets[target.iqn] = &target;
  std::map<std::string, std::string> names;
  for (const DeviceInfo& info : volumes_.registry().List()) names[info.identity] = info.name;

  std::vector<absl::Status> refusals;
  for (const ExportRecord& record : contents.exports) {
    const auto refuse = [&](const absl::Status& status) {
      refusals.push_back(
          absl::Status(status.code(), absl::StrCat(PlaceName(record.iqn, record.lun_number), ": ",
                                                   std::string(status.message()))));
    };
    const auto target = targets.find(record.iqn);
    const auto name = names.find(record.device_identity);
    if (target == targets.end() || name == names.end()) {
      refuse(absl::NotFoundError("its device could not be restored"));
      continue;
    }
    const absl::StatusOr<std::shared_ptr<scsi::Lun>> lun = LunFor(name->second);
    const absl::Status status = lun.ok() ? Publish(*target->second, record, *lun) : lun.status();
    if (status.ok()) continue;
    refuse(status);
    absl::MutexLock hold(&mutex_);
    refused_[{record.iqn, record.lun_number}] = {record, *target->second};
  }
  return refusals;
}

absl::StatusOr<ExportInfo> ExportCatalog::Export(const ExportRequest& request) {
  const std::string wanted = request.iqn.empty() ? DefaultIqn(request.device) : request.iqn;
  ASSIGN_OR_RETURN(const std::string iqn, iscsi::NormalTargetName(wanted));
  if (request.lun_number > iscsi::kMaxLunNumber) {
    return absl::InvalidArgumentError(absl::StrCat(
        "LUN ", request.lun_number, " is too large; give 0 to ", iscsi::kMaxLunNumber));
  }
  absl::MutexLock verb(&verb_mutex_);
  ForgetRefusedOfGone();
  ASSIGN_OR_RETURN(const TargetRecord target, TargetFor(iqn, request));
  ASSIGN_OR_RETURN(const std::shared_ptr<scsi::Lun> lun, LunFor(request.device));
  const ExportRecord record{.iqn = iqn,
                            .lun_number = request.lun_number,
                            .device_identity = lun->device().identity(),
                            .read_only = request.read_only};
  if (request.iqn.empty()) RETURN_IF_ERROR(CheckOwnTarget(iqn, record.device_identity));
  const std::optional<Entry> present = FindEntry({iqn, request.lun_number});
  if (present.has_value() && present->record.device_identity != record.device_identity) {
    return absl::AlreadyExistsError(absl::StrCat(
        PlaceName(iqn, request.lun_number), " is device ", present->lun->device().info().name,
        "; choose another with --lun N or --iqn IQN, or unexport that device first"));
  }
  if (present.has_value() && present->record.read_only != record.read_only) {
    return absl::AlreadyExistsError(
        absl::StrCat(PlaceName(iqn, request.lun_number), " is exported ",
                     present->record.read_only ? "read-only" : "writable",
                     "; unexport the device first to change that"));
  }
  const std::optional<Refused> refused = FindRefused({iqn, request.lun_number});
  if (refused.has_value() && refused->record.device_identity != record.device_identity) {
    return absl::AlreadyExistsError(absl::StrCat(
        PlaceName(iqn, request.lun_number),
        " is another device's, whose export could not be restored (the daemon's log says why); "
        "choose another with --lun N or --iqn IQN, or unexport that device first"));
  }
  const std::optional<TargetRecord> target_before = FindTarget(iqn);
  RETURN_IF_ERROR(store_.PutExport(target, record));
  const absl::Status published = Publish(target, record, lun);
  if (!published.ok()) {
    const absl::Status undone = UndoStore(target_before, record);
    return absl::Status(published.code(),
                        absl::StrCat(std::string(published.message()),
                                     undone.ok() ? "" : "; it could not be undone either: ",
                                     std::string(undone.message())));
  }
  return Describe({record, lun}, target, SessionCounts());
}

// Two names may be one iSCSI name, and a device may have had this one before: who names no target
// does not mean to share one, and to change who may log in to it.
absl::Status ExportCatalog::CheckOwnTarget(const std::string& iqn,
                                           const std::string& device_identity) const {
  std::string owner;
  {
    absl::MutexLock hold(&mutex_);
    for (auto entry = entries_.lower_bound({iqn, 0});
         entry != entries_.end() && entry->first.first == iqn; ++entry) {
      if (entry->second.record.device_identity == device_identity) return absl::OkStatus();
      owner = absl::StrCat("device ", entry->second.lun->device().info().name);
    }
    for (auto entry = refused_.lower_bound({iqn, 0});
         entry != refused_.end() && entry->first.first == iqn; ++entry) {
      if (entry->second.record.device_identity == device_identity) return absl::OkStatus();
      if (owner.empty()) owner = "a device whose export could not be restored";
    }
  }
  if (owner.empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      iqn, " is the target of ", owner, "; give another with --iqn IQN, or this one to share it"));
}

absl::StatusOr<TargetRecord> ExportCatalog::TargetFor(const std::string& iqn,
                                                      const ExportRequest& request) const {
  TargetRecord target = TargetRecord{.iqn = iqn};
  if (const auto known = FindTarget(iqn)) {
    target = *known;
  } else {
    // Of exports that could not be restored: who may log in has been said.
    absl::MutexLock hold(&mutex_);
    const auto refused = refused_.lower_bound({iqn, 0});
    if (refused != refused_.end() && refused->first.first == iqn) target = refused->second.target;
  }
  if (request.chap.has_value()) target.chap = request.chap;
  if (request.mutual_chap.has_value()) target.mutual_chap = request.mutual_chap;
  RETURN_IF_ERROR(iscsi::CheckChap(ToPolicy(target)));
  if (request.allowed_initiators.empty()) return target;
  target.allowed_initiators.clear();
  for (const std::string& name : request.allowed_initiators) {
    ASSIGN_OR_RETURN(std::string normal, iscsi::NormalInitiatorName(name));
    target.allowed_initiators.push_back(std::move(normal));
  }
  return target;
}

absl::StatusOr<std::shared_ptr<scsi::Lun>> ExportCatalog::LunFor(const std::string& device) {
  ASSIGN_OR_RETURN(DeviceRef hold, volumes_.Open(device));
  std::shared_ptr<MappedDevice> mapped = std::dynamic_pointer_cast<MappedDevice>(hold.device);
  CHECK(mapped != nullptr);
  const std::string identity = mapped->identity();
  std::shared_ptr<scsi::Lun> shared = luns_[identity].lock();
  if (shared != nullptr) return shared;

  scsi::LunOptions options;
  options.store = unit_store_;
  ASSIGN_OR_RETURN(options.block_bytes, BlockBytesOf(*mapped));
  ASSIGN_OR_RETURN(options.reservation_record, store_.Reservation(identity));
  ASSIGN_OR_RETURN(
      std::shared_ptr<scsi::Lun> lun,
      scsi::Lun::Create(std::move(mapped), std::move(hold), reactors_, std::move(options)));
  std::erase_if(luns_, [](const auto& entry) { return entry.second.expired(); });
  luns_[identity] = lun;
  return lun;
}

// As kept, or the live table's, which is kept from now on: a unit's blocks stay as they were when
// it was first exported. 0: there is no medium yet, or it could not be kept; the unit sees to it.
absl::StatusOr<uint32_t> ExportCatalog::BlockBytesOf(const MappedDevice& device) {
  ASSIGN_OR_RETURN(const uint32_t kept, store_.BlockBytes(device.identity()));
  if (kept != 0 || !device.has_medium()) return kept;
  const uint32_t found = device.limits().logical_block_bytes;
  // If it cannot be kept now, the unit does so before anybody hears of it: an answer that the next
  // start might not give again would be worse than none.
  return store_.PutBlockBytes(device.identity(), found).ok() ? found : 0;
}

absl::Status ExportCatalog::Publish(const TargetRecord& target, const ExportRecord& record,
                                    const std::shared_ptr<scsi::Lun>& lun) {
  const std::optional<TargetRecord> before = FindTarget(target.iqn);
  if (!before.has_value()) RETURN_IF_ERROR(directory_.AddTarget(target.iqn));
  // Who may log in is settled before there is anything to log in to.
  absl::Status status = directory_.SetAccess(target.iqn, ToPolicy(target));
  const Place place{record.iqn, record.lun_number};
  if (status.ok() && !FindEntry(place).has_value()) {
    status = directory_.AddLun(record.iqn, record.lun_number, lun, record.read_only);
  }
  if (!status.ok()) {
    const absl::Status undone = before.has_value()
                                    ? directory_.SetAccess(target.iqn, ToPolicy(*before))
                                    : directory_.RemoveTarget(target.iqn);
    undone.IgnoreError();  // the reason for all this is the answer
    return status;
  }
  absl::MutexLock hold(&mutex_);
  targets_[target.iqn] = target;
  entries_[place] = {record, lun};
  refused_.erase(place);
  return absl::OkStatus();
}

absl::Status ExportCatalog::UndoStore(const std::optional<TargetRecord>& target,
                                      const ExportRecord& record) {
  // The catalog still has what was there before; the target's record goes with any of its exports.
  std::optional<ExportRecord> present;
  {
    absl::MutexLock hold(&mutex_);
    const auto entry = entries_.lower_bound({record.iqn, 0});
    if (entry != entries_.end() && entry->first.first == record.iqn) present = entry->second.record;
  }
  if (!FindEntry({record.iqn, record.lun_number}).has_value()) {
    if (const auto refused = FindRefused({record.iqn, record.lun_number})) {
      return store_.PutExport(refused->target, refused->record);
    }
    const ExportKey key{record.iqn, record.lun_number};
    RETURN_IF_ERROR(store_.DeleteExports({&key, 1}));
  }
  if (target.has_value() && present.has_value()) return store_.PutExport(*target, *present);
  return absl::OkStatus();
}

absl::Status ExportCatalog::Unexport(std::string_view device, std::string_view iqn,
                                     std::optional<uint64_t> lun_number) {
  std::string target;
  if (!iqn.empty()) {
    ASSIGN_OR_RETURN(target, iscsi::NormalTargetName(iqn));
  }
  absl::MutexLock verb(&verb_mutex_);
  std::vector<ExportKey> keys = ExportsOf(device);
  std::erase_if(keys, [&](const ExportKey& key) {
    return (!target.empty() && key.iqn != target) ||
           key.lun_number != lun_number.value_or(key.lun_number);
  });
  if (keys.empty()) {
    // A device that is not there is the more helpful answer.
    RETURN_IF_ERROR(volumes_.registry().Info(device).status());
    return absl::NotFoundError(
        absl::StrCat("device ", std::string(device), " is not exported",
                     target.empty() ? "" : absl::StrCat(" by ", target),
                     lun_number.has_value() ? absl::StrCat(" as LUN ", *lun_number) : ""));
  }
  RETURN_IF_ERROR(store_.DeleteExports(keys));
  absl::Status status;
  for (const ExportKey& key : keys) status.Update(Withdraw(key));
  return status;
}

absl::Status ExportCatalog::Withdraw(const ExportKey& key) {
  Entry entry;
  bool last = false;
  {
    absl::MutexLock hold(&mutex_);
    if (refused_.erase({key.iqn, key.lun_number}) != 0) return absl::OkStatus();
    const auto place = entries_.find({key.iqn, key.lun_number});
    entry = std::move(place->second);
    entries_.erase(place);
    const auto next = entries_.lower_bound({key.iqn, 0});
    last = next == entries_.end() || next->first.first != key.iqn;
    if (last) targets_.erase(key.iqn);
  }
  return last ? directory_.RemoveTarget(key.iqn) : directory_.RemoveLun(key.iqn, key.lun_number);
}

std::vector<ExportInfo> ExportCatalog::List() const {
  std::map<Place, Entry> entries;
  std::map<std::string, TargetRecord> targets;
  {
    absl::MutexLock hold(&mutex_);
    entries = entries_;
    targets = targets_;
  }
  const std::map<std::string, uint32_t> sessions = SessionCounts();
  std::vector<ExportInfo> infos;
  for (const auto& [place, entry] : entries) {
    infos.push_back(Describe(entry, targets.at(place.first), sessions));
  }
  return infos;
}

std::vector<ExportKey> ExportCatalog::ExportsOf(std::string_view device) const {
  const std::shared_ptr<MappedDevice> mapped = volumes_.registry().Find(device);
  std::vector<ExportKey> keys;
  if (mapped == nullptr) return keys;
  absl::MutexLock hold(&mutex_);
  const auto add = [&](const Place& place, const ExportRecord& record) {
    if (record.device_identity == mapped->identity()) keys.push_back({place.first, place.second});
  };
  for (const auto& [place, entry] : entries_) add(place, entry.record);
  for (const auto& [place, refused] : refused_) add(place, refused.record);
  return keys;
}

ExportInfo ExportCatalog::Describe(const Entry& entry, const TargetRecord& target,
                                   const std::map<std::string, uint32_t>& sessions) const {
  const DeviceInfo device = entry.lun->device().info();
  ExportInfo info{.device = device.name,
                  .iqn = entry.record.iqn,
                  .lun_number = entry.record.lun_number,
                  .read_only = entry.record.read_only || device.read_only,
                  .chap_user = target.chap ? target.chap->user : "",
                  .mutual_chap_user = target.mutual_chap ? target.mutual_chap->user : "",
                  .allowed_initiators = target.allowed_initiators,
                  .size = device.size,
                  .session_count = 0};
  const auto count = sessions.find(info.iqn);
  if (count != sessions.end()) info.session_count = count->second;
  return info;
}

std::map<std::string, uint32_t> ExportCatalog::SessionCounts() const {
  std::map<std::string, uint32_t> counts;
  for (const iscsi::SessionInfo& session : directory_.sessions()) ++counts[session.target_name];
  return counts;
}

std::optional<TargetRecord> ExportCatalog::FindTarget(const std::string& iqn) const {
  absl::MutexLock hold(&mutex_);
  const auto target = targets_.find(iqn);
  return target == targets_.end() ? std::nullopt : std::optional(target->second);
}

std::optional<ExportCatalog::Entry> ExportCatalog::FindEntry(const Place& place) const {
  absl::MutexLock hold(&mutex_);
  const auto entry = entries_.find(place);
  return entry == entries_.end() ? std::nullopt : std::optional(entry->second);
}

std::optional<ExportCatalog::Refused> ExportCatalog::FindRefused(const Place& place) const {
  absl::MutexLock hold(&mutex_);
  const auto refused = refused_.find(place);
  return refused == refused_.end() ? std::nullopt : std::optional(refused->second);
}

// A device's exports go with it.
void ExportCatalog::ForgetRefusedOfGone() {
  absl::MutexLock hold(&mutex_);
  if (refused_.empty()) return;
  std::set<std::string> present;
  for (const DeviceInfo& info : volumes_.registry().List()) present.insert(info.identity);
  std::erase_if(refused_, [&](const auto& refused) {
    return !present.contains(refused.second.record.device_identity);
  });
}

}  // namespace sectormap::exports
