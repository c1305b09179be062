// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "tests/support/faulty_device.h"
#include "tests/support/random.h"
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

using testing::HasSubstr;

using StripedTest = TargetFixture;

TEST_F(StripedTest, PrintsTableAndStatusAsTheKernel) {
  Target& target = TargetOf("0 12288 striped 2 24 /dev/vdd 64 /dev/vde 128");
  EXPECT_EQ(target.TableArgs(), "2 24 /dev/vdd 64 /dev/vde 128");
  EXPECT_EQ(target.StatusArgs(), "2 /dev/vdd /dev/vde 1 AA");
  EXPECT_EQ(target.io_boundary(), SectorCount(24));
  EXPECT_EQ(target.limits().io_min_bytes, 24u * 512);
  EXPECT_EQ(target.limits().io_opt_bytes, 48u * 512);
}

TEST_F(StripedTest, IsAlignedAsItsStripesAreWhereChunksAreWholeBlocks) {
  auto four_k = std::make_shared<FaultyDevice>(*MemoryDevice::Create(kDeviceSize));
  BlockLimits limits = four_k->limits();
  limits.physical_block_bytes = limits.discard_granularity_bytes = 4096;
  four_k->SetLimits(limits);
  devices_.Add("/dev/4k", four_k);
  const auto of = [&](const std::string& stripes) {
    const BlockLimits found = TargetOf("0 96 striped 2 " + stripes).limits();
    return std::pair(found.physical_alignment_bytes, found.discard_alignment_bytes);
  };
  EXPECT_EQ(of("16 /dev/4k 0 /dev/4k 8"), std::pair(0u, 0u));
  EXPECT_EQ(of("16 /dev/4k 1 /dev/4k 9"), std::pair(7 * 512u, 7 * 512u));
  EXPECT_EQ(of("16 /dev/4k 1 /dev/vdd 0"), std::pair(7 * 512u, 7 * 512u));
  EXPECT_EQ(of("16 /dev/4k 0 /dev/4k 1"), std::pair(kNotAligned, kNotAligned));
  EXPECT_EQ(of("12 /dev/4k 0 /dev/4k 0"), std::pair(kNotAligned, kNotAligned));
}

TEST_F(StripedTest, LaysChunksRoundRobin) {
  Target& target = TargetOf("0 12288 striped 3 8 /dev/vdd 0 /dev/vde 16 /dev/vdf 0");
  std::vector<std::byte> data(512);
  for (uint64_t sector : {uint64_t{0}, uint64_t{7}, uint64_t{8}, uint64_t{16}, uint64_t{24},
                          uint64_t{37}, uint64_t{12287}}) {
    const uint64_t chunk = sector / 8;
    const char* names[] = {"/dev/vdd", "/dev/vde", "/dev/vdf"};
    const uint64_t starts[] = {0, 16, 0};
    const uint64_t place = starts[chunk % 3] + chunk / 3 * 8 + sector % 8;
    std::fill(data.begin(), data.end(), static_cast<std::byte>(sector + 1));
    ASSERT_EQ(Run(target, IoRequest::Write(Sector(sector), data)), IoStatus::kOk);
    EXPECT_EQ(disk(names[chunk % 3]).bytes()[place * 512], static_cast<std::byte>(sector + 1))
        << "sector " << sector;
  }
}

TEST_F(StripedTest, ZeroesExactlyTheRangeAsked) {
  Random random;
  for (int round = 0; round < 300; ++round) {
    const uint64_t chunk = 1 + random.Below(20);
    const uint64_t stripes = 1 + random.Below(3);
    const uint64_t length = chunk * stripes * (1 + random.Below(8));
    std::string text = "0 " + std::to_string(length) + " striped " + std::to_string(stripes) + " " +
                       std::to_string(chunk);
    const char* names[] = {"/dev/vdd", "/dev/vde", "/dev/vdf"};
    for (uint64_t i = 0; i < stripes; ++i) text += std::string(" ") + names[i] + " 5";
    Target& target = TargetOf(text);
    for (const char* name : names) {
      std::fill(disk(name).bytes().begin(), disk(name).bytes().end(), std::byte{0xee});
    }
    const uint64_t first = random.Below(length);
    const uint64_t count = 1 + random.Below(length - first);
    ASSERT_EQ(Run(target, IoRequest::WriteZeroes(Sector(first), SectorCount(count))),
              IoStatus::kOk);
    for (uint64_t sector = 0; sector < length; ++sector) {
      const uint64_t c = sector / chunk;
      const uint64_t place = 5 + c / stripes * chunk + sector % chunk;
      const bool inside = sector >= first && sector - first < count;
      ASSERT_EQ(disk(names[c % stripes]).bytes()[place * 512],
                inside ? std::byte{0} : std::byte{0xee})
          << text << ", sector " << sector << " of [" << first << ", " << first + count << ")";
    }
    for (uint64_t i = 0; i < stripes; ++i) {
      EXPECT_EQ(disk(names[i]).bytes()[4 * 512], std::byte{0xee}) << "before the stripe";
      EXPECT_EQ(disk(names[i]).bytes()[(5 + length / stripes) * 512], std::byte{0xee})
          << "after it";
    }
  }
}

TEST_F(StripedTest, RefusesBadArgumentsInTheKernelsWords) {
  EXPECT_THAT(Refusal("0 16384 striped"), HasSubstr("line 1: striped: Not enough arguments"));
  EXPECT_THAT(Refusal("0 16384 striped 0 16 /dev/vdd 0"), HasSubstr("Invalid stripe count"));
  EXPECT_THAT(Refusal("0 16384 striped 2 0 /dev/vdd 0 /dev/vde 0"),
              HasSubstr("Invalid chunk_size"));
  EXPECT_THAT(Refusal("0 16384 striped 2 x /dev/vdd 0 /dev/vde 0"),
              HasSubstr("Invalid chunk_size"));
  EXPECT_THAT(Refusal("0 16384 striped 2 16 /dev/vdd 0"),
              HasSubstr("Not enough destinations specified"));
  EXPECT_THAT(Refusal("0 16384 striped 2 16 /dev/vdd 0 /dev/vde 0 9"),
              HasSubstr("Not enough destinations specified"));
  EXPECT_THAT(Refusal("0 16383 striped 2 16 /dev/vdd 0 /dev/vde 0"),
              HasSubstr("Target length not divisible by number of stripes"));
  EXPECT_THAT(Refusal("0 16376 striped 2 16 /dev/vdd 0 /dev/vde 0"),
              HasSubstr("Target length not divisible by chunk size"));
  EXPECT_THAT(Refusal("0 65536 striped 2 16 /dev/vdd 0 /dev/vde 0"),
              HasSubstr("too small for target: start=0, len=32768, dev_size=16384"));
  EXPECT_THAT(Refusal("0 16384 striped 2 16 /dev/vdd 0 /dev/vde x"),
              HasSubstr("Couldn't parse stripe destination"));
  EXPECT_EQ(Refusal("0 16384 striped 2 1 /dev/vdd 0 /dev/vde 0"), "");
}

TEST_F(StripedTest, MarksEveryStripeOnADeviceThatFailed) {
  auto faulty = std::make_shared<FaultyDevice>(*MemoryDevice::Create(kDeviceSize));
  devices_.Add("/dev/bad", faulty);
  Target& target = TargetOf("0 48 striped 3 8 /dev/vdd 0 /dev/bad 0 /dev/bad 16");
  EXPECT_EQ(target.StatusArgs(), "3 /dev/vdd /dev/bad /dev/bad 1 AAA");
  faulty->Add({.times = 1});
  std::vector<std::byte> data(512);
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(8), data)), IoStatus::kIoError);
  EXPECT_EQ(target.StatusArgs(), "3 /dev/vdd /dev/bad /dev/bad 1 ADD");
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(8), data)), IoStatus::kOk) << "it stays in use";
}

TEST_F(StripedTest, AnEventTellsOfADeviceThatFailedForTheFirstTime) {
  auto faulty = std::make_shared<FaultyDevice>(*MemoryDevice::Create(kDeviceSize));
  devices_.Add("/dev/bad", faulty);
  Target& target = TargetOf("0 48 striped 3 8 /dev/vdd 0 /dev/bad 0 /dev/bad 16");
  std::vector<std::byte> data(512);
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(0), data)), IoStatus::kOk);
  EXPECT_EQ(host_->events(), 0);
  faulty->FailAll(IoStatus::kNotSupported);
  Run(target, IoRequest::Discard(Sector(8), SectorCount(8)));
  EXPECT_EQ(host_->events(), 0) << "what it cannot do is no failure";
  faulty->Heal();
  faulty->FailAll(IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(8), data)), IoStatus::kIoError);
  EXPECT_EQ(host_->events(), 1);
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(16), data)), IoStatus::kIoError);
  EXPECT_EQ(host_->events(), 1) << "`status` says nothing new";
}

}  // namespace
}  // namespace sectormap::targets
