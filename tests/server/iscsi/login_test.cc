// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/login.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "core/base/text.h"
#include "tests/server/iscsi/login_script.h"
#include "tests/server/iscsi/test_seed.h"

namespace sectormap::iscsi {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;
using Next = LoginNegotiator::Reply::Next;
using Reply = LoginNegotiator::Reply;

KeyList Names(std::string_view target = kOpenTarget) {
  return {{"InitiatorName", std::string(kInitiator)}, {"TargetName", std::string(target)}};
}
KeyList With(KeyList keys, const KeyList& more) {
  keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

class LoginTest : public ::testing::Test {
 protected:
  LoginTest() { EXPECT_TRUE(AddTargets(directory)); }

  // What the first request of a login is answered, if it is refused.
  LoginStatus Refusal(uint8_t flags, std::string_view text) {
    LoginScript script(directory);
    return RefusalOf(script.Send(flags, text));
  }
  LoginStatus Refusal(uint8_t flags, const KeyList& keys) { return Refusal(flags, Text(keys)); }
  static LoginStatus RefusalOf(const Reply& reply) {
    EXPECT_EQ(reply.next, Next::kClose);
    EXPECT_EQ(reply.text, "");
    EXPECT_EQ(reply.header.flags, 0);
    EXPECT_EQ(reply.header.data_segment_length, 0u);
    EXPECT_NE(reply.reason, "");
    return reply.header.status();
  }
  static void ExpectRefused(const Reply& reply, LoginStatus status) {
    EXPECT_EQ(static_cast<int>(RefusalOf(reply)), static_cast<int>(status)) << reply.reason;
  }
  static void ExpectAccepted(const Reply& reply, Next next, uint8_t flags) {
    EXPECT_EQ(reply.header.status(), LoginStatus::kSuccess) << reply.reason;
    EXPECT_EQ(reply.next, next);
    EXPECT_EQ(reply.header.flags, flags);
    EXPECT_EQ(reply.header.data_segment_length, reply.text.size());
  }

  TargetDirectory directory;
};

TEST_F(LoginTest, OneRequestInTheOperationalStageIsEnough) {
  LoginScript script(directory);
  const Reply reply = script.Send(kOperationalToFullFeature, Names());
  ExpectAccepted(reply, Next::kFullFeature, kOperationalToFullFeature);
  EXPECT_THAT(Values(reply.text), Contains(Pair("TargetPortalGroupTag", "1")));
  EXPECT_THAT(Values(reply.text), Contains(Pair("MaxRecvDataSegmentLength", "262144")));
  const LoginResult& result = script.result();
  EXPECT_EQ(result.type, SessionType::kNormal);
  EXPECT_EQ(result.initiator_name, kInitiator);
  EXPECT_EQ(result.isid, 0x800102030405u);
  EXPECT_EQ(result.cid, 7);
  EXPECT_EQ(result.cmd_sn, 100u);
  EXPECT_EQ(result.next_stat_sn, 5001u);
  ASSERT_NE(result.target, nullptr);
  EXPECT_EQ(result.target->iqn, kOpenTarget);
  EXPECT_EQ(result.parameters.max_send_segment_bytes, 8192u);
}

TEST_F(LoginTest, TheHeaderOfAnAnswerIsExact) {
  LoginScript script(directory);
  const Reply reply = script.Send(kSecurityToOperational, Names());
  const auto bytes = reply.header.bytes();
  const std::vector<uint8_t> expected = {
      0x23, 0x81, 0x00, 0x00,  // T, security to operational; versions 0
      0x00, 0x00, 0x00, static_cast<uint8_t>(reply.text.size()),
      0x80, 0x01, 0x02, 0x03,
      0x04, 0x05, 0x00, 0x00,  // ISID; no TSIH yet
      0x00, 0x00, 0xab, 0xcd,  // task tag
      0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x13, 0x88,  // StatSN begins with the request's ExpStatSN
      0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00,  // ExpCmdSN and MaxCmdSN are not ours
      0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00};
  EXPECT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.end()), expected);
  EXPECT_EQ(reply.text, std::string("TargetPortalGroupTag=1\0", 23));
}

// What open-iscsi does: security without a wish, operational with all keys, full feature.
TEST_F(LoginTest, ThreeStagesWithoutAuthentication) {
  LoginScript script(directory);
  Reply reply = script.Send(kSecurityToOperational, With(Names(), {{"InitiatorAlias", "host"},
                                                                   {"SessionType", "Normal"},
                                                                   {"AuthMethod", "None"}}));
  ExpectAccepted(reply, Next::kContinue, kSecurityToOperational);
  EXPECT_EQ(reply.text, std::string("TargetPortalGroupTag=1\0AuthMethod=None\0", 39));
  EXPECT_EQ(reply.header.tsih, 0);
  reply = script.Send(kOperationalToFullFeature, {{"HeaderDigest", "CRC32C,None"},
                                                  {"InitialR2T", "No"},
                                                  {"MaxRecvDataSegmentLength", "262144"},
                                                  {"MaxBurstLength", "16776192"}});
  ExpectAccepted(reply, Next::kFullFeature, kOperationalToFullFeature);
  EXPECT_EQ(reply.header.tsih, kAssignedTsih);
  EXPECT_EQ(reply.header.stat_sn, 5001u);
  EXPECT_EQ(reply.text, Text({{"HeaderDigest", "CRC32C"},
                              {"InitialR2T", "No"},
                              {"MaxBurstLength", "1048576"},
                              {"MaxRecvDataSegmentLength", "262144"}}));
  EXPECT_EQ(script.result().initiator_alias, "host");
  EXPECT_TRUE(script.result().parameters.header_digest);
  EXPECT_FALSE(script.result().parameters.initial_r2t);
  EXPECT_EQ(script.result().parameters.max_send_segment_bytes, 262144u);
  EXPECT_EQ(script.result().next_stat_sn, 5002u);
}

TEST_F(LoginTest, SecurityMayLeadStraightToFullFeature) {
  LoginScript script(directory);
  const Reply reply = script.Send(kSecurityToFullFeature, With(Names(), {{"AuthMethod", "None"}}));
  ExpectAccepted(reply, Next::kFullFeature, kSecurityToFullFeature);
  EXPECT_EQ(reply.header.tsih, kAssignedTsih);
}

TEST_F(LoginTest, AnInitiatorMayStayInAStage) {
  LoginScript script(directory);
  ExpectAccepted(script.Send(kInSecurity, Names()), Next::kContinue, kInSecurity);
  ExpectAccepted(script.Send(kInSecurity, KeyList{}), Next::kContinue, kInSecurity);
  ExpectAccepted(script.Send(kSecurityToOperational, KeyList{}), Next::kContinue,
                 kSecurityToOperational);
  Reply reply = script.Send(kInOperational, {{"InitialR2T", "Yes"}});
  ExpectAccepted(reply, Next::kContinue, kInOperational);
  EXPECT_THAT(Values(reply.text), Contains(Pair("MaxRecvDataSegmentLength", "262144")));
  reply = script.Send(kInOperational, {{"ImmediateData", "No"}});
  EXPECT_EQ(reply.text, Text({{"ImmediateData", "No"}})) << "our own length is told once";
  reply = script.Send(kOperationalToFullFeature, KeyList{});
  ExpectAccepted(reply, Next::kFullFeature, kOperationalToFullFeature);
  EXPECT_FALSE(script.result().parameters.immediate_data);
  EXPECT_EQ(script.result().next_stat_sn, 5006u);
}

TEST_F(LoginTest, NamesAreComparedInLowerCase) {
  LoginScript script(directory);
  const Reply reply =
      script.Send(kOperationalToFullFeature, {{"InitiatorName", "IQN.2026-11.com.Example:Host"},
                                              {"TargetName", "iqn.2026-11.IO.sectormap:OPEN"}});
  EXPECT_EQ(reply.next, Next::kFullFeature);
  EXPECT_EQ(script.result().initiator_name, kInitiator);
}

TEST_F(LoginTest, InitiatorNamesOfRealHostsAreTaken) {
  for (const std::string& name :
       {std::string("iqn.2008-11.org.linux-kvm:my_vm"), std::string("eui.02004567a425678d"),
        std::string("naa.52004567ba64678d"), std::string("host"),
        "iqn.2026-11.com.example:" + std::string(199, 'h')}) {
    LoginScript script(directory);
    EXPECT_EQ(script
                  .Send(kOperationalToFullFeature,
                        {{"InitiatorName", name}, {"TargetName", std::string(kOpenTarget)}})
                  .next,
              Next::kFullFeature)
        << name;
  }
}

TEST_F(LoginTest, UnusableInitiatorNamesAreRefused) {
  for (const std::string& name :
       {std::string(), std::string(224, 'h'), std::string("a b"), std::string("a\x1b[2J"),
        std::string("a\xff"), std::string("\n")}) {
    EXPECT_EQ(Refusal(kOperationalToFullFeature,
                      {{"InitiatorName", name}, {"TargetName", std::string(kOpenTarget)}}),
              LoginStatus::kInitiatorError)
        << testing::PrintToString(name);
  }
}

TEST_F(LoginTest, ALoginThatNeverEndsIsEnded) {
  constexpr int kRequestsMax = 256;
  LoginScript script(directory);
  ASSERT_EQ(script.Send(kInOperational, Names()).next, Next::kContinue);
  for (int i = 1; i < kRequestsMax; ++i) {
    ASSERT_EQ(script.Send(kInOperational, KeyList{}).next, Next::kContinue) << i;
  }
  ExpectRefused(script.Send(kInOperational, KeyList{}), LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, AnAliasIsMadePrintable) {
  LoginScript script(directory);
  script.Send(kOperationalToFullFeature, With(Names(), {{"InitiatorAlias", "a\x1b\xff"}}));
  EXPECT_EQ(script.result().initiator_alias, "a??");
}

// ---- What is missing or wrong (§11.13.5)

TEST_F(LoginTest, MissingNames) {
  for (const uint8_t flags : {kSecurityToOperational, kOperationalToFullFeature, kInSecurity}) {
    EXPECT_EQ(Refusal(flags, KeyList{}), LoginStatus::kMissingParameter);
    EXPECT_EQ(Refusal(flags, {{"TargetName", std::string(kOpenTarget)}}),
              LoginStatus::kMissingParameter);
    EXPECT_EQ(Refusal(flags, {{"InitiatorName", std::string(kInitiator)}}),
              LoginStatus::kMissingParameter);
  }
}

TEST_F(LoginTest, UnknownTarget) {
  for (const char* name : {"iqn.2026-11.io.sectormap:none", "", "%s%n", "iqn"}) {
    EXPECT_EQ(Refusal(kSecurityToOperational, Names(name)), LoginStatus::kNotFound) << name;
  }
}

TEST_F(LoginTest, AListedInitiatorIsKnownInWhateverCaseItIsWritten) {
  for (const std::string_view listed : kFriends) {
    for (const std::string& name : {std::string(listed), absl::AsciiStrToUpper(Absl(listed)),
                                    absl::AsciiStrToLower(Absl(listed))}) {
      LoginScript script(directory);
      const Reply reply =
          script.Send(kOperationalToFullFeature,
                      {{"InitiatorName", name}, {"TargetName", std::string(kGuardedTarget)}});
      EXPECT_EQ(reply.next, Next::kFullFeature) << name;
    }
  }
}

TEST_F(LoginTest, AnInitiatorThatIsNotAllowed) {
  EXPECT_EQ(Refusal(kSecurityToOperational, Names(kGuardedTarget)),
            LoginStatus::kAuthorizationFailure);
  LoginScript script(directory);
  EXPECT_EQ(
      script
          .Send(kOperationalToFullFeature, {{"InitiatorName", "iqn.2026-11.com.example:friend"},
                                            {"TargetName", std::string(kGuardedTarget)}})
          .next,
      Next::kFullFeature);
}

TEST_F(LoginTest, UnknownSessionType) {
  for (const char* type : {"discovery", "", "Both", "Normal,Discovery"}) {
    EXPECT_EQ(Refusal(kSecurityToOperational, With(Names(), {{"SessionType", type}})),
              LoginStatus::kSessionTypeNotSupported)
        << type;
  }
}

TEST_F(LoginTest, UnsupportedVersion) {
  for (int version : {1, 2, 255}) {
    LoginScript script(directory);
    script.request.version_min = static_cast<uint8_t>(version);
    script.request.version_max = 255;
    ExpectRefused(script.Send(kSecurityToOperational, Names()), LoginStatus::kUnsupportedVersion);
  }
  LoginScript script(directory);
  script.request.version_max = 3;
  const Reply reply = script.Send(kSecurityToOperational, Names());
  EXPECT_EQ(reply.next, Next::kContinue);
  EXPECT_EQ(reply.header.version_active, 0);
  EXPECT_EQ(reply.header.version_max, 0);
}

TEST_F(LoginTest, WhileTheServiceIsUnavailableEveryLoginIsAskedToComeBack) {
  LoginScript script(directory, LoginNegotiator::Service::kUnavailable);
  ExpectRefused(script.Send(kSecurityToOperational, Names("iqn.2026-11.io.sectormap:none")),
                LoginStatus::kServiceUnavailable);
  LoginScript garbage(directory, LoginNegotiator::Service::kUnavailable);
  ExpectRefused(garbage.Send(0xff, "x"), LoginStatus::kServiceUnavailable);
}

TEST_F(LoginTest, ATsihOfNoSession) {
  LoginScript script(directory);
  script.request.tsih = 5;
  ExpectRefused(script.Send(kSecurityToOperational, Names()), LoginStatus::kSessionDoesNotExist);
}

class SilentSession : public SessionControl {
 public:
  void AskLogout(DropReason) override {}
  void Drop(DropReason) override {}
  void OnLunsChanged(absl::AnyInvocable<void()> released) override { released(); }
  void WhenEnded(absl::AnyInvocable<void()> ended) override { ended(); }
};

TEST_F(LoginTest, ASessionTakesNoSecondConnection) {
  SessionInfo info;
  info.initiator_name = kInitiator;
  info.target_name = kOpenTarget;
  info.isid = "800102030405";
  info.tsih = 5;
  const auto registered =
      directory.Register({std::string(kInitiator), 0x800102030405, std::string(kOpenTarget)}, info,
                         std::make_shared<SilentSession>(), false);
  ASSERT_EQ(registered.result, TargetDirectory::Registration::Result::kDone);
  LoginScript script(directory);
  script.request.tsih = 5;
  ExpectRefused(script.Send(kSecurityToOperational, Names()), LoginStatus::kTooManyConnections);
  LoginScript other_isid(directory);
  other_isid.request.tsih = 5;
  other_isid.request.isid = 1;
  ExpectRefused(other_isid.Send(kSecurityToOperational, Names()),
                LoginStatus::kSessionDoesNotExist);
  LoginScript other_tsih(directory);
  other_tsih.request.tsih = 6;
  ExpectRefused(other_tsih.Send(kSecurityToOperational, Names()),
                LoginStatus::kSessionDoesNotExist);
  LoginScript reinstated(directory);
  EXPECT_EQ(reinstated.Send(kOperationalToFullFeature, Names()).next, Next::kFullFeature)
      << "TSIH 0 with the same ISID is session reinstatement, which the session's owner does";
  directory.Unregister(registered.id);
}

TEST_F(LoginTest, WhatIsConstantInALoginMustStay) {
  const std::vector<void (*)(LoginRequestHeader&)> changes = {
      [](LoginRequestHeader& r) { r.isid = 1; },
      [](LoginRequestHeader& r) { r.tsih = 1; },
      [](LoginRequestHeader& r) { r.cid = 1; },
      [](LoginRequestHeader& r) { r.initiator_task_tag = 1; },
      [](LoginRequestHeader& r) { r.cmd_sn = 101; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    LoginScript script(directory);
    ASSERT_EQ(script.Send(kInSecurity, Names()).next, Next::kContinue);
    changes[i](script.request);
    ExpectRefused(script.Send(kInSecurity, KeyList{}), LoginStatus::kInitiatorError);
  }
}

TEST_F(LoginTest, EveryFlagsByteGetsAnAnswerAndOnlySensibleOnesPass) {
  for (int flags = 0; flags < 256; ++flags) {
    LoginScript script(directory);
    const Reply reply = script.Send(static_cast<uint8_t>(flags), Names());
    const bool transit = (flags & 0x80) != 0, continues = (flags & 0x40) != 0;
    const int current = flags >> 2 & 3, next = flags & 3;
    const bool sensible = current <= 1 && !(transit && continues) &&
                          (!transit || next == 3 || (next == 1 && current == 0));
    EXPECT_EQ(reply.next != Next::kClose, sensible) << flags;
  }
}

TEST_F(LoginTest, AStageIsNotEnteredTwice) {
  LoginScript script(directory);
  ASSERT_EQ(script.Send(kSecurityToOperational, Names()).next, Next::kContinue);
  ExpectRefused(script.Send(kInSecurity, KeyList{}), LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, ARequestMustBeImmediateAndWithoutAhs) {
  LoginScript script(directory);
  script.request.opcode_byte = 0x03;
  ExpectRefused(script.Send(kSecurityToOperational, Names()), LoginStatus::kInitiatorError);
  LoginScript ahs(directory);
  ahs.request.total_ahs_length = 1;
  ExpectRefused(ahs.Send(kSecurityToOperational, Names()), LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, AfterTheEndNothingIsTaken) {
  LoginScript done(directory);
  ASSERT_EQ(done.Send(kOperationalToFullFeature, Names()).next, Next::kFullFeature);
  ExpectRefused(done.Send(kOperationalToFullFeature, Names()), LoginStatus::kInvalidDuringLogin);
  LoginScript refused(directory);
  ExpectRefused(refused.Send(kOperationalToFullFeature, KeyList{}), LoginStatus::kMissingParameter);
  ExpectRefused(refused.Send(kOperationalToFullFeature, Names()), LoginStatus::kInvalidDuringLogin);
}

TEST_F(LoginTest, IdentityComesInTheFirstListOnly) {
  const KeyList late = {{"SessionType", "Discovery"}};
  LoginScript script(directory);
  ASSERT_EQ(script.Send(kInSecurity, Names()).next, Next::kContinue);
  ExpectRefused(script.Send(kInSecurity, late), LoginStatus::kInitiatorError);
  LoginScript again(directory);
  ASSERT_EQ(again.Send(kInSecurity, Names()).next, Next::kContinue);
  ExpectRefused(again.Send(kInSecurity, {{"InitiatorName", std::string(kInitiator)}}),
                LoginStatus::kInitiatorError);
  LoginScript target(directory);
  ASSERT_EQ(target.Send(kInSecurity, Names()).next, Next::kContinue);
  ExpectRefused(target.Send(kInSecurity, {{"TargetName", std::string(kChapTarget)}}),
                LoginStatus::kInitiatorError);
}

// ---- Lists in pieces (C bit)

TEST_F(LoginTest, AListMayComeInPieces) {
  const std::string list = Text(With(Names(), {{"AuthMethod", "None"}}));
  for (size_t border = 0; border <= list.size(); ++border) {
    LoginScript script(directory);
    Reply reply = script.Send(kInSecurity | kContinueBit, std::string_view(list).substr(0, border));
    ExpectAccepted(reply, Next::kContinue, kInSecurity);
    EXPECT_EQ(reply.text, "");
    reply = script.Send(kSecurityToOperational, std::string_view(list).substr(border));
    ExpectAccepted(reply, Next::kContinue, kSecurityToOperational);
    EXPECT_THAT(Values(reply.text), Contains(Pair("AuthMethod", "None")));
  }
}

TEST_F(LoginTest, APieceOfOneByteAtATimeIsTaken) {
  const std::string list = Text(Names());
  ASSERT_LT(list.size(), kMaxPdusPerList);
  LoginScript script(directory);
  for (char c : list) {
    ASSERT_EQ(script.Send(kInSecurity | kContinueBit, std::string_view(&c, 1)).next,
              Next::kContinue);
  }
  ExpectAccepted(script.Send(kSecurityToOperational, std::string_view()), Next::kContinue,
                 kSecurityToOperational);
}

// SPDK's CVE-2021-28361.
TEST_F(LoginTest, ContinuingForeverWithoutDataEnds) {
  LoginScript script(directory);
  int requests = 0;
  while (script.Send(kInSecurity | kContinueBit, std::string_view()).next == Next::kContinue) {
    ASSERT_LT(++requests, 1000);
  }
}

TEST_F(LoginTest, ContinuingForeverWithDataEnds) {
  LoginScript script(directory);
  const std::string piece(8192, 'a');
  size_t taken = 0;
  while (script.Send(kInSecurity | kContinueBit, piece).next == Next::kContinue) {
    taken += piece.size();
    ASSERT_LE(taken, kMaxListBytes);
  }
  EXPECT_EQ(taken, kMaxListBytes);
}

TEST_F(LoginTest, StayingForeverEnds) {
  LoginScript script(directory);
  ASSERT_EQ(script.Send(kInSecurity, Names()).next, Next::kContinue);
  int requests = 0;
  while (script.Send(kInSecurity, KeyList{}).next == Next::kContinue) ASSERT_LT(++requests, 1000);
}

TEST_F(LoginTest, MoreThanOnePduHoldsIsRefused) {
  EXPECT_EQ(Refusal(kInSecurity, std::string(8193, 'a')), LoginStatus::kInitiatorError);
}

// ---- Attack inputs (LIO's CVE-2013-2850 and relatives)

TEST_F(LoginTest, LongNamesOfKeysAreAnsweredOrRefused) {
  for (const uint8_t flags : {kSecurityToOperational, kOperationalToFullFeature}) {
    LoginScript script(directory);
    const std::string name(63, 'K');
    const Reply reply = script.Send(flags, With(Names(), {{name, "v"}}));
    EXPECT_NE(reply.next, Next::kClose);
    EXPECT_THAT(Values(reply.text), Contains(Pair(name, "NotUnderstood")));
    for (const size_t bytes : {64u, 255u, 256u, 8000u}) {
      EXPECT_EQ(Refusal(flags, Text(With(Names(), {{std::string(bytes, 'K'), "v"}}))),
                LoginStatus::kInitiatorError);
    }
    EXPECT_EQ(Refusal(flags, std::string(8191, 'K') + '='), LoginStatus::kInitiatorError);
    EXPECT_EQ(Refusal(flags, std::string(8192, 'K')), LoginStatus::kInitiatorError);
  }
}

TEST_F(LoginTest, MalformedListsAreRefused) {
  const std::string names = Text(Names());
  for (const std::string& list : {names + "X-a", names + "X-a=1", names + std::string("X-a\0", 4),
                                  names + std::string(1, '\0'), names + std::string(100, '\0'),
                                  names + names, std::string(8192, '\0'), std::string(8192, '='),
                                  std::string(8192, '\xff'), names + std::string("=\0", 2)}) {
    EXPECT_EQ(Refusal(kSecurityToOperational, list), LoginStatus::kInitiatorError);
  }
}

TEST_F(LoginTest, ThousandsOfKeysAreRefused) {
  LoginScript script(directory);
  ASSERT_EQ(script.Send(kInSecurity | kContinueBit, Names()).next, Next::kContinue);
  Reply reply;
  for (int pdu = 0; pdu < 7; ++pdu) {
    std::string piece;
    for (int i = 0; piece.size() < 8000; ++i) {
      piece += Text({{"X-" + std::to_string(pdu) + "-" + std::to_string(i), ""}});
    }
    const bool last = pdu == 6;
    reply = script.Send(last ? kInSecurity : kInSecurity | kContinueBit, piece);
    if (!last) ASSERT_EQ(reply.next, Next::kContinue);
  }
  ExpectRefused(reply, LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, TheLargestAnswerFitsOnePdu) {
  LoginScript script(directory);
  KeyList keys = Names();
  for (size_t i = keys.size(); i < kMaxKeysPerList; ++i) {
    std::string name = "X-" + std::to_string(i);
    name.resize(kMaxKeyNameBytes, 'k');
    keys.emplace_back(name, "v");
  }
  const Reply reply = script.Send(kOperationalToFullFeature, keys);
  EXPECT_EQ(reply.next, Next::kFullFeature);
  EXPECT_LE(reply.text.size(), 8192u);
  EXPECT_GT(reply.text.size(), 7000u);
}

// ---- CHAP

// Runs a login up to the challenge.
std::string UpToChallenge(LoginScript& script, std::string_view target,
                          const std::string& algorithms = "7,5") {
  Reply reply =
      script.Send(kSecurityToOperational, With(Names(target), {{"AuthMethod", "CHAP,None"}}));
  EXPECT_EQ(reply.next, Next::kContinue);
  EXPECT_EQ(reply.header.flags, kInSecurity) << "no transition before the proof";
  EXPECT_THAT(Values(reply.text), Contains(Pair("AuthMethod", "CHAP")));
  reply = script.Send(kInSecurity, {{"CHAP_A", algorithms}});
  EXPECT_EQ(reply.next, Next::kContinue);
  EXPECT_EQ(reply.header.flags, kInSecurity);
  return reply.text;
}

KeyList Proof(const std::string& challenge, std::string_view secret = kSecret) {
  return {{"CHAP_N", std::string(kUser)}, {"CHAP_R", ChapAnswer(challenge, secret)}};
}

TEST_F(LoginTest, ChapLetsTheRightInitiatorIn) {
  for (const char* algorithms : {"5", "7", "8,7,6,5"}) {
    LoginScript script(directory);
    const std::string challenge = UpToChallenge(script, kChapTarget, algorithms);
    Reply reply = script.Send(kSecurityToOperational, Proof(challenge));
    ExpectAccepted(reply, Next::kContinue, kSecurityToOperational);
    EXPECT_EQ(reply.text, "");
    reply = script.Send(kOperationalToFullFeature, KeyList{});
    ExpectAccepted(reply, Next::kFullFeature, kOperationalToFullFeature);
  }
}

TEST_F(LoginTest, ChapMayLeadStraightToFullFeature) {
  LoginScript script(directory);
  const std::string challenge = UpToChallenge(script, kChapTarget);
  ExpectAccepted(script.Send(kSecurityToFullFeature, Proof(challenge)), Next::kFullFeature,
                 kSecurityToFullFeature);
}

TEST_F(LoginTest, ChapKeepsTheWrongInitiatorOut) {
  LoginScript secret(directory);
  ExpectRefused(
      secret.Send(kSecurityToOperational, Proof(UpToChallenge(secret, kChapTarget), "wrong")),
      LoginStatus::kAuthenticationFailure);
  LoginScript user(directory);
  KeyList proof = Proof(UpToChallenge(user, kChapTarget));
  proof[0].second = "root";
  ExpectRefused(user.Send(kSecurityToOperational, proof), LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, AChallengeServesOneLogin) {
  LoginScript first(directory);
  const KeyList proof = Proof(UpToChallenge(first, kChapTarget));
  LoginScript second(directory);
  UpToChallenge(second, kChapTarget);
  ExpectRefused(second.Send(kSecurityToOperational, proof), LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, ChapCannotBePassedBy) {
  EXPECT_EQ(Refusal(kOperationalToFullFeature, Names(kChapTarget)),
            LoginStatus::kAuthenticationFailure);
  EXPECT_EQ(Refusal(kInOperational, Names(kChapTarget)), LoginStatus::kAuthenticationFailure);
  EXPECT_EQ(Refusal(kSecurityToOperational, Names(kChapTarget)),
            LoginStatus::kAuthenticationFailure);
  EXPECT_EQ(Refusal(kSecurityToFullFeature, Names(kChapTarget)),
            LoginStatus::kAuthenticationFailure);
  for (const char* methods : {"None", "", "chap", "KRB5,None", "CHAPS", "SRP"}) {
    EXPECT_EQ(Refusal(kSecurityToFullFeature, With(Names(kChapTarget), {{"AuthMethod", methods}})),
              LoginStatus::kAuthenticationFailure)
        << methods;
  }
  LoginScript late(directory);
  ASSERT_EQ(late.Send(kInSecurity, Names(kChapTarget)).next, Next::kContinue);
  ExpectRefused(late.Send(kSecurityToFullFeature, KeyList{}), LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, NoTransitionWhileChapIsUnderWay) {
  LoginScript script(directory);
  UpToChallenge(script, kChapTarget);
  for (int i = 0; i < 3; ++i) {
    ExpectAccepted(script.Send(kSecurityToFullFeature, KeyList{}), Next::kContinue, kInSecurity);
  }
  LoginScript before(directory);
  before.Send(kInSecurity, With(Names(kChapTarget), {{"AuthMethod", "CHAP"}}));
  ExpectAccepted(before.Send(kSecurityToFullFeature, KeyList{}), Next::kContinue, kInSecurity);
}

TEST_F(LoginTest, SecurityKeysOutOfTurnAreRefused) {
  const KeyList response = {{"CHAP_N", "user"}, {"CHAP_R", "0x00"}};
  EXPECT_EQ(Refusal(kInSecurity, With(Names(kChapTarget), {{"CHAP_A", "5"}})),
            LoginStatus::kInitiatorError);
  EXPECT_EQ(Refusal(kInSecurity, With(Names(kChapTarget), response)), LoginStatus::kInitiatorError);
  LoginScript early(directory);
  early.Send(kInSecurity, With(Names(kChapTarget), {{"AuthMethod", "CHAP"}}));
  ExpectRefused(early.Send(kInSecurity, With({{"CHAP_A", "5"}}, response)),
                LoginStatus::kInitiatorError);
  LoginScript twice(directory);
  UpToChallenge(twice, kChapTarget);
  ExpectRefused(twice.Send(kInSecurity, {{"CHAP_A", "5"}}), LoginStatus::kInitiatorError);
  LoginScript method(directory);
  UpToChallenge(method, kChapTarget);
  ExpectRefused(method.Send(kInSecurity, {{"AuthMethod", "None"}}), LoginStatus::kInitiatorError);
  LoginScript none(directory);
  none.Send(kInSecurity, With(Names(), {{"AuthMethod", "None"}}));
  ExpectRefused(none.Send(kInSecurity, response), LoginStatus::kInitiatorError);
  LoginScript half(directory);
  UpToChallenge(half, kChapTarget);
  ExpectRefused(half.Send(kInSecurity, {{"CHAP_N", "user"}}), LoginStatus::kMissingParameter);
  LoginScript other_half(directory);
  UpToChallenge(other_half, kChapTarget);
  ExpectRefused(other_half.Send(kInSecurity, {{"CHAP_C", "0x00"}, {"CHAP_I", "1"}}),
                LoginStatus::kMissingParameter);
}

TEST_F(LoginTest, NoCommonAlgorithm) {
  LoginScript script(directory);
  script.Send(kInSecurity, With(Names(kChapTarget), {{"AuthMethod", "CHAP"}}));
  ExpectRefused(script.Send(kInSecurity, {{"CHAP_A", "99"}}), LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, AnOpenTargetPrefersNone) {
  LoginScript script(directory);
  const Reply reply =
      script.Send(kSecurityToOperational, With(Names(), {{"AuthMethod", "CHAP,None"}}));
  ExpectAccepted(reply, Next::kContinue, kSecurityToOperational);
  EXPECT_THAT(Values(reply.text), Contains(Pair("AuthMethod", "None")));
  EXPECT_EQ(Refusal(kSecurityToOperational, With(Names(), {{"AuthMethod", "CHAP"}})),
            LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, MutualChap) {
  LoginScript script(directory);
  const std::string challenge = UpToChallenge(script, kMutualTarget);
  const KeyList question = {{"CHAP_I", "200"}, {"CHAP_C", "0x000102030405060708090a0b0c0d0e0f"}};
  const Reply reply = script.Send(kSecurityToOperational, With(Proof(challenge), question));
  ExpectAccepted(reply, Next::kContinue, kSecurityToOperational);
  const std::string asked = Text(With({{"CHAP_A", "7"}}, question));
  EXPECT_EQ(reply.text,
            Text({{"CHAP_N", std::string(kOurUser)}, {"CHAP_R", ChapAnswer(asked, kOurSecret)}}));
}

TEST_F(LoginTest, ChapValuesMayBeHexOrBase64OneWayAndMutual) {
  std::vector<uint8_t> ours(17);  // base64 with padding: `=` in a value
  std::iota(ours.begin(), ours.end(), uint8_t{0xf0});
  for (const Encoding encoding : {Encoding::kHex, Encoding::kBase64}) {
    for (const char* algorithm : {"5", "7"}) {
      LoginScript one_way(directory);
      std::string challenge = UpToChallenge(one_way, kChapTarget, algorithm);
      const auto proof = [&]() -> KeyList {
        return {{"CHAP_N", std::string(kUser)},
                {"CHAP_R", ChapAnswer(challenge, kSecret, encoding)}};
      };
      ExpectAccepted(one_way.Send(kSecurityToFullFeature, proof()), Next::kFullFeature,
                     kSecurityToFullFeature);
      LoginScript mutual(directory);
      challenge = UpToChallenge(mutual, kMutualTarget, algorithm);
      const KeyList question = {{"CHAP_I", "0xc8"}, {"CHAP_C", Encoded(ours, encoding)}};
      const Reply reply = mutual.Send(kSecurityToFullFeature, With(proof(), question));
      ExpectAccepted(reply, Next::kFullFeature, kSecurityToFullFeature);
      EXPECT_EQ(Values(reply.text)["CHAP_R"],
                ChapAnswer(Text(With({{"CHAP_A", algorithm}}, question)), kOurSecret));
    }
  }
}

TEST_F(LoginTest, OneWayChapIsEnoughForATargetThatCouldProveItself) {
  LoginScript script(directory);
  const std::string challenge = UpToChallenge(script, kMutualTarget);
  ExpectAccepted(script.Send(kSecurityToOperational, Proof(challenge)), Next::kContinue,
                 kSecurityToOperational);
}

TEST_F(LoginTest, AReflectedChallengeIsRefused) {
  LoginScript script(directory);
  const std::string challenge = UpToChallenge(script, kMutualTarget);
  auto values = Values(challenge);
  ExpectRefused(
      script.Send(kSecurityToOperational, With(Proof(challenge), {{"CHAP_I", values["CHAP_I"]},
                                                                  {"CHAP_C", values["CHAP_C"]}})),
      LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, OversizedChapValuesAreRefused) {
  for (const std::string& value :
       {"0b" + std::string(4096, 'A'), "0x" + std::string(8000, 'a'), std::string(4096, 'a')}) {
    LoginScript response(directory);
    UpToChallenge(response, kChapTarget);
    ExpectRefused(response.Send(kSecurityToOperational, {{"CHAP_N", "user"}, {"CHAP_R", value}}),
                  LoginStatus::kAuthenticationFailure);
    LoginScript question(directory);
    const std::string challenge = UpToChallenge(question, kMutualTarget);
    ExpectRefused(question.Send(kSecurityToOperational,
                                With(Proof(challenge), {{"CHAP_I", "1"}, {"CHAP_C", value}})),
                  LoginStatus::kInitiatorError);
  }
}

TEST_F(LoginTest, ReasonsAndAnswersHoldNoSecret) {
  LoginScript script(directory);
  const std::string challenge = UpToChallenge(script, kMutualTarget);
  const Reply reply = script.Send(kSecurityToOperational, Proof(challenge, "wrong-secret"));
  for (const std::string_view secret : {kSecret, kOurSecret, std::string_view("wrong-secret")}) {
    EXPECT_THAT(reply.reason + reply.text + challenge, Not(HasSubstr(std::string(secret))));
  }
}

// ---- Discovery

KeyList DiscoveryNames() {
  return {{"InitiatorName", std::string(kInitiator)}, {"SessionType", "Discovery"}};
}

TEST_F(LoginTest, DiscoveryNeedsNoTargetAndNoChap) {
  LoginScript script(directory);
  Reply reply =
      script.Send(kSecurityToOperational, With(DiscoveryNames(), {{"AuthMethod", "None"}}));
  ExpectAccepted(reply, Next::kContinue, kSecurityToOperational);
  EXPECT_EQ(reply.text, Text({{"AuthMethod", "None"}})) << "no portal group tag";
  reply = script.Send(kOperationalToFullFeature, {{"HeaderDigest", "None"},
                                                  {"DefaultTime2Wait", "0"},
                                                  {"MaxRecvDataSegmentLength", "32768"},
                                                  {"InitialR2T", "No"}});
  ExpectAccepted(reply, Next::kFullFeature, kOperationalToFullFeature);
  EXPECT_THAT(Values(reply.text), Contains(Pair("InitialR2T", "Irrelevant")));
  EXPECT_EQ(reply.header.tsih, kAssignedTsih);
  EXPECT_EQ(script.result().type, SessionType::kDiscovery);
  EXPECT_EQ(script.result().target, nullptr);
  EXPECT_EQ(script.result().parameters.max_send_segment_bytes, 32768u);
}

TEST_F(LoginTest, DiscoveryThatInsistsOnChapIsRefused) {
  EXPECT_EQ(Refusal(kSecurityToOperational, With(DiscoveryNames(), {{"AuthMethod", "CHAP"}})),
            LoginStatus::kAuthenticationFailure);
}

TEST_F(LoginTest, DiscoveryMayNameATarget) {
  LoginScript script(directory);
  const Reply reply =
      script.Send(kOperationalToFullFeature,
                  With(DiscoveryNames(), {{"TargetName", std::string(kOpenTarget)}}));
  EXPECT_EQ(reply.next, Next::kFullFeature);
  EXPECT_THAT(Values(reply.text), Contains(Pair("TargetPortalGroupTag", "1")));
  EXPECT_EQ(script.result().target, nullptr);
}

// ---- Anything

// A login that is right, then damaged in a few places: never a crash, never an answer that is too
// long, and never a way past CHAP.
TEST_F(LoginTest, DamagedLoginsNeverPassChap) {
  std::mt19937_64 random(TestSeed());
  constexpr int kRounds = 100'000;
  int let_in = 0;
  for (int round = 0; round < kRounds; ++round) {
    const bool chap = random() % 2 == 0;
    LoginScript script(directory);
    struct Step {
      uint8_t flags;
      std::string text;
    };
    std::vector<Step> steps = {
        {kSecurityToOperational,
         Text(With(Names(chap ? kChapTarget : kOpenTarget), {{"AuthMethod", "CHAP,None"}}))}};
    if (chap) {
      steps.push_back({kInSecurity, Text({{"CHAP_A", "7,5"}})});
      steps.push_back({kSecurityToOperational, Text({{"CHAP_N", "user"}, {"CHAP_R", "0x00"}})});
    }
    steps.push_back({kOperationalToFullFeature, Text({{"HeaderDigest", "CRC32C,None"},
                                                      {"MaxRecvDataSegmentLength", "65536"},
                                                      {"MaxBurstLength", "262144"},
                                                      {"FirstBurstLength", "65536"}})});
    for (Step& step : steps) {
      for (uint64_t damage = random() % 3; damage > 0; --damage) {
        const size_t place = random() % step.text.size();
        switch (random() % 6) {
          case 0:
            step.text[place] = static_cast<char>(random());
            break;
          case 1:
            step.text.erase(place, random() % 20 + 1);
            break;
          case 2:
            step.text.insert(place, step.text.substr(random() % step.text.size(), random() % 64));
            break;
          case 3:
            step.text.insert(place, random() % 300, "=\0Aa0,"[random() % 6]);
            break;
          case 4:
            step.flags = static_cast<uint8_t>(random());
            break;
          case 5:
            std::swap(step.text, steps[random() % steps.size()].text);
            break;
        }
        if (step.text.empty()) step.text = "x";
      }
      if (step.text.size() > 8192) step.text.resize(8192);
    }
    Reply reply;
    for (const Step& step : steps) {
      reply = script.Send(step.flags, step.text);
      ASSERT_LE(reply.text.size(), 8192u);
      if (reply.next != Next::kContinue) break;
    }
    if (reply.next != Next::kFullFeature) continue;
    ++let_in;
    const auto& target = script.result().target;
    ASSERT_TRUE(target == nullptr || !target->policy.chap.has_value());
  }
  EXPECT_GT(let_in, 0) << "some damage is harmless";
}

}  // namespace
}  // namespace sectormap::iscsi
