// SPDX-License-Identifier: Apache-2.0
// What the control plane changed, in the daemon's log: one line per call, with its outcome. Never a
// secret, nor a table.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sectormap::control {

// `verb` is the call's name in lower case: create, export.
void LogChange(std::string_view verb, const std::string& device, const absl::Status& status);

}  // namespace sectormap::control
