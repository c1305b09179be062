// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/name_locks.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

namespace sectormap::volumes {

bool NameLocks::HoldAll(const std::set<std::string>& names, const GiveUp& ends) {
  const auto all_free = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::ranges::none_of(
        names, [this](const std::string& name)
                   ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.contains(name); });
  };
  absl::MutexLock hold(&mutex_);
  if (!AwaitUnless(ends, mutex_, absl::Condition(&all_free))) return false;
  held_.insert(names.begin(), names.end());
  return true;
}

absl::StatusOr<NameLocks::Held> NameLocks::Take(const std::set<std::string>& wanted,
                                                const GiveUp& give_up) {
  const absl::Time latest = absl::Now() + wait_max_;
  const auto has_gone = [&give_up] { return give_up && give_up(); };
  std::optional<Held> turn;
  if (HoldAll(wanted, [&] { return has_gone() || absl::Now() >= latest; })) {
    turn.emplace(Held(*this, wanted));
  }
  // Asked once more, as nobody was asked if the turn came at once or before the next question.
  if (has_gone()) return absl::CancelledError("given up before its turn; nothing has been changed");
  if (!turn.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("Device or resource busy: another call on '", absl::StrJoin(wanted, "' or '"),
                     "' has been under way for longer than ", absl::FormatDuration(wait_max_),
                     ", perhaps waiting for I/O that a backing device does not finish"));
  }
  return *std::move(turn);
}

NameLocks::Held::Held(Held&& other) noexcept
    : locks_(std::exchange(other.locks_, nullptr)), names_(std::move(other.names_)) {}

NameLocks::Held::~Held() {
  if (locks_ == nullptr) return;
  absl::MutexLock hold(&locks_->mutex_);
  for (const std::string& name : names_) locks_->held_.erase(name);
}

}  // namespace sectormap::volumes
