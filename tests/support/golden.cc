// SPDX-License-Identifier: Apache-2.0
#include "tests/support/golden.h"

#include <cstdio>
#include <cstring>

#include "core/base/check.h"

namespace sectormap {

std::vector<std::byte> Golden(const std::string& name) {
  const std::string command = "xz -dc '" SECTORMAP_GOLDEN_DIR "/" + name + ".xz'";
  FILE* pipe = popen(command.c_str(), "r");
  CHECK(pipe != nullptr);
  std::vector<std::byte> bytes;
  std::byte piece[65536];
  while (const size_t count = fread(piece, 1, sizeof piece, pipe)) {
    bytes.insert(bytes.end(), piece, piece + count);
  }
  CHECK(pclose(pipe) == 0);
  return bytes;
}

std::vector<std::byte> Pattern(std::string_view tag, Sector first, SectorCount count) {
  std::vector<std::byte> bytes(Bytes(count).value());
  constexpr size_t kUnit = 16;
  for (size_t place = 0; place < bytes.size(); place += kUnit) {
    const unsigned long long sector = first.value() + place / kSectorBytes;
    char unit[40];
    snprintf(unit, sizeof unit, "%-4.4s%012llu", std::string(tag).c_str(), sector);
    std::memcpy(&bytes[place], unit, kUnit);
  }
  return bytes;
}

}  // namespace sectormap
