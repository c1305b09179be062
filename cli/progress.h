// SPDX-License-Identifier: Apache-2.0
// How an operation is shown while it runs and when it has ended.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "cli/session.h"
#include "sectormap/v1/operations.pb.h"

namespace sectormap::cli {

// `move vol: 42.3 %  4.2 GiB of 10 GiB  210 MiB/s  28 s left`.
std::string ProgressLine(const v1::Operation& operation);

// running, done, failed, cancelled; `ending` for one that was asked to end.
std::string StateText(const v1::Operation& operation);

std::string BytesText(double bytes);

// Shows the operation until it ends: one line that changes on a terminal, else at most a line a
// second. kError if it failed or was cancelled.
ExitCode Follow(Session& session, const v1::Operation& started);

// After a call that started it: follows it, or, with `no_wait`, prints its id.
ExitCode ShowStarted(Session& session, const v1::Operation& started, bool no_wait);

}  // namespace sectormap::cli
