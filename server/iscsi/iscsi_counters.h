// SPDX-License-Identifier: Apache-2.0
// IscsiCounters: what the transport did, for metrics: logins by result, connections dropped by
// reason, digest errors, rejects. Counted per reactor with plain adds, summed when somebody asks.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/async/reactor.h"
#include "core/block/io_counters.h"

namespace sectormap::iscsi {

// Why a connection ended.
enum class DropReason : uint8_t {
  kPeerClosed,        // the initiator closed it, or the network did
  kLogout,            // as the initiator asked
  kLoginFailed,       // the login phase ended with an error status
  kLoginTimeout,      // the login phase took longer than kLoginTimeout
  kTooManyLogins,     // more unauthenticated connections than LoginLimits allow
  kDiscoveryTimeout,  // a discovery session lasted longer than kDiscoveryTimeout
  kProtocolError,     // bytes that cannot be followed any further
  kHeaderDigest,      // RFC 7143 §7.8: the length fields cannot be trusted
  kKeepAlive,         // no answer to a NOP-In
  kDataOutTimeout,    // no data for a write that waits for it
  kSendTimeout,       // it took no answers
  kReinstated,        // the same initiator port logged in anew (RFC 7143 §6.3.5)
  kTargetRemoved,     // the target went away, or the initiator may no longer use it
  kColdReset,         // TARGET COLD RESET (RFC 7143 §11.5.1)
  kShutdown,          // the portal stopped
};
inline constexpr int kDropReasonCount = 15;

// As metric labels: lower case, with underscores.
std::string_view ToString(DropReason reason);

// Login responses by status class (RFC 7143 §11.13.5).
enum class LoginOutcome : uint8_t { kAccepted, kRedirected, kInitiatorError, kTargetError };
inline constexpr int kLoginOutcomeCount = 4;

std::string_view ToString(LoginOutcome outcome);

struct IscsiTotals {
  std::array<uint64_t, kDropReasonCount> drops{};
  std::array<uint64_t, kLoginOutcomeCount> logins{};
  uint64_t connections = 0;  // accepted since the start
  uint64_t header_digest_errors = 0;
  uint64_t data_digest_errors = 0;
  uint64_t rejects = 0;  // Reject PDUs sent
};

class IscsiCounters {
 public:
  struct alignas(64) Slot {
    std::array<LocalCounter, kDropReasonCount> drops;
    std::array<LocalCounter, kLoginOutcomeCount> logins;
    LocalCounter connections, header_digest_errors, data_digest_errors, rejects;
    void CountDrop(DropReason reason) { drops[static_cast<int>(reason)].Add(1); }
    void CountLogin(LoginOutcome outcome) { logins[static_cast<int>(outcome)].Add(1); }
  };

  // On a reactor.
  Slot& here() { return slots_[Reactor::Current().index()]; }

  // Any thread.
  IscsiTotals Sum() const;

 private:
  std::array<Slot, kMaxReactors> slots_;
};

}  // namespace sectormap::iscsi
