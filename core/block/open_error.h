// SPDX-License-Identifier: Apache-2.0
// OpenError: why a file or a block device could not be opened, for a person.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace sectormap {

// `error` is errno's value. NotFound, PermissionDenied (with the user id that was refused, and
// advice), InvalidArgument (the name itself is at fault), FailedPrecondition (a block device that
// others claim), ResourceExhausted (no descriptors) or Unavailable. Any thread.
absl::Status OpenError(const std::string& name, bool read_only, int error);

}  // namespace sectormap
