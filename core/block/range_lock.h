// SPDX-License-Identifier: Apache-2.0
// RangeLock: keeps a read-modify-write of a few blocks apart from every other write to them. Plain
// writes hold their range shared; a read-modify-write holds it alone. First come first served, so
// nobody starves. Any reactor; the lock inside is held for a walk over those in flight, never
// across I/O.
#pragma once

#include <coroutine>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"

namespace sectormap {

class RangeLock {
 public:
  enum class Mode { kShared, kAlone };

  RangeLock() = default;
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

  // Awaited, it waits for [first, end) and then holds it until it goes out of scope:
  //   RangeLock::Hold hold(lock, first, end, RangeLock::Mode::kAlone);
  //   co_await hold;
  // REQUIRES: on a reactor's thread; awaited at most once.
  class Hold {
   public:
    Hold(RangeLock& lock, uint64_t first, uint64_t end, Mode mode)
        : lock_(lock), first_(first), end_(end), mode_(mode) {}
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() {
      if (state_ != State::kNew) lock_.Release(*this);
    }

    bool await_ready() { return lock_.TryGrant(*this); }
    bool await_suspend(std::coroutine_handle<> handle) { return lock_.Enqueue(*this, handle); }
    void await_resume() noexcept {}

   private:
    friend class RangeLock;
    enum class State { kNew, kWaiting, kHeld };

    bool Conflicts(const Hold& other) const {
      return first_ < other.end_ && other.first_ < end_ &&
             (mode_ == Mode::kAlone || other.mode_ == Mode::kAlone);
    }

    RangeLock& lock_;
    const uint64_t first_;
    const uint64_t end_;
    const Mode mode_;
    State state_ = State::kNew;
    std::coroutine_handle<> handle_;
    Reactor* reactor_ = nullptr;
    Hold* next_ = nullptr;
    Hold* previous_ = nullptr;
  };

 private:
  bool TryGrant(Hold& hold);
  bool Enqueue(Hold& hold, std::coroutine_handle<> handle);
  void Release(Hold& hold);
  void Append(Hold& hold) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if nobody before `hold` in the list is in its way.
  bool IsFree(const Hold& hold) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  // Holders and waiters in the order they came.
  Hold* first_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Hold* last_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace sectormap
