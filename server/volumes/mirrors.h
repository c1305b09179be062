// SPDX-License-Identifier: Apache-2.0
// Mirrors: legs are added to and taken from a device in use, and one that fails is taken out before
// its writes have waited for long.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/volumes/mirror_rows.h"
#include "server/volumes/recipes.h"

namespace sectormap::volumes {

// Of a new mirror: 512 KiB, LVM's default.
inline constexpr uint64_t kMirrorRegionSectors = 1024;

// drivers/md/dm-raid1.c, MAX_NR_MIRRORS.
inline constexpr size_t kMirrorLegsMax = 9;

struct AddLegRequest {
  std::string device, leg;
  uint64_t leg_start = 0;       // sector
  std::string log{};            // `core`, a path, or empty: a file of the daemon's own
  uint64_t region_sectors = 0;  // 0: as the mirror has it, or kMirrorRegionSectors
};

struct RemoveLegRequest {
  std::string device, leg;
  std::optional<uint64_t> leg_start{};  // sector; to be said if two legs lie on that device
};

// Any control thread.
class Mirrors {
 public:
  explicit Mirrors(Recipes& recipes);
  Mirrors(const Mirrors&) = delete;
  Mirrors& operator=(const Mirrors&) = delete;

  // The operation ends when the leg has all data.
  absl::StatusOr<OperationInfo> StartAdd(const AddLegRequest& request);
  // Refused at once: the first leg, while the others lack something.
  absl::StatusOr<OperationInfo> StartRemove(const RemoveLegRequest& request);

  // Looks at a device with mirror rows, after an event: a leg that has failed writes goes out of
  // the table, so that the writes it holds go on. Gives what is to be logged; empty: nothing was to
  // be done. One thread.
  std::string TakeFailedLegsOut(const std::string& device);

  // How often that has happened since the start to volumes that are there.
  std::map<std::string, uint64_t> DegradedCounts() const;

 private:
  // A device whose table is one mirror row, or is to become one.
  struct Target {
    Volume volume;
    std::vector<TableRow> rows;       // of the body
    std::optional<MirrorRow> mirror;  // if it is one row of that type
  };
  absl::StatusOr<Target> FindTarget(const VolumeTree& tree, const std::string& device) const;
  absl::StatusOr<size_t> LegNamed(const Target& target, const RemoveLegRequest& request) const;
  bool TakenOut(const std::string& device, const MirrorLeg& leg, const absl::Status& refused) const;
  absl::Status CheckNotNeeded(const Target& target, size_t leg) const;
  // Nobody knows whether this leg may go.
  absl::Status NotBuilt(const Target& target, size_t leg) const;
  absl::Status CheckLeg(const AddLegRequest& request, SectorCount length);
  absl::Status CheckLog(const AddLegRequest& request);
  absl::StatusOr<std::string> PrepareLog(const AddLegRequest& request, const std::string& body,
                                         SectorCount length, uint64_t region);
  absl::StatusOr<TogetherRequest> PlanAdd(const AddLegRequest& request, const Target& target);
  // A row, and which of its legs are to go.
  struct LessRow {
    TableRow row;
    MirrorRow mirror;
    std::set<size_t> gone;

    std::vector<MirrorLeg> LegsLeft() const;
    TableRow RowLeft() const;
  };
  // The table with these rows changed, and what it does not need any more.
  absl::StatusOr<TogetherRequest> PlanWithout(const std::string& body,
                                              const std::vector<LessRow>& less) const;

  // The rows that hold writes since legs have failed, which are those to go.
  std::vector<LessRow> FindFailedRows(const std::string& device) const;
  // True if an operation is at work on the row that goes back itself when a leg fails.
  bool HasOwnWayBack(const std::string& device, const MirrorRow& mirror) const;
  // Empty: they can be taken out.
  std::string WhyLegsStay(const std::string& device, const LessRow& found) const;
  // The other rows with legs on a device that has failed one of `found`, if they can be taken out.
  std::vector<LessRow> OthersOnFailed(const std::string& device, const LessRow& found) const;
  absl::Status Degrade(const std::string& device, const LessRow& found);

  absl::Status RunAdd(OperationRun& run);
  absl::Status RunRemove(OperationRun& run);
  absl::Status PutLegIn(const OperationRun& run, const AddLegRequest& request);
  absl::Status WaitForLeg(OperationRun& run, const AddLegRequest& request);
  absl::Status TakeLegOut(const std::string& device, const MirrorLeg& leg, bool even_if_needed);

  Recipes& recipes_;
  mutable absl::Mutex mutex_;
  std::map<std::string, uint64_t> degraded_ ABSL_GUARDED_BY(mutex_);  // by the volume's identity
};

}  // namespace sectormap::volumes
