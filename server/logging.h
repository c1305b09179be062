// SPDX-License-Identifier: Apache-2.0
// The daemon's log: one line per event on stderr, key=value. Control plane only: nothing is logged
// per I/O. Secrets never reach it.
#pragma once

#include <string_view>

namespace sectormap {

// Sets spdlog's default logger up. Without timestamps, and with the journal's priorities in front,
// if stderr is the journal (sd-daemon(3)).
void StartLogging(std::string_view level);

// debug, info, warning, error or off. Any thread.
void SetLogLevel(std::string_view level);

}  // namespace sectormap
