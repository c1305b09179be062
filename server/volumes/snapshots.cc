// SPDX-License-Identifier: Apache-2.0
// Taking, listing and growing. Removing and rolling back: snapshot_removal.cc.
#include "server/volumes/snapshots.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_spec.h"
#include "server/volumes/mirror_rows.h"

namespace sectormap::volumes {
namespace {

constexpr std::string_view kLayerSuffix = "-real";
constexpr std::string_view kStoreSuffix = "cow";
constexpr char kStoreMagic[] = "SnAp";

// So that a store that grows step by step gets there.
constexpr uint64_t kGrowSectorsMin = 2048;

std::string LayerOf(const std::string& name) { return absl::StrCat(name, Absl(kLayerSuffix)); }

bool IsBuilt(const DeviceRegistry& registry, const std::string& device) {
  const absl::StatusOr<DeviceInfo> info = registry.Info(device);
  return info.ok() && info->error.empty();
}

// By its own store: what it looks up in others is theirs to say.
bool IsInvalid(const DeviceRegistry& registry, const Volume& volume) {
  return volume.snapshot.has_value() &&
         ReadSnapshotStatus(registry, volume.body).state == SnapshotStatus::State::kInvalid;
}

// What is to be said of a snapshot whose store has no more room or does not work; empty if nothing.
std::string_view TroubleOf(SnapshotStatus::State state) {
  using State = SnapshotStatus::State;
  if (state == State::kInvalid) {
    return "its store is full or has failed: the snapshot is lost, and with it every older one";
  }
  if (state == State::kOverflow) return "its store is full: the snapshot can only be read";
  return "";
}

// What is left to the daemon in `wanted` agrees with whatever is there.
bool IsAsWanted(const CreateSnapshots& wanted, const CreateSnapshots::Entry& entry,
                const SnapshotRow& row, const state::SnapshotRecord& record) {
  const auto agrees = [](const auto& value, const auto& present) {
    return value == std::remove_cvref_t<decltype(value)>() || value == present;
  };
  return agrees(entry.store, row.store) && agrees(wanted.chunk_sectors, row.chunk_sectors) &&
         wanted.overflow_stays_valid == (row.persistence == "PO") &&
         wanted.never_grow == (record.grow_at_percent == 0) &&
         agrees(wanted.grow_at_percent, record.grow_at_percent) &&
         agrees(wanted.grow_by_percent, record.grow_by_percent) &&
         agrees(static_cast<int64_t>(wanted.limit_sectors), record.limit_sectors);
}

}  // namespace

// What a creation is to do, put together entry by entry.
struct Snapshots::Plan {
  struct Made {
    std::string name, origin, store;
    uint64_t chunk_sectors = 0;
    uint64_t enough_sectors = 0;  // for every chunk
  };
  Restack changes;
  std::vector<Made> made;
  std::vector<std::shared_ptr<BlockDevice>> stores;
};

Snapshots::Snapshots(Recipes& recipes) : recipes_(recipes) {
  recipes_.operations.AddKind("snapshot-remove",
                              [this](OperationRun& run) { return RunRemove(run); });
  recipes_.operations.AddKind("rollback", [this](OperationRun& run) { return RunRollBack(run); });
}

void Snapshots::Restore(std::vector<state::SnapshotRecord> records) {
  absl::MutexLock hold(&mutex_);
  for (state::SnapshotRecord& record : records) {
    const std::string identity = record.device_identity;
    records_[identity] = std::move(record);
  }
}

std::optional<state::SnapshotRecord> Snapshots::RecordOf(const VolumeTree& tree,
                                                         const Volume& volume) const {
  if (auto record = RecordOfDevice(volume.name)) return record;
  // A snapshot that has got another leg: its table is that of the first leg, a device of its own,
  // until the other leg goes again.
  for (const auto& [name, above] : tree.volumes()) {
    if (!absl::StrContains(above.body_table, volume.name)) continue;
    const absl::StatusOr<TableSpec> spec = TableSpec::Parse(above.body_table);
    if (!spec.ok() || spec->lines().size() != 1) continue;
    const std::optional<MirrorRow> mirror = MirrorRow::Parse(spec->Rows().front());
    if (!mirror.has_value() || mirror->legs.empty() ||
        MappedDeviceName(mirror->legs.front().device) != volume.name) {
      continue;
    }
    return RecordOfDevice(name);
  }
  return std::nullopt;
}

std::optional<state::SnapshotRecord> Snapshots::RecordOfDevice(const std::string& device) const {
  const absl::StatusOr<DeviceInfo> info = recipes_.volumes.registry().Info(device);
  if (!info.ok()) return std::nullopt;
  absl::MutexLock hold(&mutex_);
  const auto found = records_.find(info->identity);
  if (found == records_.end()) return std::nullopt;
  return found->second;
}

std::string Snapshots::NameOfIdentity(const std::string& identity) const {
  for (const DeviceInfo& info : recipes_.volumes.registry().List()) {
    if (info.identity == identity) return info.name;
  }
  return "";
}

// --- Creation ---

absl::StatusOr<std::vector<SnapshotInfo>> Snapshots::Create(const CreateSnapshots& wanted) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  if (wanted.existing_ok) {
    if (auto made = AlreadyMade(wanted, tree)) return *std::move(made);
  }
  Plan plan;
  absl::Status status = PlanCreation(wanted, tree, plan);
  TogetherRequest request;
  if (status.ok()) {
    absl::StatusOr<TogetherRequest> taken = plan.changes.Take();
    status = taken.status();
    if (status.ok()) request = *std::move(taken);
  }
  request.give_up = wanted.give_up;
  std::vector<state::SnapshotRecord> records;
  request.when_still = [&](state::Changes& changes) -> absl::Status {
    for (const Plan::Made& made : plan.made) {
      ASSIGN_OR_RETURN(const DeviceInfo device, recipes_.volumes.registry().Info(made.name));
      ASSIGN_OR_RETURN(const DeviceInfo origin, recipes_.volumes.registry().Info(made.origin));
      state::SnapshotRecord record{.device_identity = device.identity,
                                   .origin_identity = origin.identity,
                                   .store = made.store,
                                   .created_unix_seconds = absl::ToUnixSeconds(absl::Now())};
      if (!wanted.never_grow) {
        const auto or_default = [](int64_t value, int64_t other) { return value ? value : other; };
        record.grow_at_percent = or_default(wanted.grow_at_percent, kDefaultGrowAtPercent);
        record.grow_by_percent = or_default(wanted.grow_by_percent, kDefaultGrowByPercent);
        record.limit_sectors = or_default(static_cast<int64_t>(wanted.limit_sectors),
                                          static_cast<int64_t>(made.enough_sectors));
      }
      records.push_back(record);
    }
    changes.put_snapshots = records;
    // While the devices have no other verb: what follows finds them. If nothing comes of it, they
    // are cleaned up.
    Restore(std::move(records));
    return absl::OkStatus();
  };
  if (status.ok()) status = recipes_.volumes.ReplaceTogether(request);
  if (!status.ok()) {
    // A failure that came when all was kept has left the snapshots there.
    CleanUp();
    return status;
  }
  const VolumeTree now = VolumeTree::Read(recipes_.volumes.registry());
  std::vector<SnapshotInfo> infos;
  for (const Plan::Made& made : plan.made) {
    const absl::StatusOr<Volume> volume = now.Find(made.name);
    if (volume.ok()) infos.push_back(InfoOf(now, *volume));
  }
  return infos;
}

std::optional<std::vector<SnapshotInfo>> Snapshots::AlreadyMade(const CreateSnapshots& wanted,
                                                                const VolumeTree& tree) const {
  std::vector<SnapshotInfo> made;
  for (const CreateSnapshots::Entry& entry : wanted.entries) {
    const absl::StatusOr<Volume> volume = tree.Find(entry.name);
    if (!volume.ok() || !volume->snapshot.has_value()) return std::nullopt;
    const auto record = RecordOfDevice(entry.name);
    if (!record.has_value() || !IsAsWanted(wanted, entry, *volume->snapshot, *record)) {
      return std::nullopt;
    }
    SnapshotInfo info = InfoOf(tree, *volume);
    const bool valid = info.available && info.status.state == SnapshotStatus::State::kValid;
    if (info.origin != entry.device || !valid) return std::nullopt;
    made.push_back(std::move(info));
  }
  if (made.empty()) return std::nullopt;
  return made;
}

absl::Status Snapshots::PlanCreation(const CreateSnapshots& wanted, const VolumeTree& tree,
                                     Plan& plan) {
  if (wanted.entries.empty()) return absl::InvalidArgumentError("name what to take a snapshot of");
  if (wanted.grow_at_percent > 99 || wanted.grow_at_percent < 0 || wanted.grow_by_percent < 0) {
    return absl::InvalidArgumentError(
        "a store grows at 1 to 99 percent of it in use, by a percentage of its size");
  }
  for (const CreateSnapshots::Entry& entry : wanted.entries) {
    RETURN_IF_ERROR(CheckDeviceName(entry.name));
    if (recipes_.volumes.registry().Find(entry.name) != nullptr) {
      return absl::AlreadyExistsError(absl::StrCat("a device '", entry.name, "' exists already"));
    }
    ASSIGN_OR_RETURN(const Volume origin, tree.Find(entry.device));
    RETURN_IF_ERROR(PlanOne(wanted, entry, origin, tree, plan));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Snapshots::ChunkFor(const CreateSnapshots& wanted,
                                             const std::vector<Volume>& others) const {
  if (wanted.chunk_sectors != 0 &&
      (!std::has_single_bit(wanted.chunk_sectors) || wanted.chunk_sectors > kChunkSectorsMax)) {
    return absl::InvalidArgumentError(absl::StrCat("chunks of ", wanted.chunk_sectors,
                                                   " sectors cannot be: a power of two, at most ",
                                                   std::bit_floor(kChunkSectorsMax)));
  }
  if (others.empty()) {
    return wanted.chunk_sectors != 0 ? wanted.chunk_sectors : kDefaultChunkSectors;
  }
  const uint64_t theirs = others.front().snapshot->chunk_sectors;
  if (wanted.chunk_sectors != 0 && wanted.chunk_sectors != theirs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "snapshot '", others.front().name, "' of the same device has chunks of ", theirs,
        " sectors: snapshots of one device share chunks, so say --chunk ", theirs, " or nothing"));
  }
  return theirs;
}

absl::Status Snapshots::PlanOne(const CreateSnapshots& wanted, const CreateSnapshots::Entry& entry,
                                const Volume& origin, const VolumeTree& tree, Plan& plan) {
  if (origin.merge.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", origin.name, "' is being rolled back; wait until that has ended"));
  }
  RETURN_IF_ERROR(recipes_.CheckStays(origin));
  const std::vector<Volume> older = tree.SnapshotsOf(origin.body);
  std::vector<std::string> touched = {origin.name};
  for (const Volume& one : older) touched.push_back(one.name);
  for (const std::string& name : touched) {
    // A new layer or another base would take the table away from under it.
    if (name == origin.name && origin.layered()) continue;
    const auto busy = recipes_.operations.ReservedBy(name);
    if (!busy.has_value()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("Device or resource busy: ", *busy, " is at work on '", name, "'"));
  }
  ASSIGN_OR_RETURN(const uint64_t chunk, ChunkFor(wanted, older));
  ASSIGN_OR_RETURN(const std::string store,
                   PrepareStore(wanted, entry, origin.length, chunk, plan));
  ASSIGN_OR_RETURN(std::shared_ptr<BlockDevice> store_device, recipes_.Open(store));
  plan.stores.push_back(std::move(store_device));

  std::string base = origin.body;
  if (!origin.layered()) {
    base = LayerOf(origin.name);
    plan.changes.Create(base, origin.body_table, origin.read_only);
    plan.changes.Replace(origin.name, OriginTable(base, origin.length));
    // Its store, if it is a snapshot itself, changes hands.
    if (origin.snapshot.has_value()) plan.changes.StillAbove(tree, origin.snapshot->base);
  }
  plan.changes.Still(origin.name);
  const SnapshotRow row{.base = base,
                        .store = store,
                        .persistence = wanted.overflow_stays_valid ? "PO" : "P",
                        .chunk_sectors = chunk};
  if (older.empty()) {
    plan.changes.Create(entry.name, row.Table("snapshot", origin.length), false);
  } else {
    // From now on the older ones are snapshots of this one.
    const std::string layer = LayerOf(entry.name);
    plan.changes.Create(layer, row.Table("snapshot", origin.length), false);
    plan.changes.Create(entry.name, OriginTable(layer, origin.length), false);
    for (const Volume& one : older) {
      SnapshotRow moved = *one.snapshot;
      moved.base = layer;
      plan.changes.Replace(one.body, moved.Table("snapshot", one.length));
    }
  }
  plan.made.push_back({.name = entry.name,
                       .origin = origin.name,
                       .store = store,
                       .chunk_sectors = chunk,
                       .enough_sectors = StoreSectorsForAll(origin.length, chunk)});
  return absl::OkStatus();
}

absl::StatusOr<std::string> Snapshots::PrepareStore(const CreateSnapshots& wanted,
                                                    const CreateSnapshots::Entry& entry,
                                                    SectorCount length, uint64_t chunk_sectors,
                                                    const Plan& plan) {
  const SectorCount size(wanted.store_sectors != 0 ? wanted.store_sectors
                                                   : StoreSectorsForAll(length, chunk_sectors));
  if (entry.store.empty()) {
    ASSIGN_OR_RETURN(const std::string path, recipes_.files.NewPath(entry.name, kStoreSuffix));
    RETURN_IF_ERROR(recipes_.files.Make(path, size));
    return path;
  }
  if (!MappedDeviceName(entry.store).empty()) {
    RETURN_IF_ERROR(CheckStoreIsNew(entry.store, plan));
    return entry.store;
  }
  const absl::Status there = recipes_.backings.Open(entry.store, false).status();
  if (absl::IsNotFound(there)) {
    RETURN_IF_ERROR(recipes_.files.Make(entry.store, size));
    return entry.store;
  }
  RETURN_IF_ERROR(there);
  RETURN_IF_ERROR(CheckStoreIsNew(entry.store, plan));
  RETURN_IF_ERROR(recipes_.files.Disown(entry.store));
  return entry.store;
}

// What is in use, or holds a snapshot, is not for a new one.
absl::Status Snapshots::CheckStoreIsNew(const std::string& store, const Plan& plan) {
  recipes_.structure.AssertHeld();
  const std::string_view mapped = MappedDeviceName(store);
  if (!mapped.empty()) {
    RETURN_IF_ERROR(recipes_.volumes.registry().CheckUsedOnlyBy(mapped, {}));
  }
  RETURN_IF_ERROR(recipes_.CheckAwake(store));
  ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> device, recipes_.Open(store));
  if (std::ranges::find(plan.stores, device) != plan.stores.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("store '", store, "' is named for two snapshots: each needs one of its own"));
  }
  RETURN_IF_ERROR(recipes_.CheckFree(device, store, Sector(0), kMaxDeviceSectors));
  if (device->size() == SectorCount(0)) {
    return absl::InvalidArgumentError(absl::StrCat("store '", store, "' is empty"));
  }
  alignas(4096) std::array<std::byte, kSectorBytes> header{};
  const IoStatus read = recipes_.reactors.RunOn(
      0, [&] { return device->Submit(IoRequest::Read(Sector(0), header)); });
  if (read != IoStatus::kOk) {
    return absl::UnavailableError(absl::StrCat("store '", store, "' cannot be read"));
  }
  if (std::memcmp(header.data(), kStoreMagic, sizeof kStoreMagic - 1) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", store,
                     "' holds a snapshot's store already; if that is not needed any "
                     "more, overwrite its first 4 KiB with zeroes, or name another store"));
  }
  return absl::OkStatus();
}

// --- Listing ---

// False: its origin has got another table, and what is written to it is not copied any more.
bool Snapshots::IsCopiedFor(const std::string& origin,
                            const std::vector<const Volume*>& above) const {
  const auto found = std::ranges::find(above, origin, &Volume::name);
  if (found != above.end()) return (*found)->layered();
  // The way ends at a snapshot that has got another leg.
  if (!above.empty() && RecordOfDevice(above.back()->name).has_value()) return true;
  // As after `remove --force` of a device in use: nothing is written either.
  const auto below = recipes_.volumes.registry().Dependencies(origin, TableSlot::kLive);
  return below.ok() && below->empty();
}

SnapshotInfo Snapshots::InfoOf(const VolumeTree& tree, const Volume& volume) const {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const bool merging = volume.merge.has_value();
  const SnapshotRow& row = merging ? *volume.merge : *volume.snapshot;
  SnapshotInfo info{.name = volume.name,
                    .origin = merging ? volume.name : std::string(),
                    .newer = "",
                    .store = row.store,
                    .available = true,
                    .merging = merging,
                    .status = ReadSnapshotStatus(registry, merging ? volume.name : volume.body),
                    .chunk_sectors = row.chunk_sectors,
                    .created_unix_seconds = 0};
  info.available = IsBuilt(registry, merging ? volume.name : volume.body);
  if (merging) return info;
  const std::vector<const Volume*> above = tree.Above(volume);
  if (const auto record = RecordOf(tree, volume)) {
    info.origin = NameOfIdentity(record->origin_identity);
    info.created_unix_seconds = record->created_unix_seconds;
    if (!info.origin.empty() && !IsCopiedFor(info.origin, above)) {
      info.status = {.state = SnapshotStatus::State::kInvalid};
    }
  } else {
    const bool known = !above.empty() && !above.back()->snapshot.has_value();
    info.origin = known ? above.back()->name : row.base;
  }
  if (!above.empty() && above.front()->name != info.origin) info.newer = above.front()->name;
  for (const Volume* one : above) {
    info.available = info.available && IsBuilt(registry, one->body);
    if (IsInvalid(registry, *one)) info.status = {.state = SnapshotStatus::State::kInvalid};
  }
  return info;
}

std::vector<SnapshotInfo> Snapshots::List() const {
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  std::vector<SnapshotInfo> all;
  for (const auto& [name, volume] : tree.volumes()) {
    if (volume.snapshot.has_value() || volume.merge.has_value()) {
      all.push_back(InfoOf(tree, volume));
    }
  }
  std::ranges::sort(all, [](const SnapshotInfo& a, const SnapshotInfo& b) {
    return std::tie(a.origin, a.created_unix_seconds, a.name) <
           std::tie(b.origin, b.created_unix_seconds, b.name);
  });
  return all;
}

absl::StatusOr<std::vector<SnapshotInfo>> Snapshots::ListOf(const std::string& device) const {
  std::vector<SnapshotInfo> all = List();
  std::erase_if(all, [&](const SnapshotInfo& info) { return info.origin != device; });
  if (all.empty()) RETURN_IF_ERROR(recipes_.volumes.registry().Info(device).status());
  return all;
}

absl::Status Snapshots::CheckHasNone(std::string_view device) const {
  ASSIGN_OR_RETURN(const DeviceInfo info, recipes_.volumes.registry().Info(device));
  std::vector<std::string> taken;
  {
    absl::MutexLock hold(&mutex_);
    for (const auto& [identity, record] : records_) {
      if (record.origin_identity == info.identity) taken.push_back(identity);
    }
  }
  if (taken.empty()) return absl::OkStatus();
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  for (const std::string& identity : taken) {
    const std::string name = NameOfIdentity(identity);
    if (name.empty()) continue;  // removed by hand
    // By hand, as with `load` or `remove --force`, it may have got another table.
    const absl::StatusOr<Volume> volume = tree.Find(name);
    const bool is_snapshot = volume.ok() && volume->snapshot.has_value();
    return absl::FailedPreconditionError(
        absl::StrCat("Device or resource busy: '", info.name, "' has a snapshot, '", name,
                     "': remove that first (sectormap ", is_snapshot ? "snapshot rm " : "remove ",
                     name, "), or use --force"));
  }
  return absl::OkStatus();
}

absl::Status Snapshots::CheckKeepsLayer(std::string_view device, const TableSpec& table) const {
  {
    absl::MutexLock hold(&mutex_);
    if (records_.empty()) return absl::OkStatus();
  }
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  const absl::StatusOr<Volume> volume = tree.Find(std::string(device));
  if (!volume.ok() || !volume->layered() || LayerBelow(table) == volume->body) {
    return absl::OkStatus();
  }
  for (const Volume& snapshot : tree.SnapshotsOf(volume->body)) {
    if (!RecordOf(tree, snapshot).has_value()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("with this table, writes to '", volume->name, "' would spoil its snapshot '",
                     snapshot.name, "': load the table into the layer below, '", volume->body,
                     "', and resume that, then load '0 SIZE snapshot-origin ", volume->body,
                     "' into '", volume->name, "'; or remove its snapshots first"));
  }
  return absl::OkStatus();
}

// --- Growing ---

absl::Status Snapshots::GrowOne(const Volume& volume, const state::SnapshotRecord& record,
                                const SnapshotStatus& status) {
  const std::string& store = volume.snapshot->store;
  const uint64_t limit = static_cast<uint64_t>(record.limit_sectors);
  if (status.total >= limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("store '", store, "' has grown to its limit of ", limit, " sectors"));
  }
  const uint64_t step = status.total / 100 * static_cast<uint64_t>(record.grow_by_percent);
  const uint64_t size = std::min(status.total + std::max(step, kGrowSectorsMin), limit);
  return recipes_.backings.GrowFile(store, SectorCount(size));
}

std::vector<std::pair<std::string, std::string>> Snapshots::GrowStores() {
  std::vector<std::pair<std::string, std::string>> happened;
  {
    absl::MutexLock hold(&mutex_);
    if (records_.empty()) return happened;
  }
  const VolumeTree tree = VolumeTree::Read(recipes_.volumes.registry());
  std::set<std::string> in_trouble;
  for (const auto& [name, volume] : tree.volumes()) {
    if (!volume.snapshot.has_value()) continue;
    const SnapshotStatus status = ReadSnapshotStatus(recipes_.volumes.registry(), volume.body);
    const std::string_view trouble = TroubleOf(status.state);
    if (!trouble.empty()) {
      in_trouble.insert(name);
      absl::MutexLock hold(&mutex_);
      if (!in_trouble_.contains(name)) happened.emplace_back(name, trouble);
    }
    if (status.state != SnapshotStatus::State::kValid) continue;
    const auto record = RecordOf(tree, volume);
    if (record.has_value() && record->grow_at_percent != 0 &&
        status.percent() >= static_cast<double>(record->grow_at_percent) &&
        GrowOne(volume, *record, status).ok()) {
      happened.emplace_back(name, "its store has grown");
      continue;
    }
    absl::MutexLock hold(&mutex_);
    if (status.percent() < kNearlyFullPercent) {
      nearly_full_.erase(name);
    } else if (nearly_full_.insert(name).second) {
      recipes_.volumes.RaiseEvent(name);
      happened.emplace_back(name, "its store is nearly full");
    }
  }
  absl::MutexLock hold(&mutex_);
  in_trouble_ = std::move(in_trouble);
  return happened;
}

}  // namespace sectormap::volumes
