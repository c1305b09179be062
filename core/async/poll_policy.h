// SPDX-License-Identifier: Apache-2.0
// PollPolicy: whether a reactor that has nothing to do looks for events for a moment before it lets
// its thread sleep. Falling asleep and being woken costs tens of microseconds in a virtual machine,
// more than most commands; looking costs the core. So it looks only while events keep coming within
// the window: an idle reactor never does.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/async/clock.h"

namespace sectormap {

// For one reactor. No thread but its own.
class PollPolicy {
 public:
  // Looks for at most `window`; zero: never.
  explicit PollPolicy(nanoseconds window) : window_(window) {}

  nanoseconds window() const { return window_; }

  // Asked before each wait.
  bool ShouldPoll() const { return polling_; }

  // How looking ended. In vain: the next sleeps are not preceded by it, twice as many each time.
  void Polled(bool found) {
    if (found) {
      sleeps_to_skip_ = 1;
      return;
    }
    polling_ = false;
    sleeps_left_ = sleeps_to_skip_;
    sleeps_to_skip_ = std::min(2 * sleeps_to_skip_, kSleepsToSkipMax);
  }

  // A sleep as short as this would have been saved: begin to look.
  void Slept(nanoseconds duration) {
    if (duration > kWakeUps * window_) return;
    if (sleeps_left_ > 0) {
      --sleeps_left_;
    } else {
      polling_ = true;
    }
  }

 private:
  // A sleep seems longer than the wait for the event was, as waking up takes its time.
  static constexpr int kWakeUps = 2;
  // Events that come just too late cost at most one window in so many.
  static constexpr uint32_t kSleepsToSkipMax = 256;

  nanoseconds window_;
  bool polling_ = false;
  uint32_t sleeps_left_ = 0;
  uint32_t sleeps_to_skip_ = 1;
};

}  // namespace sectormap
