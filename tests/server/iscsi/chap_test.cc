// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/chap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace sectormap::iscsi {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kSecret = "a-secret-of-16-b";
constexpr std::string_view kOurSecret = "another-secret-of-ours";

AccessPolicy OneWay() {
  AccessPolicy policy;
  policy.chap = ChapCredentials{"user", std::string(kSecret)};
  return policy;
}

AccessPolicy BothWays() {
  AccessPolicy policy = OneWay();
  policy.mutual_chap = ChapCredentials{"target", std::string(kOurSecret)};
  return policy;
}

std::map<std::string, std::string> Read(const TextKeyWriter& writer) {
  std::map<std::string, std::string> values;
  const auto keys = ParseTextKeys(writer.text());
  EXPECT_TRUE(keys.ok());
  for (const TextKey& key : *keys) values[std::string(key.name)] = std::string(key.value);
  return values;
}

std::string Hex(std::span<const uint8_t> bytes) {
  TextKeyWriter writer;
  writer.AddHex("", bytes);
  return writer.text().substr(1, writer.text().size() - 2);
}

std::string Base64(std::span<const uint8_t> bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out = "0b";
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (i + j < bytes.size() ? bytes[i + j] : 0);
    for (size_t j = 0; j < 4; ++j) {
      out.push_back(i + j <= bytes.size() ? kAlphabet[group >> (18 - 6 * j) & 63] : '=');
    }
  }
  return out;
}

std::vector<uint8_t> Unhex(std::string_view value) {
  std::vector<uint8_t> bytes(kMaxChapChallengeBytes);
  const auto length = DecodeBinary(value, bytes);
  EXPECT_TRUE(length.has_value()) << value;
  bytes.resize(length.value_or(0));
  return bytes;
}

// A challenge as the initiator got it.
struct Challenge {
  ChapAlgorithm algorithm;
  uint8_t identifier;
  std::string text;
  std::vector<uint8_t> bytes;
};

Challenge TakeChallenge(ChapTarget& chap, std::string_view algorithms = "7,5") {
  TextKeyWriter writer;
  EXPECT_EQ(chap.Challenge(algorithms, writer), LoginStatus::kSuccess);
  auto values = Read(writer);
  return {static_cast<ChapAlgorithm>(std::stoi(values["CHAP_A"])),
          static_cast<uint8_t>(std::stoi(values["CHAP_I"])), values["CHAP_C"],
          Unhex(values["CHAP_C"])};
}

std::vector<uint8_t> Answer(const Challenge& challenge, std::string_view secret = kSecret) {
  std::vector<uint8_t> digest(ChapDigestBytes(challenge.algorithm));
  EXPECT_TRUE(ComputeChapResponse(challenge.algorithm, challenge.identifier, secret,
                                  challenge.bytes, digest));
  return digest;
}

LoginStatus Verify(ChapTarget& chap, std::string_view name, std::string_view response) {
  TextKeyWriter writer;
  return chap.Verify({.name = name, .response = response, .identifier = {}, .challenge = {}},
                     writer);
}

std::vector<uint8_t> Sequence(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(i);
  return bytes;
}

// Computed with Python's hashlib over identifier, secret and challenge.
TEST(ComputeChapResponse, KnownVectors) {
  struct Vector {
    ChapAlgorithm algorithm;
    std::string digest;
  };
  const std::vector<Vector> vectors = {
      {ChapAlgorithm::kMd5, "0xc8dafb254b1ba43e70519ef05ba54a53"},
      {ChapAlgorithm::kSha1, "0xf842465c7940bffae49f1a17732ea32948f27ad4"},
      {ChapAlgorithm::kSha256,
       "0x9d28953288cfee73c3c7cec9c93fa92988d658d6029375fd2d315d2488a42a97"},
      {ChapAlgorithm::kSha3_256,
       "0x8fa53a55cd33e3f76dfabf339474a34238826beaa9aecb188f088feb80aab467"},
  };
  for (const Vector& vector : vectors) {
    std::vector<uint8_t> digest(ChapDigestBytes(vector.algorithm));
    ASSERT_TRUE(
        ComputeChapResponse(vector.algorithm, 0x2a, "welcome-to-sectormap", Sequence(16), digest));
    EXPECT_EQ(Hex(digest), vector.digest);
  }
}

TEST(ChapTarget, ChoosesTheStrongestThatIsOffered) {
  const AccessPolicy policy = OneWay();
  const std::vector<std::pair<std::string, ChapAlgorithm>> cases = {
      {"5", ChapAlgorithm::kMd5},
      {"7", ChapAlgorithm::kSha256},
      {"5,7", ChapAlgorithm::kSha256},
      {"7,5", ChapAlgorithm::kSha256},
      {"8,7,6,5", ChapAlgorithm::kSha3_256},
      {"6,5", ChapAlgorithm::kSha1},
      {"99,0x5", ChapAlgorithm::kMd5},
      {"foo,,5", ChapAlgorithm::kMd5},
  };
  for (const auto& [offer, chosen] : cases) {
    ChapTarget chap(policy);
    EXPECT_EQ(TakeChallenge(chap, offer).algorithm, chosen) << offer;
  }
}

TEST(ChapTarget, RefusesAlgorithmsItDoesNotHave) {
  const AccessPolicy policy = OneWay();
  for (const char* offer : {"", "4", "9", "MD5", "-5", "5 7", "55", "261"}) {
    ChapTarget chap(policy);
    TextKeyWriter writer;
    EXPECT_EQ(chap.Challenge(offer, writer), LoginStatus::kAuthenticationFailure) << offer;
    EXPECT_EQ(writer.text(), "") << offer;
  }
}

TEST(ChapTarget, AcceptsTheRightAnswerInHexAndBase64) {
  const AccessPolicy policy = OneWay();
  for (const char* algorithm : {"5", "6", "7", "8"}) {
    ChapTarget hex(policy);
    EXPECT_EQ(Verify(hex, "user", Hex(Answer(TakeChallenge(hex, algorithm)))),
              LoginStatus::kSuccess);
    ChapTarget base64(policy);
    EXPECT_EQ(Verify(base64, "user", Base64(Answer(TakeChallenge(base64, algorithm)))),
              LoginStatus::kSuccess);
    ChapTarget upper(policy);
    std::string response = Hex(Answer(TakeChallenge(upper, algorithm)));
    for (char& c : response) c = static_cast<char>(std::toupper(c));
    EXPECT_EQ(Verify(upper, "user", response), LoginStatus::kSuccess);
  }
}

TEST(ChapTarget, RefusesAWrongAnswer) {
  const AccessPolicy policy = OneWay();
  for (const char* algorithm : {"5", "7"}) {
    ChapTarget secret(policy);
    EXPECT_EQ(Verify(secret, "user", Hex(Answer(TakeChallenge(secret, algorithm), "wrong"))),
              LoginStatus::kAuthenticationFailure);
    ChapTarget name(policy);
    EXPECT_EQ(Verify(name, "User", Hex(Answer(TakeChallenge(name, algorithm)))),
              LoginStatus::kAuthenticationFailure);
    const size_t bits = ChapDigestBytes(static_cast<ChapAlgorithm>(std::stoi(algorithm))) * 8;
    for (size_t bit = 0; bit < bits; ++bit) {
      ChapTarget chap(policy);
      std::vector<uint8_t> digest = Answer(TakeChallenge(chap, algorithm));
      digest[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      ASSERT_EQ(Verify(chap, "user", Hex(digest)), LoginStatus::kAuthenticationFailure);
    }
  }
}

// SCST 2026-01, libiscsi's Base64Oversize: digests of a wrong length.
TEST(ChapTarget, RefusesAnswersOfAWrongLength) {
  const AccessPolicy policy = OneWay();
  for (const char* algorithm : {"5", "6", "7", "8"}) {
    for (size_t bytes : {1u, 15u, 16u, 17u, 20u, 31u, 32u, 33u, 64u, 1024u, 4000u}) {
      for (const bool base64 : {false, true}) {
        ChapTarget chap(policy);
        std::vector<uint8_t> digest = Answer(TakeChallenge(chap, algorithm));
        if (digest.size() == bytes) continue;
        digest.resize(bytes);
        EXPECT_EQ(Verify(chap, "user", base64 ? Base64(digest) : Hex(digest)),
                  LoginStatus::kAuthenticationFailure);
      }
    }
  }
}

TEST(ChapTarget, RefusesMalformedAnswers) {
  const AccessPolicy policy = OneWay();
  const std::string good_digits(32, 'a');
  for (const std::string& response :
       {std::string(), std::string("0x"), std::string("0b"), std::string("0"), good_digits,
        "0x" + good_digits + "g", "0y" + good_digits, std::string("0b====")}) {
    ChapTarget chap(policy);
    TakeChallenge(chap, "5");
    EXPECT_EQ(Verify(chap, "user", response), LoginStatus::kAuthenticationFailure) << response;
  }
}

// libiscsi's HexName and Base64Name: a name is text, whatever it begins with.
TEST(ChapTarget, NamesThatLookLikeNumbersAreText) {
  for (const char* name : {"0x7573", "0bdXNlcg==", "0x", "user=name", "b\xc3\xbcro"}) {
    AccessPolicy policy = OneWay();
    policy.chap->user = name;
    ChapTarget chap(policy);
    EXPECT_EQ(Verify(chap, name, Hex(Answer(TakeChallenge(chap)))), LoginStatus::kSuccess) << name;
  }
}

// tgt's CVE-2024-45751: challenges that could be guessed.
TEST(ChapTarget, ChallengesNeverRepeat) {
  const AccessPolicy policy = OneWay();
  std::set<std::string> seen;
  std::set<uint8_t> identifiers;
  std::vector<int> ones(256, 0);
  constexpr int kRounds = 2000;
  for (int round = 0; round < kRounds; ++round) {
    ChapTarget chap(policy);
    const Challenge challenge = TakeChallenge(chap);
    ASSERT_EQ(challenge.bytes.size(), 32u);
    EXPECT_TRUE(seen.insert(challenge.text).second);
    identifiers.insert(challenge.identifier);
    for (size_t bit = 0; bit < 256; ++bit) ones[bit] += challenge.bytes[bit / 8] >> bit % 8 & 1;
  }
  EXPECT_GT(identifiers.size(), 200u);
  // 10 standard deviations (22): no bit stands still.
  for (int count : ones) EXPECT_NEAR(count, kRounds / 2, 224);
}

ChapTarget::Response Ask(const std::string& response, std::string_view identifier,
                         std::string_view challenge) {
  return {.name = "user", .response = response, .identifier = identifier, .challenge = challenge};
}

TEST(ChapTarget, ProvesItselfWhenAsked) {
  const AccessPolicy policy = BothWays();
  for (const char* algorithm : {"5", "6", "7", "8"}) {
    for (const bool base64 : {false, true}) {
      for (size_t bytes : {1u, 16u, 255u, 1024u}) {
        ChapTarget chap(policy);
        const Challenge challenge = TakeChallenge(chap, algorithm);
        const std::vector<uint8_t> theirs = Sequence(bytes);
        const std::string response = Hex(Answer(challenge));
        const std::string text = base64 ? Base64(theirs) : Hex(theirs);
        TextKeyWriter writer;
        ASSERT_EQ(chap.Verify(Ask(response, "17", text), writer), LoginStatus::kSuccess);
        auto values = Read(writer);
        EXPECT_EQ(values["CHAP_N"], "target");
        EXPECT_EQ(Unhex(values["CHAP_R"]),
                  Answer({challenge.algorithm, 17, "", theirs}, kOurSecret));
      }
    }
  }
}

TEST(ChapTarget, ProvesNothingToAnInitiatorThatIsWrong) {
  const AccessPolicy policy = BothWays();
  ChapTarget chap(policy);
  const std::string response = Hex(Answer(TakeChallenge(chap), "wrong"));
  TextKeyWriter writer;
  EXPECT_EQ(chap.Verify(Ask(response, "1", "0x00"), writer), LoginStatus::kAuthenticationFailure);
  EXPECT_EQ(writer.text(), "");
}

TEST(ChapTarget, RefusesToProveItselfWithoutASecretForThat) {
  const AccessPolicy policy = OneWay();
  ChapTarget chap(policy);
  const std::string response = Hex(Answer(TakeChallenge(chap)));
  TextKeyWriter writer;
  EXPECT_EQ(chap.Verify(Ask(response, "1", "0x00"), writer), LoginStatus::kAuthenticationFailure);
}

TEST(ChapTarget, RefusesItsOwnChallenge) {
  const AccessPolicy policy = BothWays();
  for (const bool base64 : {false, true}) {
    ChapTarget chap(policy);
    const Challenge challenge = TakeChallenge(chap);
    const std::string response = Hex(Answer(challenge));
    const std::string reflected = base64 ? Base64(challenge.bytes) : challenge.text;
    TextKeyWriter writer;
    EXPECT_EQ(chap.Verify(Ask(response, std::to_string(challenge.identifier), reflected), writer),
              LoginStatus::kAuthenticationFailure);
    EXPECT_EQ(writer.text(), "");
  }
}

TEST(ChapTarget, RefusesOneSecretForBothDirections) {
  AccessPolicy policy = BothWays();
  policy.mutual_chap->secret = policy.chap->secret;
  ChapTarget chap(policy);
  const std::string response = Hex(Answer(TakeChallenge(chap)));
  TextKeyWriter writer;
  EXPECT_EQ(chap.Verify(Ask(response, "1", "0x00"), writer), LoginStatus::kAuthenticationFailure);
}

TEST(ChapTarget, RefusesMalformedQuestions) {
  const AccessPolicy policy = BothWays();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"256", "0x00"},
      {"-1", "0x00"},
      {"", "0x00"},
      {"x", "0x00"},
      {"1", ""},
      {"1", "0x"},
      {"1", "0b"},
      {"1", "00"},
      {"1", "0xgg"},
      {"1", "0bZ"},
      {"1", "0x" + std::string(2050, 'a')},
      {"1", "0b" + std::string(4096, 'A')},
      {"1", "0x" + std::string(8000, 'a')},
  };
  for (const auto& [identifier, challenge] : cases) {
    ChapTarget chap(policy);
    const std::string response = Hex(Answer(TakeChallenge(chap)));
    TextKeyWriter writer;
    EXPECT_EQ(chap.Verify(Ask(response, identifier, challenge), writer),
              LoginStatus::kInitiatorError)
        << identifier << " " << challenge;
    EXPECT_EQ(writer.text(), "");
  }
  ChapTarget no_challenge(policy);
  ChapTarget::Response half;
  const std::string response = Hex(Answer(TakeChallenge(no_challenge)));
  half.name = "user";
  half.response = response;
  half.identifier = "1";
  TextKeyWriter writer;
  EXPECT_EQ(no_challenge.Verify(half, writer), LoginStatus::kMissingParameter);
}

TEST(ChapTarget, IdentifiersRunFrom0To255) {
  const AccessPolicy policy = BothWays();
  for (const char* identifier : {"0", "255", "0xff"}) {
    ChapTarget chap(policy);
    const std::string response = Hex(Answer(TakeChallenge(chap)));
    TextKeyWriter writer;
    EXPECT_EQ(chap.Verify(Ask(response, identifier, "0x00"), writer), LoginStatus::kSuccess);
  }
}

TEST(ChapTarget, SecretsAreInNoAnswer) {
  const AccessPolicy policy = BothWays();
  ChapTarget chap(policy);
  TextKeyWriter writer;
  ASSERT_EQ(chap.Challenge("7", writer), LoginStatus::kSuccess);
  auto values = Read(writer);
  const Challenge challenge{ChapAlgorithm::kSha256,
                            static_cast<uint8_t>(std::stoi(values["CHAP_I"])), values["CHAP_C"],
                            Unhex(values["CHAP_C"])};
  const std::string response = Hex(Answer(challenge));
  ASSERT_EQ(chap.Verify(Ask(response, "1", "0x00"), writer), LoginStatus::kSuccess);
  EXPECT_THAT(writer.text(), Not(HasSubstr(std::string(kSecret))));
  EXPECT_THAT(writer.text(), Not(HasSubstr(std::string(kOurSecret))));
}

}  // namespace
}  // namespace sectormap::iscsi
