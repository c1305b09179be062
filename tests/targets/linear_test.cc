// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "tests/support/faulty_device.h"
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

// As of every target that only shifts.
TEST_F(LinearTest, ItsBlocksBeginWhereTheDevicesDo) {
  auto four_k = std::make_shared<FaultyDevice>(*MemoryDevice::Create(kDeviceSize));
  BlockLimits limits = four_k->limits();
  limits.physical_block_bytes = limits.discard_granularity_bytes = 4096;
  four_k->SetLimits(limits);
  devices_.Add("/dev/4k", four_k);
  for (const char* words :
       {"linear /dev/4k 3", "flakey /dev/4k 3 1 0", "delay /dev/4k 3 0",
        "delay /dev/vdd 0 0 /dev/4k 3 0", "mirror core 1 64 2 /dev/4k 3 /dev/vdd 0"}) {
    const BlockLimits found = TargetOf(absl::StrCat("0 4096 ", words)).limits();
    EXPECT_EQ(found.physical_alignment_bytes, 5 * 512u) << words;
    EXPECT_EQ(found.discard_alignment_bytes, 5 * 512u) << words;
  }
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
