// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/lun_field.h"

#include <algorithm>

#include "core/base/check.h"

namespace sectormap::scsi {
namespace {

// Bits 7-6 of byte 0 are the address method.
constexpr uint8_t kAddressMethodMask = 0xc0;
constexpr uint8_t kPeripheralMethod = 0x00;
constexpr uint8_t kFlatMethod = 0x40;
constexpr uint64_t kMaxPeripheralLun = 0xff;
constexpr uint64_t kMaxFlatLun = 0x3fff;

bool SingleLevel(const LunField& field) {
  return std::all_of(field.begin() + 2, field.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

std::optional<uint64_t> DecodeLun(const LunField& field) {
  if (!SingleLevel(field)) return std::nullopt;
  switch (field[0] & kAddressMethodMask) {
    case kPeripheralMethod:
      // A bus identifier other than 0 is another level of the hierarchy.
      if (field[0] != 0) return std::nullopt;
      return field[1];
    case kFlatMethod:
      return ((uint64_t{field[0]} << 8) | field[1]) & kMaxFlatLun;
    default:
      return std::nullopt;
  }
}

LunField EncodeLun(uint64_t lun) {
  CHECK(lun <= kMaxFlatLun);
  LunField field{};
  field[1] = static_cast<uint8_t>(lun);
  if (lun > kMaxPeripheralLun) field[0] = static_cast<uint8_t>(kFlatMethod | (lun >> 8));
  return field;
}

}  // namespace sectormap::scsi
