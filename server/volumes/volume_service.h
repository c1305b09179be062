// SPDX-License-Identifier: Apache-2.0
// VolumeService: the catalog, the operations and the recipes, joined, and the order in which a
// start brings them back.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/async/reactor_pool.h"
#include "core/block/backing_source.h"
#include "core/map/device_registry.h"
#include "server/state/kept_notes.h"
#include "server/state/state_store.h"
#include "server/volumes/made_files.h"
#include "server/volumes/mirrors.h"
#include "server/volumes/moves.h"
#include "server/volumes/operations.h"
#include "server/volumes/recipes.h"
#include "server/volumes/snapshots.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {

// Any control thread.
class VolumeService {
 public:
  // What recipes stand on. All outlive the service; `registry` has no device yet, and `store` and
  // `reactors` outlive it.
  struct Parts {
    DeviceRegistry& registry;
    state::StateStore& store;
    BackingSource& backings;
    ReactorPool& reactors;
    std::string directory;  // of the files that the daemon makes; below a device root
    MadeFiles::Log log_file = nullptr;
    Operations::Log log_operation = nullptr;
    VolumeCatalog::RemovalLog log_deferred_removal = nullptr;
    absl::Duration operations_sleep_max = absl::InfiniteDuration();  // see Operations
  };
  explicit VolumeService(const Parts& parts);
  // Stops the operations.
  ~VolumeService() { operations_.Stop(); }
  VolumeService(const VolumeService&) = delete;
  VolumeService& operator=(const VolumeService&) = delete;

  // At start, first: every device as it was. Fails as VolumeCatalog::Restore, with all other
  // devices restored.
  absl::Status RestoreDevices(const state::Contents& contents);
  // At start, once every export holds its device: what a kill ended goes on.
  void ResumeOperations(const state::Contents& contents);

  // Where the daemon makes files from now on: below a device root, as Parts::directory.
  void SetDirectory(std::string directory) { files_.SetDirectory(std::move(directory)); }

  VolumeCatalog& catalog() { return catalog_; }
  Operations& operations() { return operations_; }
  Snapshots& snapshots() { return snapshots_; }
  Moves& moves() { return moves_; }
  Mirrors& mirrors() { return mirrors_; }

 private:
  const std::shared_ptr<state::KeptNotes> notes_;  // the registry's, too, whose devices end later
  VolumeCatalog catalog_;
  Operations operations_;
  MadeFiles files_;
  Recipes recipes_;
  Snapshots snapshots_;
  Moves moves_;
  Mirrors mirrors_;
};

}  // namespace sectormap::volumes
