// SPDX-License-Identifier: Apache-2.0
// What a target is called if nobody says. Who may log in to it: server/iscsi/target_directory.h.
#pragma once

#include <string>
#include <string_view>

namespace sectormap::exports {

inline constexpr std::string_view kDefaultIqnPrefix = "iqn.2026-11.io.sectormap:";

// The target of its own that a device gets: kDefaultIqnPrefix and the name in lower case, with `-`
// for what an iSCSI name cannot hold (RFC 3722: letters, digits, `-`, `.` and `:`).
std::string DefaultIqn(std::string_view device);

}  // namespace sectormap::exports
