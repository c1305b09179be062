// SPDX-License-Identifier: Apache-2.0
// SessionLog: what the daemon's log says of initiators: who was refused and why, whose session
// began and how it ended. One line each, never a secret, at a bounded rate: what strangers make us
// write takes no line from those who are logged in.
#pragma once

#include <string>
#include <string_view>

#include "server/iscsi/iscsi_counters.h"
#include "server/iscsi/line_limit.h"
#include "server/iscsi/login.h"
#include "server/iscsi/target_directory.h"

namespace sectormap::iscsi {

// Refused logins and the like that are written at once.
inline constexpr int kStrangersLines = 20;
// Sessions: all of a rack that comes back after a power cut, and went before it.
inline constexpr int kSessionLines = 1024;

// On any reactor.
class SessionLog {
 public:
  // Warnings. `peer` is an address.
  void LoginRefused(const LoginClaim& claim, const std::string& peer, LoginStatus status,
                    std::string_view reason);
  void TooManyLogins(const std::string& peer);

  // For sessions in full feature phase. A discovery that ends as it should is nothing to tell.
  void SessionBegan(const SessionInfo& session);
  // A warning, unless the initiator wanted it.
  void SessionEnded(const SessionInfo& session, DropReason reason);

 private:
  LineLimit strangers_{kStrangersLines};
  LineLimit sessions_{kSessionLines};
};

}  // namespace sectormap::iscsi
