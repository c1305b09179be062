// SPDX-License-Identifier: Apache-2.0
// Keeper: looks after devices between verbs, on a thread of its own: takes failed mirror legs out
// as soon as a device says that something has happened, grows snapshot stores in time, and takes up
// rollbacks that nobody looks after.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/volumes/mirrors.h"
#include "server/volumes/snapshots.h"

namespace sectormap::volumes {

// How often stores are looked at: one that is written at 1 GB/s must not get from its threshold to
// its end in between.
inline constexpr absl::Duration kKeeperPeriod = absl::Milliseconds(500);

class Keeper {
 public:
  using Log = std::function<void(const std::string& device, const std::string& what)>;

  // All outlive it. Every device that is there has been looked at when it returns. `log` is called
  // here and on its thread.
  Keeper(DeviceRegistry& registry, Snapshots& snapshots, Mirrors& mirrors, Log log,
         absl::Duration period = kKeeperPeriod);
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

 private:
  void Run();

  DeviceRegistry& registry_;
  Snapshots& snapshots_;
  Mirrors& mirrors_;
  const Log log_;
  const absl::Duration period_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::string> changed_ ABSL_GUARDED_BY(mutex_);
  uint64_t subscription_ = 0;
  std::thread thread_;
};

}  // namespace sectormap::volumes
