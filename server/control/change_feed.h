// SPDX-License-Identifier: Apache-2.0
// ChangeFeed: tells subscribers what becomes of the devices: first every device as it is, then
// every change. One thread compares the registry's list with the last one, at once after a verb and
// otherwise now and then, as events of targets and open counts come from elsewhere.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/map/device_registry.h"

namespace sectormap::control {

struct DeviceChange {
  enum class Kind {
    kPresent,    // as it was when the subscription began
    kChanged,    // new, or different
    kRemoved,    // as it was last
    kHeartbeat,  // nothing has happened for a while; `device` says nothing
  };
  Kind kind = Kind::kHeartbeat;
  DeviceInfo device;
};

class ChangeSubscriber {
 public:
  virtual ~ChangeSubscriber() = default;
  // On any thread, one call at a time, the first with every device that is there (perhaps none). A
  // name that is used again: the removal comes before the new device.
  virtual void OnChanges(std::span<const DeviceChange> changes) = 0;
  // The last call: the daemon stops.
  virtual void OnClosed() = 0;
};

struct FeedTimes {
  // How late a change that no verb made (a target's event) is seen.
  std::chrono::milliseconds poll{200};
  // Keeps idle streams from being cut by what is in between, and shows that the daemon lives.
  std::chrono::milliseconds heartbeat{10'000};
};

// Any thread.
class ChangeFeed {
 public:
  // `registry` outlives it.
  explicit ChangeFeed(DeviceRegistry& registry, FeedTimes times = {});
  // REQUIRES: Close() was called.
  ~ChangeFeed();
  ChangeFeed(const ChangeFeed&) = delete;
  ChangeFeed& operator=(const ChangeFeed&) = delete;

  // Calls nothing itself; the feed's thread does. After Close(), `subscriber` hears OnClosed only.
  void Subscribe(std::shared_ptr<ChangeSubscriber> subscriber);
  // A call may still be under way on the feed's thread.
  void Unsubscribe(const ChangeSubscriber* subscriber);

  // Tells every subscriber OnClosed, and stops the thread.
  void Close();

 private:
  struct Entry {
    std::shared_ptr<ChangeSubscriber> subscriber;
    bool fresh = true;  // has not heard the first list
    std::chrono::steady_clock::time_point last_told{};
  };

  void Poke();
  void Run();
  // False: closing; the subscribers are to be told.
  bool AwaitWork(std::vector<Entry>& subscribers);
  std::vector<DeviceChange> TakeChanges();
  void Tell(std::span<const Entry> subscribers, std::span<const DeviceChange> changes);

  DeviceRegistry& registry_;
  const FeedTimes times_;

  absl::Mutex mutex_;
  bool poked_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);

  std::map<std::string, DeviceInfo> known_;  // by identity; the feed's thread only
  uint64_t registry_subscription_ = 0;
  std::thread thread_;
};

}  // namespace sectormap::control
