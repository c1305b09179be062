// SPDX-License-Identifier: Apache-2.0
// What an export may ask for: the names of targets, and who may log in. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/state/state_store.h"

namespace sectormap::control {

inline constexpr std::string_view kDefaultIqnPrefix = "iqn.2026-11.io.sectormap:";

// RFC 7143 §9.2.1 asks for 96 bits at least; 255 is the longest that login keys can carry.
inline constexpr size_t kChapSecretBytesMin = 12;
inline constexpr size_t kChapSecretBytesMax = 255;

// RFC 7143 §6.1: a text value of 255 bytes at most.
inline constexpr size_t kChapUserBytesMax = 255;

// The target of its own that a device gets: kDefaultIqnPrefix and the name in lower case, with `-`
// for what an iSCSI name cannot hold (RFC 3722: letters, digits, `-`, `.` and `:`).
std::string DefaultIqn(std::string_view device);

// InvalidArgument with advice; never with a secret. Both are as they will be together.
absl::Status CheckChap(const std::optional<state::ChapRecord>& chap,
                       const std::optional<state::ChapRecord>& mutual_chap);

}  // namespace sectormap::control
