// SPDX-License-Identifier: Apache-2.0
// The ways an I/O can end: the one byte of truth that travels up the data path. Born in FromErrno()
// in a backing device or as a constant in a target; dies in server/scsi/sense.cc.
#pragma once

#include <cstdint>
#include <string_view>

namespace sectormap {

enum class IoStatus : uint8_t {
  kOk,
  kIoError,       // the medium failed
  kOutOfRange,    // past the end of the device
  kReadOnly,      // the device or its table is read-only
  kNoSpace,       // the backing store is full
  kNotSupported,  // this device cannot do this operation
  kAborted,       // given up, as when its device goes: nothing is known of the medium
  kUnavailable,   // no table, or its backing device could not be opened
  kRequeue,       // a target hands back what it held; its mapped device asks again (target.h)
};
inline constexpr int kIoStatusCount = 9;

// REQUIRES: error > 0, an errno value.
IoStatus FromErrno(int error);

std::string_view ToString(IoStatus status);

}  // namespace sectormap
