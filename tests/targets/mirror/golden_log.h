// SPDX-License-Identifier: Apache-2.0
// Mirror logs that a real kernel wrote (tests/golden/dm, xz).
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace sectormap::targets {

// The unpacked bytes; empty if that fails.
inline std::vector<std::byte> GoldenLog(const std::string& name) {
  const std::string command = "xz -dc '" SECTORMAP_GOLDEN_DIR "/" + name + ".log.xz'";
  std::vector<std::byte> bytes;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return bytes;
  std::byte buffer[4096];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, pipe)) {
    bytes.insert(bytes.end(), buffer, buffer + count);
  }
  if (pclose(pipe) != 0) bytes.clear();
  return bytes;
}

}  // namespace sectormap::targets
