// SPDX-License-Identifier: Apache-2.0
// The names under which initiators know a unit again: made from the device's identity alone, so
// they stay the same over restarts, renames and paths.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace sectormap::scsi {

struct UnitIdentity {
  std::array<uint8_t, 16> naa;  // NAA IEEE Registered Extended (SPC-4 §7.8.6.6.5)
  std::string serial;           // VPD page 80h: 32 hexadecimal digits
};

UnitIdentity MakeUnitIdentity(std::string_view device_identity);

}  // namespace sectormap::scsi
