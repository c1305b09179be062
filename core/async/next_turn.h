// SPDX-License-Identifier: Apache-2.0
// NextTurn, AfterOthers: two ways to let go of the reactor for a turn. For loops that might find
// each of their steps done at once, and would keep the reactor to themselves.
#pragma once

#include <coroutine>

#include "core/async/reactor.h"

namespace sectormap {

// co_await NextTurn(): everything that is ready now, and the ring, go first. REQUIRES: on a
// reactor's thread, on which the caller goes on.
struct NextTurn {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) { Reactor::Current().Ready(handle); }
  void await_resume() noexcept {}
};

// co_await AfterOthers(): the next turn's events go first too, and what it sends has left.
// REQUIRES: as above.
struct AfterOthers {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) { Reactor::Current().AfterOthers(handle); }
  void await_resume() noexcept {}
};

}  // namespace sectormap
