// SPDX-License-Identifier: Apache-2.0
// Where the daemon listens, and why it might not answer there.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "cli/terminal.h"

namespace sectormap::cli {

// --server if given, else $SECTORMAP_SERVER, else control.sock in the state directory that
// sectormapd takes by default for the same user. A plain absolute path means a Unix socket,
// HOST:PORT is as good as tcp:HOST:PORT.
std::string ServerUri(absl::string_view option, const Terminal& terminal);

// The same as gRPC takes it: a socket's path percent-encoded, HOST:PORT without `tcp:`.
std::string GrpcTarget(absl::string_view uri);

// One or two sentences for a person: what was tried, why it failed, what to do about it. `reason`
// is gRPC's.
std::string WhyUnreachable(absl::string_view uri, absl::string_view reason);

}  // namespace sectormap::cli
