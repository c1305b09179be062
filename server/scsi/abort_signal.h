// SPDX-License-Identifier: Apache-2.0
// AbortSignal: how a transport tells a command at work that it was aborted. Nobody hears its answer
// any more, but what it has given to the device may still reach the medium.
//
// For the reactor on which the command was started. Raising it resumes nothing in the call.
#pragma once

#include "core/async/wait_queue.h"
#include "core/base/check.h"

namespace sectormap::scsi {

class AbortSignal {
 public:
  // What a command has at work that cannot just be left alone. One of them at a time.
  class Listener {
   public:
    explicit Listener(AbortSignal& signal) : signal_(signal) {
      CHECK(signal_.listener_ == nullptr);
      signal_.listener_ = this;
    }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

   protected:
    ~Listener() { signal_.listener_ = nullptr; }

   private:
    friend class AbortSignal;
    virtual void OnAborted() = 0;

    AbortSignal& signal_;
  };

  AbortSignal() = default;
  ~AbortSignal() { CHECK(listener_ == nullptr); }
  AbortSignal(const AbortSignal&) = delete;
  AbortSignal& operator=(const AbortSignal&) = delete;

  bool raised() const { return raised_; }
  void Raise() {
    if (raised_) return;
    raised_ = true;
    if (listener_ != nullptr) listener_->OnAborted();
  }
  // For the next command. REQUIRES: the last one has ended.
  void Clear() {
    CHECK(listener_ == nullptr);
    raised_ = false;
  }

 private:
  bool raised_ = false;
  Listener* listener_ = nullptr;
};

// Whoever waits in `queue` looks again when the command is aborted.
class WakeOnAbort final : AbortSignal::Listener {
 public:
  WakeOnAbort(AbortSignal& abort, WaitQueue& queue) : Listener(abort), queue_(queue) {}

 private:
  void OnAborted() override { queue_.WakeAll(); }

  WaitQueue& queue_;
};

}  // namespace sectormap::scsi
