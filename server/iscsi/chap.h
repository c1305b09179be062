// SPDX-License-Identifier: Apache-2.0
// CHAP, target's side (RFC 7143 §12.1.3, RFC 1994): proves who the initiator is and, if it asks for
// that and we can, who we are. One per login. Secrets are read, never kept, logged or sent.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "server/iscsi/pdu.h"
#include "server/iscsi/target_directory.h"
#include "server/iscsi/text_keys.h"

namespace sectormap::iscsi {

// IANA's "PPP Authentication Algorithms", which CHAP_A takes its numbers from.
enum class ChapAlgorithm : uint8_t {
  kMd5 = 5,
  kSha1 = 6,
  kSha256 = 7,
  kSha3_256 = 8,
};

inline constexpr size_t kMaxChapDigestBytes = 32;
// §12.1.3: CHAP_C is at most 1024 bytes.
inline constexpr size_t kMaxChapChallengeBytes = 1024;

// Empty for a number that is none of them.
size_t ChapDigestBytes(ChapAlgorithm algorithm);

// What answers a challenge: the hash of identifier, secret and challenge. `out` has
// ChapDigestBytes(). False if the cryptographic library refuses (MD5 in FIPS mode).
bool ComputeChapResponse(ChapAlgorithm algorithm, uint8_t identifier, std::string_view secret,
                         std::span<const uint8_t> challenge, std::span<uint8_t> out);

class ChapTarget {
 public:
  // `policy` has chap, and outlives it.
  explicit ChapTarget(const AccessPolicy& policy) : policy_(policy) {}
  ~ChapTarget();
  ChapTarget(const ChapTarget&) = delete;
  ChapTarget& operator=(const ChapTarget&) = delete;

  // Step 1: `algorithms` is CHAP_A as offered. Picks the strongest, adds CHAP_A, CHAP_I and CHAP_C
  // to `answers`. Authentication failure if none is ours, target error if there are no random
  // numbers.
  LoginStatus Challenge(std::string_view algorithms, TextKeyWriter& answers);

  // What comes in step 2. CHAP_I and CHAP_C together ask us to prove ourselves.
  struct Response {
    std::string_view name;      // CHAP_N
    std::string_view response;  // CHAP_R
    std::optional<std::string_view> identifier;
    std::optional<std::string_view> challenge;
  };
  // Step 2. REQUIRES: Challenge() succeeded, and that Verify() is called once. Adds CHAP_N and
  // CHAP_R to `answers` if we were asked to prove ourselves.
  LoginStatus Verify(const Response& response, TextKeyWriter& answers);

 private:
  bool InitiatorIsRight(const Response& response) const;
  LoginStatus ProveOurselves(const Response& response, TextKeyWriter& answers) const;

  const AccessPolicy& policy_;
  ChapAlgorithm algorithm_ = ChapAlgorithm::kSha256;
  uint8_t identifier_ = 0;
  std::array<uint8_t, kMaxChapDigestBytes> challenge_{};
  size_t challenge_bytes_ = 0;
};

}  // namespace sectormap::iscsi
