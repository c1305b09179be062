// SPDX-License-Identifier: Apache-2.0
// An initiator made of the fuzzer's bytes: each Login Request is a byte of what to change in the
// header, the flags byte, two bytes of length and the text. Text that asks for it gets the right
// CHAP answer, so that the fuzzer sees what lies behind the proof too.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/base/check.h"
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

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  std::string Text(size_t bytes) {
    bytes = std::min(bytes, size_);
    std::string text(reinterpret_cast<const char*>(data_), bytes);
    data_ += bytes;
    size_ -= bytes;
    return text;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void ChangeHeader(LoginRequestHeader& request, uint8_t what) {
  if ((what & 0x01) != 0) request.initiator_task_tag = request.initiator_task_tag + 1;
  if ((what & 0x02) != 0) request.isid = request.isid + 1;
  if ((what & 0x04) != 0) request.tsih = 1;
  if ((what & 0x08) != 0) request.version_min = 1;
  if ((what & 0x10) != 0) request.total_ahs_length = 1;
  if ((what & 0x20) != 0) request.opcode_byte ^= kImmediateBit;
}

// "CHAP_R=?" stands for the right answer.
std::string WithProof(std::string text, const std::string& challenge) {
  constexpr std::string_view kWish = "CHAP_R=?";
  const size_t place = text.find(kWish);
  if (place == std::string::npos) return text;
  return text.replace(place, kWish.size(), "CHAP_R=" + ChapAnswer(challenge, kSecret));
}

void Login(Input input) {
  LoginScript script(Directory());
  std::string challenge;
  bool proved = false;
  while (!input.empty()) {
    ChangeHeader(script.request, input.Byte());
    const uint8_t flags = input.Byte();
    const size_t length = static_cast<size_t>(input.Byte()) << 8 | input.Byte();
    const std::string given = input.Text(std::min<size_t>(length, 8192));
    const std::string text = WithProof(given, challenge);
    proved |= text != given;
    const LoginNegotiator::Reply reply = script.Send(flags, text);
    CHECK(reply.text.size() <= kLoginMaxRecvDataSegmentBytes);
    CHECK(reply.header.data_segment_length == reply.text.size());
    CHECK(reply.text.empty() || reply.text.back() == '\0');
    if (reply.text.find("CHAP_C=") != std::string::npos) challenge = reply.text;
    if (reply.next == LoginNegotiator::Reply::Next::kClose) return;
    if (reply.next != LoginNegotiator::Reply::Next::kFullFeature) continue;
    const LoginResult& result = script.result();
    CHECK((result.target == nullptr) == (result.type == SessionType::kDiscovery));
    CHECK(result.target == nullptr || !result.target->policy.chap.has_value() || proved);
    CHECK(result.parameters.first_burst_bytes <= result.parameters.max_burst_bytes);
    return;
  }
}

}  // namespace
}  // namespace sectormap::iscsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sectormap::iscsi::Login({data, size});
  return 0;
}
