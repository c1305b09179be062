// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/region_states.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/random.h"

namespace sectormap::targets {
namespace {

constexpr LegSet kAll = LegSet::FirstOf(3);

TEST(LegSetTest, IsWalkedInTheOrderOfTheTable) {
  std::string order;
  for (size_t leg : LegSet(0x119)) order += std::to_string(leg);
  EXPECT_EQ(order, "0348");
  EXPECT_EQ((LegSet(7) - LegSet::Only(1)).bits(), 5);
  EXPECT_EQ(LegSet::FirstOf(kLegsMax).size(), 9u);
  EXPECT_TRUE(LegSet().empty());
}

TEST(RegionStatesTest, OnlyTheFirstLegCountsAtFirstAndNoWriteEnters) {
  RegionStates regions(4, kAll);
  EXPECT_EQ(regions.in_sync_count(), 0u);
  EXPECT_EQ(regions.legs(3), LegSet::Only(0));
  EXPECT_TRUE(regions.TryEnter(3).empty());
}

TEST(RegionStatesTest, AWriteEntersADirtyRegionThatIsNotBlocked) {
  RegionStates regions(4, kAll);
  EXPECT_TRUE(regions.SetDirty(2));
  EXPECT_FALSE(regions.SetDirty(2));
  EXPECT_EQ(regions.TryEnter(2), LegSet::Only(0));
  EXPECT_EQ(regions.TryEnter(2), LegSet::Only(0));
  EXPECT_TRUE(regions.TryEnter(1).empty()) << "another region";
  regions.Block(2);
  EXPECT_TRUE(regions.TryEnter(2).empty());
  EXPECT_FALSE(regions.Leave(2)) << "one is still inside";
  EXPECT_TRUE(regions.Leave(2));
  regions.AddLegs(2, LegSet(6));
  EXPECT_EQ(regions.in_sync_count(), 1u);
  regions.Unblock(2);
  EXPECT_EQ(regions.TryEnter(2), kAll);
  EXPECT_FALSE(regions.Leave(2)) << "nobody waits";
}

TEST(RegionStatesTest, LegsThatMissedAWriteNoLongerCount) {
  RegionStates regions(1, kAll);
  regions.Reset(0, kAll, true);
  EXPECT_EQ(regions.in_sync_count(), 1u);
  EXPECT_EQ(regions.KeepOnly(0, LegSet(5)), LegSet(5));
  EXPECT_EQ(regions.in_sync_count(), 0u);
  EXPECT_EQ(regions.KeepOnly(0, LegSet(6)), LegSet(4));
  EXPECT_TRUE(regions.KeepOnly(0, LegSet(3)).empty()) << "nobody has everything";
  EXPECT_EQ(regions.legs(0), LegSet(4));
  regions.Reset(0, kAll, true);
  EXPECT_TRUE(regions.KeepOnly(0, LegSet()).empty());
  EXPECT_EQ(regions.legs(0), LegSet(1)) << "they may differ now: one counts";
}

TEST(RegionStatesTest, BecomesCleanWhenLeftAloneForALook) {
  RegionStates regions(1, kAll);
  regions.Reset(0, kAll, true);
  EXPECT_FALSE(regions.TryEnter(0).empty());
  EXPECT_FALSE(regions.TryClean(0, true)) << "a write is inside";
  regions.Leave(0);
  EXPECT_FALSE(regions.TryClean(0, false)) << "written to since the last look";
  EXPECT_TRUE(regions.TryClean(0, false));
  EXPECT_FALSE(regions.TryClean(0, false)) << "it is clean";
  EXPECT_TRUE(regions.TryEnter(0).empty());
  regions.SetDirty(0);
  EXPECT_TRUE(regions.TryClean(0, true));
  regions.Reset(0, LegSet(3), true);
  EXPECT_FALSE(regions.TryClean(0, true)) << "out of sync";
}

TEST(RegionStatesTest, ThreadsAgreeOnWhoIsInsideAndWhatIsInSync) {
  constexpr uint64_t kRegions = 3;
  RegionStates regions(kRegions, kAll);
  for (uint64_t region = 0; region < kRegions; ++region) regions.Reset(region, kAll, true);
  const Random seeded;
  const auto write = [&](uint64_t seed) {
    Random random(seed);
    for (int i = 0; i < 20'000; ++i) {
      const uint64_t region = random.Below(kRegions);
      if (regions.TryEnter(region).empty()) continue;
      if (random.OneIn(50)) regions.KeepOnly(region, LegSet(5));
      regions.Leave(region);
    }
  };
  std::thread one(write, seeded.seed());
  std::thread other(write, seeded.seed() + 1);
  Random random(seeded.seed() + 2);
  for (int i = 0; i < 5'000; ++i) {
    const uint64_t region = random.Below(kRegions);
    regions.Block(region);
    while (regions.writes(region) != 0) std::this_thread::yield();
    regions.AddLegs(region, kAll);
    EXPECT_TRUE(regions.in_sync(region)) << "nobody is inside";
    regions.Unblock(region);
  }
  one.join();
  other.join();
  uint64_t in_sync = 0;
  for (uint64_t region = 0; region < kRegions; ++region) {
    EXPECT_EQ(regions.writes(region), 0u);
    in_sync += regions.in_sync(region);
  }
  EXPECT_EQ(regions.in_sync_count(), in_sync);
}

}  // namespace
}  // namespace sectormap::targets
