// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/iscsi_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sectormap::iscsi {
namespace {

using ::testing::HasSubstr;

std::string Why(const absl::StatusOr<std::string>& name) {
  EXPECT_EQ(name.status().code(), absl::StatusCode::kInvalidArgument) << name.value_or("");
  return std::string(name.status().message());
}

TEST(IscsiNameTest, EveryFormIsKeptInLowerCase) {
  for (const auto& [given, normal] : std::vector<std::pair<std::string, std::string>>{
           {"IQN.2026-11.IO.Sectormap:Disk-1", "iqn.2026-11.io.sectormap:disk-1"},
           {"eui.02004567A425678D", "eui.02004567a425678d"},
           {"NAA.52004567BA64678D", "naa.52004567ba64678d"},
           {"naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"},
           {"iqn.2026-11.b\xc3\xbcro", "iqn.2026-11.b\xc3\xbcro"}}) {
    EXPECT_EQ(NormalTargetName(given).value_or(""), normal);
    EXPECT_EQ(NormalInitiatorName(given).value_or(""), normal);
  }
}

TEST(IscsiNameTest, ATargetsNameIsOneOfTheThreeForms) {
  for (const char* name :
       {"iqn", "host", "iqn.2026-13.io.x", "iqn.2026-1.io.xy", "iqn.26-11.io.xyz", "iqn.2026-11.",
        "eui.02004567a425678", "naa.52004567ba64678dx", "eui.02004567a425678g"}) {
    EXPECT_THAT(Why(NormalTargetName(name)), HasSubstr("is not an iSCSI name")) << name;
  }
  for (const char* name :
       {"iqn.2026-11.io.x:a_b", "iqn.2026-11.io.x:a b", "iqn.2026-11.io.x:a/b"}) {
    EXPECT_THAT(Why(NormalTargetName(name)), HasSubstr("letters, digits")) << name;
  }
}

// As they come from libvirt's guests and from old hosts.
TEST(IscsiNameTest, AnInitiatorsNameMayBeAnythingThatCanBeShown) {
  for (const char* name : {"host", "iqn.2008-11.org.linux-kvm:my_vm", "a/b", "%s%n"}) {
    EXPECT_EQ(NormalInitiatorName(name).value_or(""), name);
  }
  for (const char* name : {"a b", "a\x1b[2J", "a\xff", "\n"}) {
    EXPECT_THAT(Why(NormalInitiatorName(name)), HasSubstr("no blanks or control characters"));
  }
}

TEST(IscsiNameTest, NamesHave1To223Bytes) {
  for (const auto normal : {NormalTargetName, NormalInitiatorName}) {
    EXPECT_THAT(Why(normal("")), HasSubstr("empty"));
    const std::string longest = "iqn.2026-11.com.example:" + std::string(199, 'h');
    EXPECT_TRUE(normal(longest).ok());
    EXPECT_THAT(Why(normal(longest + "h")), HasSubstr("at most 223 bytes"));
  }
}

}  // namespace
}  // namespace sectormap::iscsi
