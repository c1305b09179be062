// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/name_locks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

namespace sectormap::volumes {
namespace {

using ::testing::HasSubstr;

TEST(NameLocksTest, AHeldNameIsRefusedAfterTheWaitAndFreeAgainWhenItGoes) {
  NameLocks locks(absl::Milliseconds(1));
  std::optional<NameLocks::Held> held = *locks.Take({"a", "b"});
  const absl::StatusOr<NameLocks::Held> refused = locks.Take({"b"});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("call on 'b'"));
  EXPECT_TRUE(locks.Take({"c"}).ok());
  held.reset();
  EXPECT_TRUE(locks.Take({"a", "b", "c"}).ok());
}

TEST(NameLocksTest, WhoGivesUpMeanwhileWaitsNoLonger) {
  NameLocks locks;
  std::optional<NameLocks::Held> held = *locks.Take({"a"});
  int asked = 0;
  EXPECT_EQ(locks.Take({"a"}, [&] { return ++asked > 1; }).status().code(),
            absl::StatusCode::kCancelled);
  held.reset();
  EXPECT_TRUE(locks.Take({"a"}).ok());
}

TEST(NameLocksTest, WhoHasGivenUpGetsNoTurnThoughAllAreFree) {
  NameLocks locks;
  EXPECT_EQ(locks.Take({"a", "b"}, [] { return true; }).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_TRUE(locks.Take({"a", "b"}, [] { return false; }).ok());
}

TEST(NameLocksTest, OneNameTwiceIsOneName) {
  NameLocks locks;
  EXPECT_TRUE(locks.Take({"a", "a"}).ok());
  EXPECT_TRUE(locks.Take({"a"}).ok());
}

TEST(NameLocksTest, CrossedPairsNeverWaitForEachOther) {
  NameLocks locks;
  std::atomic<int> inside = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 1000; ++i) {
        const absl::StatusOr<NameLocks::Held> held =
            thread % 2 == 0 ? locks.Take({"a", "b"}) : locks.Take({"b", "a"});
        ASSERT_TRUE(held.ok());
        ASSERT_EQ(inside.fetch_add(1), 0);
        inside.fetch_sub(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace sectormap::volumes
