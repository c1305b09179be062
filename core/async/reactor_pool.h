// SPDX-License-Identifier: Apache-2.0
// ReactorPool: the daemon's reactors and their threads.
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "core/async/clock.h"
#include "core/async/reactor.h"
#include "core/async/task.h"

namespace sectormap {

class ReactorPool {
 public:
  // Starts `count` reactors (1..kMaxReactors), each on a thread of its own. `clock` outlives them.
  // `poll_window`: see PollPolicy.
  static absl::StatusOr<std::unique_ptr<ReactorPool>> Start(
      int count, const Clock& clock, nanoseconds poll_window = nanoseconds::zero());

  // Stops the loops and joins the threads. REQUIRES: all work on them has ended.
  ~ReactorPool();
  ReactorPool(const ReactorPool&) = delete;
  ReactorPool& operator=(const ReactorPool&) = delete;

  int size() const { return static_cast<int>(reactors_.size()); }
  Reactor& operator[](int index) { return *reactors_[index]; }

  // Runs `task` on a reactor and blocks the calling thread until it ends.
  // REQUIRES: not called on a reactor's thread.
  template <typename T>
  T RunOn(int index, Task<T> task);
  void RunOn(int index, Task<void> task);
  // As above for what must be *called* on the reactor too, as BlockDevice::Submit must, which may
  // do its work before it returns: RunOn(0, [&] { return device.Submit(request); }).
  template <typename Start>
  requires std::invocable<Start&>
  auto RunOn(int index, Start start);

  // Calls `visit` on every reactor's thread and blocks until all have returned.
  // REQUIRES: not called on a reactor's thread.
  void OnEach(const std::function<void(Reactor&)>& visit);

 private:
  ReactorPool() = default;

  std::vector<std::unique_ptr<Reactor>> reactors_;
  std::vector<std::thread> threads_;
};

inline void ReactorPool::RunOn(int index, Task<void> task) {
  absl::Notification done;
  (*this)[index].Spawn([](Task<void> owned, absl::Notification& end) -> Task<void> {
    {
      // What the task holds is gone when the caller goes on.
      Task<void> running = std::move(owned);
      co_await running;
    }
    end.Notify();
  }(std::move(task), done));
  done.WaitForNotification();
}

template <typename T>
T ReactorPool::RunOn(int index, Task<T> task) {
  std::optional<T> result;
  RunOn(index, [](Task<T> owned, std::optional<T>& out) -> Task<void> {
    out.emplace(co_await owned);
  }(std::move(task), result));
  return *std::move(result);
}

template <typename Start>
requires std::invocable<Start&>
auto ReactorPool::RunOn(int index, Start start) {
  using Started = std::invoke_result_t<Start&>;
  return RunOn(index, [](Start owned) -> Started { co_return co_await owned(); }(std::move(start)));
}

}  // namespace sectormap
