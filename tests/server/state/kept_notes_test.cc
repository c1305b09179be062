// SPDX-License-Identifier: Apache-2.0
#include "server/state/kept_notes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/async/clock.h"
#include "core/async/reactor_pool.h"
#include "tests/support/refusing_store.h"
#include "tests/support/test_directory.h"

namespace sectormap::state {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class KeptNotesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    reactors_ = *ReactorPool::Start(1, clock_);
    store_ = std::make_unique<testing::RefusingStore>(*OpenSqliteStore(scratch_.path().string()));
    Start();
  }
  // With what a kill would have left.
  void Start() {
    notes_.reset();
    notes_ = std::make_unique<KeptNotes>(*store_);
    notes_->Restore(InStore());
  }
  std::vector<std::string> InStore() { return store_->LoadAll()->notes; }
  void Put(const std::string& note) {
    reactors_->RunOn(0, [&] { return notes_->Put(note); });
  }
  void Remove(const std::string& note) {
    reactors_->RunOn(0, [&] { return notes_->Remove(note); });
  }

  SteadyClock clock_;
  TestDirectory scratch_{"/tmp"};
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<testing::RefusingStore> store_;
  std::unique_ptr<KeptNotes> notes_;
};

TEST_F(KeptNotesTest, ANoteIsInTheStoreWhenPutEnds) {
  Put("a");
  Put("b");
  Put("a");
  EXPECT_THAT(InStore(), ElementsAre("a", "b"));
  Remove("a");
  Remove("c");
  EXPECT_THAT(InStore(), ElementsAre("b"));
  Start();
  EXPECT_TRUE(notes_->Has("b"));
  EXPECT_FALSE(notes_->Has("a"));
}

TEST_F(KeptNotesTest, WhatTheStoreRefusesHoldsUpNobodyAndIsThereAllTheSame) {
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  Put("a");
  EXPECT_TRUE(notes_->Has("a"));
  EXPECT_THAT(InStore(), IsEmpty());
}

TEST_F(KeptNotesTest, WhatWasRefusedComesWithTheNextNote) {
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  Put("a");
  store_->Refuse(absl::OkStatus());
  Put("b");
  EXPECT_THAT(InStore(), ElementsAre("a", "b"));
}

TEST_F(KeptNotesTest, WhatWasRefusedIsTriedAgainAtTheEnd) {
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  Put("a");
  store_->Refuse(absl::OkStatus());
  notes_.reset();
  EXPECT_THAT(InStore(), ElementsAre("a"));
}

}  // namespace
}  // namespace sectormap::state
