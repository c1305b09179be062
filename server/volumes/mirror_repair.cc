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

// A write that fails takes its region out of sync. So whether the other legs had everything before
// is remembered from before, for this very table.
void Mirrors::RememberInSync(const std::string& device,
                             const std::shared_ptr<const MappingTable>& table,
                             const std::vector<MirrorStatus>& all) {
  absl::MutexLock hold(&mutex_);
  for (const MirrorStatus& status : all) {
    const std::pair key(device, status.start.value());
    if (!status.healthy()) continue;
    if (status.complete()) {
      were_in_sync_[key] = table;
    } else {
      were_in_sync_.erase(key);
    }
  }
}

bool Mirrors::WasInSync(const std::string& device, Sector row,
                        const std::shared_ptr<const MappingTable>& table) const {
  absl::MutexLock hold(&mutex_);
  const auto known = were_in_sync_.find(std::pair(device, row.value()));
  return known != were_in_sync_.end() && known->second.lock() == table;
}

std::string Mirrors::TakeFailedLegsOut(const std::string& device) {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const std::shared_ptr<const MappingTable> table = LiveTable(registry, device);
  if (table == nullptr || !HasMirrorRow(*table)) return "";
  const std::vector<MirrorStatus> all = ReadMirrorStatus(registry, device);
  // Both are to be of the same table; a swap brings another event.
  if (LiveTable(registry, device) != table) return "";
  RememberInSync(device, table, all);
  // A move or a new leg has its own way back.
  if (recipes_.operations.ReservedBy(device).has_value()) return "";
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table->TableText());
  if (!spec.ok()) return "";
  const std::vector<TableRow> rows = spec->Rows();
  for (const MirrorStatus& status : all) {
    const std::set<size_t> failed = FailedLegs(status);
    if (failed.empty()) continue;
    const auto row = std::ranges::find(rows, status.start, &TableRow::start);
    if (row == rows.end()) continue;
    const std::optional<MirrorRow> mirror = MirrorRow::Parse(*row);
    if (!mirror.has_value() || !mirror->HasFeature("handle_errors") ||
        mirror->HasFeature("keep_log")) {
      continue;
    }
    if (failed.size() == mirror->legs.size()) {
      return "all legs have failed: writes wait for another table";
    }
    if (failed.contains(0) && !WasInSync(device, status.start, table)) {
      return "the first leg has failed before the others had all data: writes wait for another "
             "table";
    }
    return Degrade(device, *row, *mirror, failed);
  }
  return "";
}

std::string Mirrors::Degrade(const std::string& device, const TableRow& row,
                             const MirrorRow& mirror, const std::set<size_t>& failed) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  absl::StatusOr<TogetherRequest> request = PlanWithout(device, row, mirror, failed);
  absl::Status done = request.status();
  if (request.ok()) {
    request->mode = SuspendMode::kNoFlush;
    done = recipes_.volumes.ReplaceTogether(*request);
  }
  if (!done.ok()) {
    return absl::StrCat("a failed leg could not be taken out: ", std::string(done.message()));
  }
  recipes_.files.Sweep();
  recipes_.volumes.RaiseEvent(device);
  absl::MutexLock hold(&mutex_);
  ++degraded_[device];
  std::string names;
  for (const size_t leg : failed) absl::StrAppend(&names, " ", mirror.legs[leg].device);
  return absl::StrCat("degraded: these legs have failed and were taken out:", names);
}

std::map<std::string, uint64_t> Mirrors::DegradedCounts() const {
  absl::MutexLock hold(&mutex_);
  return degraded_;
}

}  // namespace sectormap::volumes
