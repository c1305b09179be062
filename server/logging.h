// SPDX-License-Identifier: Apache-2.0
// The daemon's log: one line per event on stderr, key=value. Control plane only: nothing is logged
// per I/O. Secrets never reach it.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace sectormap {

// Sets spdlog's default logger up. Without timestamps, and with the journal's priorities in front,
// if stderr is the journal (sd-daemon(3)).
void StartLogging(std::string_view level);

// debug, info, warning, error or off. Any thread.
void SetLogLevel(std::string_view level);

// A value as one word of a line: in quotes, with quotes and control characters escaped.
std::string Quoted(absl::string_view value);

}  // namespace sectormap
