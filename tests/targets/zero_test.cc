// SPDX-License-Identifier: Apache-2.0
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

using ZeroTest = TargetFixture;

TEST_F(ZeroTest, ReadsZeroesAndDropsWrites) {
  Target& target = TargetOf("0 2048 zero");
  std::vector<std::byte> data(4096, std::byte{0xff});
  EXPECT_EQ(Run(target, IoRequest::Write(Sector(0), data)), IoStatus::kOk);
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(0), data)), IoStatus::kOk);
  EXPECT_EQ(data, std::vector<std::byte>(4096));
  EXPECT_EQ(Run(target, IoRequest::Discard(Sector(0), SectorCount(2048))), IoStatus::kOk);
  EXPECT_EQ(Run(target, IoRequest::WriteZeroes(Sector(8), SectorCount(8))), IoStatus::kOk);
  EXPECT_EQ(Run(target, IoRequest::Flush()), IoStatus::kOk);
}

TEST_F(ZeroTest, HasNothingMapped) {
  const Extent extent = reactors_->RunOn(0, TargetOf("0 2048 zero").ExtentAt(Sector(48)));
  EXPECT_FALSE(extent.mapped);
  EXPECT_EQ(extent.count, SectorCount(2000));
}

TEST_F(ZeroTest, PrintsNoArgumentsAndTakesNone) {
  Target& target = TargetOf("0 2048 zero");
  EXPECT_EQ(target.TableArgs(), "");
  EXPECT_EQ(target.StatusArgs(), "");
  EXPECT_THAT(Refusal("0 8 zero 1"), testing::HasSubstr("line 1: zero: No arguments required"));
}

}  // namespace
}  // namespace sectormap::targets
