// SPDX-License-Identifier: Apache-2.0
#include "core/async/reactor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/async/gate.h"
#include "core/async/next_turn.h"
#include "core/async/reactor_pool.h"
#include "core/async/when_all.h"
#include "tests/support/manual_clock.h"

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

// Most of the work of a server: what goes on when the ring has an answer.
Task<void> WorkAfterCompletion(nanoseconds duration) {
  Reactor& reactor = Reactor::Current();
  co_await reactor.Submit([](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
  const MonotonicTime end = reactor.clock().Now() + duration;
  while (reactor.clock().Now() < end) {
  }
}

TEST_F(ReactorTest, WorkThatACompletionBeginsIsBusyTime) {
  constexpr nanoseconds kWork = std::chrono::milliseconds(20);
  const nanoseconds before = (*pool_)[0].busy_time();
  pool_->RunOn(0, WorkAfterCompletion(kWork));
  // Counted at the end of the turn in which the first of these may still run.
  for (int i = 0; i < 2; ++i) pool_->OnEach([](Reactor&) {});
  EXPECT_GE((*pool_)[0].busy_time() - before, kWork);
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

// Ends on another reactor than it began on, with several parents on the stack of the first.
Task<int> Wander(ReactorPool& pool, int levels, int to) {
  if (levels > 0) co_return 1 + co_await Wander(pool, levels - 1, to);
  co_await pool[to].Switch();
  co_return 0;
}

Task<int> WanderOften(ReactorPool& pool) {
  int sum = 0;
  for (int i = 0; i < 2000; ++i) {
    sum += co_await Wander(pool, 3, i % 2);
    EXPECT_EQ(Reactor::Current().index(), i % 2);
  }
  co_return sum;
}

TEST_F(ReactorTest, AParentGoesOnWhereItsChildEnded) {
  EXPECT_EQ(pool_->RunOn(0, WanderOften(*pool_)), 6000);
}

Task<IoStatus> EndElsewhere(ReactorPool& pool, IoStatus status) {
  co_await pool[1].Switch();
  co_return status;
}

Task<IoStatus> GatherFromElsewhere(ReactorPool& pool) {
  std::vector<Task<IoStatus>> children;
  for (int i = 0; i < 50; ++i) children.push_back(EndElsewhere(pool, IoStatus::kOk));
  children.push_back(EndElsewhere(pool, IoStatus::kNoSpace));
  const IoStatus status = co_await WhenAll(std::move(children));
  EXPECT_EQ(Reactor::Current().index(), 0);
  co_return status;
}

TEST_F(ReactorTest, WhenAllGoesOnAtHomeWhereverItsChildrenEnd) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(pool_->RunOn(0, GatherFromElsewhere(*pool_)), IoStatus::kNoSpace);
  }
}

// Goes on after this turn and all that is ready in it, whatever the time.
Task<void> NextEvent() {
  const int result =
      co_await Reactor::Current().Submit([](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
  EXPECT_EQ(result, 0);
}

Task<int> AskAtTurnEnd() {
  int calls = 0;
  int again = 0;
  Reactor& reactor = Reactor::Current();
  Reactor::TurnEnd once([&] { ++calls; });
  // Asks for itself while it runs: must come again, and must not keep the ring from its turn.
  std::optional<Reactor::TurnEnd> forever;
  forever.emplace([&] {
    ++again;
    reactor.AtTurnEnd(*forever);
  });
  auto forgotten = std::make_unique<Reactor::TurnEnd>([] { ADD_FAILURE() << "was destroyed"; });
  reactor.AtTurnEnd(once);
  reactor.AtTurnEnd(once);
  reactor.AtTurnEnd(*forgotten);
  reactor.AtTurnEnd(*forever);
  forgotten.reset();
  EXPECT_EQ(calls, 0);
  for (int i = 0; i < 3; ++i) co_await NextEvent();
  EXPECT_GT(again, 1);
  forever.reset();
  co_return calls;
}

TEST_F(ReactorTest, ATurnEndRunsOnceForManyWhoAsk) {
  EXPECT_EQ(pool_->RunOn(0, AskAtTurnEnd()), 1);
}

Task<std::vector<int>> AskMuchAtTurnEnd() {
  std::vector<int> left;
  Reactor& reactor = Reactor::Current();
  Reactor::TurnEnd first([&] { left.push_back(1); });
  Reactor::TurnEnd second([&] {
    left.push_back(2);
    reactor.EndTurnIfFull();  // does nothing: the turn is being ended
  });
  reactor.AtTurnEnd(first, Reactor::kTurnEndBytesMax - 1);
  reactor.EndTurnIfFull();
  EXPECT_TRUE(left.empty());
  reactor.AtTurnEnd(second, 1);
  reactor.EndTurnIfFull();
  EXPECT_EQ(left.size(), 2u) << "before the turn's end";
  reactor.AtTurnEnd(first, 1);
  reactor.EndTurnIfFull();
  EXPECT_EQ(left.size(), 2u) << "what has left counts no more";
  co_await NextEvent();
  co_return left;
}

TEST_F(ReactorTest, ATurnThatHasMadeMuchSendsItBeforeItsEnd) {
  EXPECT_EQ(pool_->RunOn(0, AskMuchAtTurnEnd()), (std::vector<int>{1, 2, 1}));
}

Task<void> AnswerAnEvent(std::vector<std::string>& order, Reactor::TurnEnd& answer, Gate& gate) {
  co_await NextEvent();
  order.push_back("event");
  Reactor::Current().AtTurnEnd(answer);
  gate.Leave();
}

Task<std::vector<std::string>> LetOthersGoFirst() {
  std::vector<std::string> order;
  Gate gate;
  CHECK(gate.TryEnter());
  Reactor::TurnEnd answer([&] { order.push_back("answer"); });
  Detach(AnswerAnEvent(order, answer, gate));
  co_await AfterOthers();
  order.push_back("yielded");
  gate.Close();
  co_await gate.Drained();
  co_return order;
}

TEST_F(ReactorTest, WhoYieldsGoesOnWhenTheNextTurnsAnswersHaveLeft) {
  EXPECT_EQ(pool_->RunOn(0, LetOthersGoFirst()),
            (std::vector<std::string>{"event", "answer", "yielded"}));
}

Task<std::vector<bool>> WaitedForATimerAndForNothing() {
  std::vector<bool> waited;
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(1));
  waited.push_back(Reactor::Current().waited());
  co_await NextTurn();  // what timers make ready still belongs to their turn
  co_await NextTurn();
  waited.push_back(Reactor::Current().waited());
  co_return waited;
}

TEST_F(ReactorTest, ATurnThatHadToBeWaitedForSaysSo) {
  pool_ = *ReactorPool::Start(1, clock_, std::chrono::microseconds(100));
  EXPECT_EQ(pool_->RunOn(0, WaitedForATimerAndForNothing()), (std::vector<bool>{true, false}));
}

Task<int> ReadFromRing(int count) {
  int ok = 0;
  for (int i = 0; i < count; ++i) {
    const int result =
        co_await Reactor::Current().Submit([](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
    if (result == 0) ++ok;
  }
  co_return ok;
}

Task<IoStatus> OneRead() {
  const int ok = co_await ReadFromRing(3);
  co_return ok == 3 ? IoStatus::kOk : IoStatus::kIoError;
}

Task<IoStatus> MoreThanTheRingHolds() {
  std::vector<Task<IoStatus>> children;
  for (unsigned i = 0; i < 5 * kRingEntries; ++i) children.push_back(OneRead());
  co_return co_await WhenAll(std::move(children));
}

TEST_F(ReactorTest, MoreOperationsThanTheRingHoldsAllComplete) {
  EXPECT_EQ(pool_->RunOn(0, ReadFromRing(1000)), 1000);
  EXPECT_EQ(pool_->RunOn(0, MoreThanTheRingHolds()), IoStatus::kOk);
}

TEST_F(ReactorTest, ACallRunsOnTheReactorFromItsFirstLine) {
  EXPECT_EQ(pool_->RunOn(1, [] { return Immediate(Reactor::Current().index()); }), 1);
}

Task<void> WaitAndNote(WaitQueue& queue, int number, std::vector<int>& order) {
  co_await queue.Wait();
  order.push_back(number);
}

Task<std::vector<int>> WakeInTwoSteps() {
  WaitQueue queue;
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) Detach(WaitAndNote(queue, i, order));
  queue.WakeOne();
  queue.WakeOne();
  EXPECT_TRUE(order.empty());
  co_await NextEvent();
  EXPECT_EQ(order.size(), 2u);
  queue.WakeAll();
  queue.WakeOne();
  co_await NextEvent();
  co_return order;
}

TEST_F(ReactorTest, AWaitQueueWakesInTheOrderOfComing) {
  EXPECT_EQ(pool_->RunOn(0, WakeInTwoSteps()), (std::vector<int>{0, 1, 2, 3, 4}));
}

class ReactorTimerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  ManualClock clock_;
  std::unique_ptr<ReactorPool> pool_;
};

TEST_F(ReactorTimerTest, TimersFireInOrderOfTimeAndCancelledOnesDoNot) {
  using std::chrono::seconds;
  std::vector<int> fired;
  pool_->OnEach([&](Reactor& reactor) {
    reactor.CallAfter(seconds(30), [&] { fired.push_back(3); });
    reactor.CallAfter(seconds(10), [&] { fired.push_back(1); });
    const Reactor::TimerId cancelled = reactor.CallAfter(seconds(15), [&] { fired.push_back(9); });
    reactor.CallAfter(seconds(10), [&, cancelled] {
      fired.push_back(2);
      reactor.CancelTimer(cancelled);
    });
  });
  clock_.Advance(seconds(9), *pool_);
  EXPECT_TRUE(fired.empty());
  clock_.Advance(seconds(1), *pool_);
  EXPECT_EQ(fired, (std::vector<int>{1, 2}));
  clock_.Advance(seconds(3600), *pool_);
  EXPECT_EQ(fired, (std::vector<int>{1, 2, 3}));
}

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
