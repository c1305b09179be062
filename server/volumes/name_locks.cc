// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/name_locks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sectormap::volumes {

absl::StatusOr<NameLocks::Held> NameLocks::Take(std::set<std::string> wanted) {
  const auto all_free = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::ranges::none_of(
        wanted, [this](const std::string& name)
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.contains(name); });
  };
  absl::MutexLock hold(&mutex_);
  if (!mutex_.AwaitWithTimeout(absl::Condition(&all_free), wait_max_)) {
    return absl::FailedPreconditionError(
        absl::StrCat("Device or resource busy: another call on '", absl::StrJoin(wanted, "' or '"),
                     "' has been under way for longer than ", absl::FormatDuration(wait_max_),
                     ", perhaps waiting for I/O that a backing device does not finish"));
  }
  held_.insert(wanted.begin(), wanted.end());
  return Held(*this, std::move(wanted));
}

NameLocks::Held::Held(Held&& other) noexcept
    : locks_(std::exchange(other.locks_, nullptr)), names_(std::move(other.names_)) {}

NameLocks::Held::~Held() {
  if (locks_ == nullptr) return;
  absl::MutexLock hold(&locks_->mutex_);
  for (const std::string& name : names_) locks_->held_.erase(name);
}

}  // namespace sectormap::volumes
