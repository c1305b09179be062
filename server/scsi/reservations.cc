// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/reservations.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace sectormap::scsi {
namespace {

ReservationOutcome Conflict() {
  ReservationOutcome outcome;
  outcome.status = ScsiStatus::kReservationConflict;
  return outcome;
}

ReservationOutcome Refused(SenseCode code) {
  ReservationOutcome outcome;
  outcome.status = ScsiStatus::kCheckCondition;
  outcome.sense = code;
  return outcome;
}

constexpr absl::string_view kRecordHead = "sectormap-reservations 1";

}  // namespace

std::optional<ReservationType> ToReservationType(uint8_t value) {
  switch (value) {
    case 1:
    case 3:
    case 5:
    case 6:
    case 7:
    case 8:
      return static_cast<ReservationType>(value);
    default:
      return std::nullopt;
  }
}

bool IsAllRegistrants(ReservationType type) {
  return type == ReservationType::kWriteExclusiveAllRegistrants ||
         type == ReservationType::kExclusiveAccessAllRegistrants;
}

bool IsForRegistrants(ReservationType type) {
  return type != ReservationType::kWriteExclusive && type != ReservationType::kExclusiveAccess;
}

bool IsExclusiveAccess(ReservationType type) {
  return type == ReservationType::kExclusiveAccess ||
         type == ReservationType::kExclusiveAccessRegistrantsOnly ||
         type == ReservationType::kExclusiveAccessAllRegistrants;
}

Registration* Reservations::Find(const NexusName& nexus) {
  const auto found = std::find_if(registrations_.begin(), registrations_.end(),
                                  [&](const Registration& other) { return other.nexus == nexus; });
  return found == registrations_.end() ? nullptr : &*found;
}

const Registration* Reservations::Find(const NexusName& nexus) const {
  return const_cast<Reservations*>(this)->Find(nexus);
}

void Reservations::Remove(const NexusName& nexus) {
  std::erase_if(registrations_, [&](const Registration& other) { return other.nexus == nexus; });
}

bool Reservations::IsHolder(const NexusName& nexus) const {
  if (!type_) return false;
  return IsAllRegistrants(*type_) ? Find(nexus) != nullptr : holder_ == nexus;
}

uint64_t Reservations::HolderKey() const {
  if (IsAllRegistrants(*type_)) return 0;
  const Registration* holder = Find(holder_);
  return holder == nullptr ? 0 : holder->key;
}

Hindrance Reservations::HindranceOf(const NexusName& nexus) const {
  if (!type_ || IsHolder(nexus)) return Hindrance::kNone;
  if (IsForRegistrants(*type_) && Find(nexus) != nullptr) return Hindrance::kNone;
  return IsExclusiveAccess(*type_) ? Hindrance::kReadsAndWrites : Hindrance::kWrites;
}

void Reservations::TellOthers(const NexusName& nexus, SenseCode attention,
                              ReservationOutcome& outcome) const {
  for (const Registration& other : registrations_) {
    if (!(other.nexus == nexus)) outcome.notices.push_back({other.nexus, attention});
  }
}

ReservationOutcome Reservations::Apply(const NexusName& nexus, const ReservationRequest& request) {
  if (request.action == ReservationAction::kRegister ||
      request.action == ReservationAction::kRegisterAndIgnore) {
    return Register(nexus, request);
  }
  const Registration* registration = Find(nexus);
  if (registration == nullptr || registration->key != request.key) return Conflict();
  switch (request.action) {
    case ReservationAction::kReserve:
      return Reserve(nexus, *request.type);
    case ReservationAction::kRelease:
      return Release(nexus, *request.type);
    case ReservationAction::kClear:
      return Clear(nexus);
    case ReservationAction::kPreempt:
    case ReservationAction::kPreemptAndAbort:
      return Preempt(nexus, request);
    case ReservationAction::kRegister:
    case ReservationAction::kRegisterAndIgnore:
      break;
  }
  return Refused(kInvalidFieldInCdb);
}

// SPC-4 §5.13.7, tables 60 and 61.
ReservationOutcome Reservations::Register(const NexusName& nexus,
                                          const ReservationRequest& request) {
  Registration* registration = Find(nexus);
  const bool checks_key = request.action == ReservationAction::kRegister;
  if (checks_key && request.key != (registration == nullptr ? 0 : registration->key)) {
    return Conflict();
  }
  ReservationOutcome outcome;
  if (registration == nullptr && request.action_key == 0) return outcome;
  if (registration == nullptr) {
    if (registrations_.size() >= kMaxRegistrations) return Refused(kNoRegistrationResources);
    registrations_.push_back({nexus, request.action_key});
  } else if (request.action_key != 0) {
    registration->key = request.action_key;
  } else {
    Unregister(nexus, outcome);
  }
  // SPC-4 §5.13.5: the most recent APTPL is that of the unit.
  survives_power_loss_ = request.survive_power_loss;
  ++generation_;
  outcome.changed = true;
  return outcome;
}

// SPC-4 §5.13.11.2.
void Reservations::Unregister(const NexusName& nexus, ReservationOutcome& outcome) {
  const bool was_holder = IsHolder(nexus);
  Remove(nexus);
  if (!was_holder) return;
  if (IsAllRegistrants(*type_)) {
    if (registrations_.empty()) type_.reset();
    return;
  }
  const bool others_lose = IsForRegistrants(*type_);
  type_.reset();
  if (others_lose) TellOthers(nexus, kReservationsReleased, outcome);
}

// SPC-4 §5.13.9.
ReservationOutcome Reservations::Reserve(const NexusName& nexus, ReservationType type) {
  ReservationOutcome outcome;
  if (type_) {
    if (!IsHolder(nexus) || *type_ != type) return Conflict();
    return outcome;
  }
  type_ = type;
  holder_ = nexus;
  outcome.changed = true;
  return outcome;
}

// SPC-4 §5.13.11.1: a release by one who holds nothing is good and does nothing.
ReservationOutcome Reservations::Release(const NexusName& nexus, ReservationType type) {
  ReservationOutcome outcome;
  if (!IsHolder(nexus)) return outcome;
  if (*type_ != type) return Refused(kInvalidRelease);
  type_.reset();
  if (IsForRegistrants(type)) TellOthers(nexus, kReservationsReleased, outcome);
  outcome.changed = true;
  return outcome;
}

// SPC-4 §5.13.11.4.
ReservationOutcome Reservations::Clear(const NexusName& nexus) {
  ReservationOutcome outcome;
  TellOthers(nexus, kReservationsPreempted, outcome);
  registrations_.clear();
  type_.reset();
  ++generation_;
  outcome.changed = true;
  return outcome;
}

// Removes the registrations with `key`, or all of them, but for that of the preempting nexus.
void Reservations::RemovePreempted(const NexusName& by, std::optional<uint64_t> key,
                                   ReservationOutcome& outcome) {
  std::erase_if(registrations_, [&](const Registration& other) {
    if (other.nexus == by || (key && other.key != *key)) return false;
    outcome.notices.push_back({other.nexus, kRegistrationsPreempted});
    outcome.aborted.push_back(other.nexus);
    return true;
  });
}

// SPC-4 §5.13.11.3, figure 9.
ReservationOutcome Reservations::Preempt(const NexusName& nexus,
                                         const ReservationRequest& request) {
  ReservationOutcome outcome;
  const bool all_registrants = type_ && IsAllRegistrants(*type_);
  if (request.action_key == 0 && !all_registrants) return Refused(kInvalidFieldInParameterList);
  const bool takes_reservation =
      type_ && (all_registrants ? request.action_key == 0 : HolderKey() == request.action_key);
  if (takes_reservation) {
    // A preempting nexus whose key is its own also keeps its registration.
    RemovePreempted(nexus, all_registrants ? std::nullopt : std::optional(request.action_key),
                    outcome);
    if (*type_ != *request.type) TellOthers(nexus, kReservationsReleased, outcome);
    type_ = *request.type;
    holder_ = nexus;
  } else {
    const bool any =
        std::any_of(registrations_.begin(), registrations_.end(),
                    [&](const Registration& other) { return other.key == request.action_key; });
    if (!any) return Conflict();
    RemovePreempted(nexus, request.action_key, outcome);
    // Only who takes the reservation is spared.
    if (request.key == request.action_key) Remove(nexus);
    if (all_registrants && registrations_.empty()) type_.reset();
  }
  if (request.action != ReservationAction::kPreemptAndAbort) outcome.aborted.clear();
  ++generation_;
  outcome.changed = true;
  return outcome;
}

std::string Reservations::ToRecord() const {
  if (!survives_power_loss_ || registrations_.empty()) return "";
  std::string record = absl::StrCat(kRecordHead, "\n");
  for (const Registration& other : registrations_) {
    const bool holds = type_ && (IsAllRegistrants(*type_) || other.nexus == holder_);
    absl::StrAppend(&record, absl::Hex(other.key), "\t", holds ? static_cast<int>(*type_) : 0, "\t",
                    other.nexus.relative_target_port, "\t",
                    absl::CEscape(other.nexus.initiator_port), "\t",
                    absl::CEscape(other.nexus.target_port), "\n");
  }
  absl::StrAppend(&record, "end\n");
  return record;
}

absl::StatusOr<Reservations> Reservations::FromRecord(std::string_view record) {
  Reservations result;
  if (record.empty()) return result;
  const absl::Status damaged = absl::DataLossError("the saved reservation record is damaged");
  std::vector<absl::string_view> lines =
      absl::StrSplit(absl::string_view(record.data(), record.size()), '\n');
  if (lines.size() < 3 || lines.size() > kMaxRegistrations + 3 || lines.front() != kRecordHead ||
      lines[lines.size() - 2] != "end" || !lines.back().empty()) {
    return damaged;
  }
  for (size_t i = 1; i + 2 < lines.size(); ++i) {
    const std::vector<absl::string_view> fields = absl::StrSplit(lines[i], '\t');
    Registration other;
    uint32_t type = 0;
    uint32_t port = 0;
    if (fields.size() != 5 || !absl::SimpleHexAtoi(fields[0], &other.key) || other.key == 0 ||
        !absl::SimpleAtoi(fields[1], &type) || !absl::SimpleAtoi(fields[2], &port) ||
        port > UINT16_MAX || !absl::CUnescape(fields[3], &other.nexus.initiator_port) ||
        !absl::CUnescape(fields[4], &other.nexus.target_port) || result.Find(other.nexus)) {
      return damaged;
    }
    other.nexus.relative_target_port = static_cast<uint16_t>(port);
    if (type != 0) {
      const std::optional<ReservationType> held =
          type > UINT8_MAX ? std::nullopt : ToReservationType(static_cast<uint8_t>(type));
      const bool fits =
          held && (!result.type_ || (*held == *result.type_ && IsAllRegistrants(*held)));
      if (!fits) return damaged;
      result.type_ = held;
      result.holder_ = other.nexus;
    }
    result.registrations_.push_back(std::move(other));
  }
  result.survives_power_loss_ = true;
  return result;
}

}  // namespace sectormap::scsi
