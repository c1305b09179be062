// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/keeper.h"

#include <chrono>
#include <utility>

#include "absl/time/time.h"

namespace sectormap::volumes {

Keeper::Keeper(DeviceRegistry& registry, Snapshots& snapshots, Mirrors& mirrors, Log log,
               absl::Duration period)
    : registry_(registry),
      snapshots_(snapshots),
      mirrors_(mirrors),
      log_(std::move(log)),
      period_(period) {
  subscription_ = registry_.Subscribe([this](DeviceRegistry::Change, const DeviceInfo& info) {
    absl::MutexLock hold(&mutex_);
    changed_.insert(info.name);
  });
  for (const DeviceInfo& info : registry_.List()) {
    const std::string what = mirrors_.TakeFailedLegsOut(info.name);
    if (!what.empty()) log_(info.name, what);
  }
  thread_ = std::thread([this] { Run(); });
}

Keeper::~Keeper() {
  registry_.Unsubscribe(subscription_);
  {
    absl::MutexLock hold(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void Keeper::Run() {
  // Not absl::Now(), which somebody may set back: stores would not grow for as long.
  using Clock = std::chrono::steady_clock;
  Clock::time_point next_look = Clock::now();
  std::map<std::string, std::string> told;  // what does not change is said once
  while (true) {
    std::set<std::string> changed;
    {
      absl::MutexLock hold(&mutex_);
      auto wanted = [this] {
        mutex_.AssertHeld();
        return stopping_ || !changed_.empty();
      };
      mutex_.AwaitWithTimeout(absl::Condition(&wanted), absl::FromChrono(next_look - Clock::now()));
      if (stopping_) return;
      changed.swap(changed_);
    }
    for (const std::string& device : changed) {
      const std::string what = mirrors_.TakeFailedLegsOut(device);
      if (std::exchange(told[device], what) != what && !what.empty()) log_(device, what);
    }
    if (Clock::now() < next_look) continue;
    {
      // What could not be done may be possible now.
      absl::MutexLock hold(&mutex_);
      for (const auto& [device, what] : told) {
        if (!what.empty()) changed_.insert(device);
      }
    }
    for (const auto& [device, what] : snapshots_.GrowStores()) log_(device, what);
    snapshots_.TakeUpRollBacks();
    next_look = Clock::now() + absl::ToChronoNanoseconds(period_);
  }
}

}  // namespace sectormap::volumes
