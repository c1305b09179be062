// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/task_management.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/async/next_turn.h"
#include "core/base/check.h"
#include "server/scsi/abort_signal.h"

namespace sectormap::iscsi {
namespace {

// The part of a function that may have to wait. It goes on after the answer was given for it.
struct Ending {
  Session& session;
  const TaskManagementFunction function;
  const uint64_t last_serial;  // tasks that came later are not meant
  std::vector<Unit*> units;    // each used
  bool done = false;
  scsi::AbortSignal given_up{};  // it was answered as rejected, or nobody hears the answer

  bool Takes(const ScsiTask& task) const {
    if (function == TaskManagementFunction::kAbortTask) return task.serial == last_serial;
    return task.serial <= last_serial &&
           std::find(units.begin(), units.end(), task.unit) != units.end();
  }
};

void Answer(Session& session, uint32_t tag, TaskManagementResult result) {
  TaskManagementResponseHeader response;
  response.initiator_task_tag = tag;
  response.response = result;
  session.writer().QueueOwned(HeaderAs<BasicHeader>(response), {});
}

// False: what was answered as rejected is not done any more, nor what a session asked for that has
// ended.
Task<bool> EndOtherNexuses(Ending& ending) {
  Session& session = ending.session;
  const bool clears = ending.function == TaskManagementFunction::kClearTaskSet;
  const bool resets = ending.function == TaskManagementFunction::kLogicalUnitReset ||
                      ending.function == TaskManagementFunction::kTargetWarmReset ||
                      ending.function == TaskManagementFunction::kTargetColdReset;
  const auto goes_on = [&] { return !ending.given_up.raised() && !session.closed(); };
  for (Unit* unit : ending.units) {
    if (!goes_on()) break;
    if (clears) co_await unit->lun->ClearTaskSet(*unit->nexus, ending.given_up);
    if (resets) co_await unit->lun->Reset(*unit->nexus, ending.given_up);
    co_await session.reactor().Switch();
  }
  co_return goes_on();
}

Task<void> WaitForEnd(std::shared_ptr<Ending> ending) {
  Session& session = ending->session;
  const Session::TaskFilter meant = [&tasks = *ending](const ScsiTask& task) {
    return tasks.Takes(task);
  };
  co_await session.Quiesced(meant);
  ending->done = co_await EndOtherNexuses(*ending);
  for (Unit* unit : ending->units) session.units().Release(*unit);
  session.NoteChange();
  session.gate().Leave();
}

Task<void> AnswerInTime(std::shared_ptr<Ending> ending, uint32_t tag,
                        std::function<void()> when_done) {
  Session& session = ending->session;
  const Reactor::TimerId timer = session.reactor().CallAfter(kAbortGrace, [tasks = ending] {
    tasks->given_up.Raise();
    tasks->session.NoteChange();
  });
  while (!ending->done && !ending->given_up.raised() && !session.closed()) {
    co_await session.NextChange();
  }
  session.reactor().CancelTimer(timer);
  if (!ending->done) ending->given_up.Raise();
  Answer(session, tag,
         ending->done ? TaskManagementResult::kFunctionComplete
                      : TaskManagementResult::kFunctionRejected);
  session.ReleaseImmediatePlace();
  if (ending->done && when_done) {
    co_await AfterOthers();  // the answer leaves before the sessions end
    when_done();
  }
  session.gate().Leave();
}

void End(Session& session, const TaskManagementRequestHeader& request, uint64_t last_serial,
         std::vector<Unit*> units, std::function<void()> when_done) {
  auto ending =
      std::make_shared<Ending>(session, request.function(), last_serial, std::move(units));
  session.Abort([&tasks = *ending](const ScsiTask& task) { return tasks.Takes(task); });
  CHECK(session.gate().TryEnter());
  Detach(WaitForEnd(ending));
  CHECK(session.gate().TryEnter());
  Detach(AnswerInTime(ending, request.initiator_task_tag, std::move(when_done)));
}

void AnswerNow(Session& session, const TaskManagementRequestHeader& request,
               TaskManagementResult result) {
  Answer(session, request.initiator_task_tag, result);
  session.ReleaseImmediatePlace();
}

void AbortTask(Session& session, const TaskManagementRequestHeader& request,
               const TaskManagementHooks& hooks) {
  ScsiTask* task = session.FindTask(request.referenced_task_tag);
  // Asked again: until the device has let go of the command, it is not gone.
  if (task == nullptr) task = session.FindAborted(request.referenced_task_tag);
  if (task != nullptr && task->header.lun == request.lun) {
    std::vector<Unit*> units;
    if (task->unit != nullptr) units.push_back(SessionUnits::Use(*task->unit));
    End(session, request, task->serial, std::move(units), nullptr);
    return;
  }
  // RFC 7143 §11.5.1: a command before this request that has not come counts as received and
  // aborted; one outside the window has come and gone.
  const bool never_came = task == nullptr && SerialLess(request.ref_cmd_sn, request.cmd_sn) &&
                          hooks.skip_command(request.ref_cmd_sn);
  AnswerNow(session, request,
            never_came ? TaskManagementResult::kFunctionComplete
                       : TaskManagementResult::kTaskDoesNotExist);
}

void EndUnitTasks(Session& session, const TaskManagementRequestHeader& request) {
  Unit* unit = session.units().Use(request.lun);
  if (unit == nullptr) {
    AnswerNow(session, request, TaskManagementResult::kLunDoesNotExist);
    return;
  }
  End(session, request, session.last_serial(), {unit}, nullptr);
}

}  // namespace

void StartTaskManagement(Session& session, const TaskManagementRequestHeader& request,
                         const TaskManagementHooks& hooks) {
  switch (request.function()) {
    case TaskManagementFunction::kAbortTask:
      AbortTask(session, request, hooks);
      return;
    case TaskManagementFunction::kAbortTaskSet:
    case TaskManagementFunction::kClearTaskSet:
    case TaskManagementFunction::kLogicalUnitReset:
      EndUnitTasks(session, request);
      return;
    case TaskManagementFunction::kTargetWarmReset:
      End(session, request, session.last_serial(), session.units().UseAll(), nullptr);
      return;
    case TaskManagementFunction::kTargetColdReset:
      End(session, request, session.last_serial(), session.units().UseAll(),
          hooks.drop_all_sessions);
      return;
    case TaskManagementFunction::kTaskReassign:
      AnswerNow(session, request, TaskManagementResult::kReassignmentNotSupported);
      return;
    // NormACA is 0, so there is never an ACA to clear. RFC 7144 §4.1 leaves its functions to those
    // that negotiated iSCSIProtocolLevel 2.
    case TaskManagementFunction::kClearAca:
    case TaskManagementFunction::kQueryTask:
    case TaskManagementFunction::kQueryTaskSet:
    case TaskManagementFunction::kItNexusReset:
    case TaskManagementFunction::kQueryAsynchronousEvent:
      AnswerNow(session, request, TaskManagementResult::kFunctionNotSupported);
      return;
  }
  AnswerNow(session, request, TaskManagementResult::kFunctionRejected);
}

}  // namespace sectormap::iscsi
