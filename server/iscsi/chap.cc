// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/chap.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <memory>

#include "core/base/check.h"

namespace sectormap::iscsi {
namespace {

struct Algorithm {
  ChapAlgorithm number;
  const EVP_MD* (*hash)();
  size_t digest_bytes;
};

// The strongest first: what is chosen if the initiator offers several.
constexpr Algorithm kAlgorithms[] = {
    {ChapAlgorithm::kSha3_256, EVP_sha3_256, 32},
    {ChapAlgorithm::kSha256, EVP_sha256, 32},
    {ChapAlgorithm::kSha1, EVP_sha1, 20},
    {ChapAlgorithm::kMd5, EVP_md5, 16},
};

const Algorithm* FindAlgorithm(ChapAlgorithm number) {
  const auto found = std::find_if(std::begin(kAlgorithms), std::end(kAlgorithms),
                                  [number](const Algorithm& a) { return a.number == number; });
  return found == std::end(kAlgorithms) ? nullptr : found;
}

// Both sides of an unequal length take as long: the length of a secret's hash is no secret, that of
// a user name hardly.
bool SameBytes(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::span<const uint8_t> AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

struct DigestContextFree {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

}  // namespace

size_t ChapDigestBytes(ChapAlgorithm algorithm) {
  const Algorithm* found = FindAlgorithm(algorithm);
  return found == nullptr ? 0 : found->digest_bytes;
}

bool ComputeChapResponse(ChapAlgorithm algorithm, uint8_t identifier, std::string_view secret,
                         std::span<const uint8_t> challenge, std::span<uint8_t> out) {
  const Algorithm* found = FindAlgorithm(algorithm);
  CHECK(found != nullptr && out.size() == found->digest_bytes);
  const std::unique_ptr<EVP_MD_CTX, DigestContextFree> context(EVP_MD_CTX_new());
  return context != nullptr && EVP_DigestInit_ex(context.get(), found->hash(), nullptr) == 1 &&
         EVP_DigestUpdate(context.get(), &identifier, 1) == 1 &&
         EVP_DigestUpdate(context.get(), secret.data(), secret.size()) == 1 &&
         EVP_DigestUpdate(context.get(), challenge.data(), challenge.size()) == 1 &&
         EVP_DigestFinal_ex(context.get(), out.data(), nullptr) == 1;
}

ChapTarget::~ChapTarget() { OPENSSL_cleanse(challenge_.data(), challenge_.size()); }

LoginStatus ChapTarget::Challenge(std::string_view algorithms, TextKeyWriter& answers) {
  const std::vector<std::string_view> offers = SplitList(algorithms);
  const auto offered = [&offers](const Algorithm& algorithm) {
    return std::any_of(offers.begin(), offers.end(), [&algorithm](std::string_view offer) {
      return ParseNumber(offer) == static_cast<uint64_t>(algorithm.number);
    });
  };
  const auto chosen = std::find_if(std::begin(kAlgorithms), std::end(kAlgorithms), offered);
  if (chosen == std::end(kAlgorithms)) return LoginStatus::kAuthenticationFailure;
  algorithm_ = chosen->number;
  // As many bytes as the hash has: more would add no strength, and old firmware has small buffers.
  challenge_bytes_ = chosen->digest_bytes;
  if (RAND_bytes(challenge_.data(), static_cast<int>(challenge_bytes_)) != 1 ||
      RAND_bytes(&identifier_, 1) != 1) {
    return LoginStatus::kTargetError;
  }
  answers.AddNumber("CHAP_A", static_cast<uint64_t>(algorithm_));
  answers.AddNumber("CHAP_I", identifier_);
  answers.AddHex("CHAP_C", std::span(challenge_).first(challenge_bytes_));
  return LoginStatus::kSuccess;
}

LoginStatus ChapTarget::Verify(const Response& response, TextKeyWriter& answers) {
  CHECK(challenge_bytes_ > 0);
  if (!InitiatorIsRight(response)) return LoginStatus::kAuthenticationFailure;
  if (!response.identifier && !response.challenge) return LoginStatus::kSuccess;
  return ProveOurselves(response, answers);
}

bool ChapTarget::InitiatorIsRight(const Response& response) const {
  const size_t digest_bytes = ChapDigestBytes(algorithm_);
  std::array<uint8_t, kMaxChapDigestBytes> given{};
  std::array<uint8_t, kMaxChapDigestBytes> expected{};
  const auto expected_digest = std::span(expected).first(digest_bytes);
  const bool well_formed =
      DecodeBinary(response.response, std::span(given).first(digest_bytes)) == digest_bytes;
  // The hash is computed for a wrong user too, so that the time does not tell users apart.
  const bool computed =
      ComputeChapResponse(algorithm_, identifier_, policy_.chap->secret,
                          std::span(challenge_).first(challenge_bytes_), expected_digest);
  const bool right_secret = SameBytes(std::span(given).first(digest_bytes), expected_digest);
  const bool right_user = SameBytes(AsBytes(response.name), AsBytes(policy_.chap->user));
  OPENSSL_cleanse(expected.data(), expected.size());
  return well_formed && computed && right_secret && right_user;
}

LoginStatus ChapTarget::ProveOurselves(const Response& response, TextKeyWriter& answers) const {
  if (!response.identifier || !response.challenge) return LoginStatus::kMissingParameter;
  // §9.2.1: one secret for both directions would let an attacker have us answer our own challenge.
  if (!policy_.mutual_chap || policy_.mutual_chap->secret == policy_.chap->secret) {
    return LoginStatus::kAuthenticationFailure;
  }
  const std::optional<uint64_t> identifier = ParseNumber(*response.identifier);
  if (!identifier || *identifier > 255) return LoginStatus::kInitiatorError;
  std::array<uint8_t, kMaxChapChallengeBytes> buffer;
  const std::optional<size_t> length = DecodeBinary(*response.challenge, buffer);
  if (!length || *length == 0) return LoginStatus::kInitiatorError;
  const auto challenge = std::span<const uint8_t>(buffer).first(*length);
  if (SameBytes(challenge, std::span(challenge_).first(challenge_bytes_))) {
    return LoginStatus::kAuthenticationFailure;
  }
  std::array<uint8_t, kMaxChapDigestBytes> digest{};
  const auto ours = std::span(digest).first(ChapDigestBytes(algorithm_));
  if (!ComputeChapResponse(algorithm_, static_cast<uint8_t>(*identifier),
                           policy_.mutual_chap->secret, challenge, ours)) {
    return LoginStatus::kTargetError;
  }
  answers.Add("CHAP_N", policy_.mutual_chap->user);
  answers.AddHex("CHAP_R", ours);
  return LoginStatus::kSuccess;
}

}  // namespace sectormap::iscsi
