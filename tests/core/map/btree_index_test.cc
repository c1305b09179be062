// SPDX-License-Identifier: Apache-2.0
#include "core/map/btree_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tests/support/random.h"

namespace sectormap {
namespace {

std::vector<SimdLevel> LevelsOfThisProcessor() {
  std::vector<SimdLevel> levels{SimdLevel::kPortable};
  const SimdLevel best = BestSimdLevel();
  if (best == SimdLevel::kAvx512) levels.push_back(SimdLevel::kAvx2);
  if (best != SimdLevel::kPortable) levels.push_back(best);
  return levels;
}

size_t Oracle(const std::vector<uint64_t>& ends, uint64_t sector) {
  return static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), sector) - ends.begin());
}

// `multiple` of all ends and `gap_max` steer which key width and unit the index takes.
std::vector<uint64_t> RandomEnds(Random& random, size_t rows, uint64_t gap_max, uint64_t multiple) {
  std::vector<uint64_t> ends;
  uint64_t end = 0;
  for (size_t i = 0; i < rows; ++i) ends.push_back(end += (1 + random.Below(gap_max)) * multiple);
  return ends;
}

void CheckRowEdgesAndRandomSectors(Random& random, const std::vector<uint64_t>& ends,
                                   size_t lookups) {
  for (SimdLevel level : LevelsOfThisProcessor()) {
    const BtreeIndex index(ends, level);
    ASSERT_EQ(index.rows(), ends.size());
    for (size_t i = 0; i < lookups; ++i) {
      const size_t row = random.Below(ends.size());
      const uint64_t first = row == 0 ? 0 : ends[row - 1];
      ASSERT_EQ(index.Find(Sector(first)), row) << "first sector, rows " << ends.size();
      ASSERT_EQ(index.Find(Sector(ends[row] - 1)), row) << "last sector, rows " << ends.size();
      const uint64_t sector = random.Below(ends.back());
      ASSERT_EQ(index.Find(Sector(sector)), Oracle(ends, sector)) << "rows " << ends.size();
    }
  }
}

TEST(BtreeIndexTest, FindsEverySectorOfEverySmallTable) {
  Random random;
  for (size_t rows = 1; rows <= 700; ++rows) {
    const std::vector<uint64_t> ends = RandomEnds(random, rows, 3, 1);
    for (SimdLevel level : LevelsOfThisProcessor()) {
      const BtreeIndex index(ends, level);
      for (uint64_t sector = 0; sector < ends.back(); ++sector) {
        ASSERT_EQ(index.Find(Sector(sector)), Oracle(ends, sector)) << rows << " rows";
      }
    }
  }
}

TEST(BtreeIndexTest, EqualsBinarySearchOnRandomTables) {
  Random random;
  for (int i = 0; i < 60; ++i) {
    const size_t rows = 1 + random.Below(i % 10 == 0 ? 100'000 : 5'000);
    CheckRowEdgesAndRandomSectors(random, RandomEnds(random, rows, 5'000, 1), 500);
  }
}

TEST(BtreeIndexTest, EqualsBinarySearchAboveTwoTebibytes) {
  Random random;
  for (size_t rows : {1, 7, 8, 9, 72, 73, 648, 649, 5'833, 100'000}) {
    // Odd ends above 2^32 need 64-bit keys; multiples of 8192 sectors do not.
    std::vector<uint64_t> ends = RandomEnds(random, rows, uint64_t{1} << 40, 1);
    ends.back() |= 1;
    CheckRowEdgesAndRandomSectors(random, ends, 500);
    CheckRowEdgesAndRandomSectors(random, RandomEnds(random, rows, 1 << 10, 8192), 500);
  }
}

TEST(BtreeIndexTest, EqualsBinarySearchOnAMillionRows) {
  Random random;
  const std::vector<uint64_t> ends = RandomEnds(random, 1'000'000, 2'048, 1);
  CheckRowEdgesAndRandomSectors(random, ends, 100'000);
}

TEST(BtreeIndexTest, TakesTheLargestDeviceThereIs) {
  const std::vector<uint64_t> ends{1, kMaxDeviceSectors.value()};
  const BtreeIndex index(ends);
  EXPECT_EQ(index.Find(Sector(0)), 0u);
  EXPECT_EQ(index.Find(Sector(1)), 1u);
  EXPECT_EQ(index.Find(Sector(kMaxDeviceSectors.value() - 1)), 1u);
}

TEST(BtreeIndexTest, IsCompact) {
  Random random;
  const size_t rows = 100'000;
  const BtreeIndex index(RandomEnds(random, rows, 100, 1));
  // 4 bytes a row, and about a sixteenth of that above the leaves.
  EXPECT_LT(index.memory_bytes(), rows * 4 * 11 / 10);
}

}  // namespace
}  // namespace sectormap
