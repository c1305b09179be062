// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/snapshot_registry.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/status_macros.h"
#include "core/map/device_graph.h"
#include "core/map/table_error.h"
#include "targets/snapshot/persistent_store.h"
#include "targets/snapshot/transient_store.h"

namespace sectormap::targets {
namespace {

// A store's place in the registry. Locked while the store is read, so that two tables that are
// loaded at the same time read it once.
struct Slot {
  absl::Mutex mutex;
  StoreKind kind ABSL_GUARDED_BY(mutex) = StoreKind::kPersistent;
  std::weak_ptr<Snapshot> snapshot ABSL_GUARDED_BY(mutex);
};

std::shared_ptr<Slot> SlotOf(const BlockDevice* cow) {
  // Never destroyed: tables may go later than static objects.
  static auto& mutex = *new absl::Mutex;
  static auto& slots = *new std::map<const BlockDevice*, std::shared_ptr<Slot>>;
  absl::MutexLock lock(&mutex);
  // A snapshot holds its device: the address of one that has gone may be another device by now.
  std::erase_if(slots, [](const auto& entry) {
    if (entry.second.use_count() > 1) return false;
    absl::MutexLock slot_lock(&entry.second->mutex);
    return entry.second->snapshot.expired();
  });
  std::shared_ptr<Slot>& slot = slots[cow];
  if (slot == nullptr) slot = std::make_shared<Slot>();
  return slot;
}

absl::StatusOr<std::shared_ptr<Snapshot>> Read(const StoreArgs& args, ReactorPool& reactors) {
  const std::shared_ptr<BlockDevice>& cow = args.cow.device;
  if (args.kind == StoreKind::kTransient) {
    return std::make_shared<Snapshot>(
        cow, std::make_unique<TransientStore>(cow, args.chunk_sectors), ExceptionTable(),
        args.origin.device->size(), Snapshot::Found{.valid = !args.restored});
  }
  const std::string note = InvalidNote(args.cow);
  const bool noted = args.notes != nullptr && args.notes->Has(note);
  absl::StatusOr<PersistentStore::Opened> opened = reactors.RunOn(0, [&args, &cow, noted] {
    return PersistentStore::Open(cow, args.origin.device->limits(), args.origin.device->size(),
                                 args.chunk_sectors, {.restored = args.restored, .invalid = noted});
  });
  if (!opened.ok()) {
    return TableError(0, "", "Failed to read snapshot metadata",
                      std::string(opened.status().message()));
  }
  // Of a store that was there before this one, or whose header has been written since.
  if (noted && !opened->header_is_wrong) {
    reactors.RunOn(0, [&args, &note] { return args.notes->Remove(note); });
  }
  return std::make_shared<Snapshot>(
      cow, std::move(opened->store), std::move(opened->exceptions), args.origin.device->size(),
      Snapshot::Found{.valid = opened->valid, .header_is_wrong = opened->header_is_wrong});
}

}  // namespace

std::string InvalidNote(const DeviceRef& cow) {
  const std::string_view mapped = MappedDeviceName(cow.name());
  return absl::StrCat("invalid-snapshot ", mapped.empty() ? cow.name() : std::string(mapped));
}

absl::StatusOr<std::shared_ptr<Snapshot>> OpenSnapshot(const StoreArgs& args,
                                                       ReactorPool& reactors) {
  const std::shared_ptr<Slot> slot = SlotOf(args.cow.device.get());
  absl::MutexLock lock(&slot->mutex);
  std::shared_ptr<Snapshot> snapshot = slot->snapshot.lock();
  if (snapshot == nullptr) {
    ASSIGN_OR_RETURN(snapshot, Read(args, reactors));
    slot->snapshot = snapshot;
    slot->kind = args.kind;
    return snapshot;
  }
  constexpr std::string_view kNoPair = "Snapshot cow pairing for exception table handover failed";
  if (slot->kind != args.kind) {
    return TableError(0, "", kNoPair,
                      "the store is in use, persistent as transient or the reverse");
  }
  const absl::Status fits = snapshot->CheckOrigin(args.origin.device->size());
  if (!fits.ok()) return TableError(0, "", kNoPair, std::string(fits.message()));
  const absl::Status legal = CheckChunkSize(snapshot->chunk_sectors(), args.origin.device->limits(),
                                            args.cow.device->limits());
  if (!legal.ok()) return TableError(0, "", kNoPair, std::string(legal.message()));
  return snapshot;
}

}  // namespace sectormap::targets
