// SPDX-License-Identifier: Apache-2.0
// WaiterList: coroutines of any reactor that wait for a change of something that a lock guards.
// (WaitQueue of core/async is for one reactor.)
#pragma once

#include <coroutine>
#include <utility>

#include "core/async/reactor.h"
#include "core/base/check.h"

namespace sectormap::targets {

// Whoever owns it locks. Waiters are woken outside of the lock: take them under it, wake them
// after.
class WaiterList {
 public:
  // Lives in the frame of the coroutine that waits.
  struct Waiter {
    std::coroutine_handle<> handle;
    Reactor* reactor = nullptr;
    Waiter* next = nullptr;
  };

  WaiterList() = default;
  WaiterList(const WaiterList&) = delete;
  WaiterList& operator=(const WaiterList&) = delete;
  ~WaiterList() { CHECK(first_ == nullptr); }

  // REQUIRES: on a reactor's thread, on which it will go on.
  void Add(Waiter& waiter, std::coroutine_handle<> handle) {
    waiter = {handle, &Reactor::Current(), nullptr};
    *end_ = &waiter;
    end_ = &waiter.next;
  }

  // Moves all of `other` to the end of this.
  void Take(WaiterList& other) {
    if (other.first_ == nullptr) return;
    *end_ = std::exchange(other.first_, nullptr);
    end_ = std::exchange(other.end_, &other.first_);
  }

  // REQUIRES: on a reactor's thread. Each goes on on its own reactor, not before the caller
  // returns.
  void WakeAll() {
    Waiter* waiter = std::exchange(first_, nullptr);
    end_ = &first_;
    while (waiter != nullptr) {
      // Read first: on another reactor it may go on, and be gone, at once.
      Waiter* next = waiter->next;
      const std::coroutine_handle<> handle = waiter->handle;
      if (waiter->reactor == Reactor::CurrentOrNull()) {
        waiter->reactor->Ready(handle);
      } else {
        waiter->reactor->Post([handle] { handle.resume(); });
      }
      waiter = next;
    }
  }

  bool empty() const { return first_ == nullptr; }

 private:
  Waiter* first_ = nullptr;
  Waiter** end_ = &first_;
};

}  // namespace sectormap::targets
