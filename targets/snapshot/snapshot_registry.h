// SPDX-License-Identifier: Apache-2.0
// SnapshotRegistry: the one Snapshot of each store that some table uses, by the identity of the
// store's device. So a table that is loaded beside the one that serves shares its exceptions (the
// kernel hands them over when it goes live), and a store is never used twice.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/async/reactor_pool.h"
#include "core/map/device_resolver.h"
#include "core/map/target_notes.h"
#include "targets/snapshot/snapshot.h"

namespace sectormap::targets {

enum class StoreKind {
  kPersistent,
  kTransient,
};

struct StoreArgs {
  DeviceRef origin;
  DeviceRef cow;
  StoreKind kind = StoreKind::kPersistent;
  uint64_t chunk_sectors = 0;  // checked; of a store that is new
  bool restored = false;       // TargetArgs::restored(): an empty store has lost all it had
  TargetNotes* notes = nullptr;
};

// The note that a snapshot with this store is invalid, though the store's header does not say so.
std::string InvalidNote(const DeviceRef& cow);

// The snapshot of `args.cow`: the one that is in use already, else read from the store, or made.
// The refusal is the kernel's text, with the reason as its advice. Control threads only; blocks.
absl::StatusOr<std::shared_ptr<Snapshot>> OpenSnapshot(const StoreArgs& args,
                                                       ReactorPool& reactors);

}  // namespace sectormap::targets
