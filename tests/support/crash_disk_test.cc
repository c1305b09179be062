// SPDX-License-Identifier: Apache-2.0
#include "tests/support/crash_disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/async/reactor_pool.h"
#include "core/async/when_all.h"

namespace sectormap {
namespace {

using testing::UnorderedElementsAre;

class CrashDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    disk_ = recorder_.AddDisk(SectorCount(4));
    other_ = recorder_.AddDisk(SectorCount(4));
  }

  static std::vector<std::byte> Marked(uint64_t sectors, char mark) {
    return std::vector<std::byte>(sectors * kSectorBytes, static_cast<std::byte>(mark));
  }
  void Write(CrashDisk& disk, uint64_t first, uint64_t count, char mark, bool fua = false) {
    std::vector<std::byte> data = Marked(count, mark);
    ASSERT_EQ(reactors_->RunOn(
                  0, [&] { return disk.Submit(IoRequest::Write(Sector(first), data, fua)); }),
              IoStatus::kOk);
  }
  void Flush(CrashDisk& disk) {
    ASSERT_EQ(reactors_->RunOn(0, [&] { return disk.Submit(IoRequest::Flush()); }), IoStatus::kOk);
  }

  // A letter for each sector of both disks; '.' for zeroes.
  static std::string Letters(const CrashState& state) {
    std::string letters;
    for (const std::vector<std::byte>& disk : state) {
      for (size_t place = 0; place < disk.size(); place += kSectorBytes) {
        const char letter = static_cast<char>(disk[place]);
        letters.push_back(letter == 0 ? '.' : letter);
      }
    }
    return letters;
  }
  // Every state after `point` events.
  std::multiset<std::string> StatesAt(uint64_t point) {
    CrashCursor cursor(recorder_);
    cursor.MoveTo(point);
    std::multiset<std::string> states;
    EXPECT_TRUE(cursor.VisitAll(
        1000, [&states](const CrashState& state) { states.insert(Letters(state)); }));
    return states;
  }
  std::multiset<std::string> States() { return StatesAt(recorder_.now()); }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> reactors_;
  Random random_;
  CrashRecorder recorder_{random_.seed()};
  std::shared_ptr<CrashDisk> disk_;
  std::shared_ptr<CrashDisk> other_;
};

TEST_F(CrashDiskTest, AWriteMayBeThereInAnyOfItsSectorsUntilAFlush) {
  Write(*disk_, 1, 2, 'a');
  EXPECT_THAT(States(), UnorderedElementsAre("........", ".a......", "..a.....", ".aa....."));
  Flush(*disk_);
  EXPECT_THAT(States(), UnorderedElementsAre(".aa....."));
}

TEST_F(CrashDiskTest, AFlushThatHasNotEndedPromisesNothing) {
  Write(*disk_, 0, 1, 'a');
  Flush(*disk_);
  EXPECT_THAT(StatesAt(recorder_.now() - 1), UnorderedElementsAre("........", "a......."));
}

TEST_F(CrashDiskTest, AFlushIsForItsOwnDiskOnly) {
  Write(*disk_, 0, 1, 'a');
  Flush(*other_);
  EXPECT_THAT(States(), UnorderedElementsAre("........", "a......."));
}

TEST_F(CrashDiskTest, AForcedWriteIsThereWhenItHasEndedAndTakesNobodyAlong) {
  Write(*disk_, 0, 1, 'a');
  Write(*disk_, 1, 1, 'b', true);
  EXPECT_THAT(States(), UnorderedElementsAre(".b......", "ab......"));
  EXPECT_THAT(StatesAt(recorder_.now() - 1),
              UnorderedElementsAre("........", "a.......", ".b......", "ab......"));
}

TEST_F(CrashDiskTest, AnOlderWriteNeverComesBackOverAForcedOne) {
  Write(*disk_, 0, 2, 'a');
  Write(*disk_, 1, 1, 'b', true);
  EXPECT_THAT(States(), UnorderedElementsAre(".b......", "ab......"));
  Flush(*disk_);
  EXPECT_THAT(States(), UnorderedElementsAre("ab......"));
}

TEST_F(CrashDiskTest, EveryOneOfSeveralUncertainWritesMayBeTheLastOfASector) {
  Write(*disk_, 0, 1, 'a');
  Flush(*disk_);
  Write(*disk_, 0, 1, 'b');
  Write(*disk_, 0, 1, 'c');
  EXPECT_THAT(States(), UnorderedElementsAre("a.......", "b.......", "c......."));
}

TEST_F(CrashDiskTest, DisksShareOneOrderOfEvents) {
  Write(*disk_, 0, 1, 'a', true);
  const uint64_t between = recorder_.now();
  Write(*other_, 0, 1, 'b', true);
  EXPECT_THAT(StatesAt(between), UnorderedElementsAre("a......."));
  EXPECT_THAT(States(), UnorderedElementsAre("a...b..."));
}

TEST_F(CrashDiskTest, ZeroesAreWritesToo) {
  Write(*disk_, 0, 4, 'a');
  Flush(*disk_);
  ASSERT_EQ(reactors_->RunOn(
                0, [&] { return disk_->Submit(IoRequest::Discard(Sector(3), SectorCount(1))); }),
            IoStatus::kOk);
  EXPECT_THAT(States(), UnorderedElementsAre("aaaa....", "aaa....."));
}

TEST_F(CrashDiskTest, WhatWasPresetIsThereFromTheStart) {
  disk_->Preset(Marked(4, 'p'));
  Write(*disk_, 1, 1, 'a', true);
  EXPECT_THAT(StatesAt(0), UnorderedElementsAre("pppp...."));
  EXPECT_THAT(States(), UnorderedElementsAre("papp...."));
}

TEST_F(CrashDiskTest, TooManyStatesAreRefusedNotCutShort) {
  Write(*disk_, 0, 4, 'a');
  CrashCursor cursor(recorder_);
  cursor.MoveTo(recorder_.now());
  EXPECT_FALSE(cursor.VisitAll(15, [](const CrashState&) { ADD_FAILURE(); }));
  EXPECT_EQ(cursor.uncertain_sectors(), 4u);
}

TEST_F(CrashDiskTest, SamplesAreStatesAndReachThemAll) {
  Write(*disk_, 0, 1, 'a');
  Flush(*disk_);
  Write(*disk_, 0, 2, 'b');
  Write(*other_, 3, 1, 'c');
  const std::multiset<std::string> all = States();
  EXPECT_EQ(all.size(), 8u);
  CrashCursor cursor(recorder_);
  cursor.MoveTo(recorder_.now());
  std::set<std::string> sampled;
  for (int i = 0; i < 2000; ++i) sampled.insert(Letters(cursor.Sample(random_)));
  EXPECT_THAT(sampled, testing::ElementsAreArray(std::set<std::string>(all.begin(), all.end())));
}

// Overlapping requests: a flush that begins while a write is in flight is not for it.
TEST_F(CrashDiskTest, DelayedRequestsEndInAnotherOrderAndAFlushKnowsWhichItIsFor) {
  recorder_.SetDelay(20);
  std::vector<std::byte> data = Marked(1, 'a');
  bool seen_uncertain = false;
  for (int i = 0; i < 200 && !seen_uncertain; ++i) {
    auto both = [](CrashDisk& disk, std::span<std::byte> bytes) -> Task<IoStatus> {
      std::vector<Task<IoStatus>> children;
      children.push_back(disk.Submit(IoRequest::Write(Sector(0), bytes)));
      children.push_back(disk.Submit(IoRequest::Flush()));
      co_return co_await WhenAll(std::move(children));
    };
    ASSERT_EQ(reactors_->RunOn(0, [&] { return both(*disk_, data); }), IoStatus::kOk);
    CrashCursor cursor(recorder_);
    cursor.MoveTo(recorder_.now());
    seen_uncertain = cursor.uncertain_sectors() == 1;
  }
  EXPECT_TRUE(seen_uncertain);
  recorder_.SetDelay(0);
  Flush(*disk_);
  EXPECT_THAT(States(), UnorderedElementsAre("a......."));
}

TEST_F(CrashDiskTest, CountsWhatItWasAskedFor) {
  Write(*disk_, 0, 1, 'a');
  Flush(*disk_);
  Flush(*disk_);
  EXPECT_EQ(recorder_.CountOf(disk_->index(), IoOp::kWrite), 1u);
  EXPECT_EQ(recorder_.CountOf(disk_->index(), IoOp::kFlush), 2u);
  EXPECT_EQ(recorder_.CountOf(other_->index(), IoOp::kFlush), 0u);
}

TEST_F(CrashDiskTest, AStateCanBeGoneOnWith) {
  Write(*disk_, 2, 1, 'a', true);
  CrashCursor cursor(recorder_);
  cursor.MoveTo(recorder_.now());
  const CrashState state = cursor.Sample(random_);
  const std::shared_ptr<MemoryDevice> reopened = DiskOf(state[disk_->index()]);
  EXPECT_EQ(reopened->size(), SectorCount(4));
  EXPECT_EQ(static_cast<char>(reopened->bytes()[2 * kSectorBytes]), 'a');
}

}  // namespace
}  // namespace sectormap
