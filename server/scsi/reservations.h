// SPDX-License-Identifier: Apache-2.0
// Reservations: the persistent reservations of a unit (SPC-4 §5.13) as a plain value: a request
// goes in, an outcome comes out. Knows no threads and no nexuses, only their names; so it can be
// copied, saved, and changed on a copy that is thrown away if saving fails.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/scsi/scsi_command.h"
#include "server/scsi/sense.h"

namespace sectormap::scsi {

// Registrations of one unit. A register request above it gets INSUFFICIENT REGISTRATION RESOURCES.
inline constexpr size_t kMaxRegistrations = 1024;

// SPC-4 table 204.
enum class ReservationType : uint8_t {
  kWriteExclusive = 1,
  kExclusiveAccess = 3,
  kWriteExclusiveRegistrantsOnly = 5,
  kExclusiveAccessRegistrantsOnly = 6,
  kWriteExclusiveAllRegistrants = 7,
  kExclusiveAccessAllRegistrants = 8,
};

// Empty: a value that SPC-4 does not define.
std::optional<ReservationType> ToReservationType(uint8_t value);
bool IsAllRegistrants(ReservationType type);
// Registrants-only and all-registrants: every registered nexus may do what the holder may.
bool IsForRegistrants(ReservationType type);
bool IsExclusiveAccess(ReservationType type);

// The two ends of a nexus, as they survive a log-out.
struct NexusName {
  std::string initiator_port;
  std::string target_port;
  uint16_t relative_target_port = 1;
  // The relative port follows from the target port.
  bool operator==(const NexusName& other) const {
    return initiator_port == other.initiator_port && target_port == other.target_port;
  }
};

struct Registration {
  NexusName nexus;
  uint64_t key = 0;
};

// Service actions of PERSISTENT RESERVE OUT (SPC-4 table 206).
enum class ReservationAction : uint8_t {
  kRegister = 0,
  kReserve = 1,
  kRelease = 2,
  kClear = 3,
  kPreempt = 4,
  kPreemptAndAbort = 5,
  kRegisterAndIgnore = 6,
};

struct ReservationRequest {
  ReservationAction action = ReservationAction::kRegister;
  std::optional<ReservationType> type;  // reserve, release, preempt
  uint64_t key = 0;                     // RESERVATION KEY
  uint64_t action_key = 0;              // SERVICE ACTION RESERVATION KEY
  bool survive_power_loss = false;      // APTPL, of the two register actions
};

struct ReservationOutcome {
  ScsiStatus status = ScsiStatus::kGood;
  std::optional<SenseCode> sense;  // with kCheckCondition
  struct Notice {
    NexusName nexus;
    SenseCode attention;
  };
  std::vector<Notice> notices;
  std::vector<NexusName> aborted;  // PREEMPT AND ABORT: whose tasks end
  bool changed = false;
};

enum class Hindrance : uint8_t { kNone, kWrites, kReadsAndWrites };

class Reservations {
 public:
  ReservationOutcome Apply(const NexusName& nexus, const ReservationRequest& request);

  // What the reservation keeps this nexus from.
  Hindrance HindranceOf(const NexusName& nexus) const;

  uint32_t generation() const { return generation_; }
  const std::vector<Registration>& registrations() const { return registrations_; }
  std::optional<ReservationType> type() const { return type_; }
  bool survives_power_loss() const { return survives_power_loss_; }
  bool IsHolder(const NexusName& nexus) const;
  // Of the holder; 0 if all registrants hold it. REQUIRES: type().
  uint64_t HolderKey() const;

  // Text; empty if nothing has to survive. PRGENERATION starts anew, as after a power loss.
  std::string ToRecord() const;
  // DataLoss, if it is not what ToRecord() gives.
  static absl::StatusOr<Reservations> FromRecord(std::string_view record);

 private:
  Registration* Find(const NexusName& nexus);
  const Registration* Find(const NexusName& nexus) const;
  void Remove(const NexusName& nexus);
  void TellOthers(const NexusName& nexus, SenseCode attention, ReservationOutcome& outcome) const;

  ReservationOutcome Register(const NexusName& nexus, const ReservationRequest& request);
  void Unregister(const NexusName& nexus, ReservationOutcome& outcome);
  ReservationOutcome Reserve(const NexusName& nexus, ReservationType type);
  ReservationOutcome Release(const NexusName& nexus, ReservationType type);
  ReservationOutcome Clear(const NexusName& nexus);
  ReservationOutcome Preempt(const NexusName& nexus, const ReservationRequest& request);
  void RemovePreempted(const NexusName& by, std::optional<uint64_t> key,
                       ReservationOutcome& outcome);

  uint32_t generation_ = 0;
  bool survives_power_loss_ = false;
  std::vector<Registration> registrations_;
  std::optional<ReservationType> type_;
  NexusName holder_;  // of the reservation; unused for the all-registrants types
};

}  // namespace sectormap::scsi
