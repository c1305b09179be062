// SPDX-License-Identifier: Apache-2.0
#include "server/control/change_feed.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/time/time.h"
#include "core/base/check.h"

namespace sectormap::control {
namespace {

using SteadyClock = std::chrono::steady_clock;

bool Same(const DeviceInfo& a, const DeviceInfo& b) {
  const auto fields = [](const DeviceInfo& info) {
    return std::tie(info.name, info.uuid, info.suspended, info.read_only, info.has_live_table,
                    info.has_inactive_table, info.deferred_remove, info.error, info.open_count,
                    info.event_number, info.target_count, info.size);
  };
  return fields(a) == fields(b);
}

}  // namespace

ChangeFeed::ChangeFeed(DeviceRegistry& registry, FeedTimes times)
    : registry_(registry), times_(times) {
  registry_subscription_ =
      registry_.Subscribe([this](DeviceRegistry::Change, const DeviceInfo&) { Poke(); });
  thread_ = std::thread([this] { Run(); });
}

ChangeFeed::~ChangeFeed() { CHECK(!thread_.joinable()); }

void ChangeFeed::Poke() {
  absl::MutexLock hold(&mutex_);
  poked_ = true;
}

void ChangeFeed::Subscribe(std::shared_ptr<ChangeSubscriber> subscriber) {
  {
    absl::MutexLock hold(&mutex_);
    if (!closing_) {
      entries_.push_back({.subscriber = std::move(subscriber)});
      poked_ = true;
      return;
    }
  }
  subscriber->OnClosed();
}

void ChangeFeed::Unsubscribe(const ChangeSubscriber* subscriber) {
  absl::MutexLock hold(&mutex_);
  std::erase_if(entries_,
                [subscriber](const Entry& entry) { return entry.subscriber.get() == subscriber; });
}

void ChangeFeed::Close() {
  {
    absl::MutexLock hold(&mutex_);
    closing_ = true;
  }
  if (!thread_.joinable()) return;
  registry_.Unsubscribe(registry_subscription_);
  thread_.join();
}

std::vector<DeviceChange> ChangeFeed::TakeChanges() {
  std::vector<DeviceChange> changes;
  std::map<std::string, DeviceInfo> now;
  for (DeviceInfo& info : registry_.List()) {
    std::string identity = info.identity;
    now.emplace(std::move(identity), std::move(info));
  }
  // Removals first: another device may have the name now.
  for (const auto& [identity, info] : known_) {
    if (!now.contains(identity)) changes.push_back({DeviceChange::Kind::kRemoved, info});
  }
  for (const auto& [identity, info] : now) {
    const auto before = known_.find(identity);
    if (before == known_.end() || !Same(before->second, info)) {
      changes.push_back({DeviceChange::Kind::kChanged, info});
    }
  }
  known_ = std::move(now);
  return changes;
}

bool ChangeFeed::AwaitWork(std::vector<Entry>& subscribers) {
  const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !entries_.empty() || closing_;
  };
  const auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return poked_ || closing_; };
  absl::MutexLock hold(&mutex_);
  mutex_.Await(absl::Condition(&wanted));
  mutex_.AwaitWithTimeout(absl::Condition(&awake), absl::FromChrono(times_.poll));
  poked_ = false;
  subscribers = entries_;
  for (Entry& entry : entries_) entry.fresh = false;
  if (closing_) entries_.clear();
  return !closing_;
}

void ChangeFeed::Tell(std::span<const Entry> subscribers, std::span<const DeviceChange> changes) {
  const SteadyClock::time_point now = SteadyClock::now();
  std::vector<DeviceChange> present;
  for (const auto& [identity, info] : known_) {
    present.push_back({DeviceChange::Kind::kPresent, info});
  }
  const std::vector<DeviceChange> heartbeat(1);
  std::vector<const ChangeSubscriber*> heard;
  for (const Entry& entry : subscribers) {
    if (entry.fresh) {
      entry.subscriber->OnChanges(present);
    } else if (!changes.empty()) {
      entry.subscriber->OnChanges(changes);
    } else if (now - entry.last_told >= times_.heartbeat) {
      entry.subscriber->OnChanges(heartbeat);
    } else {
      continue;
    }
    heard.push_back(entry.subscriber.get());
  }
  absl::MutexLock hold(&mutex_);
  for (Entry& entry : entries_) {
    if (std::ranges::find(heard, entry.subscriber.get()) != heard.end()) entry.last_told = now;
  }
}

void ChangeFeed::Run() {
  std::vector<Entry> subscribers;
  while (AwaitWork(subscribers)) {
    const std::vector<DeviceChange> changes = TakeChanges();
    Tell(subscribers, changes);
  }
  for (const Entry& entry : subscribers) entry.subscriber->OnClosed();
}

}  // namespace sectormap::control
