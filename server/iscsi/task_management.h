// SPDX-License-Identifier: Apache-2.0
// Task management functions (RFC 7143 §11.5, §11.6). A function marks what it ends at once, so that
// none of it answers any more; its own answer comes when none of it can touch the medium either. A
// backing device that hangs delays only that answer, and only for kAbortGrace.
#pragma once

#include <chrono>
#include <functional>

#include "server/iscsi/pdu.h"
#include "server/iscsi/session.h"

namespace sectormap::iscsi {

// How long a function waits for commands that a backing device holds before it answers "function
// rejected": below the 15 s after which open-iscsi gives up an abort, so that it hears why and can
// go on to the next step. The commands stay aborted; what else the function would do is left
// undone.
inline constexpr auto kAbortGrace = std::chrono::seconds(10);

// What a function needs from outside the session.
struct TaskManagementHooks {
  // The number of a command that has not come and will not be waited for: true if it was inside the
  // window (RFC 7143 §11.5.1).
  std::function<bool(uint32_t cmd_sn)> skip_command;
  // TARGET COLD RESET has ended the tasks: every session of the target goes, this one too.
  std::function<void()> drop_all_sessions;
};

// Does `request` in a coroutine of its own that the session's gate counts, and answers it through
// the session's writer. REQUIRES: the session has given an immediate place for it, which it
// returns.
void StartTaskManagement(Session& session, const TaskManagementRequestHeader& request,
                         const TaskManagementHooks& hooks);

}  // namespace sectormap::iscsi
