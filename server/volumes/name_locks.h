// SPDX-License-Identifier: Apache-2.0
// NameLocks: a lock per device name, for verbs that must not overlap on one device. Several names
// are taken at once, so that two renames cannot wait for each other.
#pragma once

#include <initializer_list>
#include <set>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace sectormap::volumes {

// Control threads only: it blocks.
class NameLocks {
 public:
  class Held {
   public:
    Held(NameLocks& locks, std::initializer_list<std::string_view> names);
    ~Held();
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

   private:
    NameLocks& locks_;
    const std::set<std::string> names_;
  };

 private:
  absl::Mutex mutex_;
  std::set<std::string> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::volumes
