// SPDX-License-Identifier: Apache-2.0
#include "core/async/per_reactor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "core/async/clock.h"
#include "core/async/reactor_pool.h"

namespace sectormap {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PerReactorTest : public ::testing::Test {
 protected:
  static std::vector<int> All(const PerReactor<int>& shards) {
    std::vector<int> all;
    shards.ForEach([&all](int shard) { all.push_back(shard); });
    return all;
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> reactors_ = *ReactorPool::Start(3, clock_);
};

TEST_F(PerReactorTest, WhatNoReactorHasUsedHasNoShard) {
  const PerReactor<int> shards;
  EXPECT_THAT(All(shards), IsEmpty());
}

TEST_F(PerReactorTest, OnlyReactorsThatUseItHaveAShardAndKeepIt) {
  PerReactor<int> shards;
  for (int round = 0; round < 2; ++round) {
    reactors_->OnEach([&shards](Reactor& reactor) {
      if (reactor.index() != 1) shards.Mine() += reactor.index() + 10;
    });
  }
  EXPECT_THAT(All(shards), ElementsAre(20, 24));
}

TEST_F(PerReactorTest, ShardsLieOnCacheLinesOfTheirOwn) {
  PerReactor<int> shards;
  reactors_->OnEach([&shards](Reactor&) { shards.Mine() = 1; });
  shards.ForEach([](const int& shard) { EXPECT_EQ(reinterpret_cast<uintptr_t>(&shard) % 64, 0u); });
}

// Under tsan this is the proof.
TEST_F(PerReactorTest, AReaderMayComeWhileShardsAreMade) {
  struct Counter {
    std::atomic<int> value{0};
  };
  for (int round = 0; round < 100; ++round) {
    PerReactor<Counter> shards;
    std::atomic<int> left = reactors_->size();
    for (int i = 0; i < reactors_->size(); ++i) {
      (*reactors_)[i].Post([&shards, &left] {
        shards.Mine().value.store(1, std::memory_order_relaxed);
        --left;
      });
    }
    const auto sum = [&shards] {
      int total = 0;
      shards.ForEach([&total](const Counter& counter) {
        total += counter.value.load(std::memory_order_relaxed);
      });
      return total;
    };
    while (left != 0) EXPECT_LE(sum(), reactors_->size());
    EXPECT_EQ(sum(), reactors_->size());
  }
}

}  // namespace
}  // namespace sectormap
