// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/negotiation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/server/iscsi/test_seed.h"

namespace sectormap::iscsi {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// An initiator's list, as "Name=Value" each.
using Offers = std::vector<std::string>;

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> items;
  for (size_t start = 0; start < text.size();) {
    const size_t end = text.find('\0', start);
    items.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return items;
}

struct Outcome {
  bool ok = false;
  std::vector<std::string> answers;
};

Outcome Offer(Negotiation& negotiation, const Offers& offers,
              KeyStage stage = KeyStage::kOperational, SessionType type = SessionType::kNormal) {
  std::string text;
  for (const std::string& offer : offers) text += offer + '\0';
  const auto keys = ParseTextKeys(text);
  EXPECT_TRUE(keys.ok()) << keys.status();
  TextKeyWriter answers;
  const absl::Status status = negotiation.Answer(*keys, stage, type, answers);
  return {status.ok(), Split(answers.text())};
}

// The answer to one offer of a fresh login: "" if there is none, "(refused)" if the login would
// end.
std::string AnswerTo(const std::string& offer, KeyStage stage = KeyStage::kOperational,
                     SessionType type = SessionType::kNormal) {
  Negotiation negotiation{SessionParameters()};
  const Outcome outcome = Offer(negotiation, {offer}, stage, type);
  if (!outcome.ok) return "(refused)";
  if (outcome.answers.empty()) return "";
  EXPECT_EQ(outcome.answers.size(), 1u) << offer;
  const std::string name = offer.substr(0, offer.find('=') + 1);
  EXPECT_TRUE(outcome.answers[0].starts_with(name)) << outcome.answers[0];
  return outcome.answers[0].substr(name.size());
}

SessionParameters After(const Offers& offers) {
  Negotiation negotiation{SessionParameters()};
  EXPECT_TRUE(Offer(negotiation, offers).ok);
  return negotiation.agreed();
}

struct Case {
  std::string offer;
  std::string answer;
};

TEST(Negotiation, EveryOfferedValueGetsItsAnswer) {
  const std::vector<Case> cases = {
      {"HeaderDigest=CRC32C,None", "CRC32C"},
      {"HeaderDigest=None,CRC32C", "None"},
      {"HeaderDigest=None", "None"},
      {"HeaderDigest=CRC32C", "CRC32C"},
      {"HeaderDigest=X-fancy,CRC32C", "CRC32C"},
      {"HeaderDigest=X-fancy", "Reject"},
      {"HeaderDigest=", "Reject"},
      {"HeaderDigest=crc32c", "Reject"},
      {"HeaderDigest=CRC32C None", "Reject"},
      {"DataDigest=CRC32C,None", "CRC32C"},
      {"DataDigest=None,CRC32C", "None"},
      {"DataDigest=Foo", "Reject"},
      {"MaxConnections=1", "1"},
      {"MaxConnections=65535", "1"},
      {"MaxConnections=0", "Reject"},
      {"MaxConnections=65536", "Reject"},
      {"InitialR2T=Yes", "Yes"},
      {"InitialR2T=No", "No"},
      {"InitialR2T=Maybe", "Reject"},
      {"InitialR2T=", "Reject"},
      {"ImmediateData=Yes", "Yes"},
      {"ImmediateData=No", "No"},
      {"ImmediateData=1", "Reject"},
      {"MaxBurstLength=512", "512"},
      {"MaxBurstLength=511", "Reject"},
      {"MaxBurstLength=262144", "262144"},
      {"MaxBurstLength=0x40000", "262144"},
      {"MaxBurstLength=16776192", "1048576"},
      {"MaxBurstLength=16777215", "1048576"},
      {"MaxBurstLength=16777216", "Reject"},
      {"MaxBurstLength=-1", "Reject"},
      {"MaxBurstLength=18446744073709551616", "Reject"},
      {"MaxBurstLength=", "Reject"},
      {"FirstBurstLength=512", "512"},
      {"FirstBurstLength=65536", "65536"},
      {"FirstBurstLength=262144", "262144"},
      {"FirstBurstLength=16777215", "262144"},
      {"FirstBurstLength=0", "Reject"},
      {"DefaultTime2Wait=0", "0"},
      {"DefaultTime2Wait=2", "2"},
      {"DefaultTime2Wait=3600", "3600"},
      {"DefaultTime2Wait=3601", "Reject"},
      {"DefaultTime2Retain=20", "0"},
      {"DefaultTime2Retain=0", "0"},
      {"DefaultTime2Retain=3601", "Reject"},
      {"MaxOutstandingR2T=1", "1"},
      {"MaxOutstandingR2T=16", "16"},
      {"MaxOutstandingR2T=65535", "16"},
      {"MaxOutstandingR2T=0", "Reject"},
      {"DataPDUInOrder=Yes", "Yes"},
      {"DataPDUInOrder=No", "Yes"},
      {"DataSequenceInOrder=Yes", "Yes"},
      {"DataSequenceInOrder=No", "Yes"},
      {"ErrorRecoveryLevel=0", "0"},
      {"ErrorRecoveryLevel=2", "0"},
      {"ErrorRecoveryLevel=3", "Reject"},
      {"TaskReporting=RFC3720", "RFC3720"},
      {"TaskReporting=FastAbort,ResponseFence,RFC3720", "RFC3720"},
      {"TaskReporting=FastAbort", "Reject"},
      {"iSCSIProtocolLevel=0", "0"},
      {"iSCSIProtocolLevel=1", "1"},
      {"iSCSIProtocolLevel=2", "1"},
      {"iSCSIProtocolLevel=31", "1"},
      {"iSCSIProtocolLevel=32", "Reject"},
      {"IFMarker=Yes", "No"},
      {"IFMarker=No", "No"},
      {"OFMarker=Yes", "No"},
      {"IFMarkInt=2048~8192", "Reject"},
      {"OFMarkInt=2048", "Reject"},
      {"X-com.example.key=1", "NotUnderstood"},
      {"X#NodeArchitecture=linux", "NotUnderstood"},
      {"headerdigest=None", "NotUnderstood"},
      {"Unheard=NotUnderstood", "NotUnderstood"},
      {"MaxRecvDataSegmentLength=512", ""},
      {"MaxRecvDataSegmentLength=16777215", ""},
      {"InitiatorName=iqn.2026-11.com.example:a", ""},
      {"InitiatorAlias=some host", ""},
      {"TargetPortalGroupTag=NotUnderstood", ""},
      {"TargetAddress=Irrelevant", ""},
  };
  for (const Case& c : cases) EXPECT_EQ(AnswerTo(c.offer), c.answer) << c.offer;
}

TEST(Negotiation, WhatBreaksTheProtocolEndsTheLogin) {
  const Offers cases = {
      "MaxRecvDataSegmentLength=511",
      "MaxRecvDataSegmentLength=0",
      "MaxRecvDataSegmentLength=16777216",
      "MaxRecvDataSegmentLength=8k",
      "MaxRecvDataSegmentLength=",
      "TargetAlias=mine",
      "TargetAddress=10.0.0.1:3260,1",
      "TargetPortalGroupTag=1",
      "AuthMethod=None",  // not in the operational stage
      "CHAP_A=5",
      "CHAP_R=0x00",
      "SendTargets=All",  // full feature phase only
      "InitialR2T=" + std::string(256, 'Y'),
      "InitiatorAlias=" + std::string(256, 'a'),
  };
  for (const std::string& offer : cases) EXPECT_EQ(AnswerTo(offer), "(refused)") << offer;
}

TEST(Negotiation, OperationalKeysAreRefusedInTheSecurityStage) {
  for (const char* offer :
       {"HeaderDigest=None", "MaxRecvDataSegmentLength=8192", "InitialR2T=No", "MaxBurstLength=512",
        "ErrorRecoveryLevel=0", "IFMarker=No", "TaskReporting=RFC3720"}) {
    EXPECT_EQ(AnswerTo(offer, KeyStage::kSecurity), "(refused)") << offer;
  }
  for (const char* offer :
       {"InitiatorName=iqn.2026-11.com.example:a", "TargetName=iqn.2026-11.com.example:t",
        "SessionType=Normal", "InitiatorAlias=a", "AuthMethod=None", "CHAP_N=user"}) {
    EXPECT_EQ(AnswerTo(offer, KeyStage::kSecurity), "") << offer;
  }
  EXPECT_EQ(AnswerTo("X-unknown=1", KeyStage::kSecurity), "NotUnderstood");
}

TEST(Negotiation, KeysOfNormalSessionsAreIrrelevantInDiscovery) {
  for (const char* offer :
       {"MaxConnections=4", "InitialR2T=No", "ImmediateData=Yes", "MaxBurstLength=262144",
        "FirstBurstLength=65536", "MaxOutstandingR2T=1", "DataPDUInOrder=Yes",
        "DataSequenceInOrder=Yes", "TaskReporting=RFC3720", "iSCSIProtocolLevel=1"}) {
    EXPECT_EQ(AnswerTo(offer, KeyStage::kOperational, SessionType::kDiscovery), "Irrelevant")
        << offer;
  }
  EXPECT_EQ(AnswerTo("HeaderDigest=CRC32C,None", KeyStage::kOperational, SessionType::kDiscovery),
            "CRC32C");
  EXPECT_EQ(AnswerTo("DefaultTime2Wait=2", KeyStage::kOperational, SessionType::kDiscovery), "2");
}

TEST(Negotiation, InFullFeaturePhaseOnlySegmentLengthAndAliasChange) {
  for (const char* offer : {"HeaderDigest=CRC32C", "MaxBurstLength=512", "InitialR2T=Yes",
                            "AuthMethod=None", "InitiatorName=x", "MaxConnections=1"}) {
    EXPECT_EQ(AnswerTo(offer, KeyStage::kFullFeature), "Reject") << offer;
  }
  EXPECT_EQ(AnswerTo("MaxRecvDataSegmentLength=65536", KeyStage::kFullFeature), "");
  EXPECT_EQ(AnswerTo("InitiatorAlias=a", KeyStage::kFullFeature), "");
  EXPECT_EQ(AnswerTo("SendTargets=All", KeyStage::kFullFeature), "") << "answered elsewhere";
  EXPECT_EQ(AnswerTo("X-unknown=1", KeyStage::kFullFeature), "NotUnderstood");
}

TEST(Negotiation, AKeyThatComesAgainEndsTheLogin) {
  for (const char* offer : {"HeaderDigest=None", "MaxRecvDataSegmentLength=8192", "InitialR2T=No",
                            "MaxBurstLength=1024", "InitiatorAlias=a", "IFMarker=No"}) {
    Negotiation negotiation{SessionParameters()};
    EXPECT_TRUE(Offer(negotiation, {offer}).ok) << offer;
    EXPECT_FALSE(Offer(negotiation, {offer}).ok) << offer;
  }
}

TEST(Negotiation, AnswersKeepTheOrderOfTheOffers) {
  Negotiation negotiation{SessionParameters()};
  const Outcome outcome =
      Offer(negotiation, {"X-a=1", "InitialR2T=No", "InitiatorAlias=h", "HeaderDigest=None",
                          "X-b=2", "MaxRecvDataSegmentLength=65536", "MaxConnections=1"});
  EXPECT_TRUE(outcome.ok);
  EXPECT_THAT(outcome.answers,
              ElementsAre("X-a=NotUnderstood", "InitialR2T=No", "HeaderDigest=None",
                          "X-b=NotUnderstood", "MaxConnections=1"));
}

TEST(Negotiation, DefaultsHoldIfNothingIsOffered) {
  const SessionParameters agreed = After({});
  EXPECT_EQ(agreed.max_send_segment_bytes, 8192u);
  EXPECT_EQ(agreed.max_burst_bytes, 262144u);
  EXPECT_EQ(agreed.first_burst_bytes, 65536u);
  EXPECT_EQ(agreed.max_outstanding_r2t, 1u);
  EXPECT_EQ(agreed.default_time2wait, 2u);
  EXPECT_EQ(agreed.default_time2retain, 20u);
  EXPECT_TRUE(agreed.initial_r2t);
  EXPECT_TRUE(agreed.immediate_data);
  EXPECT_FALSE(agreed.header_digest);
  EXPECT_FALSE(agreed.data_digest);
}

// What open-iscsi sends by default.
TEST(Negotiation, AgreesWithOpenIscsi) {
  Negotiation negotiation{SessionParameters()};
  const Outcome outcome =
      Offer(negotiation,
            {"HeaderDigest=None", "DataDigest=None", "DefaultTime2Wait=2", "DefaultTime2Retain=0",
             "IFMarker=No", "OFMarker=No", "ErrorRecoveryLevel=0", "InitialR2T=No",
             "ImmediateData=Yes", "MaxBurstLength=16776192", "FirstBurstLength=262144",
             "MaxOutstandingR2T=1", "MaxConnections=1", "DataPDUInOrder=Yes",
             "DataSequenceInOrder=Yes", "MaxRecvDataSegmentLength=262144"});
  EXPECT_TRUE(outcome.ok);
  EXPECT_THAT(
      outcome.answers,
      ElementsAre("HeaderDigest=None", "DataDigest=None", "DefaultTime2Wait=2",
                  "DefaultTime2Retain=0", "IFMarker=No", "OFMarker=No", "ErrorRecoveryLevel=0",
                  "InitialR2T=No", "ImmediateData=Yes", "MaxBurstLength=1048576",
                  "FirstBurstLength=262144", "MaxOutstandingR2T=1", "MaxConnections=1",
                  "DataPDUInOrder=Yes", "DataSequenceInOrder=Yes"));
  const SessionParameters agreed = negotiation.agreed();
  EXPECT_EQ(agreed.max_send_segment_bytes, 262144u);
  EXPECT_EQ(agreed.max_burst_bytes, 1048576u);
  EXPECT_EQ(agreed.first_burst_bytes, 262144u);
  EXPECT_FALSE(agreed.initial_r2t);
  EXPECT_TRUE(agreed.immediate_data);
}

TEST(Negotiation, DigestsAreStoredAsAnswered) {
  EXPECT_TRUE(After({"HeaderDigest=CRC32C,None"}).header_digest);
  EXPECT_FALSE(After({"HeaderDigest=CRC32C,None"}).data_digest);
  EXPECT_TRUE(After({"DataDigest=CRC32C"}).data_digest);
  EXPECT_FALSE(After({"DataDigest=None,CRC32C"}).data_digest);
  EXPECT_FALSE(After({"DataDigest=Foo"}).data_digest);
}

TEST(Negotiation, ARejectedOfferLeavesTheDefault) {
  EXPECT_EQ(After({"MaxBurstLength=1"}).max_burst_bytes, 262144u);
  EXPECT_EQ(After({"FirstBurstLength=99999999"}).first_burst_bytes, 65536u);
  EXPECT_TRUE(After({"InitialR2T=maybe"}).initial_r2t);
  EXPECT_EQ(After({"MaxOutstandingR2T=70000"}).max_outstanding_r2t, 1u);
}

TEST(Negotiation, FirstBurstStaysBelowMaxBurstWhicheverComesFirst) {
  Negotiation in_order{SessionParameters()};
  EXPECT_THAT(Offer(in_order, {"MaxBurstLength=8192", "FirstBurstLength=262144"}).answers,
              ElementsAre("MaxBurstLength=8192", "FirstBurstLength=8192"));
  EXPECT_EQ(in_order.agreed().first_burst_bytes, 8192u);
  Negotiation reversed{SessionParameters()};
  EXPECT_THAT(Offer(reversed, {"FirstBurstLength=262144", "MaxBurstLength=8192"}).answers,
              ElementsAre("FirstBurstLength=8192", "MaxBurstLength=8192"));
  Negotiation two_lists{SessionParameters()};
  EXPECT_TRUE(Offer(two_lists, {"MaxBurstLength=4096"}).ok);
  EXPECT_THAT(Offer(two_lists, {"FirstBurstLength=262144"}).answers,
              ElementsAre("FirstBurstLength=4096"));
  EXPECT_EQ(After({"MaxBurstLength=4096"}).first_burst_bytes, 4096u) << "the default yields";
}

TEST(Negotiation, FirstBurstStaysBelowTheDefaultMaxBurst) {
  for (const uint32_t offer : {512u, 65536u, 262144u, 1048576u, 16777215u}) {
    const SessionParameters agreed = After({"FirstBurstLength=" + std::to_string(offer)});
    EXPECT_LE(agreed.first_burst_bytes, agreed.max_burst_bytes) << offer;
  }
}

// The longest answer there is: a list full of the longest unknown names.
TEST(Negotiation, AnswersToAnyListFitOneLoginPdu) {
  Offers offers;
  for (size_t i = 0; i < kMaxKeysPerList; ++i) {
    std::string name = "X-" + std::to_string(i);
    name.resize(kMaxKeyNameBytes, 'k');
    offers.push_back(name + "=" + std::string(100, 'v'));
  }
  Negotiation negotiation{SessionParameters()};
  std::string text;
  for (const std::string& answer : Offer(negotiation, offers).answers) text += answer + '\0';
  constexpr size_t kOurOwnKeys = 256;
  EXPECT_LE(text.size() + kOurOwnKeys, 8192u);
}

// Whatever comes, what is agreed stays in its range.
TEST(Negotiation, RandomOffersNeverAgreeOnNonsense) {
  std::mt19937_64 random(TestSeed());
  const std::vector<std::string> names = {"HeaderDigest",
                                          "DataDigest",
                                          "MaxConnections",
                                          "InitialR2T",
                                          "ImmediateData",
                                          "MaxRecvDataSegmentLength",
                                          "MaxBurstLength",
                                          "FirstBurstLength",
                                          "DefaultTime2Wait",
                                          "DefaultTime2Retain",
                                          "MaxOutstandingR2T",
                                          "ErrorRecoveryLevel",
                                          "X-y",
                                          "IFMarker"};
  const std::vector<std::string> values = {
      "Yes",   "No",  "None", "CRC32C", "CRC32C,None",   "0",          "1",          "16",
      "511",   "512", "8192", "65536",  "262144",        "1048576",    "16777215",   "16777216",
      "0x200", "-1",  "",     "Reject", "NotUnderstood", "Irrelevant", "4294967296", "65535",
      "3600"};
  for (int round = 0; round < 20000; ++round) {
    Negotiation negotiation{SessionParameters()};
    std::string text;
    for (const std::string& name : names) {
      if (random() % 2 == 0) text += name + "=" + values[random() % values.size()] + '\0';
    }
    const auto keys = ParseTextKeys(text);
    ASSERT_TRUE(keys.ok());
    TextKeyWriter answers;
    (void)negotiation.Answer(*keys, KeyStage::kOperational, SessionType::kNormal, answers);
    const SessionParameters agreed = negotiation.agreed();
    ASSERT_GE(agreed.max_send_segment_bytes, 512u);
    ASSERT_LE(agreed.max_send_segment_bytes, 16777215u);
    ASSERT_GE(agreed.max_burst_bytes, 512u);
    ASSERT_LE(agreed.max_burst_bytes, kOurMaxBurstBytes);
    ASSERT_GE(agreed.first_burst_bytes, 512u);
    ASSERT_LE(agreed.first_burst_bytes, agreed.max_burst_bytes);
    ASSERT_GE(agreed.max_outstanding_r2t, 1u);
    ASSERT_LE(agreed.max_outstanding_r2t, kOurMaxOutstandingR2t);
    ASSERT_LE(agreed.default_time2wait, 3600u);
  }
}

}  // namespace
}  // namespace sectormap::iscsi
