// SPDX-License-Identifier: Apache-2.0
#include "core/async/turn_share.h"

#include <gtest/gtest.h>

namespace sectormap {
namespace {

constexpr size_t kMuch = size_t{1} << 20;
constexpr size_t kLittle = 48;

TEST(TurnShareTest, PartsAreSmallOnlyBesideAStreamThatSendsLittle) {
  TurnShare share;
  share.OnTurn(1, kMuch);
  const size_t beside_heavy = share.BytesIn(1);
  share.OnTurn(2, kLittle);
  const size_t beside_light = share.BytesIn(2);
  EXPECT_GE(beside_heavy, 4 * beside_light);
  EXPECT_GT(beside_light, 0u);
  // A heavy one in the same turn changes nothing.
  share.OnTurn(3, kMuch);
  EXPECT_EQ(share.BytesIn(3), beside_light);
}

TEST(TurnShareTest, AStreamThatHasFallenSilentIsForgotten) {
  TurnShare share;
  share.OnTurn(1, kLittle);
  const size_t beside_light = share.BytesIn(1);
  uint64_t turn = 1;
  while (turn < 100'000 && share.BytesIn(turn) == beside_light) ++turn;
  EXPECT_GT(turn, 10u) << "not between two of its commands";
  EXPECT_GT(share.BytesIn(turn), beside_light);
}

}  // namespace
}  // namespace sectormap
