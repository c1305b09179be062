// SPDX-License-Identifier: Apache-2.0
// Connection's login phase: carries LoginNegotiator's PDUs, and takes the place among the target's
// sessions.
#include <array>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/iscsi/connection.h"

namespace sectormap::iscsi {
namespace {

LoginOutcome OutcomeOf(LoginStatus status) {
  switch (static_cast<uint16_t>(status) >> 8) {
    case 0:
      return LoginOutcome::kAccepted;
    case 1:
      return LoginOutcome::kRedirected;
    case 2:
      return LoginOutcome::kInitiatorError;
    default:
      return LoginOutcome::kTargetError;
  }
}

// Something that ends on another reactor, waited for on this one, for a while.
struct RemoteEnd {
  explicit RemoteEnd(Reactor& its_reactor) : reactor(its_reactor) {}
  Reactor& reactor;
  bool ended = false;
  bool timed_out = false;
  WaitQueue changed;
};

// True if the session ended in time.
Task<bool> EndsInTime(std::shared_ptr<SessionControl> session, Reactor& reactor) {
  auto end = std::make_shared<RemoteEnd>(reactor);
  session->WhenEnded([end] {
    end->reactor.Post([end] {
      end->ended = true;
      end->changed.WakeAll();
    });
  });
  const Reactor::TimerId timer = reactor.CallAfter(kReinstatementWait, [end] {
    end->timed_out = true;
    end->changed.WakeAll();
  });
  while (!end->ended && !end->timed_out) co_await end->changed.Wait();
  reactor.CancelTimer(timer);
  co_return end->ended;
}

}  // namespace

Task<bool> Connection::Login() {
  tsih_ = context_.directory.TakeTsih();
  // Without a handle to give out there is no room for another session.
  const auto service = tsih_ == 0 ? LoginNegotiator::Service::kUnavailable : context_.service;
  LoginNegotiator negotiator(context_.directory, service, tsih_);
  const bool in = co_await LoginSteps(negotiator);
  if (!in && !drop_reason_) drop_reason_ = DropReason::kPeerClosed;
  co_return in;
}

Task<bool> Connection::LoginSteps(LoginNegotiator& negotiator) {
  // The negotiator ends it: with success, with a refusal, or because it takes too many requests.
  for (bool first = true;; first = false) {
    const PduError error = co_await reader_.ReadHeader();
    if (error == PduError::kEnd) co_return false;
    // RFC 7143 §6.3: until full feature phase nothing but Login Requests may come. Whoever sends
    // something else gets no answer (a scanner would learn what we are).
    const BasicHeader basic = reader_.header();
    if (error != PduError::kNone || basic.opcode() != Opcode::kLoginRequest ||
        !reader_.ahs().empty()) {
      FinishWith(DropReason::kProtocolError);
      co_return false;
    }
    std::string text(reader_.data_bytes(), '\0');
    const PduError data_error = co_await reader_.ReadData(std::as_writable_bytes(std::span(text)));
    if (data_error != PduError::kNone) co_return false;
    const auto request = HeaderAs<LoginRequestHeader>(basic);
    if (first) window_.Start(request.cmd_sn);
    LoginNegotiator::Reply reply = negotiator.OnRequest(request, text);
    if (reply.next == LoginNegotiator::Reply::Next::kFullFeature) {
      login_ = negotiator.result();
      const LoginStatus status = co_await Register();
      if (status != LoginStatus::kSuccess) {
        reply.header.flags = 0;
        reply.header.tsih = request.tsih;
        reply.header.set_status(status);
        reply.text.clear();
        reply.reason = "the target went away during the login";
        reply.next = LoginNegotiator::Reply::Next::kClose;
      }
    }
    if (reply.next != LoginNegotiator::Reply::Next::kContinue) {
      counters_.CountLogin(OutcomeOf(reply.header.status()));
    }
    if (reply.next == LoginNegotiator::Reply::Next::kClose) {
      context_.log.LoginRefused(negotiator.claim(), stream_->peer_address(), reply.header.status(),
                                reply.reason);
    }
    const bool sent = co_await SendLoginReply(reply);
    if (!sent) co_return false;
    if (reply.next == LoginNegotiator::Reply::Next::kContinue) continue;
    if (reply.next == LoginNegotiator::Reply::Next::kClose) {
      FinishWith(DropReason::kLoginFailed);
      co_return false;
    }
    EnterFullFeature();
    co_return true;
  }
}

Task<bool> Connection::SendLoginReply(const LoginNegotiator::Reply& reply) {
  LoginResponseHeader header = reply.header;
  header.data_segment_length = static_cast<uint32_t>(reply.text.size());
  header.exp_cmd_sn = window_.expected();
  header.max_cmd_sn = window_.max();
  std::array<uint8_t, 3> padding{};
  const uint32_t padding_bytes = PaddingBytes(static_cast<uint32_t>(reply.text.size()));
  std::array<iovec, 3> pieces{{
      {&header, sizeof header},
      {const_cast<char*>(reply.text.data()), reply.text.size()},
      {padding.data(), padding_bytes},
  }};
  const size_t count = reply.text.empty() ? 1 : padding_bytes == 0 ? 2 : 3;
  const int error = co_await stream_->WriteAll(std::span(pieces).first(count));
  co_return error == 0;
}

Task<LoginStatus> Connection::Register() {
  parameters_ = login_.parameters;
  if (login_.type == SessionType::kDiscovery) co_return LoginStatus::kSuccess;
  const NexusKey key{login_.initiator_name, login_.isid, login_.target->iqn};
  bool replace = false;
  while (true) {
    TargetDirectory::Registration registration =
        context_.directory.Register(key, DescribeSession(), handle_, replace);
    if (registration.result == TargetDirectory::Registration::Result::kDone) {
      session_id_ = registration.id;
      luns_ = std::move(registration.luns);
      co_return LoginStatus::kSuccess;
    }
    if (registration.result == TargetDirectory::Registration::Result::kTargetGone) {
      co_return LoginStatus::kTargetRemoved;
    }
    // RFC 7143 §6.3.5: the new session reinstates the old one, which ends first.
    registration.previous->Drop(DropReason::kReinstated);
    const bool ended = co_await EndsInTime(std::move(registration.previous), context_.reactor);
    replace = !ended;
  }
}

SessionInfo Connection::DescribeSession() const {
  SessionInfo info;
  info.initiator_name = login_.initiator_name;
  info.initiator_alias = login_.initiator_alias;
  if (login_.target != nullptr) info.target_name = login_.target->iqn;
  info.isid = absl::StrFormat("%012x", login_.isid);
  info.tsih = tsih_;
  info.local_address = stream_->local_address();
  info.peer_address = stream_->peer_address();
  info.reactor = context_.reactor.index();
  info.header_digest = parameters_.header_digest;
  info.data_digest = parameters_.data_digest;
  info.login_unix_seconds = absl::ToUnixSeconds(absl::Now());
  return info;
}

void Connection::EnterFullFeature() {
  context_.log.SessionBegan(DescribeSession());
  reader_.SetDigests(parameters_.header_digest, parameters_.data_digest);
  reader_.set_max_data_bytes(kOurMaxRecvDataSegmentBytes);
  writer_.SetDigests(parameters_.header_digest, parameters_.data_digest);
  writer_.set_next_stat_sn(login_.next_stat_sn);
  text_.emplace(context_.directory, login_,
                context_.portals.ReachableFrom(stream_->local_address()));
  if (login_.type == SessionType::kDiscovery) return;
  scsi::NexusIdentity identity;
  identity.initiator_name = login_.initiator_name;
  identity.initiator_port = absl::StrFormat("%s,i,0x%012x", login_.initiator_name, login_.isid);
  identity.target_port = absl::StrFormat("%s,t,0x%04x", login_.target->iqn, kPortalGroupTag);
  session_ = std::make_unique<Session>(
      Session::Context{context_.reactor, writer_, window_, context_.memory, gate_, luns_,
                       std::move(identity), handle_.get(), parameters_});
}

}  // namespace sectormap::iscsi
