// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/command.h"

#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {

ScsiResult Command::Fail(SenseCode code, SenseDetail detail) const {
  return CheckCondition(code, unit->sense_format(), detail);
}

ScsiResult Command::RefuseField(uint16_t byte) const {
  return Fail(kInvalidFieldInCdb, {.information = {}, .field_pointer = byte});
}

ScsiResult Command::RefuseParameter(size_t byte) const {
  return Fail(kInvalidFieldInParameterList,
              {.information = {}, .field_pointer = static_cast<uint16_t>(byte)});
}

ScsiResult Command::End(IoStatus status, IoOp op) const {
  return status == IoStatus::kOk ? ScsiResult{} : Fail(SenseFor(status, op));
}

}  // namespace sectormap::scsi
