// SPDX-License-Identifier: Apache-2.0
// ManualClock: time goes on when the test says so.
#pragma once

#include <atomic>

#include "core/async/clock.h"
#include "core/async/reactor_pool.h"

namespace sectormap {

class ManualClock final : public Clock {
 public:
  MonotonicTime Now() const override {
    return MonotonicTime(nanoseconds(now_ns_.load(std::memory_order_acquire)));
  }

  // Returns when every reactor has run the timers that became due. What those started may still be
  // under way. REQUIRES: not on a reactor's thread.
  void Advance(nanoseconds distance, ReactorPool& reactors) {
    now_ns_.fetch_add(distance.count(), std::memory_order_acq_rel);
    // A turn runs posted calls before timers: the second call comes after the first one's timers.
    reactors.OnEach([](Reactor&) {});
    reactors.OnEach([](Reactor&) {});
  }

 private:
  // Not the epoch: a time-out of "an hour ago" must be possible.
  std::atomic<int64_t> now_ns_{int64_t{1'000'000} * 1'000'000'000};
};

}  // namespace sectormap
