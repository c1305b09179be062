// SPDX-License-Identifier: Apache-2.0
// The names of memory devices: mem:SIZE and mem:SIZE@NAME.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/base/units.h"

namespace sectormap {

inline constexpr std::string_view kMemoryPrefix = "mem:";

// The size in a memory device's name. InvalidArgument says which part is wrong and shows the form.
absl::StatusOr<SectorCount> ParseMemoryName(const std::string& name);

}  // namespace sectormap
