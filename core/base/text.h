// SPDX-License-Identifier: Apache-2.0
// What text needs on its way: into absl, and into the log.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sectormap {

// Debian builds absl for C++14, where absl::string_view is a type of its own and does not convert
// from std::string_view. This is the bridge.
inline absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// A value as one word of a log's line: in quotes, with quotes and control characters escaped.
inline std::string Quoted(absl::string_view value) {
  return absl::StrCat("\"", absl::CEscape(value), "\"");
}

}  // namespace sectormap
