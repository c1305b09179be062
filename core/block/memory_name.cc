// SPDX-License-Identifier: Apache-2.0
#include "core/block/memory_name.h"

#include <algorithm>
#include <charconv>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sectormap {
namespace {

constexpr size_t kTagLengthMax = 64;  // as much as a person reads in a list

absl::Status Wrong(const std::string& name, std::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", name, "': ", std::string(reason),
                   ". The form is mem:SIZE or mem:SIZE@NAME, SIZE with a suffix K, M, G or T "
                   "(powers of 1024) or "
                   "s (sectors of 512 bytes), as mem:64M or mem:2048s@scratch"));
}

// Bytes that one of the suffix stands for; 0: no such suffix.
uint64_t UnitFor(std::string_view suffix) {
  if (suffix.empty()) return 1;
  if (suffix.size() > 1) return 0;
  switch (suffix.front()) {
    case 's':
      return kSectorBytes;
    case 'k':
    case 'K':
      return uint64_t{1} << 10;
    case 'm':
    case 'M':
      return uint64_t{1} << 20;
    case 'g':
    case 'G':
      return uint64_t{1} << 30;
    case 't':
    case 'T':
      return uint64_t{1} << 40;
    default:
      return 0;
  }
}

bool IsTagCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

}  // namespace

absl::StatusOr<SectorCount> ParseMemoryName(const std::string& name) {
  std::string_view size = name;
  if (!size.starts_with(kMemoryPrefix)) return Wrong(name, "not a memory device");
  size.remove_prefix(kMemoryPrefix.size());
  if (const size_t at = size.find('@'); at != std::string_view::npos) {
    const std::string_view tag = size.substr(at + 1);
    if (tag.empty() || tag.size() > kTagLengthMax || !std::ranges::all_of(tag, IsTagCharacter)) {
      return Wrong(name, "NAME is 1 to 64 letters, digits, '.', '_' or '-'");
    }
    size = size.substr(0, at);
  }
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(size.data(), size.data() + size.size(), number);
  if (error == std::errc::invalid_argument) return Wrong(name, "SIZE is not a number");
  const uint64_t unit = UnitFor(size.substr(static_cast<size_t>(end - size.data())));
  if (unit == 0) return Wrong(name, "SIZE has an unknown suffix");
  if (error == std::errc::result_out_of_range || number > Bytes(kMaxDeviceSectors).value() / unit) {
    return Wrong(name, "SIZE is too large");
  }
  const uint64_t bytes = number * unit;
  if (bytes == 0 || bytes % kSectorBytes != 0) {
    return Wrong(name, "SIZE is not at least one sector, or not whole sectors");
  }
  return WholeSectors(ByteCount(bytes));
}

}  // namespace sectormap
