// SPDX-License-Identifier: Apache-2.0
#include "cli/size.h"

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sectormap::cli {
namespace {

constexpr uint64_t kSectorBytes = 512;

// Bytes of one unit; 0 if the letter is none.
uint64_t UnitOf(char letter) {
  switch (absl::ascii_tolower(static_cast<unsigned char>(letter))) {
    case 's':
      return kSectorBytes;
    case 'k':
      return uint64_t{1} << 10;
    case 'm':
      return uint64_t{1} << 20;
    case 'g':
      return uint64_t{1} << 30;
    case 't':
      return uint64_t{1} << 40;
    default:
      return 0;
  }
}

}  // namespace

absl::StatusOr<uint64_t> ParseSectors(const std::string& text, bool plain_is_sectors) {
  std::string digits = text;
  uint64_t unit = plain_is_sectors ? kSectorBytes : 1;
  if (!digits.empty() && UnitOf(digits.back()) != 0) {
    unit = UnitOf(digits.back());
    digits.pop_back();
  }
  uint64_t number = 0;
  const bool is_number = !digits.empty() && std::ranges::all_of(digits, [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
  if (!is_number || !absl::SimpleAtoi(digits, &number) ||
      number > std::numeric_limits<uint64_t>::max() / unit) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a size; write 512M, 20G or 2048s (sectors)"));
  }
  if (number * unit % kSectorBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a whole number of 512-byte sectors"));
  }
  return number * unit / kSectorBytes;
}

absl::StatusOr<Place> ParsePlace(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return Place{text};
  // Memory's name has one itself: mem:64M.
  if (absl::StartsWith(text, "mem:") && text.find(':') == colon) return Place{text};
  const absl::StatusOr<uint64_t> start = ParseSectors(text.substr(colon + 1), true);
  // A colon may be part of a name, as in pci-0000:00.
  if (!start.ok()) return Place{text};
  return Place{text.substr(0, colon), *start};
}

}  // namespace sectormap::cli
