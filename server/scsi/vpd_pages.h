// SPDX-License-Identifier: Apache-2.0
// INQUIRY data: the standard page and the vital product data pages (SPC-4 §6.6, §7.8; SBC-3 §6.6).
#pragma once

#include <cstdint>

#include "server/scsi/cdb.h"
#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {

void PutStandardInquiry(const LogicalUnit& unit, ParameterWriter& out);

// False if there is no such page; then nothing was put.
bool PutVpdPage(uint8_t page, const LogicalUnit& unit, const LunNexus& nexus, ParameterWriter& out);

// The one target port group (REPORT TARGET PORT GROUPS, VPD page 83h).
inline constexpr uint16_t kTargetPortGroup = 1;

// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT (READ CAPACITY(16)).
uint8_t PhysicalBlockExponent(const LogicalUnit& unit);
// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits (READ CAPACITY(16)); also 0 if there is none.
uint16_t LowestAlignedLba(const LogicalUnit& unit);

}  // namespace sectormap::scsi
