// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/chunk_set.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/random.h"

namespace sectormap::targets {
namespace {

TEST(ChunkSetTest, SaysOfSomeChunksWhatAnArrayOfThemSays) {
  constexpr uint64_t kChunks = 640;
  Random random;
  ChunkSet set(kChunks);
  std::vector<bool> model(kChunks);
  ASSERT_EQ(set.capacity(), kChunks);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t first = random.Below(kChunks);
    const uint64_t count = random.Between(1, std::min(kChunksAskedMax, kChunks - first));
    if (random.OneIn(10)) {
      set.Add(first, count);
      std::fill_n(model.begin() + static_cast<ptrdiff_t>(first), count, true);
    }
    for (int removed = 0; removed < 8; ++removed) {
      const uint64_t chunk = random.Below(kChunks);
      set.Remove(chunk);
      model[chunk] = false;
    }
    const auto begin = model.begin() + static_cast<ptrdiff_t>(first);
    const auto size = static_cast<ptrdiff_t>(count);
    ASSERT_EQ(set.HasAll(first, count), std::count(begin, begin + size, true) == size) << first;
    ASSERT_EQ(set.HasNone(first, count), std::count(begin, begin + size, true) == 0) << first;
  }
}

TEST(ChunkSetTest, SaysNothingOfMoreThanItCanTell) {
  ChunkSet set(100);
  EXPECT_EQ(set.capacity(), 128u);
  EXPECT_TRUE(set.HasNone(64, 64));
  EXPECT_FALSE(set.HasNone(65, 64));
  EXPECT_FALSE(set.HasNone(62, 65));
  EXPECT_FALSE(set.HasNone(128, 1));
  EXPECT_FALSE(set.HasNone(~uint64_t{0}, 1));
  set.Add(0, 1000);
  set.Remove(128);
  EXPECT_TRUE(set.HasAll(64, 64));
  EXPECT_FALSE(set.HasAll(65, 64));
  EXPECT_FALSE(set.HasAll(62, 65));
  EXPECT_FALSE(set.HasAll(128, 1));
  const ChunkSet none(0);
  EXPECT_FALSE(none.HasNone(0, 1));
  EXPECT_FALSE(none.HasAll(0, 1));
}

// It would be as long as the largest device: 32 TiB of bits.
TEST(ChunkSetTest, HasNoRoomForAllChunksOfAHugeDevice) {
  const ChunkSet set(uint64_t{1} << 48);
  EXPECT_LE(set.capacity(), kChunkSetMax);
  EXPECT_FALSE(set.HasNone(kChunkSetMax, 1));
}

}  // namespace
}  // namespace sectormap::targets
