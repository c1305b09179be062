// SPDX-License-Identifier: Apache-2.0
// HeldRequests: those that wait for the next table (drivers/md/dm-raid1.c, hold_bio).
#pragma once

#include <coroutine>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"
#include "core/async/task.h"
#include "core/base/io_status.h"

namespace sectormap::targets {

// Any thread.
class HeldRequests {
 public:
  // Waits for Release() and gives its answer. On a reactor.
  Task<IoStatus> Hold() {
    Stay stay{*this};
    co_return co_await stay;
  }

  // Answers all who wait, and all who come until HoldAgain().
  void Release(IoStatus answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = answer;
    AnswerThoseWaiting(answer);
  }
  void HoldAgain() {
    absl::MutexLock lock(&mutex_);
    answer_.reset();
  }
  // What they waited for has mended by itself: the mapped device asks again for those who wait now.
  void Retry() {
    absl::MutexLock lock(&mutex_);
    AnswerThoseWaiting(IoStatus::kRequeue);
  }
  // The answer of the time between Release() and HoldAgain().
  std::optional<IoStatus> answer() const {
    absl::MutexLock lock(&mutex_);
    return answer_;
  }

 private:
  struct Stay {
    HeldRequests& held;
    Reactor* reactor = nullptr;
    std::coroutine_handle<> handle{};
    IoStatus answer = IoStatus::kOk;

    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> awaiting) {
      absl::MutexLock lock(&held.mutex_);
      if (held.answer_.has_value()) {
        answer = *held.answer_;
        return false;
      }
      reactor = &Reactor::Current();
      handle = awaiting;
      held.waiting_.push_back(this);
      return true;
    }
    IoStatus await_resume() const noexcept { return answer; }
  };

  void AnswerThoseWaiting(IoStatus answer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (Stay* stay : waiting_) {
      stay->answer = answer;
      stay->reactor->Post([handle = stay->handle] { handle.resume(); });
    }
    waiting_.clear();
  }

  mutable absl::Mutex mutex_;
  std::optional<IoStatus> answer_ ABSL_GUARDED_BY(mutex_);
  std::vector<Stay*> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::targets
