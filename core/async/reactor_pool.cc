// SPDX-License-Identifier: Apache-2.0
#include "core/async/reactor_pool.h"

#include <pthread.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"

namespace sectormap {

absl::StatusOr<std::unique_ptr<ReactorPool>> ReactorPool::Start(int count, const Clock& clock,
                                                                nanoseconds poll_window) {
  CHECK(count >= 1 && count <= kMaxReactors);
  std::unique_ptr<ReactorPool> pool(new ReactorPool());
  for (int i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<Reactor> reactor, Reactor::Create(i, clock, poll_window));
    pool->reactors_.push_back(std::move(reactor));
  }
  for (auto& reactor : pool->reactors_) {
    pool->threads_.emplace_back([&reactor = *reactor] {
      pthread_setname_np(pthread_self(), absl::StrCat("reactor-", reactor.index()).c_str());
      reactor.Run();
    });
  }
  return pool;
}

ReactorPool::~ReactorPool() {
  for (auto& reactor : reactors_) reactor->Stop();
  for (std::thread& thread : threads_) thread.join();
}

void ReactorPool::OnEach(const std::function<void(Reactor&)>& visit) {
  CHECK(Reactor::CurrentOrNull() == nullptr);
  absl::BlockingCounter left(size());
  for (auto& reactor : reactors_) {
    reactor->Post([&visit, &left, &reactor = *reactor] {
      visit(reactor);
      left.DecrementCount();
    });
  }
  left.Wait();
}

}  // namespace sectormap
