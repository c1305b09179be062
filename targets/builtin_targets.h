// SPDX-License-Identifier: Apache-2.0
// The target types of this build.
#pragma once

#include "core/map/target_registry.h"

namespace sectormap::targets {

// Adds every built-in type. Called once, at start.
void AddBuiltinTargets(TargetRegistry& registry);

// One for each file of this folder.
extern const TargetType kLinearTarget;
extern const TargetType kStripedTarget;
extern const TargetType kErrorTarget;
extern const TargetType kZeroTarget;
extern const TargetType kMirrorTarget;
extern const TargetType kDelayTarget;
extern const TargetType kFlakeyTarget;
extern const TargetType kSnapshotTarget;
extern const TargetType kSnapshotOriginTarget;
extern const TargetType kSnapshotMergeTarget;

}  // namespace sectormap::targets
