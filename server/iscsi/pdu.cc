// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/pdu.h"

#include <algorithm>

#include "core/base/check.h"

namespace sectormap::iscsi {
namespace {

// SAM-5 §4.7.7: bits 7-6 of byte 0 are the address method.
constexpr uint8_t kAddressMethodMask = 0xc0;
constexpr uint8_t kPeripheralMethod = 0x00;
constexpr uint8_t kFlatMethod = 0x40;
constexpr uint64_t kMaxPeripheralLun = 0xff;
constexpr uint64_t kMaxFlatLun = 0x3fff;

// RFC 7143 §11.2.2.2: the low six bits of AHSType.
constexpr uint8_t kAhsCodeMask = 0x3f;
constexpr uint8_t kAhsExtendedCdb = 1;
constexpr uint8_t kAhsBidiReadLength = 2;
// AHSLength and AHSType; AHSLength counts what follows them.
constexpr size_t kAhsFixedBytes = 3;
// Both kinds begin with a reserved byte.
constexpr size_t kAhsReservedBytes = 1;

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

std::optional<AdditionalHeaders> ParseAdditionalHeaders(std::span<const uint8_t> bytes) {
  AdditionalHeaders result;
  while (!bytes.empty()) {
    if (bytes.size() < kAhsFixedBytes + kAhsReservedBytes) return std::nullopt;
    const size_t length = (size_t{bytes[0]} << 8) | bytes[1];
    const uint8_t code = bytes[2] & kAhsCodeMask;
    const size_t padded = PaddedLength(static_cast<uint32_t>(kAhsFixedBytes + length));
    if (length <= kAhsReservedBytes || padded > bytes.size()) return std::nullopt;
    const auto specific =
        bytes.subspan(kAhsFixedBytes + kAhsReservedBytes, length - kAhsReservedBytes);
    if (code == kAhsExtendedCdb && result.extended_cdb.empty()) {
      result.extended_cdb = specific;
    } else if (code == kAhsBidiReadLength && !result.bidi_read_length &&
               specific.size() == sizeof(uint32_t)) {
      result.bidi_read_length = (uint32_t{specific[0]} << 24) | (uint32_t{specific[1]} << 16) |
                                (uint32_t{specific[2]} << 8) | specific[3];
    } else {
      return std::nullopt;
    }
    bytes = bytes.subspan(padded);
  }
  return result;
}

}  // namespace sectormap::iscsi
