// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/text_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/server/iscsi/login_script.h"
#include "tests/server/iscsi/test_seed.h"

namespace sectormap::iscsi {
namespace {

constexpr std::string_view kAddress = "192.0.2.1:3260";
constexpr std::string_view kAddress6 = "[2001:db8::1]:3260";

class TextExchangeTest : public ::testing::Test {
 protected:
  TextExchangeTest() {
    EXPECT_TRUE(AddTargets(directory));
    login.type = SessionType::kDiscovery;
    login.initiator_name = kInitiator;
    exchange.emplace(directory, login, std::vector<std::string>{std::string(kAddress)});
  }

  void BeNormal(std::string_view target = kOpenTarget) {
    login.type = SessionType::kNormal;
    login.target = directory.Find(target);
  }

  std::optional<TextExchange::Reply> Send(uint8_t flags, std::string_view text,
                                          uint32_t transfer_tag = kReservedTag,
                                          uint32_t task_tag = 0x77) {
    TextRequestHeader request;
    request.flags = flags;
    request.initiator_task_tag = task_tag;
    request.target_transfer_tag = transfer_tag;
    request.data_segment_length = static_cast<uint32_t>(text.size());
    return exchange->OnRequest(request, text, parameters);
  }

  // The answer to one request with F=1 that fits one response.
  std::string Ask(const KeyList& keys) {
    const auto reply = Send(kFinalBit, Text(keys));
    EXPECT_TRUE(reply.has_value());
    if (!reply) return "(rejected)";
    EXPECT_EQ(reply->header.flags, kFinalBit);
    EXPECT_EQ(reply->header.target_transfer_tag, kReservedTag);
    EXPECT_EQ(reply->header.initiator_task_tag, 0x77u);
    EXPECT_EQ(reply->header.data_segment_length, reply->text.size());
    return reply->text;
  }

  static KeyList Entry(std::string_view target) {
    return {{"TargetName", std::string(target)}, {"TargetAddress", std::string(kAddress) + ",1"}};
  }
  static std::string Entries(const std::vector<std::string_view>& targets) {
    std::string text;
    for (const std::string_view target : targets) text += Text(Entry(target));
    return text;
  }

  TargetDirectory directory;
  LoginResult login;
  SessionParameters parameters;
  std::optional<TextExchange> exchange;
};

TEST_F(TextExchangeTest, AllListsWhatTheInitiatorMaySee) {
  EXPECT_EQ(Ask({{"SendTargets", "All"}}), Entries({kChapTarget, kMutualTarget, kOpenTarget}));
  login.initiator_name = "iqn.2026-11.com.example:friend";
  EXPECT_EQ(Ask({{"SendTargets", "All"}}),
            Entries({kChapTarget, kGuardedTarget, kMutualTarget, kOpenTarget}));
}

TEST_F(TextExchangeTest, EveryPortalIsListed) {
  exchange.emplace(directory, login,
                   std::vector<std::string>{std::string(kAddress), std::string(kAddress6)});
  EXPECT_EQ(Ask({{"SendTargets", std::string(kOpenTarget)}}),
            Text({{"TargetName", std::string(kOpenTarget)},
                  {"TargetAddress", std::string(kAddress) + ",1"},
                  {"TargetAddress", std::string(kAddress6) + ",1"}}));
}

TEST_F(TextExchangeTest, OneTargetByName) {
  EXPECT_EQ(Ask({{"SendTargets", std::string(kOpenTarget)}}), Entries({kOpenTarget}));
  EXPECT_EQ(Ask({{"SendTargets", "IQN.2026-11.io.sectormap:OPEN"}}), Entries({kOpenTarget}));
  EXPECT_EQ(Ask({{"SendTargets", "iqn.2026-11.io.sectormap:none"}}), "");
  EXPECT_EQ(Ask({{"SendTargets", std::string(kGuardedTarget)}}), "") << "hidden is as not there";
}

// libiscsi's iSCSISendTargets.Invalid.
TEST_F(TextExchangeTest, OtherValuesAreRejected) {
  for (const char* value : {"Alle", "A", "all", "", "All,All", "None"}) {
    EXPECT_EQ(Ask({{"SendTargets", value}}), Text({{"SendTargets", "Reject"}})) << value;
  }
  EXPECT_EQ(Ask({{"SendTargetsPlease", "All"}}), Text({{"SendTargetsPlease", "NotUnderstood"}}));
  EXPECT_EQ(Ask({{"sENDtARGETS", "aLL"}}), Text({{"sENDtARGETS", "NotUnderstood"}}));
  EXPECT_EQ(Ask({{"SendTargets", "All"}}), Entries({kChapTarget, kMutualTarget, kOpenTarget}))
      << "and the next request is fine";
}

TEST_F(TextExchangeTest, ANormalSessionIsToldOfItsOwnTargetOnly) {
  BeNormal();
  for (const std::string& value : {std::string(), std::string("All"), std::string(kOpenTarget)}) {
    EXPECT_EQ(Ask({{"SendTargets", value}}), Entries({kOpenTarget})) << value;
  }
  for (const std::string& value : {std::string(kChapTarget), std::string("Alle")}) {
    EXPECT_EQ(Ask({{"SendTargets", value}}), Text({{"SendTargets", "Reject"}})) << value;
  }
}

TEST_F(TextExchangeTest, AnEmptyRequestGetsAnEmptyAnswer) { EXPECT_EQ(Ask({}), ""); }

TEST_F(TextExchangeTest, KeysOfTheLoginAreRejected) {
  BeNormal();
  EXPECT_EQ(Ask({{"MaxBurstLength", "512"}, {"X-y", "1"}}),
            Text({{"MaxBurstLength", "Reject"}, {"X-y", "NotUnderstood"}}));
  EXPECT_EQ(parameters.max_burst_bytes, 262144u);
}

TEST_F(TextExchangeTest, TheSegmentLengthIsRenegotiated) {
  BeNormal();
  parameters.header_digest = true;
  EXPECT_EQ(Ask({{"MaxRecvDataSegmentLength", "65536"}}), "");
  EXPECT_EQ(parameters.max_send_segment_bytes, 65536u);
  EXPECT_TRUE(parameters.header_digest) << "nothing else changes";
  EXPECT_EQ(Ask({{"MaxRecvDataSegmentLength", "512"}}), "") << "again, in another exchange";
  EXPECT_EQ(parameters.max_send_segment_bytes, 512u);
  for (const char* value : {"511", "16777216", "", "x"}) {
    EXPECT_FALSE(Send(kFinalBit, Text({{"MaxRecvDataSegmentLength", value}})).has_value());
    EXPECT_EQ(parameters.max_send_segment_bytes, 512u);
  }
}

TEST_F(TextExchangeTest, WhatIsNegotiatedHoldsFromTheEndOfTheExchange) {
  BeNormal();
  auto reply = Send(0, Text({{"MaxRecvDataSegmentLength", "65536"}}));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->header.flags, 0);
  EXPECT_NE(reply->header.target_transfer_tag, kReservedTag);
  EXPECT_EQ(parameters.max_send_segment_bytes, 8192u);
  EXPECT_FALSE(
      Send(0, Text({{"MaxRecvDataSegmentLength", "4096"}}), reply->header.target_transfer_tag)
          .has_value())
      << "once in an exchange";
  EXPECT_EQ(parameters.max_send_segment_bytes, 8192u);
  reply = Send(0, Text({{"MaxRecvDataSegmentLength", "4096"}}));
  ASSERT_TRUE(reply.has_value());
  reply = Send(kFinalBit, "", reply->header.target_transfer_tag);
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->header.flags, kFinalBit);
  EXPECT_EQ(parameters.max_send_segment_bytes, 4096u);
}

// ---- Requests in pieces

TEST_F(TextExchangeTest, ARequestMayComeInPieces) {
  const std::string list = Text({{"SendTargets", "All"}, {"X-y", "1"}});
  for (size_t border = 0; border <= list.size(); ++border) {
    auto reply = Send(kContinueBit, std::string_view(list).substr(0, border));
    ASSERT_TRUE(reply.has_value());
    EXPECT_EQ(reply->header.flags, 0);
    EXPECT_EQ(reply->text, "");
    reply =
        Send(kFinalBit, std::string_view(list).substr(border), reply->header.target_transfer_tag);
    ASSERT_TRUE(reply.has_value());
    EXPECT_EQ(reply->header.flags, kFinalBit);
    EXPECT_EQ(reply->text, Entries({kChapTarget, kMutualTarget, kOpenTarget}) +
                               Text({{"X-y", "NotUnderstood"}}));
  }
}

// SPDK's CVE-2021-28361, and its relatives without an end.
TEST_F(TextExchangeTest, ContinuingForeverEnds) {
  for (const size_t bytes : {0u, 1u, 8192u}) {
    const std::string piece(bytes, 'a');
    uint32_t tag = kReservedTag;
    int requests = 0;
    while (const auto reply = Send(kContinueBit, piece, tag)) {
      tag = reply->header.target_transfer_tag;
      ASSERT_LT(++requests, 1000);
    }
    EXPECT_FALSE(Send(kContinueBit, piece, tag).has_value()) << "the exchange is gone";
  }
}

TEST_F(TextExchangeTest, ViolationsAreRejectedAndEndTheExchange) {
  const std::string list = Text({{"SendTargets", "All"}});
  EXPECT_FALSE(Send(kFinalBit | kContinueBit, list).has_value()) << "F and C";
  EXPECT_FALSE(Send(kFinalBit | kContinueBit, "").has_value()) << "F and C";
  EXPECT_FALSE(Send(kFinalBit, list, 1).has_value()) << "a tag of no exchange";
  EXPECT_FALSE(Send(kFinalBit, list, kReservedTag, kReservedTag).has_value()) << "no task tag";
  EXPECT_FALSE(Send(kFinalBit, "SendTargets=All").has_value()) << "no NUL";
  EXPECT_FALSE(Send(kFinalBit, list + list).has_value()) << "twice";
  EXPECT_FALSE(Send(kFinalBit, std::string("x\0", 2)).has_value()) << "no '='";
  EXPECT_FALSE(Send(kFinalBit, Text({{std::string(64, 'K'), ""}})).has_value()) << "a long name";
  EXPECT_FALSE(Send(kFinalBit, Text({{"TargetAddress", "x"}})).has_value()) << "ours to send";

  auto reply = Send(kContinueBit, "");
  ASSERT_TRUE(reply.has_value());
  EXPECT_FALSE(Send(kFinalBit, list, reply->header.target_transfer_tag + 1).has_value());
  EXPECT_FALSE(Send(kFinalBit, list, reply->header.target_transfer_tag).has_value())
      << "the exchange ended with the violation";
  reply = Send(kContinueBit, "");
  ASSERT_TRUE(reply.has_value());
  EXPECT_FALSE(Send(kFinalBit, list, reply->header.target_transfer_tag, 0x78).has_value())
      << "another task tag";
  EXPECT_EQ(Ask({{"SendTargets", "All"}}), Entries({kChapTarget, kMutualTarget, kOpenTarget}));
}

// ---- Answers in pieces

class LongAnswerTest : public TextExchangeTest {
 protected:
  static constexpr int kTargets = 10'000;  // SPDK #1442
  LongAnswerTest() {
    for (int i = 0; i < kTargets; ++i) {
      EXPECT_TRUE(directory.AddTarget("iqn.2026-11.io.sectormap:many-" + std::to_string(i)).ok());
    }
    parameters.max_send_segment_bytes = 512;
  }
  std::string All() const {
    std::string text;
    for (const std::string& target : directory.VisibleTo(kInitiator)) text += Text(Entry(target));
    return text;
  }
};

TEST_F(LongAnswerTest, IsContinuedWithinTheInitiatorsSegmentLength) {
  std::string text;
  std::set<uint32_t> tags;
  auto reply = Send(kFinalBit, Text({{"SendTargets", "All"}}));
  while (true) {
    ASSERT_TRUE(reply.has_value());
    ASSERT_LE(reply->text.size(), 512u);
    ASSERT_EQ(reply->text.back(), '\0') << "each piece ends with a whole key";
    text += reply->text;
    if (reply->header.flags == kFinalBit) break;
    ASSERT_EQ(reply->header.flags, kContinueBit);
    ASSERT_NE(reply->header.target_transfer_tag, kReservedTag);
    ASSERT_TRUE(tags.insert(reply->header.target_transfer_tag).second);
    reply = Send(kFinalBit, "", reply->header.target_transfer_tag);
  }
  EXPECT_EQ(text, All());
  EXPECT_GT(tags.size(), 1000u);
}

TEST_F(LongAnswerTest, MayBeAbandonedHalfWay) {
  auto reply = Send(kFinalBit, Text({{"SendTargets", "All"}}));
  ASSERT_TRUE(reply.has_value());
  reply = Send(kFinalBit, "", reply->header.target_transfer_tag);
  ASSERT_TRUE(reply.has_value());
  const uint32_t old = reply->header.target_transfer_tag;
  EXPECT_EQ(Ask({{"SendTargets", std::string(kOpenTarget)}}), Entries({kOpenTarget}));
  EXPECT_FALSE(Send(kFinalBit, "", old).has_value()) << "the old tag is dead";
}

TEST_F(LongAnswerTest, IsFetchedByEmptyRequests) {
  auto reply = Send(kFinalBit, Text({{"SendTargets", "All"}}));
  ASSERT_TRUE(reply.has_value());
  EXPECT_FALSE(
      Send(kFinalBit, Text({{"X-y", "1"}}), reply->header.target_transfer_tag).has_value());
  reply = Send(kFinalBit, Text({{"SendTargets", "All"}}));
  ASSERT_TRUE(reply.has_value());
  EXPECT_FALSE(Send(kContinueBit, "", reply->header.target_transfer_tag).has_value());
}

TEST_F(LongAnswerTest, KeepsTheOldSegmentLengthUntilItsEnd) {
  auto reply =
      Send(kFinalBit, Text({{"MaxRecvDataSegmentLength", "65536"}, {"SendTargets", "All"}}));
  while (reply && reply->header.flags != kFinalBit) {
    ASSERT_LE(reply->text.size(), 512u);
    reply = Send(kFinalBit, "", reply->header.target_transfer_tag);
  }
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(parameters.max_send_segment_bytes, 65536u);
}

TEST_F(TextExchangeTest, RandomRequestsAreSurvived) {
  std::mt19937_64 random(TestSeed());
  const std::vector<std::string> texts = {"",
                                          Text({{"SendTargets", "All"}}),
                                          Text({{"SendTargets", ""}}),
                                          "SendTar",
                                          "gets=All",
                                          std::string("\0", 1),
                                          Text({{"MaxRecvDataSegmentLength", "512"}}),
                                          Text({{"X-y", "1"}})};
  uint32_t tag = kReservedTag;
  for (int round = 0; round < 50'000; ++round) {
    if (random() % 2 == 0) tag = random() % 2 == 0 ? kReservedTag : tag + random() % 2;
    const auto flags = static_cast<uint8_t>(random() % 4 << 6);
    const auto reply =
        Send(flags, texts[random() % texts.size()], tag, 0x77 + (random() % 16 == 0));
    if (!reply) {
      tag = kReservedTag;
      continue;
    }
    tag = reply->header.target_transfer_tag;
    ASSERT_LE(reply->text.size(), parameters.max_send_segment_bytes);
    ASSERT_EQ((reply->header.flags & kFinalBit) != 0, tag == kReservedTag);
  }
}

}  // namespace
}  // namespace sectormap::iscsi
