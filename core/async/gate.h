// SPDX-License-Identifier: Apache-2.0
// Gate: counts work in flight on one reactor; close it, then wait for zero. Every owner of detached
// coroutines has exactly one, and waits for it before it goes away. For one reactor's use only.
#pragma once

#include <cstdint>

#include "core/async/task.h"
#include "core/async/wait_queue.h"
#include "core/base/check.h"

namespace sectormap {

class Gate {
 public:
  Gate() = default;
  ~Gate() { CHECK(count_ == 0); }

  bool is_open() const { return open_; }
  uint64_t count() const { return count_; }

  // False if the gate is closed; otherwise Leave() must follow.
  bool TryEnter() {
    if (!open_) return false;
    ++count_;
    return true;
  }
  void Leave() {
    CHECK(count_ > 0);
    if (--count_ == 0 && !open_) drained_.WakeAll();
  }

  void Open() { open_ = true; }
  void Close() { open_ = false; }
  // REQUIRES: closed. Returns when nobody is inside.
  Task<void> Drained() {
    while (count_ != 0) co_await drained_.Wait();
  }

  // Enters for the life of a scope; holds nothing if the gate is closed.
  class Pass {
   public:
    explicit Pass(Gate& gate) : gate_(gate.TryEnter() ? &gate : nullptr) {}
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass() {
      if (gate_ != nullptr) gate_->Leave();
    }
    explicit operator bool() const { return gate_ != nullptr; }

   private:
    Gate* gate_;
  };

 private:
  bool open_ = true;
  uint64_t count_ = 0;
  WaitQueue drained_;
};

}  // namespace sectormap
