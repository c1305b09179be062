// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/operations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "core/base/text.h"
#include "tests/support/refusing_store.h"
#include "tests/support/test_directory.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const auto kNever = [] { return false; };

class OperationsTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(); }

  void Start() {
    operations_.reset();
    store_.reset();
    auto store = state::OpenSqliteStore(scratch_.path().string());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::make_unique<testing::RefusingStore>(*std::move(store));
    operations_ = std::make_unique<Operations>(
        *store_, absl::InfiniteDuration(), [this](const OperationInfo& ended) {
          absl::MutexLock hold(&log_mutex_);
          log_.push_back(absl::StrCat(ended.id, " ", ended.kind, " ", ended.device, " ",
                                      Absl(NameOf(ended.state)), " ", ended.error));
        });
    operations_->AddKind("quick", [](OperationRun&) { return absl::OkStatus(); });
    operations_->AddKind("broken", [](OperationRun&) { return absl::DataLossError("the reason"); });
    // Runs until somebody ends it; its plan is the number of times it was started.
    operations_->AddKind("long", [this](OperationRun& run) {
      EXPECT_TRUE(run.KeepPlan(run.plan() + "x").ok());
      seen_plan_ = run.plan();
      run.Progress(512, 1024);
      while (run.Sleep(absl::Hours(1))) {
      }
      return absl::CancelledError("ended");
    });
    operations_->AddKind("finish", [](OperationRun& run) {
      run.NoWayBack("it is half done");
      run.Progress(1, 2);
      while (run.Sleep(absl::Hours(1))) {
      }
      return absl::CancelledError("ended");
    });
    operations_->Restore(store_->LoadAll()->operations);
  }

  OperationInfo Begin(const std::string& kind, const std::set<std::string>& devices = {}) {
    auto info = operations_->Start(kind, "vol", devices, "");
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? *info : OperationInfo{};
  }
  void WaitForProgress(int64_t id) {
    while (operations_->Get(id)->done_bytes == 0) absl::SleepFor(absl::Milliseconds(1));
  }

  // What has been told of those that have ended, once there is as much.
  std::vector<std::string> AwaitLog(size_t lines) {
    const auto told = [&] { return log_.size() >= lines; };
    absl::MutexLock hold(&log_mutex_, absl::Condition(&told));
    return log_;
  }

  TestDirectory scratch_{"/tmp"};
  std::string seen_plan_;
  absl::Mutex log_mutex_;
  std::vector<std::string> log_;
  std::unique_ptr<testing::RefusingStore> store_;
  std::unique_ptr<Operations> operations_;
};

TEST_F(OperationsTest, WhatEndsIsSaidWithItsOutcomeAndKept) {
  const int64_t good = Begin("quick").id;
  const int64_t bad = Begin("broken").id;
  EXPECT_EQ(operations_->Wait(good, kNever)->state, OperationState::kDone);
  EXPECT_EQ(operations_->Wait(bad, kNever)->state, OperationState::kFailed);
  Start();
  EXPECT_EQ(operations_->Get(good)->state, OperationState::kDone);
  EXPECT_EQ(operations_->Get(bad)->state, OperationState::kFailed);
  EXPECT_EQ(operations_->Get(bad)->error, "the reason");
  EXPECT_GE(operations_->Get(bad)->ended_unix_seconds, operations_->Get(bad)->started_unix_seconds);
}

TEST_F(OperationsTest, EachEndIsToldOnceAndAStopIsNone) {
  const int64_t good = Begin("quick").id;
  EXPECT_THAT(AwaitLog(1), ElementsAre(absl::StrCat(good, " quick vol done ")));
  const int64_t bad = Begin("broken").id;
  EXPECT_EQ(AwaitLog(2)[1], absl::StrCat(bad, " broken vol failed the reason"));
  const int64_t ended = Begin("long").id;
  WaitForProgress(ended);
  Start();
  WaitForProgress(ended);
  EXPECT_THAT(AwaitLog(2), SizeIs(2));
  ASSERT_TRUE(operations_->Cancel(ended).ok());
  EXPECT_EQ(AwaitLog(3)[2], absl::StrCat(ended, " long vol cancelled "));
}

// What it works on may be put to another use as soon as it is said to have failed.
TEST_F(OperationsTest, AnEndThatCannotBeKeptIsNoEnd) {
  absl::Notification full;
  std::atomic<int> times = 0;
  const auto broken = [&](OperationRun&) {
    ++times;
    full.WaitForNotification();
    return absl::DataLossError("the reason");
  };
  operations_->AddKind("broken", broken);
  const int64_t id = Begin("broken", {"vol"}).id;
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  full.Notify();
  EXPECT_THAT(AwaitLog(1), ElementsAre(absl::StrCat(id,
                                                    " broken vol running its end could not be "
                                                    "kept: disk full")));
  const OperationInfo info = *operations_->Get(id);
  EXPECT_EQ(info.state, OperationState::kRunning);
  EXPECT_THAT(info.error, HasSubstr("disk full"));
  EXPECT_EQ(operations_->CheckFree("vol").code(), absl::StatusCode::kFailedPrecondition);
  store_->Refuse(absl::OkStatus());
  EXPECT_EQ(operations_->Wait(id, kNever)->state, OperationState::kFailed);
  EXPECT_EQ(AwaitLog(2)[1], absl::StrCat(id, " broken vol failed the reason"));
  EXPECT_TRUE(operations_->CheckFree("vol").ok());
  Start();
  EXPECT_EQ(operations_->Get(id)->state, OperationState::kFailed);
  EXPECT_EQ(times, 1);
}

TEST_F(OperationsTest, WhatCouldNotBeKeptIsTriedOnceMoreAtAStop) {
  absl::Notification full;
  operations_->AddKind("quick", [&](OperationRun&) {
    full.WaitForNotification();
    return absl::OkStatus();
  });
  const int64_t id = Begin("quick").id;
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  full.Notify();
  AwaitLog(1);
  store_->Refuse(absl::OkStatus());
  operations_->Stop();
  EXPECT_EQ(store_->LoadAll()->operations[0].state, "done");
  Start();
  EXPECT_EQ(operations_->Get(id)->state, OperationState::kDone);
}

TEST_F(OperationsTest, AStopLeavesItRunningAndTheNextStartGoesOnWithItsPlan) {
  const int64_t id = Begin("long", {"vol"}).id;
  WaitForProgress(id);
  Start();
  WaitForProgress(id);
  EXPECT_EQ(seen_plan_, "xx");
  EXPECT_EQ(operations_->Get(id)->state, OperationState::kRunning);
  // Its devices are reserved again.
  EXPECT_EQ(operations_->Start("quick", "vol", {"vol"}, "").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(OperationsTest, ACancelledOneEndsAndIsNotStartedAgain) {
  const int64_t id = Begin("long", {"vol"}).id;
  WaitForProgress(id);
  EXPECT_TRUE(operations_->Cancel(id)->cancelling);
  EXPECT_EQ(operations_->Wait(id, kNever)->state, OperationState::kCancelled);
  EXPECT_TRUE(operations_->Start("quick", "vol", {"vol"}, "").ok());
  Start();
  EXPECT_EQ(operations_->Get(id)->state, OperationState::kCancelled);
  // To cancel what has ended changes nothing.
  EXPECT_EQ(operations_->Cancel(id)->state, OperationState::kCancelled);
}

TEST_F(OperationsTest, PastThePointOfNoReturnACancelIsRefusedWithTheReason) {
  const int64_t id = Begin("finish").id;
  WaitForProgress(id);
  EXPECT_THAT(std::string(operations_->Cancel(id).status().message()), HasSubstr("half done"));
}

TEST_F(OperationsTest, AfterACancelThereIsStillAWayBack) {
  absl::Notification cancelled;
  std::optional<bool> went_on;
  operations_->AddKind("late", [&](OperationRun& run) {
    cancelled.WaitForNotification();
    went_on = run.NoWayBack("it is half done");
    return absl::CancelledError("ended");
  });
  const int64_t id = Begin("late").id;
  ASSERT_TRUE(operations_->Cancel(id).ok());
  cancelled.Notify();
  EXPECT_EQ(operations_->Wait(id, kNever)->state, OperationState::kCancelled);
  EXPECT_EQ(went_on, false);
}

TEST_F(OperationsTest, ACancelIsRememberedAfterAKill) {
  absl::Notification killed;
  operations_->AddKind("long", [&](OperationRun&) {
    killed.WaitForNotification();
    return absl::CancelledError("ended");
  });
  const int64_t id = Begin("long").id;
  ASSERT_TRUE(operations_->Cancel(id).ok());
  // Nothing that happens from now on is kept.
  store_->Refuse(absl::UnavailableError("killed"));
  killed.Notify();
  Start();
  EXPECT_EQ(operations_->Wait(id, kNever)->state, OperationState::kCancelled);
}

TEST_F(OperationsTest, TwoNeverHaveOneDeviceAndTheRefusalSaysWhoHasIt) {
  const int64_t id = Begin("long", {"a", "b"}).id;
  const auto refused = operations_->Start("long", "vol", {"b", "c"}, "");
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr(absl::StrCat("operation ", id, " (long)")));
  EXPECT_FALSE(operations_->ReservedBy("c").has_value());
  {
    auto mine = operations_->Reserve({"c"}, "a snapshot");
    ASSERT_TRUE(mine.ok());
    EXPECT_FALSE(operations_->Start("long", "vol", {"c"}, "").ok());
  }
  EXPECT_TRUE(operations_->Start("quick", "vol", {"c"}, "").ok());
}

TEST_F(OperationsTest, WhoStartsTheSameAgainIsAnsweredTheOneThatRuns) {
  const int64_t id = Begin("finish", {"vol"}).id;
  EXPECT_EQ(Begin("finish", {"vol"}).id, id);
  EXPECT_THAT(operations_->List(), SizeIs(1));
  // Also after a restart.
  Start();
  EXPECT_EQ(Begin("finish", {"vol"}).id, id);
  const auto code = [&](const std::string& device, const std::set<std::string>& devices,
                        const std::string& plan) {
    return operations_->Start("finish", device, devices, plan).status().code();
  };
  EXPECT_EQ(code("other", {"vol"}, ""), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code("vol", {"vol", "more"}, ""), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code("vol", {"vol"}, "else"), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(operations_->Start("quick", "vol", {"vol"}, "").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(OperationsTest, OneThatEndsOrHasEndedIsNoAnswerToAStart) {
  absl::Notification cancelled;
  operations_->AddKind("long", [&](OperationRun&) {
    cancelled.WaitForNotification();
    return absl::CancelledError("ended");
  });
  const int64_t id = Begin("long", {"vol"}).id;
  ASSERT_TRUE(operations_->Cancel(id).ok());
  EXPECT_EQ(operations_->Start("long", "vol", {"vol"}, "").status().code(),
            absl::StatusCode::kFailedPrecondition);
  cancelled.Notify();
  EXPECT_EQ(operations_->Wait(id, kNever)->state, OperationState::kCancelled);
  EXPECT_NE(Begin("long", {"vol"}).id, id);
}

TEST_F(OperationsTest, AStartThatCannotBeKeptIsRefusedAndLeavesNothing) {
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(operations_->Start("quick", "vol", {"vol"}, "").status().code(),
            absl::StatusCode::kResourceExhausted);
  store_->Refuse(absl::OkStatus());
  EXPECT_THAT(operations_->List(), SizeIs(0));
  EXPECT_TRUE(operations_->Start("quick", "vol", {"vol"}, "").ok());
}

TEST_F(OperationsTest, OldEndedOnesAreForgotten) {
  for (size_t i = 0; i < kEndedKeptMax + 20; ++i) {
    const int64_t id = Begin("quick").id;
    static_cast<void>(operations_->Wait(id, kNever));
  }
  // The last few may not have been over when others were counted.
  EXPECT_LE(operations_->List().size(), kEndedKeptMax + kOperationsRunningMax);
  EXPECT_EQ(operations_->Get(1).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->LoadAll()->operations.size(), operations_->List().size());
}

}  // namespace
}  // namespace sectormap::volumes
