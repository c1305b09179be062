// SPDX-License-Identifier: Apache-2.0
// ScsiTask: one SCSI command of a session, from its PDU to its status. It holds the command's
// bytes.
#pragma once

#include <algorithm>
#include <array>
#include <coroutine>
#include <cstdint>
#include <span>
#include <utility>

#include "core/async/clock.h"
#include "core/async/wait_queue.h"
#include "server/iscsi/command_memory.h"
#include "server/iscsi/data_transfer.h"
#include "server/iscsi/pdu.h"
#include "server/iscsi/pdu_stream.h"
#include "server/scsi/lun.h"

namespace sectormap::iscsi {

class Session;
struct ScsiTask;
struct Unit;

// The task's answer: its data, then its status, in the last Data-In if that can carry it.
class ReplySource final : public PduSource {
 public:
  explicit ReplySource(ScsiTask& task) : task_(task) {}

  // REQUIRES: task.result is set.
  void Prepare(const SessionParameters& parameters);
  bool NextPdu(BasicHeader& header, std::span<const std::byte>& data) override;
  void OnSent() override;

  // It is queued, and none of its bytes is on the way.
  bool untouched() const { return waiting_ != nullptr && cutter_.pdus() == 0; }

  // co_await reply.Sent(), after it was queued.
  struct SentAwaiter {
    ReplySource& reply;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) { reply.waiting_ = handle; }
    void await_resume() noexcept {}
  };
  SentAwaiter Sent() { return SentAwaiter{*this}; }

 private:
  void MakeDataIn(BasicHeader& header, std::span<const std::byte>& data);
  void MakeResponse(BasicHeader& header, std::span<const std::byte>& data);

  ScsiTask& task_;
  std::coroutine_handle<> waiting_;
  DataInCutter cutter_;
  Residual residual_;
  // RFC 7143 §11.4.7: SenseLength, then the sense data.
  std::array<std::byte, 2 + scsi::kSenseBytesMax> sense_segment_{};
};

// The task's R2Ts, as many as may be outstanding.
class RequestSource final : public PduSource {
 public:
  explicit RequestSource(ScsiTask& task) : task_(task) {}

  void Queue();  // unless it is queued already
  bool queued() const { return queued_; }
  bool NextPdu(BasicHeader& header, std::span<const std::byte>& data) override;
  void OnSent() override;

 private:
  ScsiTask& task_;
  bool queued_ = false;
};

// For its session's reactor; reused for one command after another.
struct ScsiTask {
  explicit ScsiTask(Session& its_session) : session(its_session), reply(*this), requests(*this) {}
  ScsiTask(const ScsiTask&) = delete;
  ScsiTask& operator=(const ScsiTask&) = delete;

  uint32_t tag() const { return header.initiator_task_tag; }
  // Bytes that a data-out command takes of what the initiator means to send: nothing of another
  // length than an exact plan's.
  uint32_t wanted() const {
    if (plan.exact && expected != plan.bytes) return 0;
    return std::min(plan.bytes, expected);
  }
  DataKind data_kind() const { return plan.parameters ? DataKind::kParameters : DataKind::kMedium; }
  void Hold(CommandBuffer taken) {
    buffer = std::move(taken);
    buffered_bytes = buffer.bytes().size();
  }
  // What a data-in command gave.
  std::span<const std::byte> data_in() const { return loan ? loan.bytes : buffer.bytes(); }

  Session& session;
  ScsiCommandHeader header;
  uint64_t serial = 0;  // in the order of arrival
  MonotonicTime arrived;
  Unit* unit = nullptr;  // null: the LUN number names no unit
  scsi::CommandPlan plan;
  uint32_t expected = 0;  // bytes the initiator expects to move in the plan's direction
  CommandBuffer buffer;
  size_t buffered_bytes = 0;  // what it took of the memory, also when it has given that back
  Loan loan;                  // in place of a buffer
  DataOutTransfer transfer;
  scsi::ScsiResult result;

  bool unasked = false;        // data for its buffer comes without an R2T
  bool decided = false;        // the result is known without asking the unit
  bool found_no_room = false;  // for data that was on its way: TASK SET FULL
  bool numbered = false;       // it takes a place in the command window
  bool uses_unit = false;      // it may touch the unit's device
  bool in_table = false;       // its tag is taken: until the status is made, or it is aborted
  bool executing = false;      // the unit works on it: it may touch the medium
  bool receiving = false;      // the reader puts bytes into the buffer
  bool aborted = false;        // it will never answer
  scsi::AbortSignal abort;     // tells the unit that
  size_t live_index = 0;       // its place in the session's list

  WaitQueue changed;  // one of the above, or the transfer
  CommandMemory::Waiter memory_waiter;
  ReplySource reply;
  RequestSource requests;
};

}  // namespace sectormap::iscsi
