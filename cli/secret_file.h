// SPDX-License-Identifier: Apache-2.0
// Secrets come from files, never from the command line, which every user of the machine can read.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace sectormap::cli {

// Longer than any CHAP secret an initiator takes; a wrong file is found out before it is sent.
inline constexpr size_t kSecretBytesMax = 1024;

// The file's first line, without its end. Refuses a file that others may read or write
// (PermissionDenied, saying which chmod to do), an empty one, and one with more than a line.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path);

}  // namespace sectormap::cli
