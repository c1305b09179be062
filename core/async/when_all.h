// SPDX-License-Identifier: Apache-2.0
// WhenAll: runs children side by side on this reactor and waits for all of them. The answer is the
// first failure in the order of the children, or kOk. A failure does not stop the others: their
// buffers are in the kernel's hands until each has ended. A child that ends on another reactor is
// brought back to this one.
#pragma once

#include <vector>

#include "core/async/reactor.h"
#include "core/async/task.h"
#include "core/async/wait_queue.h"
#include "core/base/io_status.h"

namespace sectormap {

inline Task<IoStatus> WhenAll(std::vector<Task<IoStatus>> children) {
  std::vector<IoStatus> results(children.size(), IoStatus::kOk);
  size_t running = children.size();
  WaitQueue all_done;
  auto run_child = [](Task<IoStatus>& child, IoStatus& result, size_t& left,
                      WaitQueue& done) -> Task<void> {
    Reactor& home = Reactor::Current();
    result = co_await child;
    co_await home.Switch();
    if (--left == 0) done.WakeAll();
  };
  for (size_t i = 0; i < children.size(); ++i) {
    if (children[i].immediate()) {
      results[i] = co_await children[i];
      --running;
    } else {
      Detach(run_child(children[i], results[i], running, all_done));
    }
  }
  while (running != 0) co_await all_done.Wait();
  for (IoStatus result : results) {
    if (result != IoStatus::kOk) co_return result;
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap
