// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/receive_buffer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

namespace sectormap::iscsi {
namespace {

TEST(ReceiveBufferTest, WhoComesNextHasTheMemoryOfWhoGaveBackLast) {
  ReceiveBuffer first, second, third;
  first.Take();
  second.Take();
  std::byte* const warm = second.data();
  EXPECT_NE(first.data(), warm);
  std::memset(warm, 1, kReceiveBufferBytes);
  first.GiveBack();
  second.GiveBack();
  EXPECT_FALSE(second);
  third.Take();
  EXPECT_EQ(third.data(), warm);
}

TEST(ReceiveBufferTest, ManyAtOnceAreDistinct) {
  std::vector<ReceiveBuffer> buffers(40);
  std::set<std::byte*> places;
  for (int round = 0; round < 2; ++round) {
    places.clear();
    for (ReceiveBuffer& buffer : buffers) {
      buffer.Take();
      std::memset(buffer.data(), round, kReceiveBufferBytes);
      places.insert(buffer.data());
    }
    EXPECT_EQ(places.size(), buffers.size());
    for (ReceiveBuffer& buffer : buffers) buffer.GiveBack();
    buffers.front().GiveBack();  // has nothing to give
  }
}

}  // namespace
}  // namespace sectormap::iscsi
