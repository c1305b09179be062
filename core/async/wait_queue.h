// SPDX-License-Identifier: Apache-2.0
// WaitQueue: coroutines that wait, first come first served. For one reactor's use only.
#pragma once

#include <coroutine>

#include "core/async/reactor.h"
#include "core/base/check.h"

namespace sectormap {

class WaitQueue {
 public:
  WaitQueue() = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue() { CHECK(head_ == nullptr); }

  class Awaiter {
   public:
    explicit Awaiter(WaitQueue& queue) : queue_(queue) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      *queue_.tail_ = this;
      queue_.tail_ = &next_;
    }
    void await_resume() noexcept {}

   private:
    friend class WaitQueue;
    WaitQueue& queue_;
    std::coroutine_handle<> handle_;
    Awaiter* next_ = nullptr;
  };

  // co_await queue.Wait(): suspends until woken. What was true before may no longer be: check
  // again.
  Awaiter Wait() { return Awaiter(*this); }

  bool empty() const { return head_ == nullptr; }

  // The woken run in this turn of the reactor, after the caller suspends or returns to it.
  void WakeOne() {
    if (head_ == nullptr) return;
    Awaiter* first = head_;
    head_ = first->next_;
    if (head_ == nullptr) tail_ = &head_;
    Reactor::Current().Ready(first->handle_);
  }
  void WakeAll() {
    while (head_ != nullptr) WakeOne();
  }

 private:
  Awaiter* head_ = nullptr;
  Awaiter** tail_ = &head_;
};

}  // namespace sectormap
