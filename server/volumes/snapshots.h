// SPDX-License-Identifier: Apache-2.0
// Snapshots of live devices: taken, listed, removed, rolled back to, their stores grown. How they
// are stacked: volume_tree.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/map/give_up.h"
#include "server/volumes/recipes.h"
#include "server/volumes/snapshot_chunks.h"

namespace sectormap::volumes {

// Of a new store, where nothing else is said: the kernel's default for P.
inline constexpr uint64_t kDefaultChunkSectors = 32;

// Of any: as the snapshot target and the kernel have it (drivers/md/dm-exception-store.c).
inline constexpr uint64_t kChunkSectorsMax = 0x7fffffff >> kSectorShift;

// When a store that is a file grows, and by how much of its size; LVM's example values
// (snapshot_autoextend_threshold, snapshot_autoextend_percent).
inline constexpr int64_t kDefaultGrowAtPercent = 70;
inline constexpr int64_t kDefaultGrowByPercent = 20;

// Above this an event tells that a store is nearly full.
inline constexpr double kNearlyFullPercent = 90;

struct CreateSnapshots {
  struct Entry {
    std::string name, device;
    std::string store{};  // empty: a file of the daemon's own
  };
  std::vector<Entry> entries;
  uint64_t store_sectors = 0;  // of a store that is made; 0: enough for every chunk
  uint64_t chunk_sectors = 0;  // 0: as the device's other snapshots have, or the default
  bool overflow_stays_valid = false;
  bool never_grow = false;
  int64_t grow_at_percent = 0, grow_by_percent = 0;  // 0: the defaults
  uint64_t limit_sectors = 0;                        // 0: enough for every chunk
  // For who has lost the answer. Not by itself: a snapshot of an earlier instant would be taken for
  // one of now.
  bool existing_ok = false;
  GiveUp give_up{};  // a snapshot of an instant when nobody waits for it any more is not wanted
};

struct SnapshotInfo {
  std::string name;
  std::string origin;  // empty if it has gone
  std::string newer;   // the snapshot it lies on; empty if that is the origin itself
  std::string store;
  // False: its table, or one of those that it looks up in what it lacks, could not be built.
  bool available = true;
  bool merging = false;
  SnapshotStatus status;  // invalid also when a newer one is, as it looks chunks up there
  uint64_t chunk_sectors = 0;
  int64_t created_unix_seconds = 0;  // 0: not known
};

// Any control thread.
class Snapshots {
 public:
  explicit Snapshots(Recipes& recipes);
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  // At start, before the operations are restored.
  void Restore(std::vector<state::SnapshotRecord> records);
  // At start, after them: rollbacks that nobody looks after any more.
  void ResumeRollBacks();
  // Now and then: rollbacks that were cancelled or failed before the merge had ended, if that runs
  // again now.
  void TakeUpRollBacks();

  // All of one instant, or none. The devices' I/O waits for a moment. AlreadyExists: a device has
  // such a name; but with `existing_ok`, if all are there, valid and as wanted, they are the
  // answer. Cancelled: it was given up, and there are none.
  absl::StatusOr<std::vector<SnapshotInfo>> Create(const CreateSnapshots& wanted);
  std::vector<SnapshotInfo> List() const;  // by origin, the oldest first
  // Those of one device. NotFound: there is no such device, nor a snapshot of one called so.
  absl::StatusOr<std::vector<SnapshotInfo>> ListOf(const std::string& device) const;
  // FailedPrecondition, with one of them, for VolumeCatalog::SetRemovalGuard: their data would stay
  // with a layer that has no device any more, and what is made anew under the name is another one.
  absl::Status CheckHasNone(std::string_view device) const;
  // FailedPrecondition, with what to do instead, for VolumeCatalog::SetTableGuard: with this table
  // the device would be written past the layer that its snapshots lie on.
  absl::Status CheckKeepsLayer(std::string_view device, const TableSpec& table) const;
  // Refused at once: what could not be done at the end either.
  absl::StatusOr<OperationInfo> StartRemove(const std::string& name);
  absl::StatusOr<OperationInfo> StartRollBack(const std::string& name);

  // Grows stores that need it, and raises an event when one is nearly full (when it is full, its
  // target does). Called now and then, on
  // one thread. Gives what is to be logged: device and what happened.
  std::vector<std::pair<std::string, std::string>> GrowStores();

 private:
  struct Plan;

  absl::StatusOr<OperationInfo> BeginRollBack(const std::string& name);
  absl::Status RunRemove(OperationRun& run);
  absl::Status RunRollBack(OperationRun& run);

  // Nothing: some are not there, or not as wanted.
  std::optional<std::vector<SnapshotInfo>> AlreadyMade(const CreateSnapshots& wanted,
                                                       const VolumeTree& tree) const;
  absl::Status PlanCreation(const CreateSnapshots& wanted, const VolumeTree& tree, Plan& plan);
  absl::Status PlanOne(const CreateSnapshots& wanted, const CreateSnapshots::Entry& entry,
                       const Volume& origin, const VolumeTree& tree, Plan& plan);
  absl::StatusOr<std::string> PrepareStore(const CreateSnapshots& wanted,
                                           const CreateSnapshots::Entry& entry, SectorCount length,
                                           uint64_t chunk_sectors, const Plan& plan);
  absl::Status CheckStoreIsNew(const std::string& store, const Plan& plan);
  absl::StatusOr<uint64_t> ChunkFor(const CreateSnapshots& wanted,
                                    const std::vector<Volume>& others) const;

  // The keeping that has to precede a removal or a rollback: who has to own whose chunks.
  struct Inheritance {
    Volume heir, from;  // snapshots
    SectorCount length;
  };
  // How full `from` was when an heir was last known to own all of it: unchanged, nothing is
  // missing.
  using Settled = std::map<std::pair<std::string, std::string>, uint64_t>;  // by heir and from
  absl::Status Inherit(const std::vector<Inheritance>& parts, OperationRun* run, Settled& settled);
  // FailedPrecondition: a copy from one to the other would wait for somebody's resume.
  absl::Status CheckAwake(const Volume& heir, const Volume& from) const;
  absl::Status AwaitAwake(const Inheritance& part, OperationRun* run);
  absl::Status MakeRoom(const std::string& body, const absl::Status& full);

  absl::Status FinishRemove(OperationRun& run, Settled& settled);
  absl::Status StartMerge(OperationRun& run, const std::string& snapshot, Settled& settled);
  bool IsMerging(const std::string& device) const;
  absl::Status WaitForMerge(OperationRun& run);
  absl::Status FinishMerge(const std::string& device);
  void LookAfterMerge(const Volume& origin);
  // Stores and records of what has gone. REQUIRES: the structure's lock.
  void CleanUp();

  std::string NameOfIdentity(const std::string& identity) const;
  SnapshotInfo InfoOf(const VolumeTree& tree, const Volume& volume) const;
  bool IsCopiedFor(const std::string& origin, const std::vector<const Volume*>& above) const;
  // Nothing if no record is there: the snapshot was made by hand.
  std::optional<state::SnapshotRecord> RecordOf(const VolumeTree& tree, const Volume& volume) const;
  std::optional<state::SnapshotRecord> RecordOfDevice(const std::string& device) const;
  absl::Status GrowOne(const Volume& volume, const state::SnapshotRecord& record,
                       const SnapshotStatus& status);

  Recipes& recipes_;
  mutable absl::Mutex mutex_;
  std::map<std::string, state::SnapshotRecord> records_ ABSL_GUARDED_BY(mutex_);  // by identity
  std::set<std::string> nearly_full_, in_trouble_ ABSL_GUARDED_BY(mutex_);        // devices told of
};

}  // namespace sectormap::volumes
