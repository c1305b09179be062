// SPDX-License-Identifier: Apache-2.0
// An initiator in a few words, for tests and fuzzers of the login phase: builds Login Requests,
// hands them to a LoginNegotiator and reads the answers.
#pragma once

#include <array>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "server/iscsi/chap.h"
#include "server/iscsi/login.h"
#include "server/iscsi/text_keys.h"

namespace sectormap::iscsi {

inline constexpr std::string_view kInitiator = "iqn.2026-11.com.example:host";
inline constexpr std::string_view kOpenTarget = "iqn.2026-11.io.sectormap:open";
inline constexpr std::string_view kChapTarget = "iqn.2026-11.io.sectormap:chap";
inline constexpr std::string_view kMutualTarget = "iqn.2026-11.io.sectormap:mutual";
inline constexpr std::string_view kGuardedTarget = "iqn.2026-11.io.sectormap:guarded";  // an ACL
// As an administrator may write them.
inline constexpr std::array<std::string_view, 3> kFriends = {
    "iqn.2026-11.com.example:Friend", "eui.02004567A425678D", "iqn.2008-11.org.linux-kvm:my_vm"};
inline constexpr std::string_view kUser = "user";
inline constexpr std::string_view kSecret = "a-secret-of-16-b";
inline constexpr std::string_view kOurUser = "target";
inline constexpr std::string_view kOurSecret = "another-secret-of-ours";
inline constexpr uint16_t kAssignedTsih = 0x4711;

// The four targets above. False if the directory refused one.
inline bool AddTargets(TargetDirectory& directory) {
  for (const auto target : {kOpenTarget, kChapTarget, kMutualTarget, kGuardedTarget}) {
    if (!directory.AddTarget(target).ok()) return false;
  }
  AccessPolicy one_way;
  one_way.chap = ChapCredentials{std::string(kUser), std::string(kSecret)};
  AccessPolicy both_ways = one_way;
  both_ways.mutual_chap = ChapCredentials{std::string(kOurUser), std::string(kOurSecret)};
  AccessPolicy guarded;
  guarded.allowed_initiators.assign(kFriends.begin(), kFriends.end());
  return directory.SetAccess(kChapTarget, one_way).ok() &&
         directory.SetAccess(kMutualTarget, both_ways).ok() &&
         directory.SetAccess(kGuardedTarget, guarded).ok();
}

using KeyList = std::vector<std::pair<std::string, std::string>>;

inline std::string Text(const KeyList& keys) {
  TextKeyWriter writer;
  for (const auto& [name, value] : keys) writer.Add(name, value);
  return writer.Take();
}

// The flags byte of a login PDU.
constexpr uint8_t Stage(LoginStage current) {
  return static_cast<uint8_t>(static_cast<uint8_t>(current) << 2);
}
constexpr uint8_t Transit(LoginStage current, LoginStage next) {
  return static_cast<uint8_t>(kFinalBit | Stage(current) | static_cast<uint8_t>(next));
}
inline constexpr uint8_t kInSecurity = Stage(LoginStage::kSecurity);
inline constexpr uint8_t kInOperational = Stage(LoginStage::kOperational);
inline constexpr uint8_t kSecurityToOperational =
    Transit(LoginStage::kSecurity, LoginStage::kOperational);
inline constexpr uint8_t kSecurityToFullFeature =
    Transit(LoginStage::kSecurity, LoginStage::kFullFeature);
inline constexpr uint8_t kOperationalToFullFeature =
    Transit(LoginStage::kOperational, LoginStage::kFullFeature);

class LoginScript {
 public:
  explicit LoginScript(const TargetDirectory& directory,
                       LoginNegotiator::Service service = LoginNegotiator::Service::kReady)
      : negotiator_(directory, service, kAssignedTsih) {
    request.isid = 0x800102030405;
    request.cid = 7;
    request.cmd_sn = 100;
    request.exp_stat_sn = 5000;
    request.initiator_task_tag = 0xabcd;
  }

  LoginNegotiator::Reply Send(uint8_t flags, std::string_view text) {
    request.flags = flags;
    request.data_segment_length = static_cast<uint32_t>(text.size());
    return negotiator_.OnRequest(request, text);
  }
  LoginNegotiator::Reply Send(uint8_t flags, const KeyList& keys) {
    return Send(flags, Text(keys));
  }

  const LoginResult& result() const { return negotiator_.result(); }

  // Sent with every request; change it to misbehave.
  LoginRequestHeader request;

 private:
  LoginNegotiator negotiator_;
};

inline std::map<std::string, std::string> Values(std::string_view text) {
  std::map<std::string, std::string> values;
  const auto keys = ParseTextKeys(text);
  if (!keys.ok()) return values;
  for (const TextKey& key : *keys) values[std::string(key.name)] = std::string(key.value);
  return values;
}

enum class Encoding { kHex, kBase64 };

// A binary value as it is sent (RFC 7143 §6.1).
inline std::string Encoded(std::span<const uint8_t> bytes, Encoding encoding) {
  if (encoding == Encoding::kBase64) {
    return "0b" + absl::Base64Escape(
                      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  TextKeyWriter writer;
  writer.AddHex("", bytes);
  return writer.text().substr(1, writer.text().size() - 2);
}

// CHAP_R for the challenge in `text`.
inline std::string ChapAnswer(std::string_view text, std::string_view secret,
                              Encoding encoding = Encoding::kHex) {
  auto values = Values(text);
  const auto algorithm = static_cast<ChapAlgorithm>(ParseNumber(values["CHAP_A"]).value_or(0));
  std::vector<uint8_t> challenge(kMaxChapChallengeBytes);
  challenge.resize(DecodeBinary(values["CHAP_C"], challenge).value_or(0));
  std::vector<uint8_t> digest(ChapDigestBytes(algorithm));
  if (digest.empty()) return "";
  ComputeChapResponse(algorithm, static_cast<uint8_t>(ParseNumber(values["CHAP_I"]).value_or(0)),
                      secret, challenge, digest);
  return Encoded(digest, encoding);
}

}  // namespace sectormap::iscsi
