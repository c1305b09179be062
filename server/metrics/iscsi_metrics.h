// SPDX-License-Identifier: Apache-2.0
// Sessions, logins, the memory for commands, dropped connections, and the commands of each exported
// LUN.
#pragma once

#include "server/iscsi/portal.h"
#include "server/iscsi/target_directory.h"
#include "server/metrics/families.h"

namespace sectormap::metrics {

// Not on a reactor's thread: these take the locks of a listing. `reactors` is how many there are.
void AddIscsiFamilies(const iscsi::TargetDirectory& targets, int reactors, Families& families);
void AddCommandFamilies(const iscsi::TargetDirectory& targets, Families& families);
// Any thread.
void AddCommandMemoryFamilies(const iscsi::PortalResources& portals, Families& families);

}  // namespace sectormap::metrics
