// SPDX-License-Identifier: Apache-2.0
// Tells a service manager how far we are (sd_notify(3)), without linking libsystemd.
#pragma once

#include <string_view>

namespace sectormap {

// `state` is READY=1, STOPPING=1, ...; lines. Nothing happens without $NOTIFY_SOCKET.
void NotifyServiceManager(std::string_view state);

}  // namespace sectormap
