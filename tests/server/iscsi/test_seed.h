// SPDX-License-Identifier: Apache-2.0
// The seed of a random test: SECTORMAP_SEED if it is set, else the clock's. Printed, so that a
// failure can be run again.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace sectormap {

inline uint64_t TestSeed() {
  const char* given = std::getenv("SECTORMAP_SEED");
  const uint64_t seed =
      given != nullptr
          ? std::strtoull(given, nullptr, 10)
          : static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  std::printf("SECTORMAP_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace sectormap
