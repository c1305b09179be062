// SPDX-License-Identifier: Apache-2.0
#include "core/async/reactor.h"

#include <gtest/gtest.h>

#include <set>

#include "core/async/gate.h"
#include "core/async/reactor_pool.h"
#include "core/async/when_all.h"

namespace sectormap {
namespace {

class ReactorTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(2, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
};

Task<int> Immediate(int value) { co_return value; }

Task<int> SumOfMany(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await Immediate(1);
  co_return sum;
}

TEST_F(ReactorTest, AMillionReadyChildrenNeedConstantStack) {
  EXPECT_EQ(pool_->RunOn(0, SumOfMany(1'000'000)), 1'000'000);
}

Task<int> HopBetween(ReactorPool& pool) {
  int seen = 0;
  for (int i = 0; i < 100; ++i) {
    co_await pool[i % 2].Switch();
    seen += Reactor::Current().index();
  }
  co_return seen;
}

TEST_F(ReactorTest, SwitchGoesOnOnTheOtherThread) {
  EXPECT_EQ(pool_->RunOn(0, HopBetween(*pool_)), 50);
}

Task<IoStatus> SleepThen(int ms, IoStatus status, int& running, int& peak) {
  peak = std::max(peak, ++running);
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(ms));
  --running;
  co_return status;
}

Task<IoStatus> ThreeAtOnce(int& peak) {
  int running = 0;
  std::vector<Task<IoStatus>> children;
  children.push_back(SleepThen(3, IoStatus::kOk, running, peak));
  children.push_back(SleepThen(9, IoStatus::kNoSpace, running, peak));
  children.push_back(SleepThen(1, IoStatus::kIoError, running, peak));
  const IoStatus status = co_await WhenAll(std::move(children));
  EXPECT_EQ(running, 0);
  co_return status;
}

TEST_F(ReactorTest, WhenAllRunsSideBySideAndGivesTheFirstFailure) {
  int peak = 0;
  EXPECT_EQ(pool_->RunOn(1, ThreeAtOnce(peak)), IoStatus::kNoSpace);
  EXPECT_EQ(peak, 3);
}

Task<void> LeaveLater(Gate& gate) {
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(2));
  gate.Leave();
}

Task<bool> CloseAndDrain() {
  Gate gate;
  for (int i = 0; i < 10; ++i) {
    if (!gate.TryEnter()) co_return false;
    Detach(LeaveLater(gate));
  }
  gate.Close();
  if (gate.TryEnter()) co_return false;
  co_await gate.Drained();
  co_return gate.count() == 0;
}

TEST_F(ReactorTest, GateDrains) { EXPECT_TRUE(pool_->RunOn(0, CloseAndDrain())); }

TEST_F(ReactorTest, PostedCallsRunInOrder) {
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) {
    (*pool_)[0].Post([&order, i] { order.push_back(i); });
  }
  pool_->OnEach([](Reactor&) {});
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

}  // namespace
}  // namespace sectormap
