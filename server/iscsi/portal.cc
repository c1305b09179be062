// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/portal.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/async/tcp_stream.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "server/iscsi/connection.h"

namespace sectormap::iscsi {
namespace {

// After accept(2) found no descriptor or memory: until some connection may have ended.
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

class TcpPortal final : public Portal {
 public:
  TcpPortal(std::unique_ptr<Listener> listener, ReactorPool& reactors, TargetDirectory& targets,
            std::shared_ptr<PortalResources> resources)
      : listener_(std::move(listener)),
        reactors_(reactors),
        targets_(targets),
        resources_(std::move(resources)) {}
  ~TcpPortal() override { CHECK(stopped_); }

  std::string address() const override { return listener_->address(); }

  void Start() {
    resources_->addresses().Add(address());
    reactors_[0].Spawn(AcceptLoop());
  }
  void Stop() override;

 private:
  Task<void> AcceptLoop();
  void HandOver(std::unique_ptr<TcpStream> stream);
  Task<void> Serve(int reactor, std::unique_ptr<TcpStream> stream, std::string peer);
  uint64_t NextId();
  void Add(uint64_t id, std::shared_ptr<ConnectionHandle> handle);
  void Remove(uint64_t id);

  const std::unique_ptr<Listener> listener_;
  ReactorPool& reactors_;
  TargetDirectory& targets_;
  const std::shared_ptr<PortalResources> resources_;
  absl::Notification accept_ended_;
  bool stopped_ = false;  // the control thread's

  absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  // Every connection from its beginning to its end.
  std::map<uint64_t, std::shared_ptr<ConnectionHandle>> connections_ ABSL_GUARDED_BY(mutex_);
};

Task<void> TcpPortal::AcceptLoop() {
  while (true) {
    absl::StatusOr<std::unique_ptr<TcpStream>> stream = co_await listener_->Accept();
    if (stream.ok()) {
      HandOver(*std::move(stream));
    } else if (absl::IsCancelled(stream.status())) {
      break;
    } else {
      co_await Reactor::Current().Sleep(kAcceptRetry);
    }
  }
  accept_ended_.Notify();
}

void TcpPortal::HandOver(std::unique_ptr<TcpStream> stream) {
  std::string peer = LoginLimits::WithoutPort(stream->peer_address());
  if (!resources_->logins().TryEnter(peer)) {
    targets_.counters().here().CountDrop(DropReason::kTooManyLogins);
    resources_->log().TooManyLogins(stream->peer_address());
    return;
  }
  const int reactor = resources_->TakeLeastLoaded();
  reactors_[reactor].Spawn(Serve(reactor, std::move(stream), std::move(peer)));
}

Task<void> TcpPortal::Serve(int reactor, std::unique_ptr<TcpStream> stream, std::string peer) {
  const uint64_t id = NextId();
  Connection::Context context{
      .reactor = reactors_[reactor],
      .directory = targets_,
      .memory = resources_->memory(reactor),
      .portals = resources_->addresses(),
      .log = resources_->log(),
      .on_login_end = [this, peer = std::move(peer)] { resources_->logins().Leave(peer); },
  };
  std::function<void(std::shared_ptr<ConnectionHandle>)> on_start =
      [this, id](std::shared_ptr<ConnectionHandle> handle) { Add(id, std::move(handle)); };
  co_await Connection::Serve(std::move(context), std::move(stream), std::move(on_start));
  resources_->Leave(reactor);
  Remove(id);
}

uint64_t TcpPortal::NextId() {
  absl::MutexLock lock(&mutex_);
  return ++last_id_;
}

void TcpPortal::Add(uint64_t id, std::shared_ptr<ConnectionHandle> handle) {
  absl::MutexLock lock(&mutex_);
  connections_[id] = std::move(handle);
}

void TcpPortal::Remove(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  connections_.erase(id);
}

void TcpPortal::Stop() {
  CHECK(Reactor::CurrentOrNull() == nullptr);
  if (std::exchange(stopped_, true)) return;
  resources_->addresses().Remove(address());
  reactors_[0].Post([this] { listener_->Close(); });
  accept_ended_.WaitForNotification();
  // Those that were handed over are known when their reactors have run what was posted.
  reactors_.OnEach([](Reactor&) {});
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [id, handle] : connections_) handle->AskLogout(DropReason::kShutdown);
    auto all_ended = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return connections_.empty(); };
    mutex_.Await(absl::Condition(&all_ended));
  }
  // The last of them is out of Remove() too.
  reactors_.OnEach([](Reactor&) {});
}

}  // namespace

PortalResources::PortalResources(const ReactorPool& reactors, size_t command_memory_bytes)
    : connections_(reactors.size()) {
  for (int i = 0; i < reactors.size(); ++i) {
    memories_.push_back(std::make_unique<CommandMemory>(command_memory_bytes));
  }
}

int PortalResources::TakeLeastLoaded() {
  // A race may take the second best: nobody would notice.
  size_t best = 0;
  for (size_t i = 1; i < connections_.size(); ++i) {
    if (connections_[i] < connections_[best]) best = i;
  }
  ++connections_[best];
  return static_cast<int>(best);
}

absl::StatusOr<std::unique_ptr<Portal>> Portal::Listen(std::string_view address,
                                                       ReactorPool& reactors,
                                                       TargetDirectory& targets,
                                                       std::shared_ptr<PortalResources> resources) {
  ASSIGN_OR_RETURN(std::unique_ptr<Listener> listener,
                   Listener::Bind(std::string(address), "--listen"));
  if (resources == nullptr) resources = std::make_shared<PortalResources>(reactors);
  auto portal =
      std::make_unique<TcpPortal>(std::move(listener), reactors, targets, std::move(resources));
  portal->Start();
  return std::unique_ptr<Portal>(std::move(portal));
}

}  // namespace sectormap::iscsi
