// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/sense.h"

#include "core/base/check.h"

namespace sectormap::scsi {
namespace {

constexpr uint8_t kFixedCurrent = 0x70;
constexpr uint8_t kDescriptorCurrent = 0x72;
constexpr uint8_t kValid = 0x80;  // INFORMATION holds something
constexpr uint8_t kFixedLength = 18;
constexpr uint8_t kInformationDescriptorLength = 12;
constexpr uint8_t kSenseKeySpecificDescriptorLength = 8;

void PutBigEndian(uint8_t* to, uint64_t value, int width) {
  for (int i = width - 1; i >= 0; --i, value >>= 8) to[i] = static_cast<uint8_t>(value);
}

// SPC-4 §4.5.2.4.2: SKSV, C/D (1: the CDB is in error), and where.
void PutFieldPointer(uint8_t* to, SenseCode code, uint16_t pointer) {
  to[0] = code == kInvalidFieldInCdb ? 0xc0 : 0x80;
  PutBigEndian(to + 1, pointer, 2);
}

SenseData Fixed(SenseCode code, const SenseDetail& detail) {
  SenseData sense;
  uint8_t* bytes = sense.bytes.data();
  bytes[0] = kFixedCurrent;
  bytes[2] = static_cast<uint8_t>(code.key);
  // The fixed format has four bytes for it; what is larger is left out (SPC-4 §4.5.3).
  if (detail.information && *detail.information <= UINT32_MAX) {
    bytes[0] |= kValid;
    PutBigEndian(bytes + 3, *detail.information, 4);
  }
  bytes[7] = kFixedLength - 8;
  bytes[12] = code.asc;
  bytes[13] = code.ascq;
  if (detail.field_pointer) PutFieldPointer(bytes + 15, code, *detail.field_pointer);
  sense.length = kFixedLength;
  return sense;
}

SenseData Descriptor(SenseCode code, const SenseDetail& detail) {
  SenseData sense;
  uint8_t* bytes = sense.bytes.data();
  bytes[0] = kDescriptorCurrent;
  bytes[1] = static_cast<uint8_t>(code.key);
  bytes[2] = code.asc;
  bytes[3] = code.ascq;
  uint8_t length = 8;
  if (detail.information) {
    bytes[length] = 0x00;
    bytes[length + 1] = kInformationDescriptorLength - 2;
    bytes[length + 2] = kValid;
    PutBigEndian(bytes + length + 4, *detail.information, 8);
    length += kInformationDescriptorLength;
  }
  if (detail.field_pointer) {
    bytes[length] = 0x02;
    bytes[length + 1] = kSenseKeySpecificDescriptorLength - 2;
    PutFieldPointer(bytes + length + 4, code, *detail.field_pointer);
    length += kSenseKeySpecificDescriptorLength;
  }
  bytes[7] = static_cast<uint8_t>(length - 8);
  sense.length = length;
  return sense;
}
static_assert(8 + kInformationDescriptorLength + kSenseKeySpecificDescriptorLength <=
              static_cast<int>(kSenseBytesMax));

}  // namespace

SenseData BuildSense(SenseCode code, SenseFormat format, SenseDetail detail) {
  return format == SenseFormat::kFixed ? Fixed(code, detail) : Descriptor(code, detail);
}

SenseCode SenseFor(IoStatus status, IoOp op) {
  switch (status) {
    case IoStatus::kOk:
    case IoStatus::kRequeue:  // a mapped device never lets it out
      break;
    case IoStatus::kIoError:
      return op == IoOp::kRead ? kUnrecoveredReadError : kWriteError;
    case IoStatus::kOutOfRange:
      return kLbaOutOfRange;
    case IoStatus::kReadOnly:
      return kWriteProtected;
    case IoStatus::kNoSpace:
      return kSpaceAllocationFailed;
    case IoStatus::kNotSupported:
      return kInvalidFieldInCdb;
    case IoStatus::kAborted:
      return kCommandAborted;
    case IoStatus::kUnavailable:
      return kManualInterventionRequired;
  }
  CHECK(status != IoStatus::kOk && status != IoStatus::kRequeue);
  return kInternalTargetFailure;
}

}  // namespace sectormap::scsi
