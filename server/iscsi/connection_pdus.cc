// SPDX-License-Identifier: Apache-2.0
// Connection's full feature phase: one function per kind of PDU (RFC 7143 §11).
#include <algorithm>
#include <utility>

#include "server/iscsi/connection.h"
#include "server/iscsi/task_management.h"

namespace sectormap::iscsi {

Task<bool> Connection::OnPdu() {
  const PduError error = co_await reader_.ReadHeader();
  heard_ = true;
  if (error != PduError::kNone) co_return MayGoOn(error, reader_.header());
  switch (reader_.header().opcode()) {
    case Opcode::kScsiCommand:
      co_return co_await OnScsiCommand();
    case Opcode::kDataOut:
      co_return co_await OnDataOut();
    case Opcode::kNopOut:
      co_return co_await OnNopOut();
    case Opcode::kTaskManagementRequest:
      co_return co_await OnTaskManagement();
    case Opcode::kTextRequest:
      co_return co_await OnText();
    case Opcode::kLogoutRequest:
      co_return co_await OnLogout();
    case Opcode::kSnackRequest:
      // ErrorRecoveryLevel 0 has no recovery within a connection (RFC 7143 §7.1.1).
      co_return co_await Refuse(RejectReason::kSnackReject);
    case Opcode::kLoginRequest:
      co_return co_await Refuse(RejectReason::kProtocolError);
    case Opcode::kNopIn:
    case Opcode::kScsiResponse:
    case Opcode::kTaskManagementResponse:
    case Opcode::kLoginResponse:
    case Opcode::kTextResponse:
    case Opcode::kDataIn:
    case Opcode::kLogoutResponse:
    case Opcode::kReadyToTransfer:
    case Opcode::kAsyncMessage:
    case Opcode::kReject:
      break;
  }
  co_return co_await Refuse(RejectReason::kCommandNotSupported);
}

bool Connection::MayGoOn(PduError error, const BasicHeader& header) {
  switch (error) {
    case PduError::kNone:
      return true;
    case PduError::kDataDigest:
      counters_.data_digest_errors.Add(1);
      SendReject(RejectReason::kDataDigestError, header);
      return true;
    case PduError::kEnd:
      return false;
    case PduError::kHeaderDigest:
      counters_.header_digest_errors.Add(1);
      FinishWith(DropReason::kHeaderDigest);
      return false;
    case PduError::kTooLong:
      SendReject(RejectReason::kProtocolError, header);
      FinishWith(DropReason::kProtocolError);
      return false;
  }
  return false;
}

void Connection::SendReject(RejectReason reason, const BasicHeader& header) {
  counters_.rejects.Add(1);
  RejectHeader reject;
  reject.reason = reason;
  // RFC 7143 §11.17: the header of the PDU that is rejected, and nothing of its data.
  writer_.QueueOwned(HeaderAs<BasicHeader>(reject), std::as_bytes(header.bytes()));
}

Task<bool> Connection::Refuse(RejectReason reason) {
  const BasicHeader header = reader_.header();
  const bool go_on = co_await SkipData();
  if (go_on) SendReject(reason, header);
  co_await writer_.RoomForOwned();
  co_return go_on;
}

Task<bool> Connection::SkipData() {
  const PduError error = co_await reader_.SkipData();
  co_return error == PduError::kNone || error == PduError::kDataDigest;
}

Task<PduError> Connection::ReadOwned(std::vector<std::byte>& data) {
  co_await writer_.RoomForOwned();
  data.resize(reader_.data_bytes());
  co_return co_await reader_.ReadData(data);
}

// ---- The order of commands

template <typename Header>
Connection::Turn Connection::TurnOf(const Header& header) const {
  if (header.immediate()) return Turn::kNow;
  const uint32_t cmd_sn = header.cmd_sn;
  if (!window_.Contains(cmd_sn) || held_.contains(cmd_sn)) return Turn::kNever;
  return cmd_sn == window_.expected() ? Turn::kNow : Turn::kLater;
}

template <typename Header, typename Act>
bool Connection::Deliver(Turn turn, const Header& header, size_t bytes, Act act) {
  if (turn == Turn::kLater) return Hold(header.cmd_sn, bytes, std::move(act));
  if (!header.immediate()) Advance();
  act(true);
  DeliverHeld();
  return true;
}

bool Connection::Hold(uint32_t cmd_sn, size_t bytes, absl::AnyInvocable<void(bool)> act) {
  if (held_bytes_ + bytes > kMaxHeldBytes) {
    act(false);
    FinishWith(DropReason::kProtocolError);
    return false;
  }
  held_bytes_ += bytes;
  held_.emplace(cmd_sn, HeldPdu{bytes, std::move(act)});
  return true;
}

void Connection::Advance() {
  window_.Advance();
  window_.Update();
}

void Connection::DeliverHeld() {
  while (!held_.empty() && held_.begin()->first == window_.expected()) {
    auto next = held_.extract(held_.begin());
    held_bytes_ -= next.mapped().bytes;
    Advance();
    next.mapped().act(true);
  }
}

void Connection::DiscardHeld() {
  for (auto& [cmd_sn, held] : held_) held.act(false);
  held_.clear();
}

bool Connection::SkipCommand(uint32_t cmd_sn) {
  if (!window_.Contains(cmd_sn) || held_.contains(cmd_sn)) return false;
  if (cmd_sn == window_.expected()) {
    Advance();
    return true;
  }
  return Hold(cmd_sn, 0, [](bool) {});
}

// ---- Commands and their data

Task<bool> Connection::OnScsiCommand() {
  const auto header = HeaderAs<ScsiCommandHeader>(reader_.header());
  if (session_ == nullptr) co_return co_await Refuse(RejectReason::kProtocolError);
  const Turn turn = TurnOf(header);
  if (turn == Turn::kNever) co_return co_await SkipData();
  const std::optional<AdditionalHeaders> ahs = ParseAdditionalHeaders(reader_.ahs());
  if (!ahs) co_return co_await Refuse(RejectReason::kInvalidPduField);
  const Session::Received received = session_->Receive(header, *ahs, reader_.data_bytes());
  if (received.task == nullptr) co_return co_await Refuse(received.reason);
  if (reader_.data_bytes() != 0) data_heard_ = true;
  ScsiTask& task = *received.task;
  PduError error;
  if (turn == Turn::kNow && reader_.has_all_data()) {
    const PduReader::Segment data = reader_.TakeData();
    error = data.error;
    if (error == PduError::kNone) session_->TakeImmediate(task, data.bytes);
  } else {
    error = co_await reader_.ReadData(session_->RoomForImmediate(task));
  }
  if (!MayGoOn(error, HeaderAs<BasicHeader>(header))) {
    session_->Discard(task);
    co_return false;
  }
  if (error == PduError::kDataDigest) session_->DataArrived(task, DataFault::kServiceCrc);
  Session& session = *session_;
  co_return Deliver(turn, header, 0, [&session, &task](bool its_turn) {
    if (its_turn) {
      session.Start(task);
    } else {
      session.Discard(task);
    }
  });
}

Task<bool> Connection::OnDataOut() {
  const auto header = HeaderAs<DataOutHeader>(reader_.header());
  ScsiTask* task = session_ == nullptr ? nullptr : session_->FindTask(header.initiator_task_tag);
  // Its command may have ended early or been aborted: the initiator could not know.
  if (task == nullptr || !task->header.write()) co_return co_await SkipData();
  data_heard_ = true;
  const DataOutTransfer::Place place = task->transfer.Accept(header, reader_.data_bytes());
  std::span<std::byte> into;
  if (task->buffer && !task->decided)
    into = task->buffer.bytes().subspan(place.offset, place.bytes);
  task->receiving = true;
  const PduError error = co_await reader_.ReadData(into);
  const bool go_on = MayGoOn(error, HeaderAs<BasicHeader>(header));
  session_->DataArrived(*task,
                        error == PduError::kNone ? DataFault::kNone : DataFault::kServiceCrc);
  co_await writer_.RoomForOwned();
  co_return go_on;
}

// ---- NOP, text, task management, logout

Task<bool> Connection::OnNopOut() {
  const auto header = HeaderAs<NopOutHeader>(reader_.header());
  // An answer to our NOP-In: that it came is all it says.
  if (header.initiator_task_tag == kReservedTag) co_return co_await SkipData();
  const Turn turn = TurnOf(header);
  if (turn == Turn::kNever) co_return co_await SkipData();
  std::vector<std::byte> data;
  const PduError error = co_await ReadOwned(data);
  // RFC 7143 §7.8: what was no data PDU is rejected and otherwise did not come.
  if (error != PduError::kNone) co_return MayGoOn(error, HeaderAs<BasicHeader>(header));
  const size_t bytes = data.size();
  co_return Deliver(turn, header, bytes, [this, header, data = std::move(data)](bool its_turn) {
    if (its_turn) AnswerNop(header, data);
  });
}

void Connection::AnswerNop(const NopOutHeader& request, std::span<const std::byte> data) {
  NopInHeader answer;
  answer.lun = request.lun;
  answer.initiator_task_tag = request.initiator_task_tag;
  // RFC 7143 §11.18: the ping's data comes back, as much of it as the initiator takes.
  const size_t bytes = std::min<size_t>(data.size(), parameters_.max_send_segment_bytes);
  writer_.QueueOwned(HeaderAs<BasicHeader>(answer), data.first(bytes));
}

Task<bool> Connection::OnText() {
  const auto header = HeaderAs<TextRequestHeader>(reader_.header());
  if (reader_.data_bytes() > kMaxTextBytes) {
    co_return co_await Refuse(RejectReason::kInvalidPduField);
  }
  const Turn turn = TurnOf(header);
  if (turn == Turn::kNever) co_return co_await SkipData();
  std::vector<std::byte> data;
  const PduError error = co_await ReadOwned(data);
  if (error != PduError::kNone) co_return MayGoOn(error, HeaderAs<BasicHeader>(header));
  const size_t bytes = data.size();
  co_return Deliver(turn, header, bytes, [this, header, data = std::move(data)](bool its_turn) {
    if (its_turn) AnswerText(header, data);
  });
}

void Connection::AnswerText(const TextRequestHeader& request, std::span<const std::byte> data) {
  const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  const std::optional<TextExchange::Reply> reply = text_->OnRequest(request, text, parameters_);
  if (!reply) {
    SendReject(RejectReason::kProtocolError, HeaderAs<BasicHeader>(request));
    return;
  }
  writer_.QueueOwned(HeaderAs<BasicHeader>(reply->header), std::as_bytes(std::span(reply->text)));
}

Task<bool> Connection::OnTaskManagement() {
  const auto header = HeaderAs<TaskManagementRequestHeader>(reader_.header());
  if (session_ == nullptr) co_return co_await Refuse(RejectReason::kProtocolError);
  const Turn turn = TurnOf(header);
  if (turn == Turn::kNever) co_return co_await SkipData();
  if (!session_->TakeImmediatePlace()) {
    co_return co_await Refuse(RejectReason::kTooManyImmediateCommands);
  }
  const bool go_on = co_await SkipData();
  if (!go_on) co_return false;
  co_await writer_.RoomForOwned();
  co_return Deliver(turn, header, 0, [this, header](bool its_turn) {
    if (its_turn) ManageTasks(header);
  });
}

void Connection::ManageTasks(const TaskManagementRequestHeader& request) {
  const TaskManagementHooks hooks{
      [this](uint32_t cmd_sn) { return SkipCommand(cmd_sn); },
      // Its own session too.
      [this] { context_.directory.DropSessions(login_.target->iqn, DropReason::kColdReset); },
  };
  StartTaskManagement(*session_, request, hooks);
}

Task<bool> Connection::OnLogout() {
  const auto header = HeaderAs<LogoutRequestHeader>(reader_.header());
  // Before it takes its turn: the number of what is rejected has not come (RFC 7143 §7.3).
  if (header.reason() > LogoutReason::kRemoveConnectionForRecovery) {
    co_return co_await Refuse(RejectReason::kInvalidPduField);
  }
  const Turn turn = TurnOf(header);
  const bool go_on = co_await SkipData();
  if (!go_on || turn == Turn::kNever) co_return go_on;
  co_await writer_.RoomForOwned();
  co_return Deliver(turn, header, 0, [this, header](bool its_turn) {
    if (its_turn) AnswerLogout(header);
  });
}

void Connection::AnswerLogout(const LogoutRequestHeader& request) {
  LogoutResponseHeader answer;
  answer.initiator_task_tag = request.initiator_task_tag;
  bool ends = false;
  switch (request.reason()) {
    case LogoutReason::kCloseSession:
      ends = true;
      break;
    case LogoutReason::kCloseConnection:
      ends = request.cid == login_.cid;
      answer.response = ends ? LogoutResult::kClosed : LogoutResult::kCidNotFound;
      break;
    case LogoutReason::kRemoveConnectionForRecovery:
      answer.response = LogoutResult::kRecoveryNotSupported;
      break;
  }
  if (ends) {
    // RFC 7143 §11.14: the commands that are at work end unanswered.
    if (session_ != nullptr) session_->Close();
    answer.time2wait = parameters_.default_time2wait;
    FinishWith(DropReason::kLogout);
  }
  writer_.QueueOwned(HeaderAs<BasicHeader>(answer), {});
}

}  // namespace sectormap::iscsi
