// SPDX-License-Identifier: Apache-2.0
// GiveUp: how a call that waits for I/O hears that it is to wait no longer.
#pragma once

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace sectormap {

// Asked ten times a second, on the thread that waits: true ends the wait. Null never does.
using GiveUp = std::function<bool()>;
inline constexpr absl::Duration kGiveUpPoll = absl::Milliseconds(100);

// Waits until `condition` holds. False: given up before. `give_up` is asked without `mutex`.
inline bool AwaitUnless(const GiveUp& give_up, absl::Mutex& mutex, const absl::Condition& condition)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
  while (!mutex.AwaitWithTimeout(condition, give_up ? kGiveUpPoll : absl::InfiniteDuration())) {
    if (!give_up) continue;
    // Not with the mutex, which reactors take: the answer may have to wait for a disk.
    mutex.Unlock();
    const bool ends = give_up();
    mutex.Lock();
    if (ends) return condition.Eval();
  }
  return true;
}

}  // namespace sectormap
