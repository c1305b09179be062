// SPDX-License-Identifier: Apache-2.0
// What crosses between the transport and a logical unit: a command going down, a result coming up.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace sectormap::scsi {

// SAM-5 §5.3.1.
enum class ScsiStatus : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kConditionMet = 0x04,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
  kTaskAborted = 0x40,
};

// From the initiator's side, as in iSCSI's R and W bits.
enum class DataDirection : uint8_t { kNone, kIn, kOut };

inline constexpr size_t kCdbBytes = 16;
using CdbBytes = std::array<uint8_t, kCdbBytes>;

// Fixed-format sense is 18 bytes; descriptor format with an information descriptor 20. 32 leaves
// room for sense-key specific bytes.
inline constexpr size_t kSenseBytesMax = 32;

struct SenseData {
  std::array<uint8_t, kSenseBytesMax> bytes{};
  uint8_t length = 0;  // 0: none
  std::span<const uint8_t> span() const { return {bytes.data(), length}; }
};

struct ScsiResult {
  ScsiStatus status = ScsiStatus::kGood;
  SenseData sense;
  // Data-in commands: bytes of the buffer that are valid. Never more than the buffer's size.
  uint32_t data_in_bytes = 0;
};

}  // namespace sectormap::scsi
