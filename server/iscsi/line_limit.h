// SPDX-License-Identifier: Apache-2.0
// LineLimit: how often a line goes to the daemon's log that a peer can make us write: so many at
// once, then one each kLineInterval. Whoever sends fast must not fill a disk.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/clock.h"

namespace sectormap::iscsi {

// Five a second: 400 thousand a day, some 80 MB.
inline constexpr auto kLineInterval = std::chrono::milliseconds(200);

// Any thread.
class LineLimit {
 public:
  // REQUIRES: at_once > 0.
  explicit LineLimit(int at_once) : burst_((at_once - 1) * kLineInterval) {}

  // Empty: the line is left out. Otherwise it is written, and tells how many were left out since
  // the last one that was.
  std::optional<uint64_t> TryWrite(MonotonicTime now) {
    absl::MutexLock lock(&mutex_);
    next_ = std::max(next_, now - burst_);
    if (next_ > now) {
      ++left_out_;
      return std::nullopt;
    }
    next_ += kLineInterval;
    return std::exchange(left_out_, 0);
  }

 private:
  const nanoseconds burst_;
  absl::Mutex mutex_;
  // When the next line is due if all came at that pace: in the past for whoever has some in hand.
  MonotonicTime next_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::min();
  uint64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sectormap::iscsi
