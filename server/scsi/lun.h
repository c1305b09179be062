// SPDX-License-Identifier: Apache-2.0
// Lun: SCSI meaning over one BlockDevice. One logical unit per mapped device, however many targets
// export it: reservations and unit attentions belong to the unit. Knows no iSCSI.
//
// How a transport runs a command:
//   1. Plan(): decodes the CDB far enough to say which way data goes and how many bytes the command
//      moves at most. The transport takes a buffer of that size and, for data-out, fills it with as
//      many bytes as the initiator said it will send (which may be fewer).
//   2. Execute(): does it. The result's data_in_bytes of the buffer go to the initiator, cut to
//      what it expects; the transport works out residuals from Plan().bytes, data_in_bytes and its
//      own expected length.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "core/async/reactor_pool.h"
#include "core/async/task.h"
#include "core/map/device_resolver.h"
#include "core/map/mapped_device.h"
#include "server/scsi/abort_signal.h"
#include "server/scsi/scsi_command.h"
#include "server/scsi/sense.h"

namespace sectormap::scsi {

// The most that one command moves: told to the initiator in VPD page B0h, and refused above
// (INVALID FIELD IN CDB). One contiguous buffer per command is taken from the reactor's pool.
inline constexpr uint32_t kMaxTransferBytes = 4 * 1024 * 1024;

// Who is at the other end, as the unit has to tell initiators apart.
struct NexusIdentity {
  std::string initiator_name;  // iSCSI name
  std::string initiator_port;  // name + ",i,0x" + ISID: SPC-4's initiator port of a TransportID
  std::string target_port;     // target name + ",t,0x" + portal group tag
  uint16_t relative_target_port = 1;
};

// Ends tasks of other nexuses for LUN RESET, CLEAR TASK SET and PREEMPT AND ABORT. Implemented by
// the session; returns when none of the nexus's tasks for that LUN can touch the medium or answer
// any more. Called on the reactor on which the nexus was attached, and only while the nexus exists;
// a session that ends on that reactor waits (by its Gate) for calls that have begun.
class NexusTasks {
 public:
  virtual ~NexusTasks() = default;
  virtual Task<void> AbortTasks(uint64_t lun_number) = 0;
};

// One session's hold on one logical unit: its pending unit attentions and its place among the
// registrants. Made by Lun::Attach, destroyed (any reactor) when the session ends or the LUN leaves
// the target. Each command of the session carries it.
class LunNexus;
struct LunNexusDeleter {
  void operator()(LunNexus* nexus) const;
};
using LunNexusPtr = std::unique_ptr<LunNexus, LunNexusDeleter>;

// One change of the list of a target's logical units, as one session hears of it: once, on whatever
// unit it asks first, or by asking for the list (SAM-5 §5.14, SPC-4's LUICLR). Shared by the
// session and its units, on the session's reactor.
struct LunListChange {
  bool told = false;
};

struct CommandPlan {
  DataDirection direction = DataDirection::kNone;
  // Bytes the command moves if nothing goes wrong: blocks x block size, allocation length (data-in)
  // or parameter list length. At most kMaxTransferBytes; the unit refuses what is larger, and then
  // says 0 here.
  uint32_t bytes = 0;
  // Data-out of any other length than `bytes` is refused, not cut (COMPARE AND WRITE, WRITE SAME).
  // If the initiator's expected length is another, the transport gives Execute an empty buffer.
  bool exact = false;
  // A parameter list or parameter data, not blocks of the medium.
  bool parameters = false;
};

// What of a unit survives a restart. Joined to the state store in main.cc. Both are durable before
// they return; called and resumed on a reactor.
class UnitStore {
 public:
  virtual ~UnitStore() = default;
  // Persistent reservations (APTPL). An empty record deletes.
  virtual Task<absl::Status> SaveReservations(std::string device_identity, std::string record) = 0;
  virtual Task<absl::Status> SaveBlockBytes(std::string device_identity, uint32_t bytes) = 0;
};

struct LunOptions {
  std::string vendor = "SECTRMAP";         // T10 vendor identification, 8 characters
  std::string product = "LOGICAL VOLUME";  // 16 characters at most
  std::string revision = "0001";
  // The logical block, as last saved: initiators address by it, and what they have written holds
  // such addresses, so it stays whatever the device is moved to. 0: the device never had a medium;
  // the unit takes the first one's.
  uint32_t block_bytes = 512;
  std::string reservation_record{};  // as last saved; empty if none
  UnitStore* store = nullptr;        // null: APTPL is refused
};

class Lun {
 public:
  // `device` is held until the Lun goes.
  static absl::StatusOr<std::shared_ptr<Lun>> Create(std::shared_ptr<MappedDevice> device,
                                                     DeviceRef hold, ReactorPool& reactors,
                                                     LunOptions options);
  virtual ~Lun() = default;

  virtual const MappedDevice& device() const = 0;

  // A new nexus starts with POWER ON, RESET, OR BUS DEVICE RESET OCCURRED (29h/00h) pending.
  // `read_only` is the export's. `tasks` outlives the nexus. Any reactor.
  virtual LunNexusPtr Attach(NexusIdentity identity, uint64_t lun_number, bool read_only,
                             NexusTasks* tasks) = 0;

  // Any thread. Never fails: a CDB that cannot be decoded plans no data and Execute refuses it. A
  // plan of no data may become one as long as the unit has had no medium: ask again just before
  // Execute, and answer BUSY then.
  virtual CommandPlan Plan(const CdbBytes& cdb) const = 0;

  // How whatever a transport itself refuses with CHECK CONDITION is to be told: D_SENSE of the
  // Control mode page (SPC-4 §4.5.1). Any thread.
  virtual SenseFormat sense_format() const = 0;

  // On a reactor; the task is awaited at once. `buffer` has Plan().bytes for data-in, and what the
  // initiator sent, at most Plan().bytes, for data-out; it stays until the task ends, and so does
  // `abort`, by which the transport says that nobody waits for the result any more. What has not
  // begun to modify the medium then does not; what has keeps later writes behind it to its end.
  virtual Task<ScsiResult> Execute(LunNexus& nexus, const CdbBytes& cdb,
                                   std::span<std::byte> buffer, AbortSignal& abort) = 0;

  // A read of the medium whose bytes the device can lend: `loan` is set if the result's
  // data_in_bytes are not 0. Empty: take a buffer and Execute. Call as Execute; for transports that
  // send bytes as they are when they leave, not for those that make a digest of them before.
  virtual std::optional<ScsiResult> ReadInPlace(LunNexus& nexus, const CdbBytes& cdb,
                                                Loan& loan) = 0;

  // A write of the medium that ends in the call, of bytes that need not stay. Empty: Execute it
  // from a buffer. Call as Execute, with all that the initiator sent.
  virtual std::optional<ScsiResult> WriteAtOnce(LunNexus& nexus, const CdbBytes& cdb,
                                                std::span<std::byte> data) = 0;

  // Task management, after the transport has dealt with the asking nexus's own tasks. Raising
  // `abort` ends the wait for the others' tasks, which are aborted all the same; they are told
  // COMMANDS CLEARED BY ANOTHER INITIATOR, and nothing else happens.
  // Reset: ends other nexuses' tasks, drops RESERVE(6), tells every nexus 29h/03h (bus device
  // reset).
  virtual Task<void> Reset(LunNexus& from, AbortSignal& abort) = 0;
  // CLEAR TASK SET: ends other nexuses' tasks, tells them COMMANDS CLEARED BY ANOTHER INITIATOR.
  virtual Task<void> ClearTaskSet(LunNexus& from, AbortSignal& abort) = 0;

  // Unit attention REPORTED LUNS DATA HAS CHANGED (3Fh/0Eh) for one nexus, as long as the change is
  // not told: the unit sets that when it reports it.
  virtual void TellLunsChanged(LunNexus& nexus, std::shared_ptr<LunListChange> change) = 0;
};

// What a target answers for a LUN number that has no logical unit: INQUIRY (qualifier 011b, type
// 1Fh), REQUEST SENSE and REPORT LUNS as SPC-4 says, LOGICAL UNIT NOT SUPPORTED (05h/25h/00h) else.
// `lun_numbers` are those of the target, for REPORT LUNS (which every Lun answers from it too).
CommandPlan PlanWithoutLun(const CdbBytes& cdb);
ScsiResult ExecuteWithoutLun(const CdbBytes& cdb, std::span<const uint64_t> lun_numbers,
                             std::span<std::byte> buffer);

// True for REPORT LUNS, which a target answers by ExecuteWithoutLun on any LUN number, as it is the
// target that knows the list.
bool IsReportLuns(const CdbBytes& cdb);

}  // namespace sectormap::scsi
