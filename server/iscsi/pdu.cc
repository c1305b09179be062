// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/pdu.h"

namespace sectormap::iscsi {
namespace {

// RFC 7143 §11.2.2.2: the low six bits of AHSType.
constexpr uint8_t kAhsCodeMask = 0x3f;
constexpr uint8_t kAhsExtendedCdb = 1;
constexpr uint8_t kAhsBidiReadLength = 2;
// AHSLength and AHSType; AHSLength counts what follows them.
constexpr size_t kAhsFixedBytes = 3;
// Both kinds begin with a reserved byte.
constexpr size_t kAhsReservedBytes = 1;

}  // namespace

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
