// SPDX-License-Identifier: Apache-2.0
#include "server/exports/default_iqn.h"

#include <gtest/gtest.h>

#include "server/iscsi/iscsi_name.h"

namespace sectormap::exports {
namespace {

TEST(DefaultIqnTest, HoldsOnlyWhatAnIscsiNameMay) {
  EXPECT_EQ(DefaultIqn("data"), "iqn.2026-11.io.sectormap:data");
  EXPECT_EQ(DefaultIqn("My Disk_1+x"), "iqn.2026-11.io.sectormap:my-disk-1-x");
  EXPECT_TRUE(iscsi::NormalTargetName(DefaultIqn(std::string(127, '\xff'))).ok());
}

}  // namespace
}  // namespace sectormap::exports
