// SPDX-License-Identifier: Apache-2.0
// Activity: tells background work whether requests come. Costs a request one plain add to a counter
// of its own reactor.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/async/reactor.h"

namespace sectormap::targets {

class Activity {
 public:
  // On a reactor.
  void Note() {
    std::atomic<uint64_t>& count = counts_[static_cast<size_t>(Reactor::Current().index())].value;
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  // How many so far. Any thread.
  uint64_t total() const {
    uint64_t sum = 0;
    for (const Count& count : counts_) sum += count.value.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  struct alignas(64) Count {
    std::atomic<uint64_t> value{0};
  };
  std::array<Count, kMaxReactors> counts_;
};

}  // namespace sectormap::targets
