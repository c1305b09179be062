// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/volume_service.h"

namespace sectormap::volumes {

VolumeService::VolumeService(const Parts& parts)
    : notes_(std::make_shared<state::KeptNotes>(parts.store)),
      catalog_(parts.registry, parts.store),
      operations_(parts.store, parts.operations_sleep_max, parts.log_operation),
      files_(catalog_, parts.backings, parts.directory, parts.log_file),
      recipes_(catalog_, parts.backings, parts.reactors, operations_, files_),
      snapshots_(recipes_),
      moves_(recipes_),
      mirrors_(recipes_) {
  parts.registry.SetNotes(notes_);
  catalog_.SetPatience([this] { return recipes_.Patience(); });
  catalog_.SetGuard([this](std::string_view name) { return operations_.CheckFree(name); });
  catalog_.SetRemovalGuard([this](std::string_view name) { return snapshots_.CheckHasNone(name); });
  catalog_.SetRemovalLog(parts.log_deferred_removal);
  catalog_.SetTableGuard([this](std::string_view name, const TableSpec& table) {
    return snapshots_.CheckKeepsLayer(name, table);
  });
}

absl::Status VolumeService::RestoreDevices(const state::Contents& contents) {
  notes_->Restore(contents.notes);
  absl::Status restored = catalog_.Restore(contents.devices);
  snapshots_.Restore(contents.snapshots);
  return restored;
}

void VolumeService::ResumeOperations(const state::Contents& contents) {
  catalog_.RemoveUnused();
  files_.Sweep();
  operations_.Restore(contents.operations);
  snapshots_.ResumeRollBacks();
}

}  // namespace sectormap::volumes
