// SPDX-License-Identifier: Apache-2.0
// Sizes as people write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace sectormap::cli {

// 64M, 1.5G is not taken, 100s: K, M, G and T are powers of 1024 bytes, s is sectors of 512 bytes.
// Without a suffix: bytes, or sectors where `plain_is_sectors` (as in tables). InvalidArgument: not
// a number, or no whole number of sectors.
absl::StatusOr<uint64_t> ParseSectors(const std::string& text, bool plain_is_sectors);

// `PATH[:START]`, START as in tables (sectors) or with a suffix.
struct Place {
  std::string path;
  std::optional<uint64_t> start_sector{};
};
absl::StatusOr<Place> ParsePlace(const std::string& text);

}  // namespace sectormap::cli
