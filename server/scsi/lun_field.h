// SPDX-License-Identifier: Apache-2.0
// LUN fields (SAM-5 §4.7.7), as they stand in a transport's headers and in REPORT LUNS.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace sectormap::scsi {

using LunField = std::array<uint8_t, 8>;

// The LUN that the field names in a single-level structure: peripheral device addressing of bus 0,
// or flat space addressing. Empty for everything else, which names no logical unit of ours.
std::optional<uint64_t> DecodeLun(const LunField& field);
// REQUIRES: lun <= 16383. Peripheral device addressing below 256, flat space above, as initiators
// expect of iSCSI targets.
LunField EncodeLun(uint64_t lun);

}  // namespace sectormap::scsi
