// SPDX-License-Identifier: Apache-2.0
// How devices that depend on one another are suspended and go on.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/map/device_registry.h"

namespace sectormap::volumes {

// `names`, each before the devices that its tables (live or inactive) name, and the origin of
// snapshots before its snapshots: no write of it is to need a snapshot that is suspended. The other
// way round it is the order of resuming (Documentation/admin-guide/device-mapper/snapshot.rst: the
// origin goes on after its snapshots). Any control thread.
std::vector<std::string> SuspendOrder(const DeviceRegistry& registry,
                                      const std::set<std::string>& names);

// True if I/O from this device down would wait for somebody's resume, or it has gone. Any control
// thread.
bool MeetsSuspended(const DeviceRegistry& registry, const std::string& name);

}  // namespace sectormap::volumes
