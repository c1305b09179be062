// SPDX-License-Identifier: Apache-2.0
// Task<T>: a lazy coroutine, or a value that is there already.
//
// A Task starts when it is awaited (or given to Detach). Awaiting runs it inline; if it finishes
// without suspending, the parent goes on without ever having been suspended, so a loop over a
// million children that are ready needs constant stack. A Task made from a value has no frame: a
// function on the hot path may `return IoStatus::kOk;` or be a coroutine, and its callers cannot
// tell.
//
// Thread: a Task belongs to the thread that awaits it; it may move to another reactor by
// Reactor::Switch only, and its parent then goes on there too: who was called on one reactor goes
// back to it before it ends. Never destroy a Task that is suspended in the middle: drain through a
// Gate. Exceptions: none of ours; one that escapes ends the process.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "core/async/frame_pool.h"
#include "core/base/check.h"

namespace sectormap {

template <typename T>
class Task;

namespace internal {

struct PromiseBase {
  std::coroutine_handle<> continuation;  // null while the parent runs us inline

  static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
  static void operator delete(void* frame, size_t bytes) noexcept { FreeFrame(frame, bytes); }

  std::suspend_always initial_suspend() noexcept { return {}; }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
      std::coroutine_handle<> parent = self.promise().continuation;
      return parent ? parent : std::noop_coroutine();
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
};

template <typename T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <typename U = T>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() {}
};

// Awaits `handle` as the class comment says: inline first, suspend the parent only if need be.
template <typename P>
bool RunOrSuspend(std::coroutine_handle<P> handle, std::coroutine_handle<> parent) {
  handle.resume();
  if (handle.done()) return false;
  handle.promise().continuation = parent;
  return true;
}

}  // namespace internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  Task(T value) : value_(std::move(value)) {}  // NOLINT: a value is a finished task
  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), value_(std::move(other.value_)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  // True if the value is there without running anything.
  bool immediate() const { return !handle_; }

  bool await_ready() const noexcept { return !handle_; }
  bool await_suspend(std::coroutine_handle<> parent) {
    return internal::RunOrSuspend(handle_, parent);
  }
  T await_resume() { return handle_ ? *std::move(handle_.promise().value) : *std::move(value_); }

 private:
  Handle handle_;
  std::optional<T> value_;
};

template <>
class [[nodiscard]] Task<void> {
 public:
  using promise_type = internal::Promise<void>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> parent) {
    return internal::RunOrSuspend(handle_, parent);
  }
  void await_resume() {}

 private:
  Handle handle_;
};

namespace internal {

template <typename T>
Task<T> Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

// A coroutine that owns itself: it starts at once and frees its frame at its end.
struct DetachedTask {
  struct promise_type {
    static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
    static void operator delete(void* frame, size_t bytes) noexcept { FreeFrame(frame, bytes); }
    DetachedTask get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

}  // namespace internal

// Starts `task` now, on this thread, and lets it go. Whoever detaches tasks holds a Gate that they
// leave at their end, and waits for it before what they use goes away.
inline void Detach(Task<void> task) {
  [](Task<void> owned) -> internal::DetachedTask { co_await owned; }(std::move(task));
}

}  // namespace sectormap
