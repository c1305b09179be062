// SPDX-License-Identifier: Apache-2.0
// Stores and logs that a real device mapper has written (tests/golden/dm), and the pattern of their
// data.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/units.h"

namespace sectormap {

// The unpacked file `name`.xz. Ends the process if it cannot be had: `xz` is needed.
std::vector<std::byte> Golden(const std::string& name);

// `count` sectors from `first` on, each naming itself: 32 times "%-4s%012d" % (tag, sector).
std::vector<std::byte> Pattern(std::string_view tag, Sector first, SectorCount count);

}  // namespace sectormap
