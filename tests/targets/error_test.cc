// SPDX-License-Identifier: Apache-2.0
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

using ErrorTest = TargetFixture;

TEST_F(ErrorTest, FailsEverythingButFlush) {
  Target& target = TargetOf("0 2048 error");
  std::vector<std::byte> data(512);
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(0), data)), IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::Write(Sector(0), data)), IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::Discard(Sector(0), SectorCount(1))), IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::WriteZeroes(Sector(0), SectorCount(1))), IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::Flush()), IoStatus::kOk);
}

TEST_F(ErrorTest, AcceptsAndForgetsAnyArguments) {
  EXPECT_EQ(TargetOf("0 2048 error some args").TableArgs(), "");
}

TEST_F(ErrorTest, DoesNotTakeDiscardFromItsNeighbours) {
  auto table = Build("0 8 linear /dev/vdd 0\n8 8 error\n");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_TRUE((*table)->limits().can_discard);
}

}  // namespace
}  // namespace sectormap::targets
