// SPDX-License-Identifier: Apache-2.0
// Who may log in, as far as it can be refused before anybody tries. Logins: login_test.cc; sessions
// and LUNs that come and go: portal_test.cc.
#include "server/iscsi/target_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sectormap::iscsi {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kTarget = "iqn.2026-11.io.sectormap:t";

const ChapCredentials kTheirs{"initiator", "0123456789ab"};
const ChapCredentials kOurs{"target", "ba9876543210"};

using Chap = std::optional<ChapCredentials>;

AccessPolicy Asking(Chap chap, Chap mutual_chap = std::nullopt) {
  return {{}, std::move(chap), std::move(mutual_chap)};
}

std::string Refusal(const AccessPolicy& policy) {
  const absl::Status status = CheckChap(policy);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(CheckChapTest, SecretsHaveTwelveTo255Bytes) {
  const auto with = [](size_t bytes) {
    return Asking(ChapCredentials{"u", std::string(bytes, 's')});
  };
  EXPECT_THAT(Refusal(with(11)), HasSubstr("11 bytes; give 12 to 255"));
  EXPECT_TRUE(CheckChap(with(12)).ok());
  EXPECT_TRUE(CheckChap(with(255)).ok());
  EXPECT_THAT(Refusal(with(256)), Not(HasSubstr("sss")));
}

TEST(CheckChapTest, UsersHaveOneTo255BytesWithoutZeroes) {
  const auto with = [](std::string user) {
    return Asking(ChapCredentials{std::move(user), kTheirs.secret});
  };
  EXPECT_TRUE(CheckChap(with(std::string(255, 'u'))).ok());
  EXPECT_THAT(Refusal(with("")), HasSubstr("needs a user name"));
  EXPECT_THAT(Refusal(with(std::string(256, 'u'))), HasSubstr("at most 255"));
  EXPECT_THAT(Refusal(with(std::string("a\0b", 3))), HasSubstr("zero bytes"));
}

TEST(CheckChapTest, MutualChapNeedsChapAndASecretOfItsOwn) {
  EXPECT_TRUE(CheckChap(Asking(std::nullopt)).ok());
  EXPECT_TRUE(CheckChap(Asking(kTheirs, kOurs)).ok());
  EXPECT_THAT(Refusal(Asking(std::nullopt, kOurs)), HasSubstr("give CHAP credentials too"));
  EXPECT_THAT(Refusal(Asking(kTheirs, ChapCredentials{kOurs.user, kTheirs.secret})),
              HasSubstr("different secrets"));
  EXPECT_THAT(Refusal(Asking(kTheirs, ChapCredentials{kOurs.user, "short"})),
              HasSubstr("mutual CHAP secret"));
}

TEST(TargetDirectoryTest, ARefusedPolicyLeavesTheOneBefore) {
  TargetDirectory directory;
  ASSERT_TRUE(directory.AddTarget(kTarget).ok());
  ASSERT_TRUE(directory.SetAccess(kTarget, Asking(kTheirs)).ok());
  EXPECT_FALSE(directory.SetAccess(kTarget, Asking(std::nullopt, kOurs)).ok());
  EXPECT_FALSE(
      directory.SetAccess(kTarget, {{"iqn.with blanks"}, std::nullopt, std::nullopt}).ok());
  const auto view = directory.Find(kTarget);
  ASSERT_TRUE(view->policy.chap.has_value());
  EXPECT_EQ(view->policy.chap->user, kTheirs.user);
  EXPECT_TRUE(view->policy.allowed_initiators.empty());
}

}  // namespace
}  // namespace sectormap::iscsi
