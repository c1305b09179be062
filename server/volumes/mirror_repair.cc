// SPDX-License-Identifier: Apache-2.0
// A mirror with handle_errors holds writes that a leg has failed until it gets another table
// (drivers/md/dm-raid1.c); dmeventd does this for LVM.
#include <algorithm>
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

}  // namespace

std::string Mirrors::TakeFailedLegsOut(const std::string& device) {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const absl::StatusOr<std::string> text = registry.Table(device, TableSlot::kLive);
  if (!text.ok() || text->find(" mirror ") == std::string::npos) return "";
  const std::vector<MirrorStatus> all = ReadMirrorStatus(registry, device);
  for (const MirrorStatus& status : all) {
    absl::MutexLock hold(&mutex_);
    const std::pair key(device, status.start.value());
    // A copy of a new leg is never known to be in sync before it is.
    if (status.complete() && status.healthy()) {
      were_in_sync_.insert(key);
    } else if (status.healthy() && !status.complete()) {
      were_in_sync_.erase(key);
    }
  }
  // A move or a new leg has its own way back.
  if (recipes_.operations.ReservedBy(device).has_value()) return "";
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(*text);
  if (!spec.ok()) return "";
  for (const MirrorStatus& status : all) {
    const std::set<size_t> failed = FailedLegs(status);
    if (failed.empty()) continue;
    for (const TableRow& row : spec->rows()) {
      if (row.start != status.start) continue;
      const std::optional<MirrorRow> mirror = MirrorRow::Parse(row);
      if (!mirror.has_value() || !mirror->HasFeature("handle_errors") ||
          mirror->HasFeature("keep_log")) {
        continue;
      }
      bool known_in_sync = false;
      {
        absl::MutexLock hold(&mutex_);
        known_in_sync = were_in_sync_.contains(std::pair(device, status.start.value()));
      }
      if (failed.size() == mirror->legs.size()) {
        return "all legs have failed: writes wait for another table";
      }
      if (failed.contains(0) && !known_in_sync) {
        return "the first leg has failed before the others had all data: writes wait for another "
               "table";
      }
      absl::MutexLock one_at_a_time(&recipes_.structure);
      absl::StatusOr<TogetherRequest> request = PlanWithout(device, row, *mirror, failed);
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
      were_in_sync_.erase(std::pair(device, status.start.value()));
      std::string names;
      for (const size_t leg : failed) absl::StrAppend(&names, " ", mirror->legs[leg].device);
      return absl::StrCat("degraded: these legs have failed and were taken out:", names);
    }
  }
  return "";
}

std::map<std::string, uint64_t> Mirrors::DegradedCounts() const {
  absl::MutexLock hold(&mutex_);
  return degraded_;
}

}  // namespace sectormap::volumes
