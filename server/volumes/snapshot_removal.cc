// SPDX-License-Identifier: Apache-2.0
// Removing a snapshot and rolling back to one. Either way others that look chunks up in its store
// get copies of their own first; the last few while the writers are still.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "server/volumes/snapshots.h"

namespace sectormap::volumes {
namespace {

constexpr absl::Duration kStorePoll = absl::Milliseconds(200);
constexpr absl::Duration kMergePoll = absl::Milliseconds(200);

// How long the call that begins a rollback waits until the device shows the snapshot.
constexpr absl::Duration kSwitchWaitMax = absl::Seconds(5);

// A merge that fails is taken up again by a suspend and a resume; a disk may have come back.
constexpr int kMergeTries = 3;
constexpr absl::Duration kMergeRetryAfter = absl::Seconds(2);

int64_t ToBytes(uint64_t sectors) {
  return static_cast<int64_t>(Bytes(SectorCount(sectors)).value());
}

absl::Status Ended() { return absl::CancelledError("ended before it was done"); }

// False: it is invalid, and has no data to keep. FailedPrecondition: whether it has cannot be told.
absl::StatusOr<bool> IsUsable(const DeviceRegistry& registry, const Volume& snapshot) {
  using State = SnapshotStatus::State;
  const State state = ReadSnapshotStatus(registry, snapshot.body).state;
  if (state == State::kValid || state == State::kOverflow) return true;
  if (state == State::kInvalid) return false;
  const absl::StatusOr<DeviceInfo> body = registry.Info(snapshot.body);
  const std::string why = body.ok() ? body->error : std::string(body.status().message());
  return absl::FailedPreconditionError(
      absl::StrCat("snapshot '", snapshot.name, "' is not available (", why, "): resume '",
                   snapshot.body, "' first, or remove the snapshot if it is lost"));
}

absl::Status CheckUsable(const DeviceRegistry& registry, const Volume& snapshot) {
  ASSIGN_OR_RETURN(const bool usable, IsUsable(registry, snapshot));
  if (usable) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("snapshot '", snapshot.name, "' is invalid: its chunks are lost"));
}

absl::StatusOr<Volume> FindSnapshot(const VolumeTree& tree, const std::string& name) {
  ASSIGN_OR_RETURN(Volume volume, tree.Find(name));
  if (volume.snapshot.has_value()) return volume;
  return absl::FailedPreconditionError(absl::StrCat("'", name, "' is not a snapshot"));
}

// A merge writes to the body, by the device's own table.
absl::Status CheckWritable(const DeviceRegistry& registry, const Volume& origin) {
  for (const std::string& name : {origin.name, origin.body}) {
    ASSIGN_OR_RETURN(const DeviceInfo info, registry.Info(name));
    if (!info.read_only) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("'", name, "' is read-only: nothing could be rolled back"));
  }
  return absl::OkStatus();
}

std::string NoWayBackFrom(const std::string& device) {
  return absl::StrCat("'", device,
                      "' is the snapshot already, and its data are on their way: a rollback cannot "
                      "be cancelled any more");
}

std::string PlanText(const std::string& snapshot) { return absl::StrCat("snapshot ", snapshot); }

std::string SnapshotInPlan(const std::string& plan) {
  const size_t blank = plan.find(' ');
  return blank == std::string::npos ? "" : plan.substr(blank + 1);
}

}  // namespace

absl::Status Snapshots::MakeRoom(const std::string& body, const absl::Status& full) {
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  const Volume* volume = tree.WithBody(body);
  const auto record = volume == nullptr ? std::nullopt : RecordOf(tree, *volume);
  if (!record.has_value() || record->grow_at_percent == 0) return full;
  const SnapshotStatus status = ReadSnapshotStatus(recipes_.volumes.registry(), body);
  if (status.state != SnapshotStatus::State::kValid) return full;
  const absl::Status grown = GrowOne(*volume, *record, status);
  if (grown.ok()) return grown;
  return absl::Status(full.code(),
                      absl::StrCat(std::string(full.message()), "; ", grown.message()));
}

absl::Status Snapshots::CheckAwake(const Volume& heir, const Volume& from) const {
  RETURN_IF_ERROR(recipes_.CheckAwake(heir.snapshot->store));
  RETURN_IF_ERROR(recipes_.CheckAwake(from.snapshot->store));
  // What the heir lacks is read from there down.
  return recipes_.CheckAwake(heir.snapshot->base);
}

// A copy that has met a suspended device cannot be given up. With `run`: waits; a suspension may be
// a recipe's and short. Without: nobody waits while the writers do.
absl::Status Snapshots::AwaitAwake(const Inheritance& part, OperationRun* run) {
  while (true) {
    const absl::Status awake = CheckAwake(part.heir, part.from);
    if (awake.ok() || run == nullptr) return awake;
    if (!run->Sleep(kStorePoll)) return Ended();
  }
}

// With `run`: shows progress and ends when it is asked to. Without: the writers are still, and it
// is short.
absl::Status Snapshots::Inherit(const std::vector<Inheritance>& parts, OperationRun* run,
                                Settled& settled) {
  uint64_t done_before = 0;
  for (const Inheritance& part : parts) {
    const std::string& heir = part.heir.body;
    const std::string& from = part.from.body;
    const std::pair key(heir, from);
    while (true) {
      const SnapshotStatus before = ReadSnapshotStatus(recipes_.volumes.registry(), from);
      const auto known = settled.find(key);
      if (run == nullptr && known != settled.end() && known->second == before.allocated &&
          before.state == SnapshotStatus::State::kValid) {
        break;
      }
      RETURN_IF_ERROR(AwaitAwake(part, run));
      ASSIGN_OR_RETURN(const SectorRanges there,
                       CopiedSectors(recipes_.volumes, from, part.length));
      ASSIGN_OR_RETURN(const SectorRanges own, CopiedSectors(recipes_.volumes, heir, part.length));
      const SectorRanges missing = there.Without(own);
      const uint64_t total = missing.sectors();
      const auto go_on = [&](uint64_t done) {
        if (run == nullptr) return absl::OkStatus();
        run->Progress(ToBytes(done_before + done), ToBytes(done_before + total));
        if (run->ShouldEnd()) return Ended();
        return AwaitAwake(part, run);
      };
      const absl::Status kept = KeepSectors(recipes_.volumes, heir, missing, go_on);
      if (absl::IsResourceExhausted(kept)) {
        RETURN_IF_ERROR(MakeRoom(heir, kept));
        continue;
      }
      RETURN_IF_ERROR(kept);
      // What was allocated then has all been seen, and is not still being copied.
      if (there.sectors() == before.allocated - std::min(before.allocated, before.metadata)) {
        settled[key] = before.allocated;
      }
      done_before += total;
      break;
    }
  }
  return absl::OkStatus();
}

// --- Removing ---

absl::StatusOr<OperationInfo> Snapshots::StartRemove(const std::string& name) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const VolumeTree tree = VolumeTree::Read(registry);
  ASSIGN_OR_RETURN(const Volume snapshot, FindSnapshot(tree, name));
  RETURN_IF_ERROR(registry.CheckUsedOnlyBy(name, {}));
  std::set<std::string> devices = {name};
  for (const Volume& older : tree.SnapshotsOf(snapshot.body)) {
    devices.insert(older.name);
    RETURN_IF_ERROR(recipes_.CheckStays(older));
    RETURN_IF_ERROR(IsUsable(registry, older).status());
    const absl::Status usable = CheckUsable(registry, snapshot);
    if (usable.ok()) {
      RETURN_IF_ERROR(CheckAwake(older, snapshot));
      continue;
    }
    return absl::FailedPreconditionError(absl::StrCat(std::string(usable.message()),
                                                      ", and with them those of '", older.name,
                                                      "', which is older: remove that one first"));
  }
  return recipes_.operations.Start("snapshot-remove", name, devices, "");
}

absl::Status Snapshots::RunRemove(OperationRun& run) {
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  const absl::StatusOr<Volume> snapshot = FindSnapshot(tree, run.device());
  // Not found: removed by this operation before a restart.
  if (!absl::IsNotFound(snapshot.status())) {
    RETURN_IF_ERROR(snapshot.status());
    std::vector<Inheritance> parts;
    for (const Volume& older : tree.SnapshotsOf(snapshot->body)) {
      ASSIGN_OR_RETURN(const bool usable, IsUsable(recipes_.volumes.registry(), older));
      if (usable) parts.push_back({older, *snapshot, snapshot->length});
    }
    Settled settled;
    RETURN_IF_ERROR(Inherit(parts, &run, settled));
    if (run.ShouldEnd()) return Ended();
    RETURN_IF_ERROR(FinishRemove(run, settled));
  }
  absl::MutexLock one_at_a_time(&recipes_.structure);
  CleanUp();
  return absl::OkStatus();
}

void Snapshots::CleanUp() {
  recipes_.files.Sweep();
  std::set<std::string> identities;
  for (const DeviceInfo& info : recipes_.volumes.registry().List()) {
    identities.insert(info.identity);
  }
  absl::MutexLock hold(&mutex_);
  std::erase_if(records_, [&](const auto& entry) { return !identities.contains(entry.first); });
}

absl::Status Snapshots::FinishRemove(OperationRun& run, Settled& settled) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  ASSIGN_OR_RETURN(const Volume snapshot, FindSnapshot(tree, run.device()));
  Restack changes;
  std::vector<Inheritance> parts;
  const std::vector<Volume> children = tree.SnapshotsOf(snapshot.body);
  for (const Volume& older : children) {
    ASSIGN_OR_RETURN(const bool usable, IsUsable(recipes_.volumes.registry(), older));
    if (usable) parts.push_back({older, snapshot, snapshot.length});
    SnapshotRow moved = *older.snapshot;
    moved.base = snapshot.snapshot->base;
    changes.Replace(older.body, moved.Table("snapshot", older.length));
  }
  changes.Remove(snapshot.name);
  changes.Still(snapshot.name);
  if (snapshot.layered()) changes.Remove(snapshot.body);
  changes.StillAbove(tree, snapshot.snapshot->base);
  const Volume* origin = tree.WithBody(snapshot.snapshot->base);
  const bool last = children.empty() && tree.SnapshotsOf(snapshot.snapshot->base).size() == 1;
  // Without snapshots it needs no layer; one that is being worked on keeps it.
  if (origin != nullptr && last && !origin->merge.has_value() &&
      !recipes_.operations.ReservedBy(origin->name).has_value() &&
      !recipes_.operations.ReservedBy(origin->body).has_value()) {
    changes.DropLayer(tree, *origin);
  }
  ASSIGN_OR_RETURN(TogetherRequest request, changes.Take());
  request.when_quiet = [&] { return Inherit(parts, nullptr, settled); };
  return recipes_.volumes.ReplaceTogether(request);
}

// --- Rolling back ---

// Answers when the device shows the snapshot, unless others have much to inherit first.
absl::StatusOr<OperationInfo> Snapshots::StartRollBack(const std::string& name) {
  ASSIGN_OR_RETURN(const OperationInfo started, BeginRollBack(name));
  const absl::Time give_up = absl::Now() + kSwitchWaitMax;
  return recipes_.operations.Wait(started.id, [&] {
    const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
    const absl::StatusOr<Volume> origin = tree.Find(started.device);
    return !origin.ok() || origin->merge.has_value() || absl::Now() >= give_up;
  });
}

absl::StatusOr<OperationInfo> Snapshots::BeginRollBack(const std::string& name) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const VolumeTree tree = VolumeTree::Read(registry);
  const absl::StatusOr<Volume> found = FindSnapshot(tree, name);
  if (absl::IsNotFound(found.status())) {
    // Used up by a rollback that still runs.
    const auto is_same = [&](const std::string&, const std::string& plan) {
      return plan == PlanText(name);
    };
    if (auto running = recipes_.operations.Running("rollback", is_same)) return *std::move(running);
  }
  RETURN_IF_ERROR(found.status());
  const Volume& snapshot = *found;
  RETURN_IF_ERROR(registry.CheckUsedOnlyBy(name, {}));
  RETURN_IF_ERROR(CheckUsable(registry, snapshot));
  const std::string origin = InfoOf(tree, snapshot).origin;
  const std::vector<Volume> way = tree.WayUp(snapshot, origin);
  if (way.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the device that '", name, "' is a snapshot of is no longer above it"));
  }
  if (way.back().merge.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", origin, "' is being rolled back already"));
  }
  if (way.back().length != snapshot.length) {
    return absl::FailedPreconditionError(absl::StrCat(
        "'", origin, "' has another size than when '", name,
        "' was taken: give it that size first (", snapshot.length.value(), " sectors)"));
  }
  RETURN_IF_ERROR(recipes_.CheckStays(way.back()));
  RETURN_IF_ERROR(CheckWritable(registry, way.back()));
  if (!snapshot.snapshot->persistence.starts_with('P')) {
    return absl::FailedPreconditionError(
        "Snapshot exception store does not support snapshot-merge.");
  }
  RETURN_IF_ERROR(recipes_.CheckAwake(snapshot.snapshot->store));
  std::set<std::string> devices = {name, way.back().body};
  for (const Volume& newer : way) {
    devices.insert(newer.name);
    if (newer.name == origin) continue;
    RETURN_IF_ERROR(CheckUsable(registry, newer));
    RETURN_IF_ERROR(CheckAwake(snapshot, newer));
  }
  for (const Volume& older : tree.SnapshotsOf(snapshot.body)) {
    devices.insert(older.name);
    RETURN_IF_ERROR(recipes_.CheckStays(older));
    RETURN_IF_ERROR(IsUsable(registry, older).status());
    RETURN_IF_ERROR(CheckAwake(older, snapshot));
  }
  return recipes_.operations.Start("rollback", origin, devices, PlanText(name));
}

absl::Status Snapshots::RunRollBack(OperationRun& run) {
  const std::string name = SnapshotInPlan(run.plan());
  while (true) {
    const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
    ASSIGN_OR_RETURN(const Volume origin, tree.Find(run.device()));
    if (origin.merge.has_value()) return WaitForMerge(run);
    const absl::StatusOr<Volume> snapshot = FindSnapshot(tree, name);
    // Merged and cleaned up before a restart.
    if (absl::IsNotFound(snapshot.status())) return absl::OkStatus();
    RETURN_IF_ERROR(snapshot.status());
    std::vector<Inheritance> parts;
    for (const Volume& newer : tree.WayUp(*snapshot, origin.name)) {
      if (newer.name == origin.name) continue;
      parts.push_back({*snapshot, newer, snapshot->length});
    }
    for (const Volume& older : tree.SnapshotsOf(snapshot->body)) {
      ASSIGN_OR_RETURN(const bool usable, IsUsable(recipes_.volumes.registry(), older));
      if (usable) parts.push_back({older, *snapshot, snapshot->length});
    }
    Settled settled;
    RETURN_IF_ERROR(Inherit(parts, &run, settled));
    if (run.ShouldEnd()) return Ended();
    RETURN_IF_ERROR(StartMerge(run, name, settled));
  }
}

absl::Status Snapshots::StartMerge(OperationRun& run, const std::string& name, Settled& settled) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  ASSIGN_OR_RETURN(const Volume origin, tree.Find(run.device()));
  RETURN_IF_ERROR(CheckWritable(recipes_.volumes.registry(), origin));
  ASSIGN_OR_RETURN(const Volume snapshot, FindSnapshot(tree, name));
  RETURN_IF_ERROR(CheckUsable(recipes_.volumes.registry(), snapshot));
  Restack changes;
  std::vector<Inheritance> parts;
  changes.Still(origin.name);
  changes.Still(snapshot.name);
  const std::vector<Volume> way = tree.WayUp(snapshot, origin.name);
  if (way.empty() || !origin.layered()) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", name, "' no longer lies on '", origin.name, "'"));
  }
  for (const Volume& newer : way) {
    if (newer.name == origin.name) continue;
    changes.Still(newer.name);
    parts.push_back({snapshot, newer, snapshot.length});
  }
  // What is older than it becomes a snapshot of the device itself, which the merge copies for.
  for (const Volume& older : tree.SnapshotsOf(snapshot.body)) {
    ASSIGN_OR_RETURN(const bool usable, IsUsable(recipes_.volumes.registry(), older));
    if (usable) parts.push_back({older, snapshot, snapshot.length});
    SnapshotRow moved = *older.snapshot;
    moved.base = origin.body;
    changes.Replace(older.body, moved.Table("snapshot", older.length));
  }
  // The next newer one has no snapshot any more.
  if (way.size() > 1 && tree.SnapshotsOf(way.front().body).size() == 1) {
    changes.DropLayer(tree, way.front());
  }
  SnapshotRow merge = *snapshot.snapshot;
  merge.base = origin.body;
  merge.features.clear();
  changes.Replace(origin.name, merge.Table("snapshot-merge", origin.length));
  changes.Remove(snapshot.name);
  if (snapshot.layered()) changes.Remove(snapshot.body);
  ASSIGN_OR_RETURN(TogetherRequest request, changes.Take());
  request.when_quiet = [&] { return Inherit(parts, nullptr, settled); };
  // Before it is so: whoever cancelled in between would leave a merge that nobody brings to its
  // end.
  if (!run.NoWayBack(NoWayBackFrom(run.device()))) return Ended();
  return recipes_.volumes.ReplaceTogether(request);
}

bool Snapshots::IsMerging(const std::string& device) const {
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  const absl::StatusOr<Volume> volume = tree.Find(device);
  return volume.ok() && volume->merge.has_value();
}

absl::Status Snapshots::WaitForMerge(OperationRun& run) {
  static_cast<void>(run.NoWayBack(NoWayBackFrom(run.device())));
  const DeviceRegistry& registry = recipes_.volumes.registry();
  uint64_t total = 0;
  for (int tries = 0;;) {
    const SnapshotStatus status = ReadSnapshotStatus(registry, run.device());
    if (status.state == SnapshotStatus::State::kValid) {
      static_cast<void>(run.NoWayBack(NoWayBackFrom(run.device())));
      const uint64_t left = status.allocated - std::min(status.allocated, status.metadata);
      total = std::max(total, left);
      run.Progress(ToBytes(total - left), ToBytes(total));
      if (left == 0) break;
    } else if (status.state == SnapshotStatus::State::kMergeFailed) {
      if (++tries > kMergeTries) {
        return absl::DataLossError(
            absl::StrCat("the merge failed, and again after ", kMergeTries,
                         " more tries: a disk below '", run.device(),
                         "' does not work. The device goes on as the snapshot; the merge is "
                         "taken up when it is suspended and resumed, or the daemon starts again"));
      }
      if (!run.Sleep(kMergeRetryAfter)) return Ended();
      TogetherRequest again;
      again.hold = {run.device()};
      // If that fails, too, as a disk that does not work takes no flush, it was one of the tries.
      recipes_.volumes.ReplaceTogether(again).IgnoreError();
      if (run.ShouldEnd()) return Ended();
    } else if (status.state == SnapshotStatus::State::kUnknown && IsMerging(run.device())) {
      // Its table could not be built at the start, as a store that it waits for is late. If that
      // never comes, this can be cancelled, and the device get another table; if it comes after
      // all, the merge is taken up.
      static_cast<void>(run.NoWayBack(""));
    } else {
      return absl::FailedPreconditionError(
          absl::StrCat("'", run.device(), "' is no longer being merged"));
    }
    if (!run.Sleep(kMergePoll)) return Ended();
  }
  while (true) {
    const absl::Status finished = FinishMerge(run.device());
    // Somebody has suspended it, or a disk takes no flush now: it can be done later.
    if (finished.ok() || !IsMerging(run.device())) return finished;
    if (!run.Sleep(kMergeRetryAfter)) return Ended();
  }
}

absl::Status Snapshots::FinishMerge(const std::string& device) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  ASSIGN_OR_RETURN(const Volume origin, tree.Find(device));
  if (!origin.merge.has_value()) return absl::OkStatus();
  Restack changes;
  if (tree.SnapshotsOf(origin.body).empty()) {
    changes.DropLayer(tree, origin);
  } else {
    changes.Replace(device, OriginTable(origin.body, origin.length));
    changes.Still(device);
  }
  ASSIGN_OR_RETURN(const TogetherRequest request, changes.Take());
  RETURN_IF_ERROR(recipes_.volumes.ReplaceTogether(request));
  CleanUp();
  return absl::OkStatus();
}

void Snapshots::LookAfterMerge(const Volume& origin) {
  // Refused if an operation does.
  recipes_.operations.Start("rollback", origin.name, {origin.name, origin.body}, "")
      .status()
      .IgnoreError();
}

void Snapshots::ResumeRollBacks() {
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  for (const auto& [name, volume] : tree.volumes()) {
    if (volume.merge.has_value()) LookAfterMerge(volume);
  }
}

// Only while it runs: else it would fail again, or its store is away and the device may get another
// table.
void Snapshots::TakeUpRollBacks() {
  std::set<std::string> given_up;
  for (const OperationInfo& operation : recipes_.operations.List()) {
    if (operation.kind != "rollback" || !operation.ended()) continue;
    if (operation.state != OperationState::kDone) given_up.insert(operation.device);
  }
  if (given_up.empty()) return;
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const VolumeTree tree = VolumeTree::Read(registry);
  for (const std::string& name : given_up) {
    if (ReadSnapshotStatus(registry, name).state != SnapshotStatus::State::kValid) continue;
    const absl::StatusOr<Volume> volume = tree.Find(name);
    if (volume.ok() && volume->merge.has_value()) LookAfterMerge(*volume);
  }
}

}  // namespace sectormap::volumes
