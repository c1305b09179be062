// SPDX-License-Identifier: Apache-2.0
// What a target answers where there is no logical unit.
#include <algorithm>

#include "server/scsi/cdb.h"
#include "server/scsi/command_table.h"
#include "server/scsi/lun.h"
#include "server/scsi/lun_field.h"
#include "server/scsi/sense.h"

namespace sectormap::scsi {
namespace {

constexpr uint8_t kRequestSense = 0x03, kInquiry = 0x12, kReportLuns = 0xa0;

// A LUN inventory that fits into the largest answer: more LUNs than a target may have.
constexpr uint32_t kMaxLunListBytes = 8 + 8 * 16384;

uint32_t LengthOf(const CdbBytes& cdb) {
  switch (cdb[0]) {
    case kRequestSense:
      return cdb[4];
    case kInquiry:
      return static_cast<uint32_t>(BigEndian(std::span<const uint8_t>(cdb), 3, 2));
    case kReportLuns:
      return std::min(static_cast<uint32_t>(BigEndian(std::span<const uint8_t>(cdb), 6, 4)),
                      kMaxLunListBytes);
    default:
      return 0;
  }
}

ScsiResult Refused(SenseCode code, SenseDetail detail = {}) {
  return CheckCondition(code, SenseFormat::kFixed, detail);
}

ScsiResult RefusedField(uint16_t byte) {
  return Refused(kInvalidFieldInCdb, {.information = {}, .field_pointer = byte});
}

// SPC-4 §6.6.2: qualifier 011b and type 1Fh, "no device can be here".
ScsiResult InquiryOfNothing(const CdbBytes& cdb, ParameterWriter& out) {
  constexpr size_t kShortInquiryBytes = 36;
  if ((cdb[1] & 0x01) != 0) return RefusedField(1);
  if (cdb[2] != 0) return RefusedField(2);
  out.Put8(0x7f);
  out.Put8(0);
  out.Put8(0x06);
  out.Put8(0x02);
  out.Put8(kShortInquiryBytes - 5);
  out.PadTo(8);
  out.PutText("", kShortInquiryBytes - 8);
  return DataIn(out);
}

// SPC-4 §6.33.
ScsiResult LunList(const CdbBytes& cdb, std::span<const uint64_t> lun_numbers,
                   ParameterWriter& out) {
  constexpr uint8_t kAllButWellKnown = 0, kOnlyWellKnown = 1, kAll = 2;
  if (const uint16_t byte = ReservedBitSet(*FindOpcode(kReportLuns), cdb); byte != 0) {
    return RefusedField(byte);
  }
  if (cdb[2] != kAllButWellKnown && cdb[2] != kOnlyWellKnown && cdb[2] != kAll) {
    return RefusedField(2);
  }
  out.Put32(0);
  out.Put32(0);
  if (cdb[2] != kOnlyWellKnown) {
    for (uint64_t number : lun_numbers) out.PutBytes(EncodeLun(number));
  }
  out.Patch32(0, out.size() - 8);
  return DataIn(out);
}

}  // namespace

bool IsReportLuns(const CdbBytes& cdb) { return cdb[0] == kReportLuns; }

CommandPlan PlanWithoutLun(const CdbBytes& cdb) {
  const uint32_t bytes = LengthOf(cdb);
  if (bytes == 0) return {};
  return {DataDirection::kIn, bytes, false, true};
}

ScsiResult ExecuteWithoutLun(const CdbBytes& cdb, std::span<const uint64_t> lun_numbers,
                             std::span<std::byte> buffer) {
  ParameterWriter out(buffer);
  switch (cdb[0]) {
    case kInquiry:
      return InquiryOfNothing(cdb, out);
    case kReportLuns:
      return LunList(cdb, lun_numbers, out);
    case kRequestSense: {
      // SPC-4 §6.37: the answer itself is good.
      const bool wants_descriptor = (cdb[1] & 0x01) != 0;
      const SenseData sense = BuildSense(
          kLunNotSupported, wants_descriptor ? SenseFormat::kDescriptor : SenseFormat::kFixed);
      out.PutBytes(sense.span());
      return DataIn(out);
    }
    default:
      return Refused(kLunNotSupported);
  }
}

}  // namespace sectormap::scsi
