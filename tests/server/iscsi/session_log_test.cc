// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/session_log.h"

#include "tests/server/iscsi/iscsi_fixture.h"
#include "tests/support/captured_log.h"

namespace sectormap::iscsi {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kWho[] =
    "initiator=\"iqn.2026-11.test:initiator\" target=\"iqn.2026-11.io.sectormap:disk\" "
    "peer=second:2";
constexpr char kSecret[] = "a-secret-of-16-b";

class SessionLogTest : public IscsiTest {
 public:
  SessionLogTest() : IscsiTest(Time::kManual) {}

  static Task<void> LogIn(SessionLogTest& test, InitiatorOptions options) {
    co_await test.Connect().Login(std::move(options));
  }
  // Its last session logs out.
  static Task<void> LogOut(SessionLogTest& test) {
    co_await test.initiators_.back()->Logout();
    co_await AllEnded(test);
  }
  void Refuse(const std::string& target) {
    pool_->RunOn(0, LogIn(*this, {.target = target}));
    pool_->RunOn(0, AllEnded(*this));
  }

  CapturedLog captured_;
};

TEST_F(SessionLogTest, ARefusedLoginNamesWhoAndWhy) {
  AccessPolicy policy;
  policy.chap = ChapCredentials{"user", kSecret};
  EXPECT_TRUE(directory_.SetAccess(kTestTarget, policy).ok());
  Refuse(kTestTarget);
  EXPECT_EQ(captured_.Take(),
            std::string("level=warning event=login ") + kWho +
                " status=0201 reason=\"the target wants CHAP; none was offered\"\n");
}

TEST_F(SessionLogTest, WhatAnInitiatorSendsStaysInItsPlaceOfTheLine) {
  Refuse("x\" status=0000\nlevel=error event=" + std::string(200, 'y'));
  const std::string line = captured_.Take();
  EXPECT_THAT(line, HasSubstr("target=\"x\\\" status=0000\\nlevel=error event=yyy"));
  EXPECT_THAT(line, HasSubstr("y\" peer=second:2 status=0203 reason=\"no target of that name\"\n"));
  EXPECT_EQ(std::ranges::count(line, '\n'), 1);
}

TEST_F(SessionLogTest, ASessionIsToldFromItsBeginToItsEnd) {
  pool_->RunOn(0, LogIn(*this, {}));
  EXPECT_EQ(captured_.Take(), std::string("level=info event=session_begin ") + kWho + "\n");
  pool_->RunOn(0, LogOut(*this));
  EXPECT_EQ(captured_.Take(), std::string("level=info event=session_end ") + kWho +
                                  " reason=logout why=\"the initiator logged out\"\n");
}

TEST_F(SessionLogTest, ASessionThatWeDropIsAWarning) {
  pool_->RunOn(0, LogIn(*this, {}));
  captured_.Take();
  for (int look = 0; look <= kKeepAliveMissesMax + 1; ++look) {
    clock_.Advance(kKeepAliveInterval, *pool_);
  }
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_EQ(captured_.Take(), std::string("level=warning event=session_end ") + kWho +
                                  " reason=keep_alive "
                                  "why=\"it was silent and answered no ping\"\n");
}

TEST_F(SessionLogTest, OnlyADiscoveryThatWeDropIsTold) {
  pool_->RunOn(0, LogIn(*this, {.target = ""}));
  pool_->RunOn(0, LogOut(*this));
  EXPECT_THAT(captured_.Take(), IsEmpty());
  pool_->RunOn(0, LogIn(*this, {.target = ""}));
  clock_.Advance(kDiscoveryTimeout, *pool_);
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_THAT(captured_.Take(), HasSubstr("target=\"\" peer=second:2 reason=discovery_timeout "));
}

// As fast as they come; sessions have their lines all the same.
TEST_F(SessionLogTest, RefusedLoginsDoNotFloodIt) {
  for (int i = 0; i < 3 * kStrangersLines; ++i) Refuse("iqn.2026-11.io.sectormap:none");
  const std::string lines = captured_.Take();
  EXPECT_EQ(std::ranges::count(lines, '\n'), kStrangersLines);
  pool_->RunOn(0, LogIn(*this, {}));
  EXPECT_THAT(captured_.Take(), HasSubstr("event=session_begin"));
  pool_->RunOn(0, LogOut(*this));
  clock_.Advance(kLineInterval, *pool_);
  Refuse("iqn.2026-11.io.sectormap:none");
  EXPECT_THAT(captured_.Take(), HasSubstr(" left_out=40\n"));
}

}  // namespace
}  // namespace sectormap::iscsi
