// SPDX-License-Identifier: Apache-2.0
// An explicit list, not static constructors: those the linker drops from a static library.
#include "targets/builtin_targets.h"

namespace sectormap::targets {

void AddBuiltinTargets(TargetRegistry& registry) {
  registry.Add(kLinearTarget);
  registry.Add(kStripedTarget);
  registry.Add(kErrorTarget);
  registry.Add(kZeroTarget);
  registry.Add(kMirrorTarget);
  registry.Add(kDelayTarget);
  registry.Add(kFlakeyTarget);
  registry.Add(kSnapshotTarget);
  registry.Add(kSnapshotOriginTarget);
  registry.Add(kSnapshotMergeTarget);
}

}  // namespace sectormap::targets
