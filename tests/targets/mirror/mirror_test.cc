// SPDX-License-Identifier: Apache-2.0
// The mirror as its users see it: words, states, who is written and read, what a failure does.
#include "absl/strings/str_cat.h"
#include "targets/mirror/recovery.h"
#include "tests/support/manual_clock.h"
#include "tests/targets/mirror/mirror_fixture.h"

namespace sectormap::targets {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using MirrorTest = MirrorFixture;

// --- Words ---

TEST_F(MirrorTest, PrintsTableAndStatusAsTheKernel) {
  Use("core 1 1024 2 a 0 b 0");
  EXPECT_EQ(Table(), "core 1 1024 2 a 0 b 0");
  WaitForStatus("2 a b 16/16 1 AA 1 core");
  Use("core 2 1024 nosync 2 a 0 b 0 1 handle_errors");
  EXPECT_EQ(Table(), "core 1 1024 2 a 0 b 0 1 handle_errors");
  EXPECT_EQ(Status(), "2 a b 16/16 1 AA 1 core");
  Use("core 2 1024 nosync 2 a 0 b 0 2 keep_log handle_errors");
  EXPECT_EQ(Table(), "core 1 1024 2 a 0 b 0 2 handle_errors keep_log");
  ASSERT_EQ(Load("0 8192 mirror core 2 64 nosync 3 a 0 a 8192 b 0"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(Status(), "3 a a b 128/128 1 AAA 1 core");
  Use("disk 2 log 1024 2 a 0 b 0 1 handle_errors");
  EXPECT_EQ(Table(), "disk 2 log 1024 2 a 0 b 0 1 handle_errors");
  WaitForStatus("2 a b 16/16 1 AA 3 disk log A");
}

TEST_F(MirrorTest, CountsAShortLastRegion) {
  ASSERT_EQ(Load("0 10000 mirror core 2 1024 nosync 2 a 0 b 0"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(Status(), "2 a b 10/10 1 AA 1 core");
}

TEST_F(MirrorTest, TakesNineLegs) {
  std::string legs;
  for (int i = 0; i < 9; ++i) legs += absl::StrCat(" a ", 1024 * i);
  ASSERT_EQ(Load("0 1024 mirror core 1 1024 9" + legs), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForStatus("9 a a a a a a a a a 1/1 1 AAAAAAAAA 1 core");
}

TEST_F(MirrorTest, RefusesBadArgumentsInTheKernelsWords) {
  const auto refusal = [this](std::string_view words) {
    return Refusal("0 16384 mirror " + std::string(words));
  };
  constexpr const char* kLog = "line 1: mirror: Error creating mirror dirty log";
  EXPECT_THAT(refusal(""), HasSubstr("line 1: mirror: Insufficient mirror log arguments"));
  EXPECT_THAT(refusal("core x 1024 2 a 0 b 0"), HasSubstr("Invalid mirror log argument count"));
  EXPECT_THAT(refusal("foo 1 1024 2 a 0 b 0"), HasSubstr(kLog));
  EXPECT_THAT(refusal("core 0 2 a 0 b 0"),
              AllOf(HasSubstr(kLog), HasSubstr("wrong number of arguments to dirty region log")));
  EXPECT_THAT(refusal("core 3 1024 nosync foo 2 a 0 b 0"), HasSubstr(kLog));
  EXPECT_THAT(
      refusal("core 2 1024 foo 2 a 0 b 0"),
      AllOf(HasSubstr(kLog), HasSubstr("unrecognised sync argument to dirty region log: foo")));
  for (const char* size : {"1000", "0", "1", "32768", "x", "-4"}) {
    EXPECT_THAT(refusal(absl::StrCat("core 1 ", size, " 2 a 0 b 0")),
                AllOf(HasSubstr(kLog), HasSubstr(absl::StrCat("invalid region size ", size))));
  }
  EXPECT_THAT(refusal("core 99 1024 2 a 0 b 0"), HasSubstr("Insufficient mirror log arguments"));
  EXPECT_THAT(refusal("core 1 1024 1 a 0"), HasSubstr("Invalid number of mirrors"));
  EXPECT_THAT(refusal("core 1 1024 10 a 0 a 0 a 0 a 0 a 0 a 0 a 0 a 0 a 0 a 0"),
              HasSubstr("Invalid number of mirrors"));
  EXPECT_THAT(refusal("core 1 1024"), HasSubstr("Invalid number of mirrors"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0"), HasSubstr("Too few mirror arguments"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b x"), HasSubstr("Invalid offset"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 nowhere 0"), HasSubstr("Device lookup failure"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b 8"),
              HasSubstr("b too small for target: start=8, len=16384, dev_size=16384"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b 0 1 foo"), HasSubstr("Unrecognised feature requested"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b 0 1 keep_log"),
              HasSubstr("keep_log feature requires the handle_errors feature"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b 0 2 handle_errors"),
              HasSubstr("Not enough arguments to support feature count"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b 0 x"), HasSubstr("Invalid number of features"));
  EXPECT_THAT(refusal("core 1 1024 2 a 0 b 0 1 handle_errors 7"),
              HasSubstr("Too many mirror arguments"));
  EXPECT_THAT(
      refusal("disk 1 1024 2 a 0 b 0"),
      AllOf(HasSubstr(kLog), HasSubstr("wrong number of arguments to disk dirty region log")));
  EXPECT_THAT(refusal("disk 2 nowhere 1024 2 a 0 b 0"), HasSubstr(kLog));
  AddDisk("tiny", SectorCount(2));
  EXPECT_THAT(refusal("disk 2 tiny 1024 2 a 0 b 0"),
              AllOf(HasSubstr(kLog), HasSubstr("log device tiny too small: need 1536 bytes")));
  AddDisk("small", SectorCount(3));
  EXPECT_EQ(refusal("disk 2 small 1024 2 a 0 b 0"), "");
}

TEST_F(MirrorTest, SyncAndNosyncHoldForTheFirstResumeOnly) {
  ASSERT_EQ(Load("0 16384 mirror core 2 1024 nosync 2 a 0 b 0"), absl::OkStatus());
  EXPECT_THAT(device_->table(TableSlot::kInactive)->TableText(),
              HasSubstr("core 2 1024 nosync 2 a 0 b 0"));
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(Table(), "core 1 1024 2 a 0 b 0");
  Use("disk 3 log 1024 sync 2 a 0 b 0");
  EXPECT_EQ(Table(), "disk 2 log 1024 2 a 0 b 0");
  WaitForStatus("2 a b 16/16 1 AA 3 disk log A");
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(Status(), "2 a b 16/16 1 AA 3 disk log A") << "not synced again";
}

TEST_F(MirrorTest, TakesItsMessageOnly) {
  Use("core 1 1024 2 a 0 b 0");
  const auto table = device_->table(TableSlot::kLive);
  EXPECT_TRUE(table->Message(Sector(0), "recovery_rate 1000000").ok());
  EXPECT_TRUE(table->Message(Sector(0), "recovery_rate 0").ok());
  for (const char* bad : {"recovery_rate", "recovery_rate x", "recovery_rate -1", "foo 1"}) {
    EXPECT_FALSE(table->Message(Sector(0), bad).ok()) << bad;
  }
}

// --- What the table before knew ---

class WholeLegsTest : public MirrorFixture {
 protected:
  void SetUp() override {
    MirrorFixture::SetUp();
    for (const char* leg : {"a", "b"}) std::ranges::fill(disk(leg).bytes(), std::byte{1});
  }
  // A new table, and what it is told before its first resume.
  void UseWith(std::string_view words, std::string_view message) {
    ASSERT_EQ(Load("0 16384 mirror " + std::string(words)), absl::OkStatus());
    const auto told = device_->table(TableSlot::kInactive)->Message(Sector(0), message);
    ASSERT_TRUE(told.ok()) << told.status();
    ASSERT_EQ(device_->Resume(), absl::OkStatus());
  }
};

TEST_F(WholeLegsTest, WhoIsWholeIsReadAndWrittenFromTheBeginning) {
  for (const char* log : {"core 1", "disk 3 log"}) {
    SCOPED_TRACE(log);
    disk("a").Fail({.op = IoOp::kRead, .first = Sector(5200), .end = Sector(5208)});
    disk("c").Hold(IoOp::kWrite);
    const std::string sync = log[0] == 'd' ? " sync" : "";
    UseWith(absl::StrCat(log, " 1024", sync, " 3 a 0 b 0 c 0 1 handle_errors"), "whole_legs 0 1");
    WaitUntil([&] { return disk("c").holding() == kRegionsInRecovery; });
    EXPECT_EQ(At(5200), 1) << "the second leg has it";
    EXPECT_EQ(Fill(5300, 8, 7), IoStatus::kOk);
    EXPECT_EQ(disk("b").At(5300), 7);
    disk("c").Release();
    WaitForStatus(absl::StrCat("3 a b c 16/16 1 AAA ", log[0] == 'd' ? "3 disk log A" : "1 core"));
    EXPECT_TRUE(Same("b", "c"));
    EXPECT_EQ(disk("c").At(5200), 1) << "copied from the second leg";
    disk("a").Heal();
    EXPECT_EQ(Fill(5300, 8, 1), IoStatus::kOk);
  }
}

TEST_F(WholeLegsTest, RegionsOfALogThatAreDirtyBecomeCleanWithoutACopy) {
  UseWith("disk 3 log 1024 sync 2 a 0 b 0", "whole_legs 0 1");
  EXPECT_EQ(Status(), "2 a b 16/16 1 AA 3 disk log A");
  EXPECT_EQ(LogBits(), 0u) << "after a crash the first leg counts";
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
  EXPECT_EQ(LogBits(), 0xffffu);
  EXPECT_EQ(disk("b").CountOf(IoOp::kWrite), 0);
}

TEST_F(WholeLegsTest, ItIsForTheFirstResumeAndFromWhoKnows) {
  ASSERT_EQ(Load("0 16384 mirror core 1 1024 3 a 0 b 0 c 0"), absl::OkStatus());
  const auto table = device_->table(TableSlot::kInactive);
  for (const char* bad : {"whole_legs 0 3", "whole_legs 1 2", "whole_legs x", "whole_legs 0 -1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(table->Message(Sector(0), bad).status())) << bad;
  }
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  const auto late = table->Message(Sector(0), "whole_legs 0 1");
  EXPECT_TRUE(absl::IsFailedPrecondition(late.status())) << late.status();
  WaitForStatus("3 a b c 16/16 1 AAA 1 core");
}

// --- Recovery and who is written ---

TEST_F(MirrorTest, RecoveryCopiesThePrimaryToEveryOtherLegAndTells) {
  for (uint64_t sector = 0; sector < kLength; ++sector) {
    disk("a").bytes()[sector * 512] = static_cast<std::byte>(sector % 251 + 1);
  }
  const uint32_t before = events();
  Use("core 1 1024 3 a 0 b 0 c 0");
  WaitForStatus("3 a b c 16/16 1 AAA 1 core");
  EXPECT_TRUE(Same("a", "b"));
  EXPECT_TRUE(Same("a", "c"));
  WaitUntil([&] { return events() == before + 1; });
}

TEST_F(MirrorTest, NothingIsCopiedBeforeTheTableIsLiveNorOfWhatIsInSync) {
  ASSERT_EQ(Load("0 16384 mirror core 1 1024 2 a 0 b 0"), absl::OkStatus());
  Settle();
  EXPECT_EQ(disk("a").TakeSeen().size(), 0u);
  Use("core 2 1024 nosync 2 a 0 b 0");
  Settle();
  EXPECT_EQ(disk("a").CountOf(IoOp::kRead), 0);
  EXPECT_EQ(disk("b").CountOf(IoOp::kWrite), 0);
}

TEST_F(MirrorTest, AWriteToARegionInSyncGoesToAllLegsAtTheirOffsets) {
  ASSERT_EQ(Load("0 8192 mirror core 2 1024 nosync 2 a 100 b 8"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(Fill(5000, 3, 7, /*fua=*/true), IoStatus::kOk);
  EXPECT_EQ(disk("a").At(5100), 7);
  EXPECT_EQ(disk("b").At(5008), 7);
  EXPECT_TRUE(disk("b").TakeSeen().back().force_unit_access);
  EXPECT_EQ(At(5001), 7);
}

TEST_F(MirrorTest, AWriteToARegionOutOfSyncGoesToThePrimaryOnly) {
  disk("b").Hold(IoOp::kWrite);  // recovery stays in its first regions
  Use("core 1 1024 2 a 0 b 0");
  WaitUntil([&] { return disk("b").holding() == 4; });
  disk("b").TakeSeen();
  EXPECT_EQ(Fill(15 * kRegion + 5, 1, 7), IoStatus::kOk);
  EXPECT_EQ(disk("a").At(15 * kRegion + 5), 7);
  EXPECT_EQ(disk("b").CountOf(IoOp::kWrite), 0);
  disk("b").Release();
  WaitForStatus("2 a b 16/16 1 AA 1 core");
  EXPECT_TRUE(Same("a", "b"));
}

TEST_F(MirrorTest, AWriteToARegionInRecoveryWaitsForIt) {
  disk("b").Hold(IoOp::kWrite);
  Use("core 1 1024 2 a 0 b 0");
  WaitUntil([&] { return disk("b").holding() == 4; });
  Pending& write = StartFill(5, 1, 7);
  Settle();
  EXPECT_FALSE(write.done());
  EXPECT_EQ(disk("a").At(5), 0);
  EXPECT_EQ(At(5), 0) << "reads do not wait";
  disk("b").Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(disk("a").At(5), 7);
  EXPECT_EQ(disk("b").At(5), 7);
}

TEST_F(MirrorTest, RecoveryWaitsForTheWritesInItsRegion) {
  ASSERT_EQ(Load("0 16384 mirror core 1 1024 2 a 0 b 0"), absl::OkStatus());
  ASSERT_TRUE(device_->table(TableSlot::kInactive)->Message(Sector(0), "recovery_rate 100").ok());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForStatus("2 a b 1/16 1 AA 1 core");
  disk("a").Hold(IoOp::kWrite);
  Pending& write = StartFill(kRegion + 5, 1, 7);
  WaitUntil([&] { return disk("a").holding() == 1; });
  ASSERT_TRUE(device_->table(TableSlot::kLive)->Message(Sector(0), "recovery_rate 0").ok());
  WaitForStatus("2 a b 15/16 1 AA 1 core");
  EXPECT_FALSE(write.done());
  disk("a").Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  WaitForStatus("2 a b 16/16 1 AA 1 core");
  EXPECT_TRUE(Same("a", "b"));
}

TEST_F(MirrorTest, ASuspendStopsRecoveryAndAResumeGoesOn) {
  disk("b").Hold(IoOp::kWrite);
  Use("core 1 1024 2 a 0 b 0");
  WaitUntil([&] { return disk("b").holding() == 4; });
  std::thread suspend([&] { EXPECT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  disk("b").Release();
  suspend.join();
  disk("b").TakeSeen();
  Settle();
  EXPECT_EQ(disk("b").TakeSeen().size(), 0u);
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForStatus("2 a b 16/16 1 AA 1 core");
}

TEST_F(MirrorTest, RecoveryGoesOnWhenASuspendThatWaitsForItIsGivenUp) {
  disk("b").Hold(IoOp::kWrite);
  Use("core 1 1024 2 a 0 b 0");
  WaitUntil([&] { return disk("b").holding() == 4; });
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(device_->Suspend(SuspendMode::kFlush, [] { return true; }).code(),
              absl::StatusCode::kCancelled);
    EXPECT_NE(At(0), -1);
  }
  disk("b").Release();
  WaitForStatus("2 a b 16/16 1 AA 1 core");
  EXPECT_TRUE(Same("a", "b"));
  EXPECT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
}

TEST_F(MirrorTest, AReadOnlyTableCopiesNothingAndWritesNoLog) {
  Use("disk 2 log 1024 2 a 0 b 0", SuspendMode::kFlush, /*read_only=*/true);
  Settle();
  EXPECT_EQ(Status(), "2 a b 0/16 1 AA 3 disk log A");
  EXPECT_EQ(disk("b").CountOf(IoOp::kWrite) + disk("log").CountOf(IoOp::kWrite), 0);
  EXPECT_EQ(Fill(0, 1, 1), IoStatus::kReadOnly);
}

TEST_F(MirrorTest, ADiscardOverManyRegionsGoesToWhoeverHoldsThem) {
  std::ranges::fill(disk("a").bytes(), std::byte{9});
  std::ranges::fill(disk("b").bytes(), std::byte{9});
  Use("core 2 1024 nosync 2 a 0 b 0");
  disk("b").Fail({.op = IoOp::kWrite, .first = Sector(5 * kRegion), .end = Sector(6 * kRegion)});
  EXPECT_EQ(Fill(5 * kRegion, 1, 9), IoStatus::kOk);
  disk("a").TakeSeen();
  disk("b").TakeSeen();
  EXPECT_EQ(Run(IoRequest::WriteZeroes(Sector(100), SectorCount(12000))), IoStatus::kOk);
  EXPECT_EQ(disk("a").TakeSeen().size(), 3u) << "before, in and after the region out of sync";
  EXPECT_EQ(disk("b").TakeSeen().size(), 2u);
  for (uint64_t sector = 0; sector < kLength; ++sector) {
    const bool inside = sector >= 100 && sector < 12100;
    ASSERT_EQ(disk("a").At(sector), inside ? 0 : 9) << sector;
    const bool on_b = inside && sector / kRegion != 5;
    ASSERT_EQ(disk("b").At(sector), on_b ? 0 : 9) << sector;
  }
  EXPECT_EQ(Run(IoRequest::Discard(Sector(0), SectorCount(kLength))), IoStatus::kOk);
  EXPECT_EQ(disk("a").At(50), 0);
}

TEST_F(MirrorTest, RecoveryKeepsItsRate) {
  ASSERT_EQ(Load("0 16384 mirror core 1 1024 2 a 0 b 0"), absl::OkStatus());
  // A region of half a MiB: more than an hour for each after the first.
  ASSERT_TRUE(device_->table(TableSlot::kInactive)->Message(Sector(0), "recovery_rate 100").ok());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForStatus("2 a b 1/16 1 AA 1 core");
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(Status(), "2 a b 1/16 1 AA 1 core");
  EXPECT_EQ(Fill(15 * kRegion, 1, 7), IoStatus::kOk) << "no write waits for a pause";
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus()) << "nor does a suspend";
  ASSERT_TRUE(device_->table(TableSlot::kLive)->Message(Sector(0), "recovery_rate 0").ok());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForStatus("2 a b 16/16 1 AA 1 core");
}

// --- Failures ---

TEST_F(MirrorTest, AFailedResyncIsNeverCountedAsInSync) {
  for (const char* features : {"", " 1 handle_errors", " 2 handle_errors keep_log"}) {
    disk("b").Fail({.op = IoOp::kWrite, .first = Sector(5 * kRegion), .end = Sector(6 * kRegion)});
    const uint32_t before = events();
    Use(absl::StrCat("core 1 1024 2 a 0 b 0", features));
    WaitForStatus("2 a b 15/16 1 AS 1 core");
    EXPECT_GT(events(), before);
    Settle();
    EXPECT_EQ(Status(), "2 a b 15/16 1 AS 1 core");
    // Another resume tries again.
    disk("b").Heal();
    ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
    ASSERT_EQ(device_->Resume(), absl::OkStatus());
    WaitForStatus("2 a b 16/16 1 AA 1 core");
  }
}

TEST_F(MirrorTest, ASourceThatCannotBeReadLeavesTheDestinationAlone) {
  disk("a").Fail({.op = IoOp::kRead, .first = Sector(5 * kRegion), .end = Sector(6 * kRegion)});
  Use("core 1 1024 2 a 0 b 0");
  WaitForStatus("2 a b 15/16 1 SA 1 core");
  for (const LegDisk::Seen& seen : disk("b").TakeSeen()) {
    EXPECT_NE(seen.first.value() / kRegion, 5u);
  }
}

TEST_F(MirrorTest, AFailedReadIsTriedOnAnotherLegThatHasTheData) {
  Use("core 2 1024 nosync 2 a 0 b 0");
  EXPECT_EQ(Fill(5, 1, 7), IoStatus::kOk);
  disk("a").Fail({.op = IoOp::kRead});
  const uint32_t before = events();
  EXPECT_EQ(At(5), 7);
  EXPECT_EQ(Status(), "2 a b 16/16 1 RA 1 core");
  EXPECT_EQ(events(), before + 1);
  EXPECT_EQ(At(5), 7);
  EXPECT_EQ(events(), before + 1) << "the first of its kind";
  disk("b").Fail({.op = IoOp::kRead});
  EXPECT_EQ(At(5), -1);
  EXPECT_EQ(Status(), "2 a b 16/16 1 RR 1 core");
}

TEST_F(MirrorTest, ARegionOutOfSyncIsNotReadFromALegWithoutItsData) {
  disk("b").FailAll();
  Use("core 1 1024 2 a 0 b 0");
  WaitForStatus("2 a b 0/16 1 AS 1 core");
  disk("a").Fail({.op = IoOp::kRead});
  disk("b").Heal();
  EXPECT_EQ(At(5), -1);
}

TEST_F(MirrorTest, AFailedWriteIsAnsweredAndNeverForgottenWithoutHandleErrors) {
  for (const char* features : {"", " 2 handle_errors keep_log"}) {
    Use(absl::StrCat("core 2 1024 nosync 2 a 0 b 0", features));
    ASSERT_EQ(Fill(5200, 8, 1), IoStatus::kOk);
    const uint32_t before = events();
    disk("a").Fail({.op = IoOp::kWrite, .times = 1});
    EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
    EXPECT_EQ(Status(), "2 a b 15/16 1 DA 1 core");
    EXPECT_GT(events(), before);
    EXPECT_EQ(disk("a").At(5200), 1);
    EXPECT_EQ(At(5200), 7) << "never the primary's stale data";
    EXPECT_EQ(Fill(5300, 8, 8), IoStatus::kOk);
    EXPECT_EQ(At(5300), 8);
    // The next resume copies the good leg to the primary.
    ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
    ASSERT_EQ(device_->Resume(), absl::OkStatus());
    WaitForStatus("2 a b 16/16 1 AA 1 core");
    EXPECT_EQ(disk("a").At(5200), 7);
    EXPECT_TRUE(Same("a", "b"));
  }
}

// As at the daemon's end: a start would copy the leg over the one that has the write.
TEST_F(MirrorTest, AWriteThatALegGaveUpIsNotAnsweredAsDone) {
  Use("core 2 1024 nosync 2 a 0 b 0");
  disk("a").Fail({.op = IoOp::kWrite, .times = 1, .status = IoStatus::kAborted});
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kAborted);
  EXPECT_EQ(Status(), "2 a b 15/16 1 AA 1 core") << "both are good, and one lacks it";
}

TEST_F(MirrorTest, AWriteThatNoLegTookFails) {
  for (const char* features : {"", " 1 handle_errors", " 2 handle_errors keep_log"}) {
    Use(absl::StrCat("core 2 1024 nosync 2 a 0 b 0", features));
    disk("a").Fail({.op = IoOp::kWrite});
    disk("b").Fail({.op = IoOp::kWrite});
    EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kIoError);
    EXPECT_EQ(Status(), "2 a b 15/16 1 DD 1 core") << "the legs may differ now";
    disk("a").Heal();
    disk("b").Heal();
  }
}

TEST_F(MirrorTest, WritesThatFailedOnDifferentLegsLeaveNoStaleRead) {
  Use("core 2 1024 nosync 2 a 0 b 0");
  disk("b").Fail({.op = IoOp::kWrite, .times = 1});
  EXPECT_EQ(Fill(100, 1, 1), IoStatus::kOk);  // on a only
  disk("a").Fail({.op = IoOp::kWrite, .times = 1});
  EXPECT_EQ(Fill(200, 1, 2), IoStatus::kIoError) << "b lacks the other write, a this one";
  EXPECT_EQ(At(100), 1);
}

TEST_F(MirrorTest, AHeldWriteFailsAtAFlushSuspend) {
  Use("core 2 1024 nosync 2 a 0 b 0 1 handle_errors");
  disk("b").Fail({.op = IoOp::kWrite});
  const uint32_t before = events();
  Pending& write = StartFill(5200, 8, 7);
  WaitForStatus("2 a b 15/16 1 AD 1 core");
  WaitUntil([&] { return events() > before; });
  Settle();
  EXPECT_FALSE(write.done());
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
  EXPECT_EQ(write.Wait(), IoStatus::kIoError);
}

TEST_F(MirrorTest, AHeldWriteGoesToTheNextTableAfterASwapWithAFlush) {
  Use("core 2 1024 nosync 2 a 0 b 0 1 handle_errors");
  disk("b").Fail({.op = IoOp::kWrite});
  Pending& write = StartFill(5200, 8, 7);
  WaitForStatus("2 a b 15/16 1 AD 1 core");
  ASSERT_EQ(Load("0 16384 linear a 0"), absl::OkStatus());
  disk("a").TakeSeen();
  ASSERT_EQ(device_->Suspend(SuspendMode::kSwap), absl::OkStatus());
  EXPECT_EQ(disk("a").CountOf(IoOp::kFlush), 1);
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(At(5207), 7);
}

TEST_F(MirrorTest, AHeldWriteGoesToTheNextTableAfterANoFlushSuspend) {
  Use("core 2 1024 nosync 2 a 0 b 0 1 handle_errors");
  disk("b").Fail({.op = IoOp::kWrite});
  Pending& write = StartFill(5200, 8, 7);
  Pending& other = StartFill(9000, 8, 8, 1);
  WaitForStatus("2 a b 14/16 1 AD 1 core");
  ASSERT_EQ(Load("0 16384 linear a 0"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(SuspendMode::kNoFlush), absl::OkStatus());
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(other.Wait(), IoStatus::kOk);
  EXPECT_EQ(At(5207), 7);
  EXPECT_EQ(disk("a").At(9000), 8);
}

TEST_F(MirrorTest, AHeldWriteIsDoneIfRecoveryMendsEverything) {
  disk("b").Fail({.op = IoOp::kWrite, .first = Sector(kRegion), .end = Sector(9 * kRegion)});
  Use("core 1 1024 2 a 0 b 0 1 handle_errors");
  WaitForStatus("2 a b 8/16 1 AS 1 core");
  disk("b").Heal();
  const auto table = device_->table(TableSlot::kLive);
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
  ASSERT_TRUE(table->Message(Sector(0), "recovery_rate 100").ok());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForStatus("2 a b 9/16 1 AS 1 core");
  disk("b").Fail({.op = IoOp::kWrite, .times = 1});
  Pending& write = StartFill(14 * kRegion, 8, 7);  // where recovery has not been yet
  WaitForStatus("2 a b 8/16 1 AD 1 core");
  Settle();
  EXPECT_FALSE(write.done());
  ASSERT_TRUE(table->Message(Sector(0), "recovery_rate 0").ok());
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(Status(), "2 a b 16/16 1 AA 1 core");
  EXPECT_EQ(disk("b").At(14 * kRegion), 7);
}

TEST_F(MirrorTest, WhileFailedWritesAreHeldNothingIsAnsweredThatThePrimaryLacks) {
  Use("core 2 1024 nosync 2 a 0 b 0 1 handle_errors");
  disk("a").Fail({.op = IoOp::kWrite, .times = 1});
  Pending& first = StartFill(5200, 8, 7);
  WaitForStatus("2 a b 15/16 1 DA 1 core");
  Pending& second = StartFill(5300, 8, 8);
  Settle();
  EXPECT_FALSE(second.done()) << "the region's data is on b only: a crash would lose it";
  ASSERT_EQ(Load("0 16384 mirror core 1 1024 2 b 0 a 0 1 handle_errors"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(SuspendMode::kNoFlush), absl::OkStatus());
  EXPECT_EQ(first.Wait(), IoStatus::kOk);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
  WaitForStatus("2 b a 16/16 1 AA 1 core");
  EXPECT_TRUE(Same("a", "b"));
  EXPECT_EQ(At(5300), 8);
}

TEST_F(MirrorTest, AFlushReachesEveryLegAndOneThatFailsTakesTheLegOut) {
  Use("core 2 1024 nosync 2 a 0 b 0");
  EXPECT_EQ(Run(IoRequest::Flush()), IoStatus::kOk);
  EXPECT_EQ(disk("a").CountOf(IoOp::kFlush), 1);
  EXPECT_EQ(disk("b").CountOf(IoOp::kFlush), 1);
  disk("a").Fail({.op = IoOp::kFlush, .times = 1});
  EXPECT_EQ(Fill(5, 1, 7), IoStatus::kOk);
  EXPECT_EQ(Run(IoRequest::Flush(), 1), IoStatus::kOk);
  EXPECT_EQ(Status(), "2 a b 0/16 1 DA 1 core");
  disk("a").bytes()[5 * 512] = std::byte{1};  // what its cache lost
  EXPECT_EQ(At(5), 7);
  disk("b").Fail({.op = IoOp::kFlush, .times = 1});
  EXPECT_EQ(Run(IoRequest::Flush()), IoStatus::kIoError) << "no leg is sure to have the data";
}

TEST_F(MirrorTest, AFlushThatALegFailedIsHeldWithHandleErrors) {
  Use("core 2 1024 nosync 2 a 0 b 0 1 handle_errors");
  disk("b").Fail({.op = IoOp::kFlush});
  Pending& flush = StartFlush();
  WaitForStatus("2 a b 0/16 1 AD 1 core");
  Settle();
  EXPECT_FALSE(flush.done());
  ASSERT_EQ(Load("0 16384 linear a 0"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(SuspendMode::kNoFlush), absl::OkStatus());
  EXPECT_EQ(flush.Wait(), IoStatus::kOk);
}

TEST_F(MirrorTest, ALegThatCannotBeFlushedDoesNotStopASuspend) {
  for (const char* features : {"", " 1 handle_errors"}) {
    Use(absl::StrCat("core 2 1024 nosync 2 a 0 b 0", features));
    disk("b").Fail({.op = IoOp::kFlush});
    EXPECT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
    EXPECT_EQ(Status(), "2 a b 0/16 1 AD 1 core");
    disk("b").Heal();
  }
}

TEST_F(MirrorTest, RequestsThatReallySuspendEndAsWell) {
  for (const char* name : {"a", "b", "c"}) disk(name).SuspendEveryRequest();
  Use("core 1 1024 3 a 0 b 0 c 0");
  EXPECT_EQ(Fill(100, 3000, 7), IoStatus::kOk);
  EXPECT_EQ(Fill(6000, 3, 8, false, 1), IoStatus::kOk);
  WaitForStatus("3 a b c 16/16 1 AAA 1 core");
  disk("b").Fail({.op = IoOp::kWrite});
  disk("a").Fail({.op = IoOp::kRead});
  EXPECT_EQ(Fill(100, 3, 9), IoStatus::kOk);
  EXPECT_EQ(At(100), 9);
  EXPECT_EQ(Run(IoRequest::Flush(), 1), IoStatus::kOk);
  EXPECT_EQ(Run(IoRequest::Discard(Sector(1000), SectorCount(9000)), 1), IoStatus::kOk);
  EXPECT_EQ(At(5000), 0);
  EXPECT_EQ(At(100), 9);
}

}  // namespace
}  // namespace sectormap::targets
