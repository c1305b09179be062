// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/name_locks.h"

#include <algorithm>

namespace sectormap::volumes {

NameLocks::Held::Held(NameLocks& locks, std::initializer_list<std::string_view> names)
    : locks_(locks), names_(names.begin(), names.end()) {
  const auto all_free = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::ranges::none_of(
        names_, [this](const std::string& name)
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return locks_.held_.contains(name); });
  };
  absl::MutexLock hold(&locks_.mutex_, absl::Condition(&all_free));
  locks_.held_.insert(names_.begin(), names_.end());
}

NameLocks::Held::~Held() {
  absl::MutexLock hold(&locks_.mutex_);
  for (const std::string& name : names_) locks_.held_.erase(name);
}

}  // namespace sectormap::volumes
