// SPDX-License-Identifier: Apache-2.0
// TextExchange: Text Requests in full feature phase (RFC 7143 §11.10, §11.11): SendTargets, in
// discovery and in normal sessions, answers longer than the peer's MaxRecvDataSegmentLength, keys
// renegotiated. A pure state machine, like LoginNegotiator; one per connection.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/iscsi/login.h"
#include "server/iscsi/pdu.h"

namespace sectormap::iscsi {

class TextExchange {
 public:
  // The references outlive it. `portal_addresses` are what TargetAddress lists.
  TextExchange(const TargetDirectory& directory, const LoginResult& login,
               std::vector<std::string> portal_addresses);
  ~TextExchange();

  struct Reply {
    TextResponseHeader header;  // without StatSN, ExpCmdSN, MaxCmdSN: the connection fills them in
    std::string text;           // at most the initiator's MaxRecvDataSegmentLength
  };

  // `parameters` is changed where the initiator renegotiates what may be (its own
  // MaxRecvDataSegmentLength). An empty answer: the request breaks the protocol; send a Reject.
  std::optional<Reply> OnRequest(const TextRequestHeader& request, std::string_view text,
                                 SessionParameters& parameters);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace sectormap::iscsi
