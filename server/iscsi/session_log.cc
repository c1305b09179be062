// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/session_log.h"

#include <spdlog/spdlog.h>

#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/async/reactor.h"
#include "core/base/text.h"

namespace sectormap::iscsi {
namespace {

// For a person; the label in front of it is the metrics'.
std::string_view Explain(DropReason reason) {
  switch (reason) {
    case DropReason::kPeerClosed:
      return "the initiator closed the connection, or the network did";
    case DropReason::kLogout:
      return "the initiator logged out";
    case DropReason::kLoginFailed:
      return "the login was refused";
    case DropReason::kLoginTimeout:
      return "the login took too long";
    case DropReason::kTooManyLogins:
      return "too many connections that have not logged in";
    case DropReason::kDiscoveryTimeout:
      return "the discovery took too long";
    case DropReason::kProtocolError:
      return "it sent what cannot be followed any further";
    case DropReason::kHeaderDigest:
      return "the digest of a header did not match";
    case DropReason::kKeepAlive:
      return "it was silent and answered no ping";
    case DropReason::kDataOutTimeout:
      return "it sent none of the data of its writes";
    case DropReason::kSendTimeout:
      return "it took none of the answers";
    case DropReason::kReinstated:
      return "the same initiator port logged in anew";
    case DropReason::kTargetRemoved:
      return "the target went away, or does not allow the initiator any more";
    case DropReason::kColdReset:
      return "an initiator sent a TARGET COLD RESET";
    case DropReason::kShutdown:
      return "the daemon stops";
  }
  return "unknown";
}

bool IsInitiatorsWish(DropReason reason) {
  return reason == DropReason::kPeerClosed || reason == DropReason::kLogout;
}

std::optional<uint64_t> TryWrite(LineLimit& limit) {
  return limit.TryWrite(Reactor::Current().clock().Now());
}

// The end of a line.
std::string LeftOut(uint64_t lines) { return lines == 0 ? "" : absl::StrCat(" left_out=", lines); }

}  // namespace

void SessionLog::LoginRefused(const LoginClaim& claim, const std::string& peer, LoginStatus status,
                              std::string_view reason) {
  const std::optional<uint64_t> left_out = TryWrite(strangers_);
  if (!left_out) return;
  spdlog::warn("event=login initiator={} target={} peer={} status={:04x} reason={}{}",
               Quoted(claim.initiator), Quoted(claim.target), peer, static_cast<uint16_t>(status),
               Quoted(Absl(reason)), LeftOut(*left_out));
}

void SessionLog::TooManyLogins(const std::string& peer) {
  const std::optional<uint64_t> left_out = TryWrite(strangers_);
  if (!left_out) return;
  spdlog::warn("event=connection peer={} reason={} why={}{}", peer,
               ToString(DropReason::kTooManyLogins),
               Quoted(Absl(Explain(DropReason::kTooManyLogins))), LeftOut(*left_out));
}

void SessionLog::SessionBegan(const SessionInfo& session) {
  if (session.target_name.empty()) return;
  const std::optional<uint64_t> left_out = TryWrite(sessions_);
  if (!left_out) return;
  spdlog::info("event=session_begin initiator={} target={} peer={}{}",
               Quoted(session.initiator_name), Quoted(session.target_name), session.peer_address,
               LeftOut(*left_out));
}

void SessionLog::SessionEnded(const SessionInfo& session, DropReason reason) {
  const bool discovery = session.target_name.empty();
  if (discovery && IsInitiatorsWish(reason)) return;
  const std::optional<uint64_t> left_out = TryWrite(discovery ? strangers_ : sessions_);
  if (!left_out) return;
  spdlog::log(IsInitiatorsWish(reason) ? spdlog::level::info : spdlog::level::warn,
              "event=session_end initiator={} target={} peer={} reason={} why={}{}",
              Quoted(session.initiator_name), Quoted(session.target_name), session.peer_address,
              ToString(reason), Quoted(Absl(Explain(reason))), LeftOut(*left_out));
}

}  // namespace sectormap::iscsi
