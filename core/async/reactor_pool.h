// SPDX-License-Identifier: Apache-2.0
// ReactorPool: the daemon's reactors and their threads.
#pragma once

#include <memory>
#include <thread>
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
  static absl::StatusOr<std::unique_ptr<ReactorPool>> Start(int count, const Clock& clock);

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
    co_await owned;
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

}  // namespace sectormap
