// SPDX-License-Identifier: Apache-2.0
#include "core/block/range_lock.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "core/async/gate.h"
#include "core/async/reactor_pool.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

using Mode = RangeLock::Mode;
constexpr auto kShared = Mode::kShared;
constexpr auto kAlone = Mode::kAlone;

class RangeLockTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(2, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
};

Task<void> HoldAndNote(RangeLock& lock, uint64_t first, uint64_t end, Mode mode, int number,
                       std::vector<int>& order, Gate& gate) {
  {
    RangeLock::Hold hold(lock, first, end, mode);
    co_await hold;
    order.push_back(number);
    co_await Reactor::Current().Sleep(std::chrono::microseconds(100));
  }
  gate.Leave();
}

Task<void> CheckWhoWaits() {
  RangeLock lock;
  Gate gate;
  std::vector<int> order;
  auto start = [&](int number, uint64_t first, uint64_t end, Mode mode) {
    CHECK(gate.TryEnter());
    Detach(HoldAndNote(lock, first, end, mode, number, order, gate));
  };
  start(0, 0, 10, kShared);
  start(1, 5, 15, kShared);  // shares
  start(2, 9, 12, kAlone);   // waits for 0 and 1
  start(3, 20, 30, kAlone);  // nobody there
  start(4, 9, 10, kShared);  // waits behind 2
  start(5, 15, 20, kAlone);  // beside 1 and 3, which it only touches
  EXPECT_EQ(order, (std::vector<int>{0, 1, 3, 5}));
  gate.Close();
  co_await gate.Drained();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 3, 5, 2, 4}));
}

TEST_F(RangeLockTest, SharedOnesGoTogetherAndAloneMeansAlone) { pool_->RunOn(0, CheckWhoWaits()); }

constexpr size_t kCells = 16;
// Positive: so many share it. -1: one has it alone.
using Cells = std::array<std::atomic<int>, kCells>;

Task<void> UseCells(RangeLock& lock, Cells& cells, uint64_t seed, Gate& gate) {
  Random random(seed);
  for (int i = 0; i < 300; ++i) {
    const uint64_t first = random.Below(kCells);
    const uint64_t end = random.Between(first + 1, std::min<uint64_t>(first + 4, kCells));
    const Mode mode = random.OneIn(3) ? kAlone : kShared;
    RangeLock::Hold hold(lock, first, end, mode);
    co_await hold;
    for (uint64_t cell = first; cell < end; ++cell) {
      const int before = cells[cell].fetch_add(mode == kAlone ? -1 : 1);
      EXPECT_TRUE(mode == kAlone ? before == 0 : before >= 0) << before;
    }
    if (random.OneIn(2)) co_await Reactor::Current().Sleep(std::chrono::microseconds(5));
    for (uint64_t cell = first; cell < end; ++cell) cells[cell] += mode == kAlone ? 1 : -1;
  }
  gate.Leave();
}

Task<void> UseCellsSideBySide(RangeLock& lock, Cells& cells, uint64_t seed) {
  Gate gate;
  for (uint64_t i = 0; i < 8; ++i) {
    CHECK(gate.TryEnter());
    Detach(UseCells(lock, cells, seed + i, gate));
  }
  gate.Close();
  co_await gate.Drained();
}

TEST_F(RangeLockTest, TwoReactorsNeverBreakIt) {
  Random random;
  RangeLock lock;
  Cells cells{};
  std::thread other([&] { pool_->RunOn(1, UseCellsSideBySide(lock, cells, random.seed() + 100)); });
  pool_->RunOn(0, UseCellsSideBySide(lock, cells, random.seed()));
  other.join();
  for (const auto& cell : cells) EXPECT_EQ(cell, 0);
}

}  // namespace
}  // namespace sectormap
