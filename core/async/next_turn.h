// SPDX-License-Identifier: Apache-2.0
// NextTurn: lets everything that is ready now, and the ring, go first. For loops that might find
// each of their steps done at once, and would keep the reactor to themselves.
#pragma once

#include <coroutine>

#include "core/async/reactor.h"

namespace sectormap {

// co_await NextTurn(). REQUIRES: on a reactor's thread, on which the caller goes on.
struct NextTurn {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) { Reactor::Current().Ready(handle); }
  void await_resume() noexcept {}
};

}  // namespace sectormap
