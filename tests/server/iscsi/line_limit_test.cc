// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/line_limit.h"

#include <gtest/gtest.h>

namespace sectormap::iscsi {
namespace {

constexpr int kAtOnce = 3;
// std::nullopt: left out.
constexpr std::optional<uint64_t> kLeftOut = std::nullopt;

class LineLimitTest : public testing::Test {
 protected:
  LineLimit limit_{kAtOnce};
  MonotonicTime now_ = MonotonicTime(std::chrono::hours(1));
};

TEST_F(LineLimitTest, SoManyGoAtOnceAndThenOnePerInterval) {
  for (int i = 0; i < kAtOnce; ++i) EXPECT_EQ(limit_.TryWrite(now_), 0u);
  EXPECT_EQ(limit_.TryWrite(now_), kLeftOut);
  EXPECT_EQ(limit_.TryWrite(now_ + kLineInterval - nanoseconds(1)), kLeftOut);
  EXPECT_EQ(limit_.TryWrite(now_ + kLineInterval), 2u);
  EXPECT_EQ(limit_.TryWrite(now_ + kLineInterval), kLeftOut);
}

TEST_F(LineLimitTest, ALineTellsOnceHowManyWereLeftOut) {
  for (int i = 0; i < kAtOnce; ++i) limit_.TryWrite(now_);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(limit_.TryWrite(now_), kLeftOut);
  EXPECT_EQ(limit_.TryWrite(now_ + kLineInterval), 5u);
  EXPECT_EQ(limit_.TryWrite(now_ + 2 * kLineInterval), 0u);
}

TEST_F(LineLimitTest, AQuietTimeGivesNoMoreThanThatAtOnce) {
  for (int i = 0; i < kAtOnce; ++i) limit_.TryWrite(now_);
  now_ += 100 * kLineInterval;
  for (int i = 0; i < kAtOnce; ++i) EXPECT_EQ(limit_.TryWrite(now_), 0u);
  EXPECT_EQ(limit_.TryWrite(now_), kLeftOut);
}

}  // namespace
}  // namespace sectormap::iscsi
