// SPDX-License-Identifier: Apache-2.0
#include "server/control/device_watch.h"

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/control/device_messages.h"
#include "server/control/status.h"

namespace sectormap::control {
namespace {

v1::WatchResponse::Kind KindOf(DeviceChange::Kind kind) {
  switch (kind) {
    case DeviceChange::Kind::kPresent:
      return v1::WatchResponse::KIND_PRESENT;
    case DeviceChange::Kind::kChanged:
      return v1::WatchResponse::KIND_CHANGED;
    case DeviceChange::Kind::kRemoved:
      return v1::WatchResponse::KIND_REMOVED;
    case DeviceChange::Kind::kHeartbeat:
      return v1::WatchResponse::KIND_HEARTBEAT;
  }
  return v1::WatchResponse::KIND_UNSPECIFIED;
}

// Without ToGrpc's details: to the client it is as if nobody were there.
grpc::Status Stopping() {
  return {grpc::StatusCode::UNAVAILABLE, "sectormapd is stopping; try again when it is back"};
}

grpc::Status Gone() { return ToGrpc(absl::NotFoundError("Device does not exist.")); }

// gRPC may call back from inside StartWrite and Finish, so no lock is held around them.
class WatchReactor final : public grpc::ServerWriteReactor<v1::WatchResponse>,
                           public ChangeSubscriber {
 public:
  WatchReactor(ChangeFeed& feed, std::string identity)
      : feed_(feed), identity_(std::move(identity)) {}

  // The feed may still be calling when gRPC is done, so each has a share.
  static WatchReactor* Start(std::shared_ptr<WatchReactor> reactor) {
    WatchReactor* raw = reactor.get();
    raw->self_ = reactor;
    // The client learns that it watches, even if there is nothing to tell for now.
    raw->StartSendInitialMetadata();
    raw->feed_.Subscribe(std::move(reactor));
    return raw;
  }

  void OnChanges(std::span<const DeviceChange> changes) override {
    {
      absl::MutexLock hold(&mutex_);
      for (const DeviceChange& change : changes) {
        if (change.kind == DeviceChange::Kind::kHeartbeat) {
          heartbeat_ = true;
        } else if (identity_.empty() || change.device.identity == identity_) {
          Queue(change);
        }
      }
      // The first list is every device there is: behind it stands the mark that it has ended.
      if (!std::exchange(listed_, true)) order_.push_back(kListed);
    }
    Advance();
  }

  void OnClosed() override { End(Stopping()); }
  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock hold(&mutex_);
      writing_ = false;
      if (!ok && !end_.has_value()) end_ = grpc::Status::CANCELLED;
    }
    Advance();
  }

  void OnDone() override {
    feed_.Unsubscribe(this);
    const std::shared_ptr<WatchReactor> last = std::exchange(self_, nullptr);
  }

 private:
  void End(const grpc::Status& status) {
    {
      absl::MutexLock hold(&mutex_);
      if (!end_.has_value()) end_ = status;
    }
    Advance();
  }

  void Queue(const DeviceChange& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto [place, fresh] = pending_.try_emplace(change.device.identity, change);
    if (change.kind == DeviceChange::Kind::kRemoved) {
      // Before all that waits: another device may have the name by now.
      place->second = change;
      std::erase(order_, change.device.identity);
      order_.push_front(change.device.identity);
      return;
    }
    if (fresh) {
      order_.push_back(change.device.identity);
      return;
    }
    // What the client has not heard of yet stays "present" with the newest state.
    const bool still_present = place->second.kind == DeviceChange::Kind::kPresent &&
                               change.kind == DeviceChange::Kind::kChanged;
    place->second = change;
    if (still_present) place->second.kind = DeviceChange::Kind::kPresent;
  }

  // Starts the one operation that is due, if none is under way.
  void Advance() {
    std::optional<grpc::Status> end;
    {
      absl::MutexLock hold(&mutex_);
      if (writing_ || finished_) return;
      end = end_;
      if (end.has_value()) {
        finished_ = true;
      } else if (TakeMessage()) {
        writing_ = true;
      } else {
        return;
      }
    }
    if (end.has_value()) {
      Finish(*end);
    } else {
      StartWrite(&message_);
    }
  }

  bool TakeMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    message_.Clear();
    if (!order_.empty() && order_.front() == kListed) {
      message_.set_kind(v1::WatchResponse::KIND_LISTED);
      order_.pop_front();
      return true;
    }
    if (!order_.empty()) {
      const auto next = pending_.find(order_.front());
      message_.set_kind(KindOf(next->second.kind));
      FillDevice(next->second.device, *message_.mutable_device());
      pending_.erase(next);
      order_.pop_front();
      return true;
    }
    if (!std::exchange(heartbeat_, false)) return false;
    message_.set_kind(v1::WatchResponse::KIND_HEARTBEAT);
    return true;
  }

  static constexpr char kListed[] = "";  // no device's identity

  ChangeFeed& feed_;
  const std::string identity_;
  std::shared_ptr<WatchReactor> self_;

  absl::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool heartbeat_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, DeviceChange> pending_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> order_ ABSL_GUARDED_BY(mutex_);  // identities, and kListed
  bool listed_ ABSL_GUARDED_BY(mutex_) = false;            // the mark has been set
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  v1::WatchResponse message_;  // gRPC's while `writing_`
};

class WaitReactor final : public grpc::ServerUnaryReactor, public ChangeSubscriber {
 public:
  WaitReactor(ChangeFeed& feed, std::string identity, uint32_t seen, v1::Device* response)
      : feed_(feed), identity_(std::move(identity)), seen_(seen), response_(response) {}

  static WaitReactor* Start(std::shared_ptr<WaitReactor> reactor) {
    WaitReactor* raw = reactor.get();
    raw->self_ = reactor;
    raw->feed_.Subscribe(std::move(reactor));
    return raw;
  }

  void OnChanges(std::span<const DeviceChange> changes) override {
    bool there = false;
    for (const DeviceChange& change : changes) {
      if (change.kind == DeviceChange::Kind::kHeartbeat) return;
      if (change.device.identity != identity_) continue;
      there = change.kind != DeviceChange::Kind::kRemoved;
      if (!there) return End(Gone());
      if (change.device.event_number == seen_) continue;
      if (!TryEnd()) return;
      FillDevice(change.device, *response_);
      Finish(grpc::Status::OK);
      return;
    }
    // The first list names every device there is; later ones only what changed.
    if (std::exchange(first_, false) && !there) End(Gone());
  }

  void OnClosed() override { End(Stopping()); }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override {
    feed_.Unsubscribe(this);
    const std::shared_ptr<WaitReactor> last = std::exchange(self_, nullptr);
  }

 private:
  // True for the one that may finish.
  bool TryEnd() { return !ended_.exchange(true); }
  void End(const grpc::Status& status) {
    if (TryEnd()) Finish(status);
  }

  ChangeFeed& feed_;
  const std::string identity_;
  const uint32_t seen_;
  v1::Device* const response_;
  std::shared_ptr<WaitReactor> self_;
  bool first_ = true;  // the feed's thread only
  std::atomic<bool> ended_{false};
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchResponse>* StartWatch(ChangeFeed& feed, std::string identity) {
  return WatchReactor::Start(std::make_shared<WatchReactor>(feed, std::move(identity)));
}

grpc::ServerUnaryReactor* StartWait(ChangeFeed& feed, std::string identity, uint32_t seen,
                                    v1::Device* response) {
  return WaitReactor::Start(
      std::make_shared<WaitReactor>(feed, std::move(identity), seen, response));
}

}  // namespace sectormap::control
