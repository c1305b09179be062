// SPDX-License-Identifier: Apache-2.0
// A mirror with handle_errors holds writes that a leg has failed until it gets another table
// (drivers/md/dm-raid1.c); dmeventd does this for LVM.
#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/volumes/mirrors.h"

namespace sectormap::volumes {
namespace {

// What dmeventd's mirror plug-in treats as a leg's end; a read or a copy that failed is not.
bool HasFailed(char health) { return health == 'D' || health == 'F' || health == 'U'; }

std::set<size_t> FailedLegs(const MirrorStatus& status) {
  std::set<size_t> failed;
  for (size_t i = 0; i < status.health.size(); ++i) {
    if (HasFailed(status.health[i])) failed.insert(i);
  }
  return failed;
}

std::shared_ptr<const MappingTable> LiveTable(const DeviceRegistry& registry,
                                              const std::string& device) {
  const std::shared_ptr<MappedDevice> mapped = registry.Find(device);
  return mapped == nullptr ? nullptr : mapped->table(TableSlot::kLive);
}

bool HasMirrorRow(const MappingTable& table) {
  return std::ranges::any_of(
      table.rows(), [](const MappingTable::Row& row) { return row.type->name == "mirror"; });
}

}  // namespace

std::vector<Mirrors::LessRow> Mirrors::FindFailedRows(const std::string& device) const {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const std::shared_ptr<const MappingTable> table = LiveTable(registry, device);
  if (table == nullptr || !HasMirrorRow(*table)) return {};
  const std::vector<MirrorStatus> all = ReadMirrorStatus(registry, device);
  // Both are to be of the same table; a swap brings another event.
  if (LiveTable(registry, device) != table) return {};
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table->TableText());
  if (!spec.ok()) return {};
  const std::vector<TableRow> rows = spec->Rows();
  std::vector<LessRow> found;
  for (const MirrorStatus& status : all) {
    std::set<size_t> failed = FailedLegs(status);
    const auto row = std::ranges::find(rows, status.start, &TableRow::start);
    if (failed.empty() || row == rows.end()) continue;
    std::optional<MirrorRow> mirror = MirrorRow::Parse(*row);
    if (!mirror.has_value() || !mirror->HoldsFailedWrites()) continue;
    found.push_back({*row, *std::move(mirror), std::move(failed)});
  }
  return found;
}

// A move is at work on its own pieces only.
bool Mirrors::HasOwnWayBack(const std::string& device, const MirrorRow& mirror) const {
  recipes_.structure.AssertHeld();
  const std::string kind = recipes_.operations.KindAtWorkOn(device);
  if (kind != "move") return kind == "mirror-add";
  return std::ranges::any_of(mirror.legs, [this](const MirrorLeg& leg) {
    recipes_.structure.AssertHeld();
    return recipes_.IsClaimed(leg.device, Sector(leg.start));
  });
}

std::string Mirrors::WhyLegsStay(const std::string& device, const LessRow& found) const {
  if (found.gone.size() == found.mirror.legs.size()) {
    return "all legs have failed: writes wait for another table";
  }
  const auto whole = ReadWholeLegs(recipes_.volumes, device, found.row.start);
  if (whole.has_value() && whole->contains(found.mirror.FirstWithout(found.gone))) return "";
  return "the first leg has failed before the others had all data: writes wait for another table";
}

std::string Mirrors::TakeFailedLegsOut(const std::string& device) {
  std::vector<LessRow> failed = FindFailedRows(device);
  if (failed.empty()) return "";
  std::string stay = WhyLegsStay(device, failed.front());
  if (!stay.empty()) return stay;
  const Recipes::UrgentTurn turn(recipes_);
  // Others had theirs before.
  failed = FindFailedRows(device);
  if (failed.empty()) return "";
  // It may just have been waiting for what the leg's failure holds; not any more.
  const std::string kind = recipes_.operations.KindAtWorkOn(device);
  std::erase_if(failed, [&](const LessRow& row) { return HasOwnWayBack(device, row.mirror); });
  if (failed.empty()) return absl::StrCat("a leg has failed: the ", kind, " sees to it");
  const LessRow& found = failed.front();
  stay = WhyLegsStay(device, found);
  if (!stay.empty()) return stay;
  const absl::Status done = Degrade(device, found);
  if (!done.ok()) {
    return absl::StrCat("a failed leg could not be taken out: ", std::string(done.message()));
  }
  std::string names;
  for (const size_t leg : found.gone) {
    absl::StrAppend(&names, " ", found.mirror.legs[leg].device);
  }
  return absl::StrCat("degraded: these legs have failed and were taken out:", names);
}

// With the table goes what a row knows of its legs: the next one could go by a leg that has failed,
// or lies on the device that has.
std::vector<Mirrors::LessRow> Mirrors::OthersOnFailed(const std::string& device,
                                                      const LessRow& found) const {
  std::vector<LessRow> others;
  const absl::StatusOr<std::string> text =
      recipes_.volumes.registry().Table(device, TableSlot::kLive);
  const absl::StatusOr<TableSpec> spec = text.ok() ? TableSpec::Parse(*text) : text.status();
  if (!spec.ok()) return others;
  const std::vector<MirrorStatus> all = ReadMirrorStatus(recipes_.volumes.registry(), device);
  for (const TableRow& row : spec->Rows()) {
    std::optional<MirrorRow> mirror = MirrorRow::Parse(row);
    if (row.start == found.row.start || !mirror.has_value() || !mirror->HoldsFailedWrites() ||
        HasOwnWayBack(device, *mirror)) {
      continue;
    }
    const auto status = std::ranges::find(all, row.start, &MirrorStatus::start);
    LessRow other{row, *std::move(mirror), {}};
    if (status != all.end()) other.gone = FailedLegs(*status);
    for (const size_t failed : found.gone) {
      for (size_t leg = 0; leg < other.mirror.legs.size(); ++leg) {
        if (SameDevice(other.mirror.legs[leg].device, found.mirror.legs[failed].device)) {
          other.gone.insert(leg);
        }
      }
    }
    if (!other.gone.empty() && WhyLegsStay(device, other).empty()) {
      others.push_back(std::move(other));
    }
  }
  return others;
}

absl::Status Mirrors::Degrade(const std::string& device, const LessRow& found) {
  std::vector<LessRow> less = OthersOnFailed(device, found);
  less.push_back(found);
  ASSIGN_OR_RETURN(TogetherRequest request, PlanWithout(device, less));
  request.mode = SuspendMode::kNoFlush;
  RETURN_IF_ERROR(recipes_.volumes.ReplaceTogether(request));
  recipes_.files.Sweep();
  recipes_.volumes.RaiseEvent(device);
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  const std::string volume = tree.NameOver(device);
  if (volume != device) recipes_.volumes.RaiseEvent(volume);
  const auto info = recipes_.volumes.registry().Info(volume);
  if (!info.ok()) return absl::OkStatus();
  absl::MutexLock hold(&mutex_);
  ++degraded_[info->identity];
  return absl::OkStatus();
}

// Layers come and go with snapshots, names change: the volume stays, and commands are given its
// name.
std::map<std::string, uint64_t> Mirrors::DegradedCounts() const {
  absl::MutexLock hold(&mutex_);
  std::map<std::string, uint64_t> counts;
  if (degraded_.empty()) return counts;
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const VolumeTree tree = VolumeTree::Read(registry);
  for (const auto& [name, volume] : tree.volumes()) {
    const auto info = registry.Info(name);
    const auto found = info.ok() ? degraded_.find(info->identity) : degraded_.end();
    if (found != degraded_.end()) counts[name] = found->second;
  }
  return counts;
}

}  // namespace sectormap::volumes
