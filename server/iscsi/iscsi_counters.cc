// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/iscsi_counters.h"

namespace sectormap::iscsi {

std::string_view ToString(DropReason reason) {
  switch (reason) {
    case DropReason::kPeerClosed:
      return "peer_closed";
    case DropReason::kLogout:
      return "logout";
    case DropReason::kLoginFailed:
      return "login_failed";
    case DropReason::kLoginTimeout:
      return "login_timeout";
    case DropReason::kTooManyLogins:
      return "too_many_logins";
    case DropReason::kDiscoveryTimeout:
      return "discovery_timeout";
    case DropReason::kProtocolError:
      return "protocol_error";
    case DropReason::kHeaderDigest:
      return "header_digest";
    case DropReason::kKeepAlive:
      return "keep_alive";
    case DropReason::kDataOutTimeout:
      return "data_out_timeout";
    case DropReason::kSendTimeout:
      return "send_timeout";
    case DropReason::kReinstated:
      return "reinstated";
    case DropReason::kTargetRemoved:
      return "target_removed";
    case DropReason::kColdReset:
      return "cold_reset";
    case DropReason::kShutdown:
      return "shutdown";
  }
  return "unknown";
}

std::string_view ToString(LoginOutcome outcome) {
  switch (outcome) {
    case LoginOutcome::kAccepted:
      return "accepted";
    case LoginOutcome::kRedirected:
      return "redirected";
    case LoginOutcome::kInitiatorError:
      return "initiator_error";
    case LoginOutcome::kTargetError:
      return "target_error";
  }
  return "unknown";
}

IscsiTotals IscsiCounters::Sum() const {
  IscsiTotals totals;
  for (const Slot& slot : slots_) {
    for (int i = 0; i < kDropReasonCount; ++i) totals.drops[i] += slot.drops[i].value();
    for (int i = 0; i < kLoginOutcomeCount; ++i) totals.logins[i] += slot.logins[i].value();
    totals.connections += slot.connections.value();
    totals.header_digest_errors += slot.header_digest_errors.value();
    totals.data_digest_errors += slot.data_digest_errors.value();
    totals.rejects += slot.rejects.value();
  }
  return totals;
}

}  // namespace sectormap::iscsi
