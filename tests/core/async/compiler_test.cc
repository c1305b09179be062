// SPDX-License-Identifier: Apache-2.0
// Every coroutine shape that a compiler is known to have got wrong (g++ 12.2: wrong result, double
// free, internal error; without a good Task: stack overflow). The build uses one that is right;
// this keeps it so. Each shape runs with children that are values, that finish at once, and that
// suspend.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/async/task.h"
#include "core/async/when_all.h"

namespace sectormap {
namespace {

enum class Child { kValue, kAtOnce, kSuspends };

class CompilerTest : public testing::TestWithParam<Child> {
 protected:
  static void SetUpTestSuite() {
    clock_ = new SteadyClock;
    auto pool = ReactorPool::Start(1, *clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = pool->release();
  }
  static void TearDownTestSuite() {
    delete pool_;
    delete clock_;
  }
  template <typename T>
  T Run(Task<T> task) {
    return pool_->RunOn(0, std::move(task));
  }

  static SteadyClock* clock_;
  static ReactorPool* pool_;
};
SteadyClock* CompilerTest::clock_ = nullptr;
ReactorPool* CompilerTest::pool_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Children, CompilerTest,
                         testing::Values(Child::kValue, Child::kAtOnce, Child::kSuspends),
                         [](const testing::TestParamInfo<Child>& info) {
                           switch (info.param) {
                             case Child::kValue:
                               return "Values";
                             case Child::kAtOnce:
                               return "AtOnce";
                             case Child::kSuspends:
                               return "Suspending";
                           }
                           return "";
                         });

template <typename T>
Task<T> Later(T value) {
  co_await Reactor::Current().Sleep(std::chrono::microseconds(1));
  co_return value;
}
template <typename T>
Task<T> AtOnce(T value) {
  co_return value;
}
template <typename T>
Task<T> Give(Child child, T value) {
  switch (child) {
    case Child::kValue:
      return value;
    case Child::kAtOnce:
      return AtOnce(std::move(value));
    case Child::kSuspends:
      return Later(std::move(value));
  }
  return value;
}

// --- co_await in conditions ---

Task<int> InIf(Child child, int value) {
  if (co_await Give(child, value) == 1) co_return 1;
  co_return 0;
}
Task<int> InIfBool(Child child, bool value) {
  if (co_await Give(child, value)) co_return 1;
  co_return 0;
}
Task<int> InIfNot(Child child, bool value) {
  if (!co_await Give(child, value)) co_return 1;
  co_return 0;
}
Task<int> InAnd(Child child, bool first, bool second) {
  if (co_await Give(child, first) && co_await Give(child, second)) co_return 1;
  co_return 0;
}
Task<int> InOr(Child child, bool first, bool second) {
  if (co_await Give(child, first) || co_await Give(child, second)) co_return 1;
  co_return 0;
}
Task<int> InSwitch(Child child, int value) {
  switch (co_await Give(child, value)) {
    case 1:
      co_return 10;
    case 2:
      co_return 20;
    default:
      co_return 30;
  }
}
Task<int> InConditional(Child child, bool value) {
  co_return co_await Give(child, value) ? co_await Give(child, 1) : co_await Give(child, 2);
}
Task<int> InIfWithName(Child child, int value) {
  if (int got = co_await Give(child, value); got == 1) co_return got;
  co_return 0;
}
Task<int> InWhile(Child child, int times) {
  int left = times;
  int turns = 0;
  while (co_await Give(child, left) > 0) {
    --left;
    ++turns;
  }
  co_return turns;
}
Task<int> InFor(Child child, int times) {
  int turns = 0;
  for (int i = 0; i < co_await Give(child, times); ++i) ++turns;
  co_return turns;
}

TEST_P(CompilerTest, ConditionsTakeTheRightBranch) {
  const Child child = GetParam();
  EXPECT_EQ(Run(InIf(child, 1)), 1);
  EXPECT_EQ(Run(InIf(child, 2)), 0);
  EXPECT_EQ(Run(InIfBool(child, true)), 1);
  EXPECT_EQ(Run(InIfBool(child, false)), 0);
  EXPECT_EQ(Run(InIfNot(child, true)), 0);
  EXPECT_EQ(Run(InIfNot(child, false)), 1);
  EXPECT_EQ(Run(InAnd(child, true, true)), 1);
  EXPECT_EQ(Run(InAnd(child, true, false)), 0);
  EXPECT_EQ(Run(InOr(child, false, true)), 1);
  EXPECT_EQ(Run(InOr(child, false, false)), 0);
  EXPECT_EQ(Run(InSwitch(child, 1)), 10);
  EXPECT_EQ(Run(InSwitch(child, 2)), 20);
  EXPECT_EQ(Run(InSwitch(child, 3)), 30);
  EXPECT_EQ(Run(InConditional(child, true)), 1);
  EXPECT_EQ(Run(InConditional(child, false)), 2);
  EXPECT_EQ(Run(InIfWithName(child, 1)), 1);
  EXPECT_EQ(Run(InWhile(child, 5)), 5);
  EXPECT_EQ(Run(InFor(child, 4)), 4);
}

// --- Temporaries in the awaited call ---

struct Aggregate {
  std::string name;
  std::shared_ptr<int> counted;
};
const std::string kLong(100, 'x');  // longer than a string keeps inside itself

Task<size_t> TakeAggregate(Child child, Aggregate aggregate) {
  co_return co_await Give(child, aggregate.name.size());
}
Task<size_t> TakeAggregateByReference(Child child, const Aggregate& aggregate) {
  const size_t waited = co_await Give(child, size_t{0});
  co_return waited + aggregate.name.size();
}
Task<size_t> TakeArray(Child child, std::array<std::string, 2> texts) {
  const size_t waited = co_await Give(child, size_t{0});
  co_return waited + texts[0].size() + texts[1].size();
}
Task<size_t> TakeVector(Child child, std::vector<std::string> texts) {
  const size_t waited = co_await Give(child, size_t{0});
  co_return waited + texts.size() + texts.back().size();
}
Task<size_t> TakeFunction(Child child, std::function<size_t()> call) {
  const size_t waited = co_await Give(child, size_t{0});
  co_return waited + call();
}
Task<size_t> TakeUnique(Child child, std::unique_ptr<std::string> text) {
  const size_t waited = co_await Give(child, size_t{0});
  co_return waited + text->size();
}
Task<size_t> TakePair(Child child, std::pair<std::string, std::string> texts) {
  const size_t waited = co_await Give(child, size_t{0});
  co_return waited + texts.first.size() + texts.second.size();
}

Task<size_t> AwaitWithTemporaries(Child child, std::shared_ptr<int> counted) {
  size_t sum = 0;
  sum += co_await TakeAggregate(child, Aggregate{.name = kLong, .counted = counted});
  sum += co_await TakeAggregateByReference(child, Aggregate{.name = kLong, .counted = counted});
  sum += co_await TakeArray(child, {kLong, kLong});
  sum += co_await TakeVector(child, {kLong, kLong});
  sum += co_await TakeFunction(child, [counted, text = kLong] { return text.size(); });
  sum += co_await TakeUnique(child, std::make_unique<std::string>(kLong));
  sum += co_await TakePair(child, {kLong, kLong});
  co_return sum;
}

TEST_P(CompilerTest, TemporariesInTheAwaitedCallAreMadeAndDestroyedOnce) {
  auto counted = std::make_shared<int>(0);
  EXPECT_EQ(Run(AwaitWithTemporaries(GetParam(), counted)), 902u);
  EXPECT_EQ(counted.use_count(), 1);
}

// --- Locals and results ---

Task<std::unique_ptr<std::string>> GiveUnique(Child child) {
  auto text = std::make_unique<std::string>(kLong);
  const int waited = co_await Give(child, 1);
  text->resize(static_cast<size_t>(waited));
  co_return text;
}
Task<size_t> MoveOnlyResults(Child child) {
  std::unique_ptr<std::string> first = co_await GiveUnique(child);
  const auto [a, b] = co_await Give(child, std::pair<int, int>(1, 2));
  std::map<int, std::string> texts;
  texts[co_await Give(child, 7)] = co_await Give(child, kLong);
  co_return first->size() + texts.at(7).size() + static_cast<size_t>(a + b);
}
TEST_P(CompilerTest, ResultsMoveOutWhole) { EXPECT_EQ(Run(MoveOnlyResults(GetParam())), 104u); }

struct Noted {
  explicit Noted(std::string& text) : text_(text) { text_ += '('; }
  Noted(const Noted&) = delete;
  Noted& operator=(const Noted&) = delete;
  ~Noted() { text_ += ')'; }
  std::string& text_;
};
Task<int> EarlyReturn(Child child, std::string& text, int stop) {
  Noted outer(text);
  for (int i = 0; i < 3; ++i) {
    Noted inner(text);
    if (co_await Give(child, i) == stop) co_return i;
    text += '.';
  }
  co_return -1;
}
TEST_P(CompilerTest, LocalsAreDestroyedOnEveryWayOut) {
  std::string text;
  EXPECT_EQ(Run(EarlyReturn(GetParam(), text, 1)), 1);
  EXPECT_EQ(text, "((.)())");
  text.clear();
  EXPECT_EQ(Run(EarlyReturn(GetParam(), text, 9)), -1);
  EXPECT_EQ(text, "((.)(.)(.))");
}

// --- Depth and number ---

Task<uint64_t> Loop(Child child, uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) sum += co_await Give(child, uint64_t{1});
  co_return sum;
}
TEST_P(CompilerTest, ALongLoopNeedsConstantStack) {
  const uint64_t count = GetParam() == Child::kSuspends ? 2000 : 1'000'000;
  EXPECT_EQ(Run(Loop(GetParam(), count)), count);
}

Task<uint64_t> Nest(Child child, uint64_t depth) {
  if (depth == 0) co_return co_await Give(child, uint64_t{0});
  co_return 1 + co_await Nest(child, depth - 1);
}
TEST_P(CompilerTest, ADeepNestReturnsThroughEveryLevel) {
  EXPECT_EQ(Run(Nest(GetParam(), 1000)), 1000u);
}

Task<IoStatus> All(Child child, int count) {
  std::vector<Task<IoStatus>> children;
  for (int i = 0; i < count; ++i) {
    children.push_back(Give(child, i == 7 ? IoStatus::kNoSpace : IoStatus::kOk));
  }
  co_return co_await WhenAll(std::move(children));
}
TEST_P(CompilerTest, WhenAllWaitsForEveryChild) {
  EXPECT_EQ(Run(All(GetParam(), 0)), IoStatus::kOk);
  EXPECT_EQ(Run(All(GetParam(), 5)), IoStatus::kOk);
  EXPECT_EQ(Run(All(GetParam(), 100)), IoStatus::kNoSpace);
}

TEST(TaskTest, AValueIsImmediateAndACoroutineIsNot) {
  EXPECT_TRUE(Give(Child::kValue, 1).immediate());
  EXPECT_FALSE(Give(Child::kAtOnce, 1).immediate());
}

TEST(TaskTest, ATaskThatWasNeverAwaitedGivesItsArgumentsBack) {
  auto counted = std::make_shared<int>(0);
  {
    Task<size_t> never =
        TakeAggregate(Child::kAtOnce, Aggregate{.name = kLong, .counted = counted});
    EXPECT_EQ(counted.use_count(), 2);
  }
  EXPECT_EQ(counted.use_count(), 1);
}

}  // namespace
}  // namespace sectormap
