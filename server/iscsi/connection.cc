// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/connection.h"

#include <utility>

namespace sectormap::iscsi {

// ---- ConnectionHandle

void ConnectionHandle::AskLogout(DropReason reason) {
  reactor_.Post([self = shared_from_this(), reason] {
    if (self->connection_ != nullptr) self->connection_->AskLogout(reason);
  });
}

void ConnectionHandle::Drop(DropReason reason) {
  reactor_.Post([self = shared_from_this(), reason] {
    if (self->connection_ != nullptr) self->connection_->Drop(reason);
  });
}

void ConnectionHandle::OnLunsChanged(absl::AnyInvocable<void()> released) {
  reactor_.Post([self = shared_from_this(), released = std::move(released)]() mutable {
    Connection* connection = self->connection_;
    if (connection != nullptr && connection->session_ != nullptr) {
      connection->session_->units().OnLunsChanged(std::move(released));
    } else {
      released();
    }
  });
}

void ConnectionHandle::WhenEnded(absl::AnyInvocable<void()> ended) {
  reactor_.Post([self = shared_from_this(), ended = std::move(ended)]() mutable {
    if (self->connection_ != nullptr) {
      self->connection_->ended_calls_.push_back(std::move(ended));
    } else {
      ended();
    }
  });
}

Task<void> ConnectionHandle::AbortTasks(uint64_t lun_number) {
  const std::shared_ptr<ConnectionHandle> self = shared_from_this();
  Reactor& caller = Reactor::Current();
  co_await reactor_.Switch();
  if (connection_ != nullptr) co_await connection_->AbortTasks(lun_number);
  co_await caller.Switch();
}

// ---- Connection

Connection::Connection(Context context, std::unique_ptr<ByteStream> stream)
    : context_(std::move(context)),
      stream_(std::move(stream)),
      handle_(std::make_shared<ConnectionHandle>(context_.reactor, *this)),
      counters_(context_.directory.counters().here()),
      reader_(*stream_),
      writer_(*stream_, window_, gate_, [this] { Drop(DropReason::kPeerClosed); }) {}

Connection::~Connection() = default;

Task<void> Connection::Serve(Context context, std::unique_ptr<ByteStream> stream,
                             std::function<void(std::shared_ptr<ConnectionHandle>)> on_start) {
  Connection connection(std::move(context), std::move(stream));
  on_start(connection.handle_);
  co_await connection.Run();
}

Task<void> Connection::Run() {
  counters_.connections.Add(1);
  const Reactor::TimerId timer =
      context_.reactor.CallAfter(kLoginTimeout, [this] { Drop(DropReason::kLoginTimeout); });
  in_full_feature_ = co_await Login();
  context_.reactor.CancelTimer(timer);
  const bool discovers = in_full_feature_ && login_.type == SessionType::kDiscovery;
  if (discovers) co_await Discovery();
  context_.on_login_end();
  if (in_full_feature_ && !discovers) co_await FullFeature();
  co_await End();
}

// Who discovers has not proved who they are (docs/decisions/0005-discovery-and-chap.md).
Task<void> Connection::Discovery() {
  context_.directory.BeginDiscovery();
  const Reactor::TimerId timer = context_.reactor.CallAfter(
      kDiscoveryTimeout, [this] { Drop(DropReason::kDiscoveryTimeout); });
  co_await FullFeature();
  context_.reactor.CancelTimer(timer);
  context_.directory.EndDiscovery();
}

Task<void> Connection::FullFeature() {
  StartKeepAlive();
  bool go_on = true;
  while (go_on) {
    go_on = co_await OnPdu();
    go_on = go_on && !finishing_;
    writer_.SendAhead();
  }
  if (finishing_) co_await FlushForAWhile();
}

Task<void> Connection::FlushForAWhile() {
  const Reactor::TimerId timer =
      context_.reactor.CallAfter(kLogoutGrace, [this] { stream_->Shutdown(); });
  co_await writer_.Flushed();
  context_.reactor.CancelTimer(timer);
}

Task<void> Connection::End() {
  stream_->Shutdown();
  if (!drop_reason_) drop_reason_ = DropReason::kPeerClosed;
  if (in_full_feature_) context_.log.SessionEnded(DescribeSession(), *drop_reason_);
  if (keep_alive_timer_) context_.reactor.CancelTimer(*keep_alive_timer_);
  if (drop_timer_) context_.reactor.CancelTimer(*drop_timer_);
  writer_.Close();
  if (session_ != nullptr) session_->Close();
  DiscardHeld();
  gate_.Close();
  co_await gate_.Drained();
  co_await writer_.Flushed();
  visitors_.Close();
  co_await visitors_.Drained();
  handle_->connection_ = nullptr;
  session_.reset();
  if (session_id_ != 0) context_.directory.Unregister(session_id_);
  if (tsih_ != 0) context_.directory.ReleaseTsih(tsih_);
  counters_.CountDrop(*drop_reason_);
  for (auto& ended : ended_calls_) ended();
}

void Connection::Drop(DropReason reason) {
  if (!drop_reason_) drop_reason_ = reason;
  stream_->Shutdown();
}

void Connection::FinishWith(DropReason reason) {
  if (!drop_reason_) drop_reason_ = reason;
  finishing_ = true;
}

void Connection::AskLogout(DropReason reason) {
  // Closed: it is about to end, and would not stop a timer that begins now.
  if (drop_timer_ || finishing_ || writer_.closed()) return;
  if (!in_full_feature_ || session_ == nullptr) {
    Drop(reason);
    return;
  }
  AsyncMessageHeader message;
  message.async_event = AsyncEvent::kLogoutRequest;
  // RFC 7143 §11.9.1: the seconds in which the initiator is to log out.
  message.parameter3 = static_cast<uint16_t>(std::chrono::seconds(kLogoutGrace).count());
  writer_.QueueOwned(HeaderAs<BasicHeader>(message), {});
  drop_timer_ = context_.reactor.CallAfter(kLogoutGrace, [this, reason] { Drop(reason); });
}

void Connection::StartKeepAlive() {
  keep_alive_timer_ = context_.reactor.CallAfter(kKeepAliveInterval, [this] { LookForLife(); });
}

void Connection::LookForLife() {
  silent_looks_ = heard_ ? 0 : silent_looks_ + 1;
  heard_ = false;
  if (silent_looks_ > kKeepAliveMissesMax) {
    Drop(DropReason::kKeepAlive);
    return;
  }
  if (silent_looks_ == 1) {
    NopInHeader ping;
    // Any tag but the reserved one asks for an answer; only that there is one counts.
    ping.target_transfer_tag = 0;
    writer_.QueueOwned(HeaderAs<BasicHeader>(ping), {});
  }
  const bool stalls = !data_heard_ && session_ != nullptr && session_->AwaitsData();
  looks_without_data_ = stalls ? looks_without_data_ + 1 : 0;
  data_heard_ = false;
  if (looks_without_data_ > kDataOutTimeout / kKeepAliveInterval) {
    Drop(DropReason::kDataOutTimeout);
    return;
  }
  const bool takes_nothing = writer_.sending() && writer_.sends() == sends_seen_;
  looks_without_send_ = takes_nothing ? looks_without_send_ + 1 : 0;
  sends_seen_ = writer_.sends();
  if (looks_without_send_ > kSendTimeout / kKeepAliveInterval) {
    Drop(DropReason::kSendTimeout);
    return;
  }
  StartKeepAlive();
}

Task<void> Connection::AbortTasks(uint64_t lun_number) {
  Gate::Pass pass(visitors_);
  if (!pass || session_ == nullptr) co_return;
  const Session::TaskFilter on_lun = [lun_number](const ScsiTask& task) {
    return task.unit != nullptr && task.unit->number == lun_number;
  };
  session_->Abort(on_lun);
  co_await session_->Quiesced(on_lun);
}

}  // namespace sectormap::iscsi
