// SPDX-License-Identifier: Apache-2.0
// Sense data (SPC-4 §4.5): the only place in which it is built, and in which an IoStatus becomes
// what an initiator reads.
#pragma once

#include <cstdint>
#include <optional>

#include "core/base/io_status.h"
#include "core/block/io_request.h"
#include "server/scsi/scsi_command.h"

namespace sectormap::scsi {

enum class SenseKey : uint8_t {
  kNoSense = 0x0,
  kNotReady = 0x2,
  kMediumError = 0x3,
  kHardwareError = 0x4,
  kIllegalRequest = 0x5,
  kUnitAttention = 0x6,
  kDataProtect = 0x7,
  kAbortedCommand = 0xb,
  kMiscompare = 0xe,
};

struct SenseCode {
  SenseKey key;
  uint8_t asc;
  uint8_t ascq;
  constexpr bool operator==(const SenseCode&) const = default;
};

inline constexpr SenseCode kNoAdditionalSense{SenseKey::kNoSense, 0x00, 0x00};
inline constexpr SenseCode kManualInterventionRequired{SenseKey::kNotReady, 0x04, 0x03};
inline constexpr SenseCode kWriteError{SenseKey::kMediumError, 0x0c, 0x00};
inline constexpr SenseCode kUnrecoveredReadError{SenseKey::kMediumError, 0x11, 0x00};
inline constexpr SenseCode kInternalTargetFailure{SenseKey::kHardwareError, 0x44, 0x00};
inline constexpr SenseCode kInvalidFieldInInformationUnit{SenseKey::kIllegalRequest, 0x0e, 0x03};
inline constexpr SenseCode kParameterListLengthError{SenseKey::kIllegalRequest, 0x1a, 0x00};
inline constexpr SenseCode kInvalidOpcode{SenseKey::kIllegalRequest, 0x20, 0x00};
inline constexpr SenseCode kLbaOutOfRange{SenseKey::kIllegalRequest, 0x21, 0x00};
inline constexpr SenseCode kInvalidFieldInCdb{SenseKey::kIllegalRequest, 0x24, 0x00};
inline constexpr SenseCode kLunNotSupported{SenseKey::kIllegalRequest, 0x25, 0x00};
inline constexpr SenseCode kInvalidFieldInParameterList{SenseKey::kIllegalRequest, 0x26, 0x00};
inline constexpr SenseCode kInvalidRelease{SenseKey::kIllegalRequest, 0x26, 0x04};
inline constexpr SenseCode kSavingNotSupported{SenseKey::kIllegalRequest, 0x39, 0x00};
inline constexpr SenseCode kNoRegistrationResources{SenseKey::kIllegalRequest, 0x55, 0x04};
inline constexpr SenseCode kMediumMayHaveChanged{SenseKey::kUnitAttention, 0x28, 0x00};
inline constexpr SenseCode kPowerOn{SenseKey::kUnitAttention, 0x29, 0x00};
inline constexpr SenseCode kBusDeviceReset{SenseKey::kUnitAttention, 0x29, 0x03};
inline constexpr SenseCode kModeParametersChanged{SenseKey::kUnitAttention, 0x2a, 0x01};
inline constexpr SenseCode kReservationsPreempted{SenseKey::kUnitAttention, 0x2a, 0x03};
inline constexpr SenseCode kReservationsReleased{SenseKey::kUnitAttention, 0x2a, 0x04};
inline constexpr SenseCode kRegistrationsPreempted{SenseKey::kUnitAttention, 0x2a, 0x05};
inline constexpr SenseCode kCapacityChanged{SenseKey::kUnitAttention, 0x2a, 0x09};
inline constexpr SenseCode kCommandsCleared{SenseKey::kUnitAttention, 0x2f, 0x00};
inline constexpr SenseCode kInquiryDataChanged{SenseKey::kUnitAttention, 0x3f, 0x03};
inline constexpr SenseCode kReportedLunsChanged{SenseKey::kUnitAttention, 0x3f, 0x0e};
inline constexpr SenseCode kWriteProtected{SenseKey::kDataProtect, 0x27, 0x00};
inline constexpr SenseCode kSpaceAllocationFailed{SenseKey::kDataProtect, 0x27, 0x07};
inline constexpr SenseCode kCommandAborted{SenseKey::kAbortedCommand, 0x00, 0x00};
inline constexpr SenseCode kUnexpectedUnsolicitedData{SenseKey::kAbortedCommand, 0x0c, 0x0c};
inline constexpr SenseCode kNotEnoughUnsolicitedData{SenseKey::kAbortedCommand, 0x0c, 0x0d};
inline constexpr SenseCode kProtocolServiceCrcError{SenseKey::kAbortedCommand, 0x47, 0x05};
inline constexpr SenseCode kMiscompareDuringVerify{SenseKey::kMiscompare, 0x1d, 0x00};

enum class SenseFormat : uint8_t { kFixed, kDescriptor };  // D_SENSE of the Control mode page

// What goes with a code.
struct SenseDetail {
  std::optional<uint64_t> information;    // an LBA, or an offset of a miscompare
  std::optional<uint16_t> field_pointer;  // first byte in error: of the CDB for kInvalidFieldInCdb,
                                          // else of the parameter list
};

SenseData BuildSense(SenseCode code, SenseFormat format, SenseDetail detail = {});

// How an I/O that failed is told. REQUIRES: status is not kOk.
SenseCode SenseFor(IoStatus status, IoOp op);

inline ScsiResult CheckCondition(SenseCode code, SenseFormat format, SenseDetail detail = {}) {
  return {ScsiStatus::kCheckCondition, BuildSense(code, format, detail), 0};
}

}  // namespace sectormap::scsi
