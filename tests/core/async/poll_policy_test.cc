// SPDX-License-Identifier: Apache-2.0
#include "core/async/poll_policy.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "core/async/reactor_pool.h"

namespace sectormap {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(PollPolicyTest, AnIdleReactorNeverPolls) {
  PollPolicy policy(microseconds(50));
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(policy.ShouldPoll());
    policy.Slept(milliseconds(1));
  }
}

TEST(PollPolicyTest, PollsAsLongAsEventsComeWithinTheWindow) {
  PollPolicy policy(microseconds(50));
  policy.Slept(microseconds(30));
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(policy.ShouldPoll());
    policy.Polled(/*found=*/true);
  }
  policy.Polled(/*found=*/false);
  EXPECT_FALSE(policy.ShouldPoll());
}

TEST(PollPolicyTest, AWindowOfZeroNeverPolls) {
  PollPolicy policy(microseconds(0));
  policy.Slept(microseconds(1));
  EXPECT_FALSE(policy.ShouldPoll());
}

TEST(PollPolicyTest, EventsThatComeJustTooLateCostLessAndLess) {
  PollPolicy policy(microseconds(50));
  int polls = 0;
  for (int i = 0; i < 10000; ++i) {
    if (policy.ShouldPoll()) {
      ++polls;
      policy.Polled(/*found=*/false);
    }
    policy.Slept(microseconds(80));
  }
  EXPECT_GT(polls, 10);
  EXPECT_LT(polls, 100);
}

// The reactor's own part: calls, timers and completions are seen by a reactor that polls.
TEST(PollPolicyTest, AReactorThatPollsRunsWhatIsPostedAndItsTimers) {
  SteadyClock clock;
  auto pool = ReactorPool::Start(1, clock, milliseconds(1));
  ASSERT_TRUE(pool.ok()) << pool.status();
  for (int i = 0; i < 1000; ++i) {
    bool ran = false;
    (*pool)->OnEach([&ran](Reactor&) { ran = true; });
    ASSERT_TRUE(ran);
  }
  auto nap = [](Reactor& reactor) -> Task<void> {
    for (int i = 0; i < 100; ++i) co_await reactor.Sleep(microseconds(20));
  };
  (*pool)->RunOn(0, nap((**pool)[0]));
  EXPECT_GT((**pool)[0].polled_time(), nanoseconds::zero());
}

}  // namespace
}  // namespace sectormap
