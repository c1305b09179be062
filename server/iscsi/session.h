// SPDX-License-Identifier: Apache-2.0
// Session: an I_T nexus in full feature phase: its logical units, its tasks and the window of its
// command numbers (RFC 7143 §4.2, §4.4). One connection carries it (MaxConnections=1) and brings it
// the PDUs; every command is a coroutine of its own, counted by the connection's gate.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/async/gate.h"
#include "core/async/reactor.h"
#include "core/async/wait_queue.h"
#include "server/iscsi/command_memory.h"
#include "server/iscsi/command_window.h"
#include "server/iscsi/pdu_stream.h"
#include "server/iscsi/scsi_task.h"
#include "server/iscsi/session_parameters.h"
#include "server/iscsi/session_units.h"
#include "server/iscsi/target_directory.h"
#include "server/scsi/lun.h"

namespace sectormap::iscsi {

// Immediate commands (SCSI and task management) at work: more get a Reject (RFC 7143 §4.2.2.1.1
// lets a target bound them). They have no place in the window, so nothing else bounds them.
inline constexpr uint32_t kMaxImmediateCommands = 8;

// Tasks of a session, with the aborted ones that a backing device still holds: those no longer
// count in the window, so that one stuck unit does not close it for the others. More get TASK SET
// FULL.
inline constexpr size_t kMaxSessionTasks = 4 * kCommandWindow;

// For its connection's reactor.
class Session {
 public:
  struct Context {
    Reactor& reactor;
    PduWriter& writer;
    CommandWindow& window;
    CommandMemory& memory;
    Gate& gate;  // counts the commands
    std::shared_ptr<TargetLuns> luns;
    scsi::NexusIdentity identity;
    scsi::NexusTasks* nexus_tasks;
    const SessionParameters& parameters;
  };
  explicit Session(Context context);
  // REQUIRES: Close() was called and the gate has drained.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // --- Commands, in three steps, as the reader may have to wait for the immediate data ---

  // Makes a task of a SCSI command with `data_bytes` of immediate data, or says why it is rejected.
  struct Received {
    ScsiTask* task = nullptr;
    RejectReason reason = RejectReason::kProtocolError;
  };
  Received Receive(const ScsiCommandHeader& header, const AdditionalHeaders& ahs,
                   uint32_t data_bytes);
  // Takes its immediate data, which has all come and need not stay. A write may be done in the
  // call. REQUIRES: its turn has come.
  void TakeImmediate(ScsiTask& task, std::span<std::byte> data);
  // Where its immediate data goes else: shorter than the data if not all is wanted.
  std::span<std::byte> RoomForImmediate(ScsiTask& task);
  // Its data is there and its turn has come.
  void Start(ScsiTask& task);
  // Its turn never comes.
  void Discard(ScsiTask& task);

  // The task that a Data-Out is for; null if it is gone.
  ScsiTask* FindTask(uint32_t tag);
  // One with this tag that will not answer any more but may still touch the medium; null: none.
  ScsiTask* FindAborted(uint32_t tag);
  // Some task waits for data that its initiator owes it.
  bool AwaitsData() const;
  // A Data-Out's bytes are there, or `fault` says why not.
  void DataArrived(ScsiTask& task, DataFault fault);

  // --- Task management (task_management.cc) ---

  using TaskFilter = std::function<bool(const ScsiTask&)>;
  // No task that `filter` takes will answer any more. Returns how many there were.
  size_t Abort(const TaskFilter& filter);
  // Returns when none of the tasks that are aborted and that `filter` takes can touch the medium.
  Task<void> Quiesced(TaskFilter filter);
  uint64_t last_serial() const { return last_serial_; }
  // co_await NextChange(): until a task has ended, NoteChange() was called or the session closes.
  WaitQueue::Awaiter NextChange() { return changed_.Wait(); }
  void NoteChange() { changed_.WakeAll(); }

  bool TakeImmediatePlace();
  void ReleaseImmediatePlace() { --immediate_; }

  // The connection ends: all tasks are aborted, whoever waits goes on.
  void Close();
  bool closed() const { return closed_; }

  SessionUnits& units() { return units_; }
  Reactor& reactor() const { return context_.reactor; }
  PduWriter& writer() const { return context_.writer; }
  Gate& gate() const { return context_.gate; }
  const SessionParameters& parameters() const { return context_.parameters; }

  // --- For ScsiTask's sources ---

  // The status is on its way: the tag is free, and so is the place in the window.
  void OnStatusMade(ScsiTask& task);
  uint32_t NextTransferTag();

 private:
  ScsiTask& TakeTask();
  void PlanTask(ScsiTask& task);
  void PrepareDataOut(ScsiTask& task, uint32_t data_bytes);
  void MakeRoom(ScsiTask& task);
  bool WriteAtOnce(ScsiTask& task, std::span<std::byte> data);
  static void Decide(ScsiTask& task, scsi::ScsiStatus status);
  static void Decide(ScsiTask& task, scsi::SenseCode code);
  static void Decide(ScsiTask& task, scsi::ScsiResult result);

  Task<void> Run(ScsiTask& task);
  // For the export's counters, when the status is known.
  void CountTask(const ScsiTask& task);
  Task<void> Perform(ScsiTask& task);
  bool ReadInPlace(ScsiTask& task);
  Task<void> CollectData(ScsiTask& task);
  Task<void> TakeBuffer(ScsiTask& task, uint32_t bytes);
  SessionShare& ShareOf(const ScsiTask& task);
  void AdjustWindow(const ScsiTask& task);
  Task<scsi::ScsiResult> Execute(ScsiTask& task);
  static void ReleaseData(ScsiTask& task);
  void LetGoOfUnit(ScsiTask& task);
  void Finish(ScsiTask& task);
  void LeaveTable(ScsiTask& task);

  Context context_;
  SessionShare unknown_unit_share_;

  std::vector<std::unique_ptr<ScsiTask>> tasks_;  // all that were ever made
  std::vector<ScsiTask*> free_;
  std::vector<ScsiTask*> live_;
  absl::flat_hash_map<uint32_t, ScsiTask*> table_;  // by initiator task tag
  uint64_t last_serial_ = 0;
  uint32_t last_transfer_tag_ = 0;
  uint32_t immediate_ = 0;
  uint32_t without_room_ = 0;  // numbered tasks that found no memory for their data
  bool closed_ = false;
  WaitQueue changed_;
  SessionUnits units_;
};

}  // namespace sectormap::iscsi
