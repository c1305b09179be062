// SPDX-License-Identifier: Apache-2.0
// NameLocks: a lock per device name, for verbs that must not overlap on one device. Several names
// are taken at once, so that two renames cannot wait for each other.
#pragma once

#include <initializer_list>
#include <set>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/map/give_up.h"

namespace sectormap::volumes {

// A verb that waits longer for its turn is refused, so that a stuck disk does not collect the
// control plane's threads. The same as the registry's.
inline constexpr absl::Duration kTurnWaitMax = absl::Seconds(30);

// Control threads only: it blocks.
class NameLocks {
 public:
  explicit NameLocks(absl::Duration wait_max = kTurnWaitMax) : wait_max_(wait_max) {}

  // Holds the names until it goes. For the thread's own scope; the locks outlive it.
  class Held {
   public:
    Held(Held&& other) noexcept;
    Held& operator=(Held&&) = delete;
    ~Held();

   private:
    friend class NameLocks;
    Held(NameLocks& locks, std::set<std::string> names)
        : locks_(&locks), names_(std::move(names)) {}

    NameLocks* locks_;
    std::set<std::string> names_;
  };

  // FailedPrecondition: one of them has been held for too long. Cancelled: it was given up, also if
  // all are free by then: what somebody wanted while he was there is not done when he has gone.
  absl::StatusOr<Held> Take(std::initializer_list<std::string_view> names,
                            const GiveUp& give_up = nullptr) {
    return Take(std::set<std::string>(names.begin(), names.end()), give_up);
  }
  absl::StatusOr<Held> Take(const std::set<std::string>& names, const GiveUp& give_up = nullptr);

 private:
  // False: `ends` said so before.
  bool HoldAll(const std::set<std::string>& names, const GiveUp& ends);

  const absl::Duration wait_max_;
  absl::Mutex mutex_;
  std::set<std::string> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::volumes
