// SPDX-License-Identifier: Apache-2.0
// LoginNegotiator: the login phase (RFC 7143 §6.3, §11.12, §11.13, §12) as a pure state machine: a
// Login Request goes in, a Login Response comes out. It reads no socket, so that a test or a fuzzer
// can be the initiator; connection.cc carries the PDUs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "server/iscsi/pdu.h"
#include "server/iscsi/session_parameters.h"
#include "server/iscsi/target_directory.h"

namespace sectormap::iscsi {

// What a login says of itself, as it came: nothing of it has been checked, but that it is no longer
// than a name may be. For the log.
struct LoginClaim {
  std::string initiator;
  std::string target;  // empty: none was named
};

// Whom the login phase let in.
struct LoginResult {
  SessionType type = SessionType::kNormal;
  std::string initiator_name;
  std::string initiator_alias;
  uint64_t isid = 0;  // 48 bits
  uint16_t cid = 0;
  uint32_t cmd_sn = 0;        // CmdSN of the login request: the first command's, if not immediate
  uint32_t next_stat_sn = 0;  // StatSN of our next response
  std::shared_ptr<const TargetView> target;  // null for discovery
  SessionParameters parameters;
};

class LoginNegotiator {
 public:
  // What is decided outside: how far the daemon is. While it starts or stops, logins are answered
  // 0301h (service unavailable), which initiators retry.
  enum class Service { kReady, kUnavailable };

  // `directory` outlives it. `assigned_tsih` is given out in the final response of a new session.
  LoginNegotiator(const TargetDirectory& directory, Service service, uint16_t assigned_tsih);
  ~LoginNegotiator();

  struct Reply {
    enum class Next {
      kContinue,     // send it and read the next Login Request
      kFullFeature,  // send it; result() is complete
      kClose,        // send it and close the connection
    };
    LoginResponseHeader header;  // without ExpCmdSN and MaxCmdSN: the session's owner fills them in
    std::string text;            // the data segment: at most 8192 bytes
    Next next = Next::kClose;
    // Why it was refused, for the log: words of ours only, nothing that the initiator sent.
    std::string reason;
  };

  // `text` is the request's data segment, at most 8192 bytes (the login phase's
  // MaxRecvDataSegmentLength), as it came: nothing of it has been checked.
  Reply OnRequest(const LoginRequestHeader& request, std::string_view text);

  // So far.
  const LoginClaim& claim() const;
  // REQUIRES: the last reply was kFullFeature.
  const LoginResult& result() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace sectormap::iscsi
