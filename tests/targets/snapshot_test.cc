// SPDX-License-Identifier: Apache-2.0
// snapshot and snapshot-origin: words, status and effects as the kernel's.
#include <thread>

#include "core/async/gate.h"
#include "targets/snapshot/origin_group.h"
#include "targets/snapshot/snapshot_args.h"
#include "tests/support/crash_disk.h"
#include "tests/support/faulty_device.h"
#include "tests/support/slow_device.h"
#include "tests/targets/snapshot_fixture.h"

namespace sectormap::targets {
namespace {

constexpr uint64_t kOrigin = 16384;
constexpr uint64_t kStore = 8192;

class SnapshotTest : public SnapshotFixture {
 protected:
  void SetUp() override {
    origin_ = host_.AddMemory("/o", Pattern("ORG", Sector(0), SectorCount(kOrigin)));
    store_ = host_.AddMemory("/c", kStore);
  }

  std::string Refusal(std::string_view table) {
    const absl::Status status = host_.TryMake("x", table);
    return std::string(status.message());
  }
  void MakePair(const std::string& store_words = "P 8") {
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", store_words));
    host_.Make("o", "0 16384 snapshot-origin /o");
  }
  std::vector<std::byte> Original(uint64_t first, uint64_t count) {
    return Pattern("ORG", Sector(first), SectorCount(count));
  }

  std::shared_ptr<MemoryDevice> origin_;
  std::shared_ptr<MemoryDevice> store_;
};

using testing::HasSubstr;

TEST_F(SnapshotTest, TableAndStatusAreTheKernels) {
  const std::pair<const char*, std::array<const char*, 2>> kCases[] = {
      {"N 8", {"0/8192 0", "24/8192 0"}},
      {"P 16", {"32/8192 32", "64/8192 32"}},
      {"PO 32", {"64/8192 64", "96/8192 64"}},
      {"P 8 1 discard_zeroes_cow", {"16/8192 16", "40/8192 16"}},
      {"P 8 2 discard_zeroes_cow discard_passdown_origin", {"16/8192 16", "40/8192 16"}},
  };
  for (const auto& [words, status] : kCases) {
    store_ = host_.AddMemory("/c", kStore);
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", words));
    EXPECT_EQ(host_.Table("s"), absl::StrCat("snapshot /o /c ", words));
    EXPECT_EQ(host_.Status("s"), absl::StrCat("snapshot ", status[0]));
    for (uint64_t first : {0, 8, 16}) {
      ASSERT_EQ(host_.WritePattern("s", "SNP", first, 8), IoStatus::kOk);
    }
    EXPECT_EQ(host_.Status("s"), absl::StrCat("snapshot ", status[1])) << words;
    host_.Remove("s");
  }
  host_.Make("o", "0 16384 snapshot-origin /o");
  EXPECT_EQ(host_.Table("o"), "snapshot-origin /o");
  EXPECT_EQ(host_.Status("o"), "snapshot-origin");
}

TEST_F(SnapshotTest, TheOriginIsWrittenAtOnceWhereNothingIsToBeCopied) {
  const auto write_at_once = [&](uint64_t first) {
    return host_.WriteAtOnce("o", first, Pattern("NEW", Sector(first), SectorCount(8)));
  };
  host_.Make("o", "0 16384 snapshot-origin /o");
  EXPECT_TRUE(write_at_once(0)) << "there is no snapshot";
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  EXPECT_FALSE(write_at_once(8));
  EXPECT_EQ(host_.Read("o", 8, 8), Original(8, 8));
  ASSERT_EQ(host_.WritePattern("o", "ONE", 8, 8), IoStatus::kOk);
  EXPECT_TRUE(write_at_once(8)) << "it is copied";
  EXPECT_EQ(host_.Read("o", 8, 8), Pattern("NEW", Sector(8), SectorCount(8)));
  EXPECT_EQ(host_.Read("s", 8, 8), Original(8, 8));
}

TEST_F(SnapshotTest, BadWordsAreRefusedInTheKernelsWords) {
  const std::pair<const char*, const char*> kCases[] = {
      {"snapshot", "requires 4 or more arguments"},
      {"snapshot /o /c P", "requires 4 or more arguments"},
      {"snapshot /o /c X 8", "Couldn't create exception store"},
      {"snapshot /o /c PX 8",
       "Couldn't create exception store; Unsupported persistent store option: X"},
      {"snapshot /o /c P 7", "Couldn't create exception store; Chunk size is not a power of 2"},
      {"snapshot /o /c P 4194304", "Couldn't create exception store; Chunk size is too high"},
      {"snapshot /o /c P x", "Couldn't create exception store; Invalid chunk size"},
      {"snapshot /o /c N 0", "Couldn't create exception store; Chunk size not set"},
      {"snapshot /o /c P 16384", "Failed to read snapshot metadata"},
      {"snapshot /o /o P 8", "COW device cannot be the same as origin device"},
      {"snapshot /nosuch /c P 8", "Cannot get origin device"},
      {"snapshot /o /nosuch P 8", "Cannot get COW device"},
      {"snapshot /o /c P 8 1 foo", "Unrecognised feature requested"},
      {"snapshot /o /c P 8 2 discard_zeroes_cow", "Invalid number of feature arguments"},
      {"snapshot /o /c P 8 3 a b c", "Invalid number of feature arguments"},
      {"snapshot /o /c P 8 1 discard_passdown_origin",
       "discard_passdown_origin feature depends on discard_zeroes_cow"},
      {"snapshot-origin", "origin: incorrect number of arguments"},
      {"snapshot-origin /o 0", "origin: incorrect number of arguments"},
      {"snapshot-origin /nosuch", "Cannot get target device"},
  };
  for (const auto& [row, text] : kCases) {
    EXPECT_THAT(Refusal(absl::StrCat("0 16384 ", row)), HasSubstr(text)) << row;
  }
  EXPECT_THAT(Refusal("0 16384 snapshot /o"), HasSubstr(std::string(kSnapshotUsage)));
  EXPECT_THAT(Refusal("0 32768 snapshot /o /c P 8"),
              HasSubstr("/o too small for target: start=0, len=32768, dev_size=16384"));
}

TEST_F(SnapshotTest, StoreLettersAndChunkSizesAreAsLiberalAsTheKernels) {
  const std::array<const char*, 2> kCases[] = {
      {"p 8", "P 8"}, {"persistent 8", "P 8"}, {"po 8", "PO 8"},
      {"n 8", "N 8"}, {"P 0", "P 32"},         {"P 1", "P 1"},
      {"P 4", "P 4"}, {"P 4096", "P 4096"},    {"N 2048", "N 2048"},
  };
  for (const auto& [given, printed] : kCases) {
    store_ = host_.AddMemory("/c", kStore);
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", given));
    EXPECT_EQ(host_.Table("s"), absl::StrCat("snapshot /o /c ", printed));
    ASSERT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
    host_.Remove("s");
  }
}

TEST_F(SnapshotTest, TheLargestLegalChunkWorks) {
  host_.AddMemory("/big", uint64_t{3} << 21);
  host_.Make("s", "0 16384 snapshot /o /big P 2097152");
  host_.Make("o", "0 16384 snapshot-origin /o");
  EXPECT_EQ(host_.Status("s"), "snapshot 4194304/6291456 4194304");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 100, 3), IoStatus::kOk);
  EXPECT_EQ(host_.Status("s"), "snapshot 6291456/6291456 4194304");
  EXPECT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
}

TEST_F(SnapshotTest, TheChunkSizeOnTheStoreWins) {
  host_.Make("s", "0 16384 snapshot /o /c P 16");
  host_.Remove("s");
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  EXPECT_EQ(host_.Table("s"), "snapshot /o /c P 16");
  EXPECT_EQ(host_.Status("s"), "snapshot 32/8192 32");
}

TEST_F(SnapshotTest, AWriteToTheOriginIsNotSeenInTheSnapshotNorTheReverse) {
  MakePair();
  ASSERT_EQ(host_.WritePattern("o", "NEW", 3, 7), IoStatus::kOk);
  ASSERT_EQ(host_.WritePattern("s", "SNP", 100, 30), IoStatus::kOk);
  ASSERT_EQ(host_.WritePattern("o", "NEW", 110, 40), IoStatus::kOk);
  std::vector<std::byte> origin = Original(0, kOrigin);
  std::vector<std::byte> snapshot = origin;
  auto put = [](std::vector<std::byte>& view, const char* tag, uint64_t first, uint64_t count) {
    std::ranges::copy(Pattern(tag, Sector(first), SectorCount(count)),
                      view.begin() + static_cast<ptrdiff_t>(first * kSectorBytes));
  };
  put(origin, "NEW", 3, 7);
  put(origin, "NEW", 110, 40);
  put(snapshot, "SNP", 100, 30);
  EXPECT_EQ(host_.ReadAll("o"), origin);
  EXPECT_EQ(host_.ReadAll("s"), snapshot);
  // Read again from the store.
  host_.Remove("s");
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  EXPECT_EQ(host_.ReadAll("s"), snapshot);
}

TEST_F(SnapshotTest, TheLastChunkMayReachPastTheOriginsEnd) {
  host_.AddMemory("/odd", Pattern("ORG", Sector(0), SectorCount(1003)));
  host_.Make("s", "0 1003 snapshot /odd /c P 64");
  host_.Make("o", "0 1003 snapshot-origin /odd");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 1000, 3), IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("s"), Original(0, 1003));
  ASSERT_EQ(host_.WritePattern("s", "SNP", 960, 43), IoStatus::kOk);
  EXPECT_EQ(host_.Read("s", 960, 43), Pattern("SNP", Sector(960), SectorCount(43)));
  EXPECT_EQ(host_.Read("o", 1000, 3), Pattern("NEW", Sector(1000), SectorCount(3)));
}

TEST_F(SnapshotTest, AnOriginWithoutSnapshotsPassesEverything) {
  host_.Make("o", "0 16384 snapshot-origin /o");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 2048), IoStatus::kOk);
  EXPECT_EQ(host_.Submit("o", IoRequest::Discard(Sector(8), SectorCount(8))), IoStatus::kOk);
  EXPECT_EQ(host_.Submit("o", IoRequest::Flush()), IoStatus::kOk);
  EXPECT_EQ(host_.Read("o", 8, 8), std::vector<std::byte>(8 * kSectorBytes));
}

TEST_F(SnapshotTest, NothingBypassesTheCopyNotEvenADiscard) {
  MakePair();
  ASSERT_EQ(host_.Submit("o", IoRequest::Discard(Sector(5), SectorCount(9000))), IoStatus::kOk);
  ASSERT_EQ(host_.Status("s"), "snapshot Invalid");  // 9000 sectors do not fit
  host_.Remove("s");
  host_.AddMemory("/c2", uint64_t{3} * kOrigin);
  const std::vector<std::byte> now = host_.ReadAll("o");
  host_.Make("s2", "0 16384 snapshot /o /c2 P 8");
  ASSERT_EQ(host_.Submit("o", IoRequest::Discard(Sector(5), SectorCount(9000))), IoStatus::kOk);
  ASSERT_EQ(host_.Submit("o", IoRequest::WriteZeroes(Sector(10001), SectorCount(6000))),
            IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("s2"), now);
}

TEST_F(SnapshotTest, SnapshotsOfOneOriginEachKeepTheirOwn) {
  host_.AddMemory("/c2", kStore);
  host_.AddMemory("/c3", kStore);
  MakePair();
  host_.Make("s2", "0 16384 snapshot /o /c2 P 64");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 3, 70), IoStatus::kOk);
  const std::vector<std::byte> later = host_.ReadAll("o");
  host_.Make("s3", "0 16384 snapshot /o /c3 N 1");
  ASSERT_EQ(host_.WritePattern("o", "NE2", 0, 200), IoStatus::kOk);
  ASSERT_EQ(host_.WritePattern("s2", "SNP", 50, 1), IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
  EXPECT_EQ(host_.Read("s2", 0, 50), Original(0, 50));
  EXPECT_EQ(host_.ReadAll("s3"), later);
  host_.Remove("s2");
  ASSERT_EQ(host_.WritePattern("o", "NE3", 1000, 200), IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
  EXPECT_EQ(host_.ReadAll("s3"), later);
}

// --- Full and broken stores ---

TEST_F(SnapshotTest, AWriteToTheOriginInvalidatesAFullSnapshotEvenWithPO) {
  for (const char* words : {"P 8", "PO 8"}) {
    store_ = host_.AddMemory("/c", 128);
    MakePair(words);
    for (uint64_t chunk = 0; chunk < 14; ++chunk) {
      ASSERT_EQ(host_.WritePattern("o", "NEW", chunk * 8, 8), IoStatus::kOk);
      EXPECT_EQ(host_.Status("s"), absl::StrCat("snapshot ", 24 + 8 * chunk, "/128 16"));
    }
    EXPECT_EQ(host_.WritePattern("o", "NEW", 14 * 8, 8), IoStatus::kOk);
    EXPECT_EQ(host_.Status("s"), "snapshot Invalid");
    EXPECT_TRUE(host_.Read("s", 0, 8).empty());
    EXPECT_EQ(store_->bytes()[4], std::byte{0});  // valid
    EXPECT_EQ(host_.registry().Info("s")->event_number, 1u);
    host_.Remove("s");
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", words));
    EXPECT_EQ(host_.Status("s"), "snapshot Invalid");
    host_.Remove("s");
    host_.Remove("o");
  }
}

TEST_F(SnapshotTest, AWriteToAFullSnapshotInvalidatesItOnlyWithoutO) {
  const std::vector<std::byte> zeroes(8 * kSectorBytes);
  for (const char* words : {"P 8", "PO 8"}) {
    const bool overflows = words[1] == 'O';
    store_ = host_.AddMemory("/c", 128);
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", words));
    for (uint64_t chunk = 0; chunk < 14; ++chunk) {
      ASSERT_EQ(host_.Write("s", chunk * 8, zeroes), IoStatus::kOk);
    }
    EXPECT_EQ(host_.Status("s"), "snapshot 128/128 16");
    EXPECT_EQ(host_.Write("s", 14 * 8, zeroes), IoStatus::kIoError);
    EXPECT_EQ(host_.Write("s", 0, zeroes), IoStatus::kIoError);
    EXPECT_EQ(host_.Status("s"), overflows ? "snapshot Overflow" : "snapshot Invalid");
    EXPECT_EQ(host_.Read("s", 13 * 8, 8) == zeroes, overflows);
    EXPECT_EQ(host_.Read("s", 14 * 8, 8) == Original(14 * 8, 8), overflows);
    host_.Settle();
    EXPECT_EQ(store_->bytes()[4], overflows ? std::byte{1} : std::byte{0});
    const std::string golden =
        absl::StrCat("snap-overflow-", overflows ? "PO" : "P", "-by-snapshot-write.cow");
    EXPECT_TRUE(std::ranges::equal(store_->bytes(), Golden(golden)));
    host_.Remove("s");
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", words));
    EXPECT_EQ(host_.Status("s"), overflows ? "snapshot 128/128 16" : "snapshot Invalid");
    host_.Remove("s");
  }
}

TEST_F(SnapshotTest, AStoreMayGrowWhileItIsInUse) {
  host_.AddMemory("/small", 4096);
  host_.Make("cow", "0 128 linear /small 0");
  host_.Make("s", "0 16384 snapshot /o cow P 8");
  host_.Make("o", "0 16384 snapshot-origin /o");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 14 * 8), IoStatus::kOk);
  EXPECT_EQ(host_.Status("s"), "snapshot 128/128 16");
  host_.Reload("cow", "0 4096 linear /small 0");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 14 * 8, 80), IoStatus::kOk);
  EXPECT_EQ(host_.Status("s"), "snapshot 208/4096 16");
  EXPECT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
}

// Chunk 1: 32 exceptions an area. 1 + (floor(N/E) + 1) + N chunks hold N exceptions.
TEST_F(SnapshotTest, AStoreThatEndsWithAFullAreaHoldsOneExceptionLess) {
  for (const uint64_t exceptions : {31, 32, 33, 63, 64, 65}) {
    const uint64_t exact = 1 + exceptions / 32 + 1 + exceptions;
    for (const uint64_t sectors : {exact, exact - 1}) {
      host_.AddMemory("/c", sectors);
      MakePair("P 1");
      ASSERT_EQ(host_.WritePattern("o", "NEW", 0, exceptions), IoStatus::kOk);
      EXPECT_EQ(host_.Status("s") != "snapshot Invalid", sectors == exact)
          << exceptions << " exceptions, " << sectors << " sectors";
      if (sectors == exact) {
        host_.Remove("s");
        host_.Make("s", "0 16384 snapshot /o /c P 1");
        EXPECT_EQ(host_.Read("s", 0, 100), Original(0, 100));
      }
      host_.Remove("s");
      host_.Remove("o");
      std::ranges::copy(Original(0, 100), origin_->bytes().begin());
    }
  }
}

TEST_F(SnapshotTest, AnErrorOfTheStoreInvalidatesAndTheOriginGoesOn) {
  for (const IoOp op : {IoOp::kWrite, IoOp::kFlush}) {
    auto faulty = std::make_shared<FaultyDevice>(host_.AddMemory("/below", kStore));
    host_.Add("/c", faulty);
    MakePair();
    ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 8), IoStatus::kOk);
    faulty->Add({.op = op});
    EXPECT_EQ(host_.WritePattern("o", "NEW", 8, 8), IoStatus::kOk);
    EXPECT_EQ(host_.Status("s"), "snapshot Invalid");
    EXPECT_EQ(host_.Read("o", 8, 8), Pattern("NEW", Sector(8), SectorCount(8)));
    EXPECT_TRUE(host_.Read("s", 100, 8).empty());
    EXPECT_EQ(host_.WritePattern("s", "SNP", 100, 8), IoStatus::kIoError);
    host_.Remove("s");
    host_.Remove("o");
  }
}

TEST_F(SnapshotTest, AnOriginThatCannotBeReadInvalidatesAndTheWriteGoesOn) {
  auto faulty = std::make_shared<FaultyDevice>(origin_);
  host_.Add("/o", faulty);
  MakePair();
  faulty->Add({.op = IoOp::kRead, .first = Sector(8), .count = SectorCount(1)});
  EXPECT_EQ(host_.WritePattern("o", "NEW", 9, 1), IoStatus::kOk);
  EXPECT_EQ(host_.Status("s"), "snapshot Invalid");
}

// A pair whose store takes nothing any more, not even that the snapshot is invalid.
class DeadStoreTest : public SnapshotTest {
 protected:
  void Begin(std::function<void()> on_first_put = nullptr) {
    notes_ = std::make_shared<MemoryNotes>(std::move(on_first_put));
    host_.registry().SetNotes(notes_);
    faulty_ = std::make_shared<FaultyDevice>(store_);
    host_.Add("/c", faulty_);
    MakePair();
    faulty_->FailAll(IoStatus::kIoError);
  }
  void Invalidate() {
    ASSERT_EQ(host_.WritePattern("o", "NEW", 8, 8), IoStatus::kOk);
    ASSERT_EQ(host_.Status("s"), "snapshot Invalid");
  }
  bool HeaderIsValid() { return store_->bytes()[4] == std::byte{1}; }

  std::shared_ptr<MemoryNotes> notes_;
  std::shared_ptr<FaultyDevice> faulty_;
};

TEST_F(DeadStoreTest, ThatTheSnapshotIsInvalidIsNotedBeforeTheOriginsWriteGoesOn) {
  bool original = false;
  Begin([&] { original = std::ranges::equal(origin_->bytes(), Original(0, kOrigin)); });
  Invalidate();
  EXPECT_THAT(notes_->all(), testing::ElementsAre("invalid-snapshot /c"));
  EXPECT_TRUE(original);
}

TEST_F(DeadStoreTest, AResumeWritesTheHeaderOnceTheStoreTakesIt) {
  Begin();
  Invalidate();
  EXPECT_TRUE(HeaderIsValid());
  faulty_->Heal();
  host_.Suspend("s");
  host_.Resume("s");
  host_.Settle();
  EXPECT_FALSE(HeaderIsValid());
  EXPECT_THAT(notes_->all(), testing::IsEmpty());
}

TEST_F(DeadStoreTest, SoDoesTheEndOfTheTable) {
  Begin();
  Invalidate();
  faulty_->Heal();
  host_.Remove("s");
  EXPECT_FALSE(HeaderIsValid());
  EXPECT_THAT(notes_->all(), testing::IsEmpty());
}

TEST_F(DeadStoreTest, WhatIsMadeAnewOnTheStoreIsInvalidThoughTheHeaderIsNot) {
  Begin();
  Invalidate();
  host_.Remove("s");
  host_.Make("s", "0 16384 snapshot /o /c P 8");  // the header cannot even be read
  EXPECT_EQ(host_.Status("s"), "snapshot Invalid");
  host_.Remove("s");
  ASSERT_TRUE(HeaderIsValid());
  faulty_->Heal();
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  EXPECT_EQ(host_.Status("s"), "snapshot Invalid");
  host_.Settle();
  EXPECT_FALSE(HeaderIsValid());
  EXPECT_THAT(notes_->all(), testing::IsEmpty());
}

TEST_F(DeadStoreTest, AStoreOfTheSameNameThatIsNewIsANewSnapshots) {
  Begin();
  Invalidate();
  host_.Remove("s");
  host_.AddMemory("/c", kStore);
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  EXPECT_EQ(host_.Status("s"), "snapshot 16/8192 16");
  EXPECT_THAT(notes_->all(), testing::IsEmpty());
}

// --- Order ---

// Requests with these bytes are slow, all others pass.
class OneSlowRequest final : public BlockDevice {
 public:
  OneSlowRequest(std::shared_ptr<BlockDevice> lower, const std::byte* bytes)
      : lower_(std::move(lower)), bytes_(bytes) {}
  SlowDevice& slow() { return slow_; }
  SectorCount size() const override { return lower_->size(); }
  BlockLimits limits() const override { return lower_->limits(); }
  Task<IoStatus> Submit(IoRequest request) override {
    return request.data.data() == bytes_ ? slow_.Submit(request) : lower_->Submit(request);
  }

 private:
  const std::shared_ptr<BlockDevice> lower_;
  SlowDevice slow_{lower_};
  const std::byte* const bytes_;
};

// The daemon ends while a copy waits for a device below that is suspended: for the store, or for
// the origin. Neither has failed, so the next start finds the snapshot as it was.
class SnapshotAtTheEndTest : public SnapshotTest {
 protected:
  void ExpectAWriteIsGivenUp(const std::string& suspended, const std::string& origin,
                             const std::string& store) {
    host_.Make("s", absl::StrCat("0 16384 snapshot ", origin, " ", store, " P 8"));
    host_.Make("o", absl::StrCat("0 16384 snapshot-origin ", origin));
    host_.Suspend(suspended);
    std::vector<std::byte> news = Pattern("NEW", Sector(64), SectorCount(8));
    SnapshotHost::UnderWay write(host_, "o", IoRequest::Write(Sector(64), news));
    host_.Settle();
    EXPECT_FALSE(write.done());
    host_.registry().EndSuspended();
    EXPECT_EQ(write.Wait(), IoStatus::kAborted);
    host_.Remove("o");
    host_.Remove("s");
    SnapshotHost next;
    next.Add("/o", origin_);
    next.Add("/c", store_);
    next.Make("s", "0 16384 snapshot /o /c P 8");
    EXPECT_THAT(next.Status("s"), testing::Not(HasSubstr("Invalid")));
    EXPECT_EQ(next.Read("s", 64, 8), Original(64, 8));
    next.Make("plain", "0 16384 linear /o 0");
    EXPECT_EQ(next.Read("plain", 64, 8), Original(64, 8));
  }
};

TEST_F(SnapshotAtTheEndTest, ASuspendedStoreLosesNothing) {
  host_.Make("store", "0 8192 linear /c 0");
  ExpectAWriteIsGivenUp("store", "/o", "store");
}

TEST_F(SnapshotAtTheEndTest, ASuspendedOriginDoesNotInvalidate) {
  host_.Make("base", "0 16384 linear /o 0");
  ExpectAWriteIsGivenUp("base", "base", "/c");
}

TEST_F(SnapshotTest, TheOriginsWriteWaitsForReadsOfTheSnapshotThatNeedTheOldData) {
  std::vector<std::byte> found(8 * kSectorBytes);
  auto origin = std::make_shared<OneSlowRequest>(origin_, found.data());
  host_.Add("/o", origin);
  MakePair();
  SnapshotHost::UnderWay read(host_, "s", IoRequest::Read(Sector(0), found));
  origin->slow().WaitUntilHeld(1);
  std::vector<std::byte> data = Pattern("NEW", Sector(4), SectorCount(1));
  SnapshotHost::UnderWay write(host_, "o", IoRequest::Write(Sector(4), data), 1);
  // The copy and its commit need not wait.
  while (*host_.Message("s", "exceptions 0") == "8 -") host_.Settle();
  host_.Settle();
  EXPECT_FALSE(write.done());
  EXPECT_TRUE(std::ranges::equal(origin_->bytes().first(8 * kSectorBytes), Original(0, 8)));
  origin->slow().Release();
  EXPECT_EQ(read.Wait(), IoStatus::kOk);
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(found, Original(0, 8));
  EXPECT_EQ(host_.Read("s", 0, 8), Original(0, 8));
}

TEST_F(SnapshotTest, AWriteThatFindsTheExceptionWaitsForTheReadsThatTheFirstWaitsFor) {
  std::vector<std::byte> found(8 * kSectorBytes);
  auto origin = std::make_shared<OneSlowRequest>(origin_, found.data());
  host_.Add("/o", origin);
  MakePair();
  SnapshotHost::UnderWay read(host_, "s", IoRequest::Read(Sector(0), found));
  origin->slow().WaitUntilHeld(1);
  ASSERT_EQ(*host_.Message("s", "keep 8 1"), "");  // of another chunk: it does not wait
  std::vector<std::byte> data = Pattern("NEW", Sector(4), SectorCount(1));
  SnapshotHost::UnderWay first(host_, "o", IoRequest::Write(Sector(4), data), 1);
  while (*host_.Message("s", "exceptions 0") == "8 - 8+1") host_.Settle();
  for (const int reactor : {0, 1}) {
    SnapshotHost::UnderWay copied(host_, "o", IoRequest::Write(Sector(64), data), reactor);
    EXPECT_EQ(copied.Wait(), IoStatus::kOk);
  }
  SnapshotHost::UnderWay second(host_, "o", IoRequest::Write(Sector(5), data), 0);
  SnapshotHost::UnderWay third(host_, "o", IoRequest::Write(Sector(6), data), 1);
  host_.Settle();
  EXPECT_FALSE(first.done() || second.done() || third.done());
  EXPECT_TRUE(std::ranges::equal(origin_->bytes().first(8 * kSectorBytes), Original(0, 8)));
  origin->slow().Release();
  EXPECT_EQ(read.Wait(), IoStatus::kOk);
  EXPECT_EQ(found, Original(0, 8));
  EXPECT_EQ(first.Wait(), IoStatus::kOk);
  EXPECT_EQ(second.Wait(), IoStatus::kOk);
  EXPECT_EQ(third.Wait(), IoStatus::kOk);
}

// Answers at once, as a file does, but one request holds up the reactor that it is read on.
class OneBlockingRequest final : public BlockDevice {
 public:
  OneBlockingRequest(std::shared_ptr<BlockDevice> lower, const std::byte* bytes)
      : lower_(std::move(lower)), bytes_(bytes) {}
  SectorCount size() const override { return lower_->size(); }
  BlockLimits limits() const override { return lower_->limits(); }
  Task<IoStatus> Submit(IoRequest request) override {
    if (request.data.data() == bytes_) {
      entered.Notify();
      leave.WaitForNotification();
    }
    return lower_->Submit(request);
  }

  absl::Notification entered, leave;

 private:
  const std::shared_ptr<BlockDevice> lower_;
  const std::byte* const bytes_;
};

TEST_F(SnapshotTest, TheOriginsWriteWaitsForAReadThatAnotherReactorIsInTheMiddleOf) {
  for (const uint64_t sectors : {8, 8 * 40, 8 * 100}) {
    std::vector<std::byte> found(sectors * kSectorBytes);
    auto origin = std::make_shared<OneBlockingRequest>(origin_, found.data());
    host_.Add("/o", origin);
    MakePair();
    SnapshotHost::UnderWay read(host_, "s", IoRequest::Read(Sector(800), found), 1);
    origin->entered.WaitForNotification();
    // The chunk before and the one behind do not wait; those that are read do.
    EXPECT_EQ(host_.WritePattern("o", "NEW", 799, 1), IoStatus::kOk);
    EXPECT_EQ(host_.WritePattern("o", "NEW", 800 + sectors, 1), IoStatus::kOk);
    std::vector<std::byte> data = Pattern("NEW", Sector(0), SectorCount(1));
    SnapshotHost::UnderWay first(host_, "o", IoRequest::Write(Sector(800), data));
    SnapshotHost::UnderWay last(host_, "o", IoRequest::Write(Sector(799 + sectors), data));
    // Reactor 1 does nothing else.
    const auto settle = [this] {
      for (int i = 0; i < 8; ++i) host_.reactors().RunOn(0, []() -> Task<void> { co_return; }());
    };
    const auto is_copied = [this](uint64_t chunk) {
      return host_.Message("s", absl::StrCat("exceptions ", chunk))
                 ->find(absl::StrCat(" ", chunk, "+")) != std::string::npos;
    };
    while (!is_copied(100) || !is_copied(99 + sectors / 8)) settle();
    settle();
    EXPECT_FALSE(first.done() || last.done());
    // Nor may one go on that comes now, when the exceptions are there.
    SnapshotHost::UnderWay again(host_, "o", IoRequest::Write(Sector(801), data));
    settle();
    EXPECT_FALSE(again.done());
    EXPECT_TRUE(std::ranges::equal(origin_->bytes().subspan(800 * kSectorBytes, found.size()),
                                   Original(800, sectors)));
    origin->leave.Notify();
    EXPECT_EQ(read.Wait(), IoStatus::kOk);
    EXPECT_EQ(found, Original(800, sectors));
    EXPECT_EQ(first.Wait(), IoStatus::kOk);
    EXPECT_EQ(last.Wait(), IoStatus::kOk);
    EXPECT_EQ(again.Wait(), IoStatus::kOk);
    EXPECT_EQ(host_.Read("s", 800, sectors), Original(800, sectors));
    host_.Remove("o");
    host_.Remove("s");
    SetUp();
  }
}

TEST_F(SnapshotTest, TheOriginsWriteWaitsForTheCopyAndTheExceptionToBeDurable) {
  auto slow = std::make_shared<SlowDevice>(store_);
  slow->Release();
  host_.Add("/c", slow);
  MakePair();
  slow->Hold();
  std::vector<std::byte> data = Pattern("NEW", Sector(4), SectorCount(1));
  SnapshotHost::UnderWay write(host_, "o", IoRequest::Write(Sector(4), data));
  // The copied chunk, a flush, the exception.
  for (int step = 0; step < 3; ++step) {
    slow->WaitUntilHeld(1);
    EXPECT_EQ(origin_->bytes()[4 * kSectorBytes], Original(4, 1)[0]) << step;
    EXPECT_EQ(slow->held(), 1u);
    slow->ReleaseOne();
  }
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
}

// --- Group commit ---

Task<void> WriteEvery(BlockDevice& device, uint64_t first, uint64_t step, uint64_t end,
                      uint64_t chunk, Gate& gate) {
  std::vector<std::byte> data(kSectorBytes, std::byte{7});
  for (; first < end; first += step) {
    const IoStatus status = co_await device.Submit(IoRequest::Write(Sector(first * chunk), data));
    EXPECT_EQ(status, IoStatus::kOk);
  }
  gate.Leave();
}

Task<void> WriteFirstTime(BlockDevice& device, uint64_t depth, uint64_t chunks, uint64_t chunk) {
  Gate gate;
  for (uint64_t lane = 0; lane < depth; ++lane) {
    CHECK(gate.TryEnter());
    Detach(WriteEvery(device, lane, depth, chunks, chunk, gate));
  }
  gate.Close();
  co_await gate.Drained();
}

// Whether the disks answer at once or after a while.
TEST_F(SnapshotTest, ExceptionsThatWaitShareAFlush) {
  constexpr uint64_t kChunks = 2048;
  for (const uint64_t delay : {0, 10, 60}) {
    for (const auto& [depth, exceptions_per_flush] : {std::pair(1, 1), std::pair(32, 8)}) {
      CrashRecorder recorder(1);
      const auto store = recorder.AddDisk(SectorCount(8 * (kChunks + 32)));
      host_.AddMemory("/o", 8 * kChunks);
      host_.Add("/c", store);
      MakePair();
      const uint64_t before = recorder.CountOf(0, IoOp::kFlush);
      recorder.SetDelay(delay);
      BlockDevice& device = *host_.registry().Find("o");
      host_.reactors().RunOn(0, WriteFirstTime(device, depth, kChunks, 8));
      recorder.SetDelay(0);
      const uint64_t flushes = recorder.CountOf(0, IoOp::kFlush) - before;
      EXPECT_LE(flushes * exceptions_per_flush, kChunks) << "depth " << depth << ", " << delay;
      EXPECT_EQ(*host_.Message("s", "exceptions 0"), absl::StrCat("8 - 0+", kChunks));
      RecordProperty(absl::StrCat("flushes_at_", depth, "_delay_", delay),
                     static_cast<int>(flushes));
      host_.Remove("s");
      host_.Remove("o");
    }
  }
}

TEST_F(SnapshotTest, OneLargeWriteCopiesNeighboursTogetherWithOneFlush) {
  CrashRecorder recorder(1);
  host_.Add("/c", recorder.AddDisk(SectorCount(kStore)));
  MakePair();
  const uint64_t flushes = recorder.CountOf(0, IoOp::kFlush);
  const uint64_t writes = recorder.CountOf(0, IoOp::kWrite);
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 1024), IoStatus::kOk);
  EXPECT_EQ(recorder.CountOf(0, IoOp::kFlush) - flushes, 1u);
  EXPECT_EQ(recorder.CountOf(0, IoOp::kWrite) - writes, 2u);  // the data, the entries
}

// --- Handover ---

TEST_F(SnapshotTest, AReloadHandsTheExceptionsOverWithoutReading) {
  auto faulty = std::make_shared<FaultyDevice>(store_);
  host_.Add("/c", faulty);
  MakePair();
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 8), IoStatus::kOk);
  faulty->Add({.op = IoOp::kRead});
  ASSERT_EQ(host_.Load("s", "0 16384 snapshot /o /c PO 8"), absl::OkStatus());
  ASSERT_EQ(host_.WritePattern("o", "NEW", 8, 8), IoStatus::kOk);
  host_.Resume("s");
  EXPECT_EQ(faulty->failed(), 0u);
  EXPECT_EQ(host_.Status("s"), "snapshot 32/8192 16");
  EXPECT_EQ(host_.Table("s"), "snapshot /o /c PO 8");
  faulty->Heal();
  ASSERT_EQ(host_.WritePattern("o", "NEW", 16, 8), IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
}

TEST_F(SnapshotTest, AStoreHasOneOwner) {
  MakePair();
  EXPECT_THAT(Refusal("0 16384 snapshot /o /c P 8"),
              HasSubstr("Unable to perform snapshot handover until source is suspended."));
  EXPECT_THAT(Refusal("0 16384 snapshot /o /c N 8"),
              HasSubstr("Snapshot cow pairing for exception table handover failed"));
  host_.Suspend("s");
  host_.Make("t", "0 16384 snapshot /o /c P 8");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 8), IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("t"), Original(0, kOrigin));
  EXPECT_THAT(std::string(host_.registry().Resume("s").message()),
              HasSubstr("Unable to perform snapshot handover"));
}

// As a recipe does that puts a layer under a snapshot, or takes one away.
TEST_F(SnapshotTest, WhenTheStoreGoesToAnotherDeviceTheOriginIsHeldBackAllTheTime) {
  auto slow = std::make_shared<SlowDevice>(store_);
  slow->Release();
  host_.Add("/c", slow);
  MakePair();
  slow->Hold();
  std::vector<std::byte> data = Pattern("NEW", Sector(0), SectorCount(8));
  SnapshotHost::UnderWay write(host_, "o", IoRequest::Write(Sector(0), data));
  slow->WaitUntilHeld(1);
  ASSERT_EQ(host_.registry().Suspend("s", SuspendMode::kNoFlush), absl::OkStatus());
  absl::Notification taken_over;
  std::thread other([&] {
    host_.Make("t", "0 16384 snapshot /o /c P 8");
    taken_over.Notify();
  });
  const std::shared_ptr<OriginGroup> group = OriginGroup::Of(origin_);
  std::atomic<bool> gap{false};
  while (!taken_over.HasBeenNotified() && !gap) {
    host_.reactors().OnEach(
        [&](Reactor&) { gap = gap || group->NothingToCopy(Sector(800), SectorCount(8)); });
  }
  EXPECT_FALSE(gap);
  slow->Release();
  other.join();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  host_.Remove("s");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 800, 8), IoStatus::kOk);
  EXPECT_EQ(host_.ReadAll("t"), Original(0, kOrigin));
}

TEST_F(SnapshotTest, ASuspendedSnapshotIsStillProtected) {
  MakePair();
  host_.Suspend("s");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 800), IoStatus::kOk);
  host_.Resume("s");
  EXPECT_EQ(host_.ReadAll("s"), Original(0, kOrigin));
}

// --- Discards of the snapshot ---

TEST_F(SnapshotTest, DiscardsAreRefusedWithoutTheFeature) {
  MakePair();
  EXPECT_EQ(host_.Submit("s", IoRequest::Discard(Sector(0), SectorCount(8))),
            IoStatus::kNotSupported);
  EXPECT_EQ(host_.Submit("s", IoRequest::WriteZeroes(Sector(0), SectorCount(8))),
            IoStatus::kNotSupported);
}

TEST_F(SnapshotTest, DiscardZeroesWhatTheStoreHoldsAndLeavesTheRest) {
  MakePair("P 8 1 discard_zeroes_cow");
  ASSERT_EQ(host_.WritePattern("s", "SNP", 8, 8), IoStatus::kOk);
  ASSERT_EQ(host_.Submit("s", IoRequest::Discard(Sector(0), SectorCount(32))), IoStatus::kOk);
  EXPECT_EQ(host_.Read("s", 8, 8), std::vector<std::byte>(8 * kSectorBytes));
  EXPECT_EQ(host_.Read("s", 16, 8), Original(16, 8));
  EXPECT_EQ(host_.ReadAll("o"), Original(0, kOrigin));
}

TEST_F(SnapshotTest, APassedDownDiscardIsCopiedByOtherSnapshotsFirst) {
  host_.AddMemory("/c2", kStore);
  MakePair("P 8 2 discard_zeroes_cow discard_passdown_origin");
  host_.Make("s2", "0 16384 snapshot /o /c2 P 8");
  ASSERT_EQ(host_.Submit("s", IoRequest::Discard(Sector(0), SectorCount(32))), IoStatus::kOk);
  EXPECT_EQ(host_.Read("o", 0, 32), std::vector<std::byte>(32 * kSectorBytes));
  EXPECT_EQ(host_.ReadAll("s2"), Original(0, kOrigin));
}

}  // namespace
}  // namespace sectormap::targets
