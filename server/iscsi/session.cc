// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/session.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/base/check.h"
#include "server/scsi/sense.h"

namespace sectormap::iscsi {

Session::Session(Context context)
    : context_(std::move(context)),
      unknown_unit_share_(context_.memory.Join(nullptr, context_.identity.initiator_name)),
      units_({context_.memory, context_.luns, context_.identity, context_.nexus_tasks,
              [this](const Unit& unit) {
                Abort([&unit](const ScsiTask& task) { return task.unit == &unit; });
              }}) {}

Session::~Session() {
  CHECK(closed_ && live_.empty());
  context_.memory.Leave(unknown_unit_share_);
}

// ---- Commands

Session::Received Session::Receive(const ScsiCommandHeader& header, const AdditionalHeaders& ahs,
                                   uint32_t data_bytes) {
  if (table_.contains(header.initiator_task_tag)) return {nullptr, RejectReason::kTaskInProgress};
  if (header.initiator_task_tag == kReservedTag) return {nullptr, RejectReason::kInvalidPduField};
  if (header.immediate() && !TakeImmediatePlace()) {
    return {nullptr, RejectReason::kTooManyImmediateCommands};
  }
  ScsiTask& task = TakeTask();
  task.header = header;
  task.serial = ++last_serial_;
  task.numbered = !header.immediate();
  if (task.numbered) context_.window.Begin();
  table_.emplace(task.tag(), &task);
  task.in_table = true;
  PlanTask(task);
  const bool bidirectional = (header.read() && header.write()) || ahs.bidi_read_length.has_value();
  const scsi::DataDirection direction = task.plan.direction;
  // A read that is flagged as a write moves no data the way the initiator has room for: all of it
  // is residual. A write without the bytes to write cannot be done.
  const bool other_way = direction == scsi::DataDirection::kOut && header.read();
  if (bidirectional || (other_way && task.plan.bytes != 0 && task.expected != 0)) {
    Decide(task, scsi::kInvalidFieldInInformationUnit);
  }
  if (data_bytes != 0 && !header.write()) {
    Decide(task, SenseFor(DataFault::kUnexpectedUnsolicited));
  }
  if (live_.size() > kMaxSessionTasks) Decide(task, scsi::ScsiStatus::kTaskSetFull);
  if (header.write()) PrepareDataOut(task, data_bytes);
  return {&task, {}};
}

ScsiTask& Session::TakeTask() {
  if (free_.empty()) {
    tasks_.push_back(std::make_unique<ScsiTask>(*this));
    free_.push_back(tasks_.back().get());
  }
  ScsiTask& task = *free_.back();
  free_.pop_back();
  task.unit = nullptr;
  task.plan = {};
  task.expected = 0;
  task.buffered_bytes = 0;
  task.transfer = {};
  task.result = {};
  task.unasked = task.decided = task.found_no_room = task.uses_unit = task.in_table =
      task.executing = task.receiving = task.aborted = false;
  task.abort.Clear();
  task.live_index = live_.size();
  live_.push_back(&task);
  return task;
}

void Session::PlanTask(ScsiTask& task) {
  task.arrived = context_.reactor.clock().Now();
  units_.Refresh();
  const std::optional<uint64_t> number = DecodeLun(task.header.lun);
  // REPORT LUNS is the target's to answer, on whatever number it comes.
  if (number && !scsi::IsReportLuns(task.header.cdb)) task.unit = units_.Find(*number);
  if (task.unit != nullptr) {
    ++task.unit->tasks;
    ++task.unit->users;
    task.uses_unit = true;
    task.plan = task.unit->lun->Plan(task.header.cdb);
  } else {
    task.plan = scsi::PlanWithoutLun(task.header.cdb);
  }
  CHECK(task.plan.bytes <= scsi::kMaxTransferBytes);
  // Without R and W the field is reserved (RFC 7143 §11.3.4).
  if (task.header.read() || task.header.write()) {
    task.expected = task.header.expected_data_transfer_length;
  }
}

void Session::PrepareDataOut(ScsiTask& task, uint32_t data_bytes) {
  const bool takes_data = task.plan.direction == scsi::DataDirection::kOut;
  const uint32_t wanted = takes_data && !task.decided ? task.wanted() : 0;
  task.transfer =
      DataOutTransfer(task.expected, wanted, data_bytes, task.header.final(), context_.parameters);
  const bool comes_now = data_bytes != 0 || !task.header.final();
  task.unasked = wanted != 0 && comes_now && task.transfer.fault() == DataFault::kNone;
}

// The bytes are on their way, so there is no waiting for memory.
void Session::MakeRoom(ScsiTask& task) {
  std::optional<CommandBuffer> buffer =
      context_.memory.TryTake(ShareOf(task), task.wanted(), task.data_kind());
  if (buffer) {
    task.Hold(*std::move(buffer));
    return;
  }
  Decide(task, scsi::ScsiStatus::kTaskSetFull);
  task.found_no_room = true;
  if (!task.numbered) return;
  ++without_room_;
  context_.window.Narrow(context_.window.at_work() - without_room_);
}

void Session::Decide(ScsiTask& task, scsi::ScsiStatus status) {
  scsi::ScsiResult result;
  result.status = status;
  Decide(task, result);
}

void Session::Decide(ScsiTask& task, scsi::SenseCode code) {
  const scsi::SenseFormat format =
      task.uses_unit ? task.unit->lun->sense_format() : scsi::SenseFormat::kFixed;
  Decide(task, scsi::CheckCondition(code, format));
}

void Session::Decide(ScsiTask& task, scsi::ScsiResult result) {
  if (task.decided) return;
  task.decided = true;
  task.result = result;
}

std::span<std::byte> Session::RoomForImmediate(ScsiTask& task) {
  if (task.unasked) MakeRoom(task);
  if (!task.buffer) return {};
  const DataOutTransfer::Place place = task.transfer.immediate_place();
  return task.buffer.bytes().subspan(place.offset, place.bytes);
}

void Session::TakeImmediate(ScsiTask& task, std::span<std::byte> data) {
  if (!task.unasked || WriteAtOnce(task, data)) return;
  const std::span<std::byte> room = RoomForImmediate(task);
  std::copy_n(data.begin(), room.size(), room.begin());
}

bool Session::WriteAtOnce(ScsiTask& task, std::span<std::byte> data) {
  if (task.unit == nullptr || !task.transfer.done()) return false;
  std::optional<scsi::ScsiResult> result =
      task.unit->lun->WriteAtOnce(*task.unit->nexus, task.header.cdb, data.first(task.wanted()));
  if (!result) return false;
  Decide(task, *std::move(result));
  return true;
}

void Session::Start(ScsiTask& task) {
  CHECK(context_.gate.TryEnter());
  Detach(Run(task));
}

void Session::Discard(ScsiTask& task) {
  LeaveTable(task);
  Finish(task);
}

Task<void> Session::Run(ScsiTask& task) {
  co_await Perform(task);
  // A buffered answer may stay long where a peer takes nothing. What was lent is still the unit's.
  if (!task.loan) LetGoOfUnit(task);
  // What was written is on the device, and the next command finds the buffer in the caches.
  if (task.plan.direction == scsi::DataDirection::kOut && !task.receiving) {
    task.buffer = CommandBuffer();
  }
  if (!task.aborted) {
    CountTask(task);
    task.reply.Prepare(context_.parameters);
    context_.writer.Queue(task.reply, task.result.data_in_bytes);
    co_await task.reply.Sent();
  }
  // The reader and the writer may still be busy with it.
  while (task.receiving || task.requests.queued()) co_await task.changed.Wait();
  LeaveTable(task);
  Finish(task);
  context_.gate.Leave();
}

void Session::CountTask(const ScsiTask& task) {
  if (task.unit == nullptr) return;
  const bool good = task.result.status == scsi::ScsiStatus::kGood;
  uint32_t bytes = 0;
  if (good && task.plan.direction == scsi::DataDirection::kIn) {
    bytes = std::min(task.result.data_in_bytes, task.expected);
  } else if (good && task.plan.direction == scsi::DataDirection::kOut) {
    bytes = task.wanted();
  }
  task.unit->counters->Count(scsi::ClassOf(task.header.cdb), bytes, good,
                             context_.reactor.clock().Now() - task.arrived);
}

Task<void> Session::Perform(ScsiTask& task) {
  if (task.header.write() && !task.decided) co_await CollectData(task);
  if (task.decided || task.aborted) co_return;
  if (task.plan.direction == scsi::DataDirection::kIn && task.plan.bytes != 0) {
    if (ReadInPlace(task)) co_return;
    co_await TakeBuffer(task, task.plan.bytes);
    if (task.aborted) co_return;
  }
  task.executing = true;
  task.result = co_await Execute(task);
  // Whatever it passed through: a session never leaves its reactor.
  co_await context_.reactor.Switch();
  task.executing = false;
  if (task.aborted) changed_.WakeAll();
}

// Not if a digest is made of the bytes: they may change between it and the send.
bool Session::ReadInPlace(ScsiTask& task) {
  if (task.unit == nullptr || context_.parameters.data_digest) return false;
  std::optional<scsi::ScsiResult> result =
      task.unit->lun->ReadInPlace(*task.unit->nexus, task.header.cdb, task.loan);
  if (result) task.result = *std::move(result);
  return result.has_value();
}

Task<void> Session::CollectData(ScsiTask& task) {
  if (!task.transfer.done() && task.wanted() != 0 && !task.buffer &&
      task.plan.direction == scsi::DataDirection::kOut &&
      task.transfer.fault() == DataFault::kNone) {
    co_await TakeBuffer(task, task.wanted());
  }
  // The transfer is done when the last header has been accepted. Its data may still be arriving
  // when an R2T of ours that has left wakes this.
  while (!task.aborted && (task.receiving || !task.transfer.done())) {
    if (task.transfer.MayRequest()) task.requests.Queue();
    co_await task.changed.Wait();
  }
  const DataFault fault = task.transfer.fault();
  if (fault != DataFault::kNone) Decide(task, SenseFor(fault));
}

Task<void> Session::TakeBuffer(ScsiTask& task, uint32_t bytes) {
  CommandMemory& memory = context_.memory;
  task.Hold(co_await memory.Take(ShareOf(task), bytes, task.data_kind(), task.memory_waiter));
}

SessionShare& Session::ShareOf(const ScsiTask& task) {
  return task.unit != nullptr ? task.unit->share : unknown_unit_share_;
}

Task<scsi::ScsiResult> Session::Execute(ScsiTask& task) {
  std::span<std::byte> bytes;
  if (task.buffer) {
    const bool in = task.plan.direction == scsi::DataDirection::kIn;
    bytes = task.buffer.bytes().first(in ? task.plan.bytes : task.wanted());
  }
  if (task.unit == nullptr) {
    const scsi::ScsiResult result =
        scsi::ExecuteWithoutLun(task.header.cdb, units_.numbers(), bytes);
    if (scsi::IsReportLuns(task.header.cdb) && result.status == scsi::ScsiStatus::kGood) {
      units_.NoteNumbersTold();
    }
    return result;
  }
  // The unit has learned its block size while the data came, for which no room was planned.
  if (task.plan.bytes == 0 && task.unit->lun->Plan(task.header.cdb).bytes != 0) {
    return scsi::ScsiResult{scsi::ScsiStatus::kBusy, {}, 0};
  }
  return task.unit->lun->Execute(*task.unit->nexus, task.header.cdb, bytes, task.abort);
}

void Session::OnStatusMade(ScsiTask& task) { LeaveTable(task); }

void Session::LeaveTable(ScsiTask& task) {
  if (!task.in_table) return;
  task.in_table = false;
  table_.erase(task.tag());
  if (!task.numbered) {
    ReleaseImmediatePlace();
    return;
  }
  context_.window.End();
  AdjustWindow(task);
  context_.window.Update();
}

// As a congestion window follows the network. A write that finds no room for data that is already
// on its way costs the link that data and the initiator a retry: from then on no more commands are
// let in than had room (PrepareDataOut), and one more with each that ends while there is room.
// While there is none, those sessions give way whose commands could fill more than their part of
// the unit's memory, so that nobody is kept out by who came first.
void Session::AdjustWindow(const ScsiTask& task) {
  CommandWindow& window = context_.window;
  if (task.found_no_room) {
    --without_room_;
    return;
  }
  const SessionShare& share = ShareOf(task);
  if (context_.memory.HasRoomForMore(share)) {
    window.Widen();
  } else if (task.buffered_bytes * window.width() > context_.memory.FairPart(share)) {
    window.Narrow(window.width() - 1);
  }
}

void Session::ReleaseData(ScsiTask& task) {
  task.buffer = CommandBuffer();
  task.loan = Loan();
}

void Session::LetGoOfUnit(ScsiTask& task) {
  if (!task.uses_unit) return;
  task.uses_unit = false;
  units_.Release(*task.unit);
}

void Session::Finish(ScsiTask& task) {
  ReleaseData(task);
  LetGoOfUnit(task);
  if (task.unit != nullptr) {
    --task.unit->tasks;
    units_.EraseIfDone(*task.unit);
  }
  ScsiTask* last = live_.back();
  live_[task.live_index] = last;
  last->live_index = task.live_index;
  live_.pop_back();
  free_.push_back(&task);
  changed_.WakeAll();
}

// ---- Data-Out

ScsiTask* Session::FindTask(uint32_t tag) {
  auto place = table_.find(tag);
  return place == table_.end() ? nullptr : place->second;
}

ScsiTask* Session::FindAborted(uint32_t tag) {
  const auto meant = [tag](const ScsiTask* task) {
    return task->aborted && task->executing && task->tag() == tag;
  };
  const auto place = std::find_if(live_.begin(), live_.end(), meant);
  return place == live_.end() ? nullptr : *place;
}

bool Session::AwaitsData() const {
  return std::any_of(live_.begin(), live_.end(), [](const ScsiTask* task) {
    return task->in_table && task->transfer.awaits_data();
  });
}

void Session::DataArrived(ScsiTask& task, DataFault fault) {
  task.receiving = false;
  if (fault != DataFault::kNone) task.transfer.Fail(fault);
  if (!task.aborted && task.transfer.MayRequest() && task.buffer) task.requests.Queue();
  // Its coroutine may wait for the rest of the data, or for the reader only: to end.
  task.changed.WakeAll();
}

uint32_t Session::NextTransferTag() {
  if (++last_transfer_tag_ == kReservedTag) ++last_transfer_tag_;
  return last_transfer_tag_;
}

// ---- Task management

size_t Session::Abort(const TaskFilter& filter) {
  size_t count = 0;
  for (ScsiTask* task : live_) {
    // What has its status on the way is no task any more (SAM-5 §8.2).
    if (!task->in_table || task->aborted || !filter(*task)) continue;
    ++count;
    task->aborted = true;
    task->abort.Raise();
    LeaveTable(*task);
    context_.memory.GiveUp(task->memory_waiter);
    // A peer that takes nothing keeps the writer from it for long.
    if (!task->receiving && task->reply.untouched()) ReleaseData(*task);
    if (!task->executing && !task->loan) LetGoOfUnit(*task);
    task->changed.WakeAll();
  }
  return count;
}

Task<void> Session::Quiesced(TaskFilter filter) {
  auto busy = [&](const ScsiTask* task) {
    return task->aborted && task->executing && filter(*task);
  };
  while (std::any_of(live_.begin(), live_.end(), busy)) co_await changed_.Wait();
}

bool Session::TakeImmediatePlace() {
  if (immediate_ == kMaxImmediateCommands) return false;
  ++immediate_;
  return true;
}

void Session::Close() {
  closed_ = true;
  Abort([](const ScsiTask&) { return true; });
  changed_.WakeAll();
}

}  // namespace sectormap::iscsi
