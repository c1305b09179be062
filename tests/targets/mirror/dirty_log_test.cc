// SPDX-License-Identifier: Apache-2.0
// The mirror's log on its device: the kernel's logs are read as it meant them, ours are what it
// would have written, and no write is ahead of its mark.
#include "targets/mirror/dirty_log.h"

#include <bit>

#include "targets/mirror/region_gate.h"
#include "tests/support/golden.h"
#include "tests/support/manual_clock.h"
#include "tests/targets/mirror/mirror_fixture.h"

namespace sectormap::targets {
namespace {

using testing::HasSubstr;

constexpr const char* kWords = "disk 2 log 1024 2 a 0 b 0 1 handle_errors";
constexpr uint32_t kAllClean = 0xffff;
constexpr uint32_t kFiveDirty = 0xffdf;

class DirtyLogTest : public MirrorFixture {
 protected:
  const Clock& clock() override { return manual_; }

  void SetUp() override {
    MirrorFixture::SetUp();
    // Different everywhere: what is copied shows.
    for (uint64_t sector = 0; sector < kLength; ++sector) {
      disk("a").bytes()[sector * 512] = std::byte{1};
      disk("b").bytes()[sector * 512] = std::byte{2};
    }
  }
  void PutLog(std::span<const std::byte> bytes) {
    ASSERT_LE(bytes.size(), disk("log").bytes().size());
    std::ranges::copy(bytes, disk("log").bytes().begin());
  }
  std::vector<std::byte> LogBytes() {
    const auto bytes = disk("log").bytes();
    return {bytes.begin(), bytes.end()};
  }
  void Patch(size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) {
      disk("log").bytes()[at + i] = static_cast<std::byte>(value >> (8 * i) & 0xff);
    }
  }
  // Which regions leg b got from leg a.
  uint32_t Copied() {
    uint32_t regions = 0;
    for (uint64_t region = 0; region < kRegions; ++region) {
      if (disk("b").At(region * kRegion) == 1) regions |= 1u << region;
    }
    return regions;
  }
  void WaitForSync() { WaitForStatus("2 a b 16/16 1 AA 3 disk log A"); }
  // The next look at the dirty regions, and what it starts.
  void Tidy() {
    manual_.Advance(kTidyPeriod, *reactors_);
    Settle();
  }

  ManualClock manual_;
};

TEST_F(DirtyLogTest, ReadsTheKernelsLogsAsItMeantThem) {
  struct Case {
    const char* name;
    uint32_t dirty;
  };
  for (const Case& one :
       {Case{"mirror-r1024-synced", 0}, Case{"mirror-r1024-nosync", 0},
        Case{"mirror-r1024-dirty5-active", 1u << 5}, Case{"mirror-r1024-dirty5-later", 0},
        Case{"mirror-leg1-failed-1", 1u << 5}, Case{"usrlog", 0xff00},
        Case{"mirror-usrlog-after", 0}}) {
    SCOPED_TRACE(one.name);
    const std::vector<std::byte> golden = Golden(std::string(one.name) + ".log");
    ASSERT_EQ(golden.size(), 65536u);
    PutLog(golden);
    Use(kWords);
    WaitForSync();
    EXPECT_EQ(Copied(), one.dirty);
    ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
    EXPECT_EQ(LogBytes(), Golden("mirror-r1024-synced.log")) << "a clean end: the kernel's bytes";
    for (uint64_t sector = 0; sector < kLength; ++sector) {
      disk("b").bytes()[sector * 512] = std::byte{2};
    }
  }
}

TEST_F(DirtyLogTest, WritesTheKernelsBytesWhileAWriteIsUnderWayAndAfter) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0 1 handle_errors");
  EXPECT_EQ(LogBytes(), Golden("mirror-r1024-nosync.log"));
  disk("b").Hold(IoOp::kWrite);
  Pending& write = StartFill(5200, 8, 7);
  WaitUntil([&] { return disk("b").holding() == 1; });
  EXPECT_EQ(LogBytes(), Golden("mirror-r1024-dirty5-active.log"));
  disk("b").Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(LogBits(), kFiveDirty) << "lazily";
  Tidy();
  EXPECT_EQ(LogBits(), kFiveDirty) << "it was written to since the last look";
  Tidy();
  EXPECT_EQ(LogBytes(), Golden("mirror-r1024-dirty5-later.log"));
  Discard();
  EXPECT_EQ(LogBytes(), Golden("mirror-r1024-synced.log"));
}

TEST_F(DirtyLogTest, AFailedLegsRegionStaysDirtyAsTheKernelLeavesIt) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0 2 handle_errors keep_log");
  disk("b").Fail({.op = IoOp::kWrite});
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  EXPECT_EQ(Status(), "2 a b 15/16 1 AD 3 disk log A");
  Tidy();
  Tidy();
  Discard();
  EXPECT_EQ(LogBytes(), Golden("mirror-leg1-failed-1.log"));
}

TEST_F(DirtyLogTest, AVersionOneLogIsReadAndWrittenAsVersionTwo) {
  PutLog(Golden("mirror-r1024-dirty5-active.log"));
  Patch(4, 1);
  Use(kWords);
  WaitForSync();
  EXPECT_EQ(Copied(), 1u << 5);
  EXPECT_EQ(disk("log").bytes()[4], std::byte{2});
}

TEST_F(DirtyLogTest, AForeignVersionIsAllOutOfSyncAndShows) {
  PutLog(Golden("mirror-r1024-synced.log"));
  Patch(4, 3);
  const uint32_t before = events();
  Use(kWords);
  WaitForStatus("2 a b 16/16 1 AA 3 disk log D");
  EXPECT_GT(events(), before);
  EXPECT_EQ(Copied(), 0xffffu);
}

TEST_F(DirtyLogTest, GarbageIsANewLogAndAnEventTells) {
  PutLog(Golden("mirror-r1024-synced.log"));
  Patch(0, 0x12345678);
  const uint32_t before = events();
  Use(kWords);
  WaitForSync();
  EXPECT_GE(events(), before + 2) << "garbage, and in sync";
  EXPECT_EQ(Copied(), 0xffffu);
}

TEST_F(DirtyLogTest, ALogOfMoreRegionsIsNotTrusted) {
  PutLog(Golden("mirror-r1024-synced.log"));
  Patch(8, 32);
  Use(kWords);
  WaitForSync();
  EXPECT_EQ(Copied(), 0xffffu);
}

TEST_F(DirtyLogTest, RegionsThatTheMirrorHasGrownByAreOutOfSync) {
  PutLog(Golden("mirror-r1024-synced.log"));
  Patch(8, 10);
  Use(kWords);
  WaitForSync();
  EXPECT_EQ(Copied(), 0xfc00u);
  EXPECT_EQ(disk("log").bytes()[8], std::byte{16});
}

TEST_F(DirtyLogTest, BitsBeyondTheLastRegionAreCleared) {
  PutLog(Golden("mirror-r1024-synced.log"));
  Patch(1024, 0xffffffff);
  Use(kWords);
  WaitForSync();
  EXPECT_EQ(LogBits(), kAllClean);
}

TEST_F(DirtyLogTest, SyncAndNosyncForgetTheLog) {
  PutLog(Golden("mirror-r1024-synced.log"));
  Use("disk 3 log 1024 sync 2 a 0 b 0");
  WaitForSync();
  EXPECT_EQ(Copied(), 0xffffu);
  PutLog(Golden("usrlog.log"));
  Use("disk 3 log 1024 nosync 2 b 0 c 0");
  EXPECT_EQ(Status(), "2 b c 16/16 1 AA 3 disk log A");
  EXPECT_EQ(LogBits(), kAllClean);
}

// Of legs before one was added, say, which the old log then calls whole.
TEST_F(DirtyLogTest, SyncCountsUntilTheLogIsWritten) {
  PutLog(Golden("mirror-r1024-synced.log"));
  disk("log").Fail({.op = IoOp::kWrite});
  disk("b").Fail({.op = IoOp::kWrite});
  Use("disk 3 log 1024 sync 2 a 0 b 0");
  EXPECT_EQ(Table(), "disk 3 log 1024 sync 2 a 0 b 0");
  EXPECT_THAT(device_->table(TableSlot::kLive)->TableTextToKeep(), HasSubstr(" sync 2 a"));
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
  disk("log").Heal();
  disk("b").Heal();
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  EXPECT_EQ(Table(), "disk 2 log 1024 2 a 0 b 0");
  WaitForSync();
  EXPECT_EQ(Copied(), 0xffffu);
}

TEST_F(DirtyLogTest, AnUnreadableLogIsAllOutOfSyncAndShows) {
  PutLog(Golden("mirror-r1024-synced.log"));
  disk("log").FailAll();
  Use("disk 2 log 1024 2 a 0 b 0 2 handle_errors keep_log");
  WaitForStatus("2 a b 16/16 1 AA 3 disk log D");
  EXPECT_EQ(Copied(), 0xffffu);
}

TEST_F(DirtyLogTest, AWriteThatCannotBeLoggedIsNotDone) {
  for (const char* features : {"", " 1 handle_errors", " 2 handle_errors keep_log"}) {
    SCOPED_TRACE(features);
    Use("disk 3 log 1024 nosync 2 a 0 b 0" + std::string(features));
    disk("log").Fail({.op = IoOp::kWrite});
    const uint32_t before = events();
    Pending& write = StartFill(5200, 8, 7);
    WaitForStatus("2 a b 16/16 1 AA 3 disk log D");
    EXPECT_EQ(events(), before + 1);
    Settle();
    EXPECT_EQ(disk("a").At(5200), 1);
    if (std::string(features) == " 1 handle_errors") {
      EXPECT_FALSE(write.done()) << "held for the next table";
      ASSERT_EQ(Load("0 16384 linear a 0"), absl::OkStatus());
      ASSERT_EQ(device_->Resume(SuspendMode::kNoFlush), absl::OkStatus());
      EXPECT_EQ(write.Wait(), IoStatus::kOk);
      EXPECT_EQ(disk("a").At(5200), 7);
      disk("a").bytes()[5200 * 512] = std::byte{1};
    } else {
      EXPECT_EQ(write.Wait(), IoStatus::kIoError);
    }
    disk("log").Heal();
  }
}

TEST_F(DirtyLogTest, ALogThatCannotBeFlushedShowsAsSuchAndMayRecover) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  disk("log").Fail({.op = IoOp::kFlush, .times = 1});
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kIoError);
  EXPECT_EQ(Status(), "2 a b 16/16 1 AA 3 disk log F");
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  EXPECT_EQ(Fill(0, 8, 7), IoStatus::kOk);
  EXPECT_EQ(LogBits(), 0xffdeu);
}

TEST_F(DirtyLogTest, TheMarkIsDurableBeforeTheDataIsWritten) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  disk("log").Hold(IoOp::kFlush);
  disk("a").TakeSeen();
  Pending& write = StartFill(5200, 8, 7);
  WaitUntil([&] { return disk("log").holding() == 1; });
  Settle();
  EXPECT_EQ(LogBits(), kFiveDirty);
  EXPECT_EQ(disk("a").CountOf(IoOp::kWrite), 0);
  disk("log").Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
}

TEST_F(DirtyLogTest, ManyWaitingWritesShareOneLogWrite) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  disk("log").Hold(IoOp::kWrite);
  std::vector<Pending*> writes{&StartFill(0, 8, 7)};
  WaitUntil([&] { return disk("log").holding() == 1; });
  disk("log").TakeSeen();
  for (int i = 1; i < 32; ++i) {
    writes.push_back(&StartFill(static_cast<uint64_t>(i) * 512, 8, 7, i % 2));
  }
  Settle();
  disk("log").Release();
  for (Pending* write : writes) EXPECT_EQ(write->Wait(), IoStatus::kOk);
  EXPECT_EQ(disk("log").CountOf(IoOp::kWrite), 1) << "for 31 writes";
  EXPECT_EQ(LogBits(), 0u);
}

TEST_F(DirtyLogTest, AStreamOfWritesDoesNotRewriteTheLog) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  disk("log").TakeSeen();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Fill(5200, 8, i), IoStatus::kOk);
    Tidy();
  }
  EXPECT_EQ(disk("log").CountOf(IoOp::kWrite), 1);
}

TEST_F(DirtyLogTest, LegsAreFlushedBeforeABitGoesBack) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  Tidy();
  disk("b").Hold(IoOp::kFlush);
  Tidy();
  EXPECT_EQ(disk("b").holding(), 1);
  EXPECT_EQ(LogBits(), kFiveDirty);
  // A write that comes now keeps its region dirty, without a log write.
  disk("log").TakeSeen();
  EXPECT_EQ(Fill(5201, 1, 8, false, 1), IoStatus::kOk);
  disk("b").Release();
  WaitUntil([&] { return disk("b").holding() == 0; });
  Settle();
  EXPECT_EQ(LogBits(), kFiveDirty);
  EXPECT_EQ(disk("log").CountOf(IoOp::kWrite), 0);
  Tidy();
  Tidy();
  EXPECT_EQ(LogBits(), kAllClean);
}

TEST_F(DirtyLogTest, AWriteWhileItsBitGoesBackMarksItAgain) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  Tidy();
  disk("log").Hold(IoOp::kWrite);
  Tidy();
  EXPECT_EQ(disk("log").holding(), 1);
  Pending& write = StartFill(5201, 1, 8);
  Settle();
  EXPECT_FALSE(write.done());
  disk("log").Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(LogBits(), kFiveDirty);
}

// One write waits for a commit of the log, for the sake of other regions. Meanwhile its own
// region's bit goes back to 1, with that very commit, and a second write takes it back to 0: that
// is not durable when the first write is woken.
TEST_F(DirtyLogTest, AWriteWhoseBitWentBackAndForthWaitsForTheLast) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  Tidy();
  disk("b").Hold(IoOp::kFlush);
  Tidy();
  ASSERT_EQ(disk("b").holding(), 1);
  disk("log").TakeSeen();
  const auto log_is_asked = [&](IoOp op, int times) {
    WaitUntil([&] { return disk("log").CountOf(op) == times; });
    Settle();
  };
  disk("log").Hold(IoOp::kWrite);
  Pending& other = StartFill(1 * kRegion, 8, 7);
  log_is_asked(IoOp::kWrite, 1);
  Pending& another = StartFill(2 * kRegion, 8, 7);
  Pending& first = StartFill(5201, 1, 8);
  Settle();
  disk("b").Release();
  WaitUntil([&] { return disk("b").holding() == 0; });
  Settle();
  disk("log").Hold(IoOp::kFlush);
  log_is_asked(IoOp::kFlush, 1);
  disk("log").Hold(IoOp::kWrite);
  log_is_asked(IoOp::kWrite, 2);
  Pending& second = StartFill(5202, 1, 9);
  Settle();
  disk("log").Hold(IoOp::kFlush);
  log_is_asked(IoOp::kFlush, 2);
  EXPECT_EQ(LogBits(), 0xfff9u) << "regions 1 and 2, and the fifth is clean for now";
  disk("log").Hold(IoOp::kWrite);
  log_is_asked(IoOp::kWrite, 3);
  EXPECT_EQ(disk("a").At(5201), 7) << "written while the log says clean";
  disk("log").Release();
  for (Pending* write : {&other, &another, &first, &second})
    EXPECT_EQ(write->Wait(), IoStatus::kOk);
  EXPECT_EQ(LogBits(), 0xffd9u);
  EXPECT_EQ(disk("a").At(5201), 8);
}

TEST_F(DirtyLogTest, ALegThatCannotBeFlushedKeepsItsRegionsDirtyAndShows) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0 1 handle_errors");
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  Tidy();
  disk("b").Fail({.op = IoOp::kFlush, .times = 1});
  const uint32_t before = events();
  Tidy();
  EXPECT_EQ(Status(), "2 a b 15/16 1 AF 3 disk log A");
  EXPECT_EQ(events(), before + 1);
  Tidy();
  Tidy();
  EXPECT_EQ(LogBits(), kFiveDirty);
}

// A leg tells of what it lost once only: to the flush of somebody else, and not to the one after
// it, on the strength of which the region was to become clean.
TEST_F(DirtyLogTest, WhatAFlushBeforeHasLostStaysDirty) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0 2 handle_errors keep_log");
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  Tidy();
  disk("b").Fail({.op = IoOp::kFlush, .times = 1});
  disk("b").Hold(IoOp::kFlush);
  Pending& flush = StartFlush();
  WaitUntil([&] { return disk("b").holding() == 1; });
  Tidy();
  disk("b").bytes()[5200 * 512] = std::byte{0};
  disk("b").Release();
  EXPECT_EQ(flush.Wait(), IoStatus::kOk);
  WaitForStatus("2 a b 15/16 1 AD 3 disk log A");
  Settle();
  EXPECT_EQ(LogBits(), kFiveDirty);
  ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  WaitForSync();
  EXPECT_EQ(disk("b").At(5200), 7) << "copied again";
}

TEST_F(DirtyLogTest, AFailedFlushCostsTheDirtyRegionsOnly) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  EXPECT_EQ(Fill(0, 8, 7), IoStatus::kOk);
  Tidy();
  Tidy();
  EXPECT_EQ(Fill(5200, 8, 7), IoStatus::kOk);
  disk("b").Fail({.op = IoOp::kFlush, .times = 1});
  EXPECT_EQ(Run(IoRequest::Flush()), IoStatus::kOk);
  EXPECT_EQ(Status(), "2 a b 15/16 1 AD 3 disk log A");
}

TEST_F(DirtyLogTest, RecoveryGoesOnWhereItWas) {
  disk("b").Fail({.op = IoOp::kWrite, .first = Sector(9 * kRegion)});
  Use("disk 2 log 1024 2 a 0 b 0");
  WaitForStatus("2 a b 9/16 1 AS 3 disk log A");
  Tidy();
  Tidy();
  EXPECT_EQ(LogBits(), 0x01ffu);
  // As after a crash: another table finds what is on the disks.
  const std::vector<std::byte> log = LogBytes();
  Discard();
  PutLog(log);
  disk("b").Heal();
  disk("b").TakeSeen();
  MakeDevice();
  Use("disk 2 log 1024 2 a 0 b 0");
  WaitForSync();
  for (const LegDisk::Seen& seen : disk("b").TakeSeen()) {
    if (seen.op == IoOp::kWrite) EXPECT_GE(seen.first.value(), 9 * kRegion);
  }
  EXPECT_TRUE(Same("a", "b"));
}

TEST_F(DirtyLogTest, ALargeRangeIsMarkedAtOnce) {
  Use("disk 3 log 1024 nosync 2 a 0 b 0");
  disk("log").TakeSeen();
  EXPECT_EQ(Run(IoRequest::WriteZeroes(Sector(1), SectorCount(kLength - 1))), IoStatus::kOk);
  EXPECT_EQ(disk("log").CountOf(IoOp::kWrite), 1);
  EXPECT_EQ(LogBits(), 0u);
  Discard();
  EXPECT_EQ(LogBits(), kAllClean);
}

TEST_F(DirtyLogTest, ABigLogIsWrittenWhereItChanged) {
  AddDisk("biglog", SectorCount(64));
  AddDisk("big", SectorCount(1 << 18));
  ASSERT_EQ(Load("0 262144 mirror disk 3 biglog 2 nosync 2 big 0 big 0"), absl::OkStatus());
  ASSERT_EQ(device_->Resume(), absl::OkStatus());
  disk("biglog").TakeSeen();
  EXPECT_EQ(Fill(200'000, 1, 7), IoStatus::kOk);
  const auto seen = disk("biglog").TakeSeen();
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen[0].count, SectorCount(8));
  EXPECT_EQ(seen[0].first, Sector((1024 + 100'000 / 8) / 4096 * 8));
}

TEST(LogImageTest, NeedsWhatTheKernelNeeds) {
  EXPECT_EQ(LogImage::SizeFor(16, 512), ByteCount(1536));
  EXPECT_EQ(LogImage::SizeFor(1, 512), ByteCount(1536));
  EXPECT_EQ(LogImage::SizeFor(4096, 512), ByteCount(1536));
  EXPECT_EQ(LogImage::SizeFor(4097, 512), ByteCount(2048));
  EXPECT_EQ(LogImage::SizeFor(16, 4096), ByteCount(4096));
}

}  // namespace
}  // namespace sectormap::targets
