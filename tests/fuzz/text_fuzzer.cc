// SPDX-License-Identifier: Apache-2.0
// Text Requests in full feature phase made of the fuzzer's bytes. The first byte chooses the
// session's type; then each request is the flags byte, a byte of which tags to damage, two bytes of
// length and the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/check.h"
#include "server/iscsi/text_exchange.h"
#include "tests/server/iscsi/login_script.h"

namespace sectormap::iscsi {
namespace {

const TargetDirectory& Directory() {
  static TargetDirectory* const directory = [] {
    auto* made = new TargetDirectory;
    CHECK(AddTargets(*made));
    return made;
  }();
  return *directory;
}

void Talk(std::string_view input) {
  const auto byte = [&input] {
    if (input.empty()) return uint8_t{0};
    const auto first = static_cast<uint8_t>(input.front());
    input.remove_prefix(1);
    return first;
  };
  LoginResult login;
  login.initiator_name = kInitiator;
  login.type = byte() % 2 == 0 ? SessionType::kDiscovery : SessionType::kNormal;
  if (login.type == SessionType::kNormal) login.target = Directory().Find(kOpenTarget);
  SessionParameters parameters;
  parameters.max_send_segment_bytes = 512;
  TextExchange exchange(Directory(), login, {"192.0.2.1:3260", "[2001:db8::1]:3260"});
  TextRequestHeader request;
  request.initiator_task_tag = 1;
  while (!input.empty()) {
    request.flags = byte();
    const uint8_t damage = byte();
    if ((damage & 1) != 0) request.target_transfer_tag = kReservedTag;
    if ((damage & 2) != 0) request.target_transfer_tag = request.target_transfer_tag + 1;
    if ((damage & 4) != 0) request.initiator_task_tag = request.initiator_task_tag + 1;
    const size_t length = static_cast<size_t>(byte()) << 8 | byte();
    const std::string_view text = input.substr(0, length);
    input.remove_prefix(text.size());
    const uint32_t limit = parameters.max_send_segment_bytes;
    const auto reply = exchange.OnRequest(request, text, parameters);
    if (!reply) {
      request.target_transfer_tag = kReservedTag;
      continue;
    }
    CHECK(reply->text.size() <= limit);
    CHECK(reply->header.data_segment_length == reply->text.size());
    CHECK(reply->header.final() == (reply->header.target_transfer_tag == kReservedTag));
    CHECK(parameters.max_send_segment_bytes >= 512);
    request.target_transfer_tag = reply->header.target_transfer_tag;
  }
}

}  // namespace
}  // namespace sectormap::iscsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sectormap::iscsi::Talk({reinterpret_cast<const char*>(data), size});
  return 0;
}
