// SPDX-License-Identifier: Apache-2.0
// To the next multiple of a unit, of whatever the caller counts. REQUIRES: the unit is a power of
// two; the result fits.
#pragma once

#include <cstdint>

namespace sectormap {

constexpr uint64_t RoundDown(uint64_t value, uint64_t unit) { return value & ~(unit - 1); }
constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) {
  return RoundDown(value + unit - 1, unit);
}

}  // namespace sectormap
