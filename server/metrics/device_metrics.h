// SPDX-License-Identifier: Apache-2.0
// Mapped devices, and the backing devices below them.
#pragma once

#include "core/block/backing_opener.h"
#include "core/map/device_registry.h"
#include "server/metrics/families.h"

namespace sectormap::metrics {

// Not on a reactor's thread: these take the locks of a listing.
void AddDeviceFamilies(const DeviceRegistry& devices, Families& families);
void AddBackingFamilies(BackingOpener& backings, Families& families);

}  // namespace sectormap::metrics
