// SPDX-License-Identifier: Apache-2.0
// RESERVE and RELEASE (SPC-2 §7.21), PERSISTENT RESERVE IN and OUT (SPC-4 §6.15, §6.16).
#include "server/scsi/cdb.h"
#include "server/scsi/handlers.h"
#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {
namespace {

constexpr uint8_t kLogicalUnitScope = 0x00;

ScsiResult Conflict() { return {ScsiStatus::kReservationConflict, {}, 0}; }

void PutKeys(const Reservations& state, ParameterWriter& out) {
  out.Put32(8 * state.registrations().size());
  for (const Registration& registration : state.registrations()) out.Put64(registration.key);
}

void PutReservation(const Reservations& state, ParameterWriter& out) {
  constexpr uint32_t kDescriptorBytes = 16;
  if (!state.type()) {
    out.Put32(0);
    return;
  }
  out.Put32(kDescriptorBytes);
  out.Put64(state.HolderKey());
  out.Put32(0);
  out.Put8(0);
  out.Put8(kLogicalUnitScope | static_cast<uint8_t>(*state.type()));
  out.Put16(0);
}

void PutCapabilities(const LogicalUnit& unit, const Reservations& state, ParameterWriter& out) {
  constexpr uint16_t kBytes = 8;
  constexpr uint8_t kPersistCapable = 0x01, kPersistActive = 0x01, kTypeMaskValid = 0x80;
  // Byte 4: 7h, 6h, 5h, 3h, 1h; byte 5: 8h.
  constexpr uint16_t kAllSixTypes = 0xea01;
  out.Put16(kBytes);
  out.Put8(unit.options().store != nullptr ? kPersistCapable : 0);
  out.Put8(kTypeMaskValid | (state.survives_power_loss() ? kPersistActive : 0));
  out.Put16(kAllSixTypes);
  out.Put16(0);
}

// SPC-4 §7.6.4.6: the TransportID of an iSCSI initiator port, "name,i,0xISID".
void PutTransportId(std::string_view initiator_port, ParameterWriter& out) {
  constexpr uint8_t kNameAndIsid = 0x40, kIscsi = 0x05;
  constexpr size_t kMinNameBytes = 20;
  const size_t padded = std::max((initiator_port.size() / 4 + 1) * 4, kMinNameBytes);
  out.Put8(kNameAndIsid | kIscsi);
  out.Put8(0);
  out.Put16(padded);
  out.PutText(initiator_port, padded, '\0');
}

void PutFullStatus(const Reservations& state, ParameterWriter& out) {
  constexpr uint8_t kHolder = 0x01;
  const size_t length_at = out.size();
  out.Put32(0);
  for (const Registration& registration : state.registrations()) {
    const bool holds = state.IsHolder(registration.nexus);
    out.Put64(registration.key);
    out.Put32(0);
    out.Put8(holds ? kHolder : 0);
    out.Put8(holds ? kLogicalUnitScope | static_cast<uint8_t>(*state.type()) : 0);
    out.Put32(0);
    out.Put16(registration.nexus.relative_target_port);
    const size_t id_length_at = out.size();
    out.Put32(0);
    PutTransportId(registration.nexus.initiator_port, out);
    out.Patch32(id_length_at, out.size() - id_length_at - 4);
  }
  out.Patch32(length_at, out.size() - length_at - 4);
}

}  // namespace

Task<ScsiResult> Reserve(Command command) {
  if (!command.unit->ReserveFor(*command.nexus)) return Conflict();
  return ScsiResult{};
}

// A release by another than the holder is good and does nothing.
Task<ScsiResult> Release(Command command) {
  if (!command.unit->ReleaseFrom(*command.nexus)) return Conflict();
  return ScsiResult{};
}

Task<ScsiResult> PersistentReserveIn(Command command) {
  constexpr uint8_t kReadKeys = 0, kReadReservation = 1, kReportCapabilities = 2;
  if (command.unit->IsReserved()) return Conflict();
  const Reservations state = command.unit->reservations();
  const uint8_t action = command.Bits(1, 0x1f);
  ParameterWriter out(command.buffer);
  if (action == kReportCapabilities) {
    PutCapabilities(*command.unit, state, out);
    return DataIn(out);
  }
  out.Put32(state.generation());
  if (action == kReadKeys) {
    PutKeys(state, out);
  } else if (action == kReadReservation) {
    PutReservation(state, out);
  } else {
    PutFullStatus(state, out);
  }
  return DataIn(out);
}

namespace {

Task<ScsiResult> ApplyReservation(Command command, ReservationRequest request) {
  const ReservationOutcome outcome =
      co_await command.unit->ChangeReservations(*command.nexus, request, *command.abort);
  if (outcome.status == ScsiStatus::kCheckCondition) co_return command.Fail(*outcome.sense);
  co_return ScsiResult{outcome.status, {}, 0};
}

}  // namespace

Task<ScsiResult> PersistentReserveOut(Command command) {
  constexpr size_t kListBytes = 24;
  constexpr uint8_t kSpecifyPorts = 0x08, kAllTargetPorts = 0x04, kPersist = 0x01;
  if (command.unit->IsReserved()) return Conflict();
  if (command.Field32(5) != kListBytes || command.buffer.size() < kListBytes) {
    return command.Fail(kParameterListLengthError);
  }
  ReservationRequest request;
  request.action = static_cast<ReservationAction>(command.Bits(1, 0x1f));
  request.key = Be64(command.buffer, 0);
  request.action_key = Be64(command.buffer, 8);
  const auto flags = static_cast<uint8_t>(command.buffer[20]);
  const bool is_register = request.action == ReservationAction::kRegister ||
                           request.action == ReservationAction::kRegisterAndIgnore;
  if (is_register) {
    if ((flags & (kSpecifyPorts | kAllTargetPorts)) != 0) return command.RefuseParameter(20);
    request.survive_power_loss = (flags & kPersist) != 0;
    if (request.survive_power_loss && command.unit->options().store == nullptr) {
      return command.RefuseParameter(20);
    }
  } else if (request.action != ReservationAction::kClear) {
    if (command.Bits(2, 0xf0) != kLogicalUnitScope) return command.RefuseField(2);
    request.type = ToReservationType(command.Bits(2, 0x0f));
    if (!request.type) return command.RefuseField(2);
  }
  return ApplyReservation(command, request);
}

}  // namespace sectormap::scsi
