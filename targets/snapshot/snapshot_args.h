// SPDX-License-Identifier: Apache-2.0
// The words of a `snapshot` or `snapshot-merge` row (drivers/md/dm-snap.c, snapshot_ctr):
//   <origin> <cow> <P|PO|N> <chunk> [<#features> [discard_zeroes_cow] [discard_passdown_origin]]
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/map/target_args.h"
#include "targets/snapshot/snapshot.h"
#include "targets/snapshot/snapshot_registry.h"

namespace sectormap::targets {

inline constexpr std::string_view kSnapshotUsage =
    "<origin> <cow> <P|PO|N> <chunk sectors> "
    "[<#features> [discard_zeroes_cow] [discard_passdown_origin]]";

// What a row says, read and checked, and its store opened.
struct SnapshotArgs {
  DeviceRef origin;
  DeviceRef cow;
  StoreKind kind = StoreKind::kPersistent;
  bool overflow_allowed = false;  // "PO"
  bool discard_zeroes_cow = false;
  bool discard_passdown_origin = false;
  std::shared_ptr<Snapshot> snapshot;

  // The refusal is the kernel's text. Opens, reads or makes the store; `merging` refuses a store
  // that cannot be merged before that.
  static absl::StatusOr<SnapshotArgs> Read(TargetArgs& args, bool merging);

  // The row again, with the chunk size in use.
  std::string TableArgs() const;
};

}  // namespace sectormap::targets
