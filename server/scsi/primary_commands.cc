// SPDX-License-Identifier: Apache-2.0
// Commands of every SCSI device (SPC-4 §6).
#include "server/scsi/cdb.h"
#include "server/scsi/command_table.h"
#include "server/scsi/handlers.h"
#include "server/scsi/logical_unit.h"
#include "server/scsi/vpd_pages.h"

namespace sectormap::scsi {
namespace {

// SPC-4 §6.35.4: no limit is promised, so both times are zero, "not indicated".
constexpr uint16_t kTimeoutsDescriptorBytes = 12;

void PutTimeouts(ParameterWriter& out) {
  out.Put16(kTimeoutsDescriptorBytes - 2);
  out.PutZeros(kTimeoutsDescriptorBytes - 2);
}

void PutAllCommands(const LogicalUnit& unit, bool with_timeouts, ParameterWriter& out) {
  out.Put32(0);
  for (const CommandEntry& entry : CommandTable()) {
    if (!unit.Has(entry)) continue;
    out.Put8(entry.opcode);
    out.Put8(0);
    out.Put16(entry.has_service_action() ? entry.service_action : 0);
    out.Put8(0);
    out.Put8((with_timeouts ? 0x02 : 0) | (entry.has_service_action() ? 0x01 : 0));
    out.Put16(CdbLength(entry.opcode));
    if (with_timeouts) PutTimeouts(out);
  }
  out.Patch32(0, out.size() - 4);
}

void PutOneCommand(const CommandEntry* entry, bool with_timeouts, ParameterWriter& out) {
  constexpr uint8_t kNotSupported = 0x01, kSupported = 0x03, kTimeoutsFollow = 0x80;
  out.Put8(0);
  if (entry == nullptr) {
    out.Put8(kNotSupported);
    out.Put16(0);
    return;
  }
  out.Put8((with_timeouts ? kTimeoutsFollow : 0) | kSupported);
  const uint8_t length = CdbLength(entry->opcode);
  out.Put16(length);
  out.PutBytes(std::span(entry->usage).first(length));
  if (with_timeouts) PutTimeouts(out);
}

}  // namespace

Task<ScsiResult> TestUnitReady(Command) { return ScsiResult{}; }

// SPC-4 §6.37: the pending unit attention is what there is to report.
Task<ScsiResult> RequestSense(Command command) {
  const bool wants_descriptor = command.Bits(1, 0x01) != 0;
  const SenseData sense =
      BuildSense(command.unit->TakeAttention(*command.nexus).value_or(kNoAdditionalSense),
                 wants_descriptor ? SenseFormat::kDescriptor : SenseFormat::kFixed);
  ParameterWriter out(command.buffer);
  out.PutBytes(sense.span());
  return DataIn(out);
}

Task<ScsiResult> Inquiry(Command command) {
  const bool wants_vpd = command.Bits(1, 0x01) != 0;
  ParameterWriter out(command.buffer);
  if (wants_vpd) {
    if (!PutVpdPage(command.cdb[2], *command.unit, *command.nexus, out)) {
      return command.RefuseField(2);
    }
  } else {
    if (command.cdb[2] != 0) return command.RefuseField(2);
    PutStandardInquiry(*command.unit, out);
  }
  return DataIn(out);
}

// The target knows the list and answers before it comes here (IsReportLuns); alone, a unit knows
// itself.
Task<ScsiResult> ReportLuns(Command command) {
  return ExecuteWithoutLun(command.cdb, {&command.nexus->lun_number, 1}, command.buffer);
}

// SBC-3 §5.25. The medium cannot be removed, and stopping a unit that others use would only hurt
// them: STOP makes it safe to cut the power, no more.
Task<ScsiResult> StartStopUnit(Command command) {
  constexpr uint8_t kPowerModifier = 0x0f;  // byte 3, the others byte 4
  constexpr uint8_t kPowerCondition = 0xf0, kNoFlush = 0x04, kLoadEject = 0x02, kStart = 0x01;
  // SBC-3 §4.17: to start the unit is in conflict with no persistent reservation, anything else is.
  const bool only_starts = command.Bits(4, kPowerCondition | kStart) == kStart;
  const uint8_t conflicts = kReservedByOther | (only_starts ? 0 : kWritesConflict);
  if ((command.nexus->gates.load(std::memory_order_relaxed) & conflicts) != 0) {
    return ScsiResult{ScsiStatus::kReservationConflict, {}, 0};
  }
  if (command.Bits(3, kPowerModifier) != 0) return command.RefuseField(3);
  if (command.Bits(4, kPowerCondition | kLoadEject) != 0) return command.RefuseField(4);
  if (command.Bits(4, kStart | kNoFlush) != 0) return ScsiResult{};
  return SynchronizeCache(command);
}

// SPC-4 §6.42: the default self-test, which finds the medium there or not. No other tests are
// offered, and no diagnostic pages.
Task<ScsiResult> SendDiagnostic(Command command) {
  constexpr uint8_t kSelfTest = 0x04;
  if (command.Bits(1, kSelfTest) == 0) return command.RefuseField(1);
  return ScsiResult{};
}

Task<ScsiResult> ReportSupportedOpcodes(Command command) {
  constexpr uint8_t kAll = 0, kOpcode = 1, kOpcodeAndAction = 2, kEither = 3;
  const bool with_timeouts = command.Bits(2, 0x80) != 0;
  const uint8_t options = command.Bits(2, 0x07);
  const uint8_t opcode = command.cdb[3];
  const uint16_t action = command.Field16(4);
  ParameterWriter out(command.buffer);
  if (options == kAll) {
    PutAllCommands(*command.unit, with_timeouts, out);
    return DataIn(out);
  }
  if (options > kEither) return command.RefuseField(2);
  const CommandEntry* entry = FindOpcode(opcode);
  if (entry != nullptr && entry->has_service_action()) {
    if (options == kOpcode) return command.RefuseField(4);
    entry = action < kNoServiceAction ? FindCommand(opcode, static_cast<uint8_t>(action)) : nullptr;
  } else if (entry != nullptr) {
    if (options == kOpcodeAndAction) return command.RefuseField(4);
    if (options == kEither && action != 0) entry = nullptr;
  }
  if (entry != nullptr && !command.unit->Has(*entry)) entry = nullptr;
  PutOneCommand(entry, with_timeouts, out);
  return DataIn(out);
}

// SPC-4 §6.36; the functions are the transport's.
Task<ScsiResult> ReportSupportedTaskManagement(Command command) {
  constexpr uint8_t kAbortTask = 0x80, kAbortTaskSet = 0x40, kClearTaskSet = 0x10,
                    kLogicalUnitReset = 0x08;
  constexpr uint8_t kExtendedBytes = 16;
  const bool extended = command.Bits(2, 0x80) != 0;
  ParameterWriter out(command.buffer);
  out.Put8(kAbortTask | kAbortTaskSet | kClearTaskSet | kLogicalUnitReset);
  out.PutZeros(2);
  out.Put8(extended ? kExtendedBytes - 4 : 0);
  if (extended) out.PadTo(kExtendedBytes);
  return DataIn(out);
}

// SPC-4 §6.37: all ports are alike, so there is one group, active and optimised.
Task<ScsiResult> ReportTargetPortGroups(Command command) {
  constexpr uint8_t kLengthOnlyHeader = 0, kExtendedHeader = 1;
  constexpr uint8_t kActiveOptimized = 0x00, kSupportsActiveOptimized = 0x01, kNoStatus = 0x00;
  const uint8_t format = command.Bits(1, 0xe0) >> 5;
  if (format != kLengthOnlyHeader && format != kExtendedHeader) return command.RefuseField(1);
  const std::vector<uint16_t> ports = command.unit->RelativePorts();
  ParameterWriter out(command.buffer);
  out.Put32(0);
  if (format == kExtendedHeader) {
    out.Put8(0x10);
    out.PutZeros(3);
  }
  out.Put8(kActiveOptimized);
  out.Put8(kSupportsActiveOptimized);
  out.Put16(kTargetPortGroup);
  out.Put8(0);
  out.Put8(kNoStatus);
  out.Put8(0);
  out.Put8(std::min<size_t>(ports.size(), UINT8_MAX));
  for (size_t i = 0; i < ports.size() && i < UINT8_MAX; ++i) {
    out.Put16(0);
    out.Put16(ports[i]);
  }
  out.Patch32(0, out.size() - 4);
  return DataIn(out);
}

}  // namespace sectormap::scsi
