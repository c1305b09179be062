// SPDX-License-Identifier: Apache-2.0
#include "core/block/buffer_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/async/gate.h"
#include "core/async/reactor_pool.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

constexpr size_t kLargest = size_t{1} << 20;

TEST(BufferPoolTest, CapacityIsRoundedUpToWholeLargestBuffers) {
  EXPECT_EQ(BufferPool(1, kLargest).capacity(), kLargest);
  EXPECT_EQ(BufferPool(kLargest, kLargest).capacity(), kLargest);
  EXPECT_EQ(BufferPool(3 * kLargest + 1, kLargest).capacity(), 4 * kLargest);
  EXPECT_EQ(BufferPool(kBufferAlignment, kBufferAlignment).capacity(), kBufferAlignment);
}

TEST(BufferPoolTest, ABufferHasTheSizeAskedForAndIsAligned) {
  BufferPool pool(kLargest, kLargest);
  for (size_t bytes : {size_t{1}, size_t{512}, size_t{4096}, size_t{4097}, size_t{200'000}}) {
    std::optional<IoBuffer> buffer = pool.TryTake(bytes);
    ASSERT_TRUE(buffer.has_value());
    EXPECT_EQ(buffer->bytes().size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->bytes().data()) % kBufferAlignment, 0u);
  }
  EXPECT_EQ(pool.used(), 0u);
}

TEST(BufferPoolTest, EveryByteOfThePoolCanBeHeldAtOnce) {
  BufferPool pool(4 * kLargest, kLargest);
  for (size_t size = kBufferAlignment; size <= kLargest; size *= 2) {
    std::vector<IoBuffer> held;
    while (std::optional<IoBuffer> buffer = pool.TryTake(size)) held.push_back(*std::move(buffer));
    EXPECT_EQ(held.size(), pool.capacity() / size);
    EXPECT_EQ(pool.used(), pool.capacity());
  }
  EXPECT_EQ(pool.used(), 0u);
}

TEST(BufferPoolTest, AMovedFromBufferIsEmptyAndGivesNothingBack) {
  BufferPool pool(kLargest, kLargest);
  IoBuffer first = *pool.TryTake(kLargest / 2);
  IoBuffer second = std::move(first);
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): what this test is about
  EXPECT_TRUE(second);
  EXPECT_EQ(pool.used(), kLargest / 2);
  second = *pool.TryTake(kLargest / 4);
  EXPECT_EQ(pool.used(), kLargest / 4);
  second = IoBuffer();
  EXPECT_EQ(pool.used(), 0u);
}

struct Held {
  IoBuffer buffer;
  std::byte mark;
};

bool Holds(const Held& held) {
  return std::ranges::all_of(held.buffer.bytes(), [&](std::byte b) { return b == held.mark; });
}

TEST(BufferPoolTest, RandomTakingAndGivingNeverOverlapsAndLeavesAllWhole) {
  Random random;
  BufferPool pool(8 * kLargest, kLargest);
  std::vector<Held> held;
  for (int step = 0; step < 20'000; ++step) {
    if (held.empty() || random.Below(5) < 3) {
      const size_t bytes = 1 + random.Below(size_t{1} << random.Between(0, 20));
      std::optional<IoBuffer> buffer = pool.TryTake(bytes);
      if (!buffer.has_value()) continue;
      const std::byte mark{static_cast<uint8_t>(random.Below(256))};
      std::memset(buffer->bytes().data(), static_cast<int>(mark), bytes);
      held.push_back({*std::move(buffer), mark});
    } else {
      const size_t chosen = random.Below(held.size());
      ASSERT_TRUE(Holds(held[chosen])) << "step " << step;
      std::swap(held[chosen], held.back());
      held.pop_back();
    }
  }
  for (const Held& one : held) ASSERT_TRUE(Holds(one));
  held.clear();
  EXPECT_EQ(pool.used(), 0u);
  for (int i = 0; i < 8; ++i) {
    std::optional<IoBuffer> buffer = pool.TryTake(kLargest);
    ASSERT_TRUE(buffer.has_value());
    held.push_back({*std::move(buffer), {}});
  }
}

class BufferPoolWaitTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
  }
  SteadyClock clock_;
  std::unique_ptr<ReactorPool> reactors_;
};

Task<void> TakeAndNote(BufferPool& pool, size_t bytes, int number, std::vector<int>& order,
                       Gate& gate) {
  IoBuffer buffer = co_await pool.Take(bytes);
  EXPECT_EQ(buffer.bytes().size(), bytes);
  order.push_back(number);
  gate.Leave();
}

Task<void> CheckOrder() {
  BufferPool pool(kLargest, kLargest);
  std::vector<int> order;
  Gate gate;
  {
    IoBuffer half = co_await pool.Take(kLargest / 2);
    for (int number = 0; number < 6; ++number) {
      CHECK(gate.TryEnter());
      // The first waits for all; the small ones behind it must not pass though there is room.
      Detach(TakeAndNote(pool, number == 0 ? kLargest : 512, number, order, gate));
    }
    EXPECT_FALSE(pool.TryTake(512).has_value());
    EXPECT_TRUE(order.empty());
  }
  gate.Close();
  co_await gate.Drained();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(pool.used(), 0u);
}

TEST_F(BufferPoolWaitTest, WaitersAreServedFirstComeFirstServed) {
  reactors_->RunOn(0, CheckOrder());
}

Task<void> CheckLateStart() {
  BufferPool pool(kLargest, kLargest);
  std::optional<IoBuffer> all = pool.TryTake(kLargest);
  Task<IoBuffer> later = pool.Take(512);
  EXPECT_FALSE(later.immediate());
  all.reset();
  IoBuffer buffer = co_await std::move(later);
  EXPECT_TRUE(buffer);
}

TEST_F(BufferPoolWaitTest, ATaskAwaitedAfterRoomWasMadeDoesNotWait) {
  reactors_->RunOn(0, CheckLateStart());
}

Task<void> Churn(BufferPool& pool, uint64_t seed, Gate& gate) {
  Random random(seed);
  for (int i = 0; i < 200; ++i) {
    IoBuffer buffer = co_await pool.Take(random.Between(1, kLargest));
    const int mark = static_cast<int>(random.Below(256));
    std::memset(buffer.bytes().data(), mark, buffer.bytes().size());
    co_await Reactor::Current().Sleep(std::chrono::microseconds(random.Below(20)));
    EXPECT_EQ(static_cast<int>(buffer.bytes().front()), mark);
    EXPECT_EQ(static_cast<int>(buffer.bytes().back()), mark);
  }
  gate.Leave();
}

Task<void> CheckChurn(uint64_t seed) {
  BufferPool pool(2 * kLargest, kLargest);
  Gate gate;
  for (uint64_t i = 0; i < 32; ++i) {
    CHECK(gate.TryEnter());
    Detach(Churn(pool, seed + i, gate));
  }
  gate.Close();
  co_await gate.Drained();
  EXPECT_EQ(pool.used(), 0u);
}

TEST_F(BufferPoolWaitTest, MoreWantersThanRoomAllGetTheirTurn) {
  reactors_->RunOn(0, CheckChurn(Random().seed()));
}

}  // namespace
}  // namespace sectormap
