// SPDX-License-Identifier: Apache-2.0
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

using testing::HasSubstr;

using LinearTest = TargetFixture;

TEST_F(LinearTest, PrintsWhatWouldCreateItAgain) {
  Target& target = TargetOf("0 4096 linear /dev/vde 100");
  EXPECT_EQ(target.TableArgs(), "/dev/vde 100");
  EXPECT_EQ(target.StatusArgs(), "");
  EXPECT_EQ(target.size(), SectorCount(4096));
}

TEST_F(LinearTest, ShiftsTheAddress) {
  Target& target = TargetOf("0 4096 linear /dev/vde 100");
  std::vector<std::byte> data(1024, std::byte{0x5a});
  ASSERT_EQ(Run(target, IoRequest::Write(Sector(4094), data)), IoStatus::kOk);
  EXPECT_EQ(disk("/dev/vde").bytes()[(100 + 4094) * 512], std::byte{0x5a});
  EXPECT_EQ(disk("/dev/vde").bytes()[(100 + 4094) * 512 - 1], std::byte{0});
  std::vector<std::byte> back(1024);
  ASSERT_EQ(Run(target, IoRequest::Read(Sector(4094), back)), IoStatus::kOk);
  EXPECT_EQ(back, data);
}

TEST_F(LinearTest, PassesDiscardOn) {
  Target& target = TargetOf("0 4096 linear /dev/vde 100");
  disk("/dev/vde").bytes()[108 * 512] = std::byte{1};
  ASSERT_EQ(Run(target, IoRequest::Discard(Sector(8), SectorCount(8))), IoStatus::kOk);
  EXPECT_EQ(disk("/dev/vde").bytes()[108 * 512], std::byte{0});
}

TEST_F(LinearTest, RefusesBadArgumentsInTheKernelsWords) {
  EXPECT_THAT(Refusal("0 8 linear"), HasSubstr("line 1: linear: Invalid argument count"));
  EXPECT_THAT(Refusal("0 8 linear /dev/vdd"), HasSubstr("Invalid argument count"));
  EXPECT_THAT(Refusal("0 8 linear /dev/vdd 0 1"), HasSubstr("Invalid argument count"));
  EXPECT_THAT(Refusal("0 8 linear /dev/vdd x"), HasSubstr("Invalid device sector"));
  EXPECT_THAT(Refusal("0 8 linear /dev/vdd -1"), HasSubstr("Invalid device sector"));
  EXPECT_THAT(Refusal("0 8 linear /dev/vdd 8x"), HasSubstr("Invalid device sector"));
  EXPECT_THAT(Refusal("0 8 linear /dev/nosuch 0"), HasSubstr("Device lookup failed"));
}

TEST_F(LinearTest, RefusesARowThatPassesTheEndOfItsDevice) {
  EXPECT_THAT(Refusal("0 16385 linear /dev/vdd 0"),
              HasSubstr("vdd too small for target: start=0, len=16385, dev_size=16384"));
  EXPECT_THAT(Refusal("0 8 linear /dev/vdd 16384"), HasSubstr("too small for target"));
  EXPECT_THAT(Refusal("0 16 linear /dev/vdd 16376"), HasSubstr("too small for target"));
  EXPECT_THAT(Refusal("0 16 linear /dev/vdd 18446744073709551615"),
              HasSubstr("too small for target"));
  EXPECT_EQ(Refusal("0 8 linear /dev/vdd 16376"), "");
}

}  // namespace
}  // namespace sectormap::targets
