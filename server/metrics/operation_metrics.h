// SPDX-License-Identifier: Apache-2.0
// Snapshots, mirrors and operations.
#pragma once

#include "core/map/device_registry.h"
#include "server/metrics/families.h"
#include "server/volumes/mirrors.h"
#include "server/volumes/operations.h"
#include "server/volumes/snapshots.h"

namespace sectormap::metrics {

// Not on a reactor's thread: these take the locks of a listing.
void AddSnapshotFamilies(const volumes::Snapshots& snapshots, Families& families);
void AddMirrorFamilies(const DeviceRegistry& devices, const volumes::Mirrors& mirrors,
                       Families& families);
void AddOperationFamilies(const volumes::Operations& operations, Families& families);

}  // namespace sectormap::metrics
