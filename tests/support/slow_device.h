// SPDX-License-Identifier: Apache-2.0
// SlowDevice: keeps requests until the test lets them go, so that a test decides what is in flight.
// Requests from any reactor; the controls on any thread.
#pragma once

#include <coroutine>
#include <deque>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"
#include "core/block/block_device.h"

namespace sectormap {

class SlowDevice final : public BlockDevice {
 public:
  explicit SlowDevice(std::shared_ptr<BlockDevice> lower) : lower_(std::move(lower)) {}

  // Requests that come from now on wait (the default), or pass at once.
  void Hold() {
    absl::MutexLock lock(&mutex_);
    holding_ = true;
  }
  // Lets all that wait go, and all that come.
  void Release() {
    absl::MutexLock lock(&mutex_);
    holding_ = false;
    while (!held_.empty()) LetFirstGo();
  }
  // Lets the oldest that waits go. False: none waits.
  bool ReleaseOne() {
    absl::MutexLock lock(&mutex_);
    if (held_.empty()) return false;
    LetFirstGo();
    return true;
  }
  size_t held() const {
    absl::MutexLock lock(&mutex_);
    return held_.size();
  }
  // Blocks the calling thread until `count` wait. REQUIRES: not on a reactor's thread.
  void WaitUntilHeld(size_t count) {
    absl::MutexLock lock(&mutex_);
    auto enough = [this, count]()
                      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return held_.size() >= count; };
    mutex_.Await(absl::Condition(&enough));
  }

  SectorCount size() const override { return lower_->size(); }
  BlockLimits limits() const override { return lower_->limits(); }

  Task<IoStatus> Submit(IoRequest request) override {
    co_await Turnstile{*this};
    co_return co_await lower_->Submit(request);
  }
  Task<Extent> ExtentAt(Sector first) override { return lower_->ExtentAt(first); }

 private:
  struct Held {
    Reactor* reactor;
    std::coroutine_handle<> handle;
  };
  struct Turnstile {
    SlowDevice& device;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      absl::MutexLock lock(&device.mutex_);
      if (!device.holding_) return false;
      device.held_.push_back({&Reactor::Current(), handle});
      return true;
    }
    void await_resume() noexcept {}
  };

  void LetFirstGo() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Held first = held_.front();
    held_.pop_front();
    first.reactor->Post([handle = first.handle] { handle.resume(); });
  }

  const std::shared_ptr<BlockDevice> lower_;
  mutable absl::Mutex mutex_;
  bool holding_ ABSL_GUARDED_BY(mutex_) = true;
  std::deque<Held> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap
