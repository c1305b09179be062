// SPDX-License-Identifier: Apache-2.0
// The reactor's clock: monotonic time, so that a changed wall clock never moves a time-out. One of
// the three seams at which tests put a fake.
#pragma once

#include <chrono>

namespace sectormap {

using MonotonicTime = std::chrono::steady_clock::time_point;
using std::chrono::nanoseconds;

class Clock {
 public:
  virtual ~Clock() = default;
  // Any thread.
  virtual MonotonicTime Now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  MonotonicTime Now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace sectormap
