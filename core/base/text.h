// SPDX-License-Identifier: Apache-2.0
// Debian builds absl for C++14, where absl::string_view is a type of its own and does not convert
// from std::string_view. This is the bridge.
#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace sectormap {

inline absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace sectormap
