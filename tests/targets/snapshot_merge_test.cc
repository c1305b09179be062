// SPDX-License-Identifier: Apache-2.0
// snapshot-merge: the origin goes back to what the snapshot shows, in use all the time.
#include "targets/snapshot/merger.h"
#include "tests/support/faulty_device.h"
#include "tests/support/slow_device.h"
#include "tests/targets/snapshot_fixture.h"

namespace sectormap::targets {
namespace {

using testing::HasSubstr;

constexpr uint64_t kOrigin = 8192;
constexpr uint64_t kStore = 16384;
constexpr const char* kMergeRow = "0 8192 snapshot-merge /o /c P 8";
constexpr const char* kDone = "snapshot-merge 16/16384 16";

class SnapshotMergeTest : public SnapshotFixture {
 protected:
  void SetUp() override {
    origin_ = host_.AddMemory("/o", Pattern("ORG", Sector(0), SectorCount(kOrigin)));
    store_ = host_.AddMemory("/c", kStore);
  }

  // A store with `count` exceptions, each written in the snapshot; every `step`-th chunk.
  void Diverge(uint64_t count, uint64_t step) {
    host_.Make("s", "0 8192 snapshot /o /c P 8");
    for (uint64_t i = 0; i < count; ++i) {
      ASSERT_EQ(host_.WritePattern("s", "SNP", i * step * 8, 8), IoStatus::kOk);
    }
    view_ = host_.ReadAll("s");
    host_.Remove("s");
  }
  void WaitUntilDone() {
    while (host_.Status("o") != kDone) host_.Settle();
  }

  std::shared_ptr<MemoryDevice> origin_;
  std::shared_ptr<MemoryDevice> store_;
  std::vector<std::byte> view_;
};

TEST_F(SnapshotMergeTest, WordsAreTheKernels) {
  host_.Make("o", kMergeRow);
  EXPECT_EQ(host_.Table("o"), "snapshot-merge /o /c P 8");
  EXPECT_EQ(host_.Status("o"), kDone);
  EXPECT_THAT(std::string(host_.TryMake("x", "0 8192 snapshot-merge /o /n N 8").message()),
              HasSubstr("Cannot get COW device"));
  host_.AddMemory("/n", kStore);
  EXPECT_THAT(std::string(host_.TryMake("x", "0 8192 snapshot-merge /o /n N 8").message()),
              HasSubstr("Snapshot exception store does not support snapshot-merge."));
  EXPECT_THAT(std::string(host_.TryMake("x", "0 8192 snapshot-merge /o /n P 8").message()),
              HasSubstr("A snapshot is already merging."));
  host_.Remove("o");
  host_.Make("x", "0 8192 snapshot-merge /o /n P 8");
}

TEST_F(SnapshotMergeTest, MoreThanABatchIsBroughtBackAndAnEventTells) {
  Diverge(3 * kMergeEntriesMax, 1);
  host_.Make("o", kMergeRow);
  EXPECT_TRUE(host_.ReadAll("o") == view_);
  WaitUntilDone();
  EXPECT_TRUE(host_.ReadAll("o") == view_);
  EXPECT_EQ(*host_.registry().WaitEvent("o", 0, [] { return false; }), 1u);
  host_.Suspend("o");
  EXPECT_TRUE(std::ranges::equal(origin_->bytes(), view_));
  host_.Resume("o");
  // What is left is a plain origin.
  host_.Reload("o", "0 8192 snapshot-origin /o");
  EXPECT_TRUE(host_.ReadAll("o") == view_);
}

TEST_F(SnapshotMergeTest, WritesToABatchWaitForItAndOthersDoNot) {
  Diverge(4, 2);
  auto slow = std::make_shared<SlowDevice>(origin_);
  host_.Add("/o", slow);
  host_.Make("o", kMergeRow);
  slow->WaitUntilHeld(4);  // the batch's copies
  std::vector<std::byte> data = Pattern("NEW", Sector(17), SectorCount(2));
  SnapshotHost::UnderWay in_batch(host_, "o", IoRequest::Write(Sector(17), data), 1);
  host_.Settle();
  EXPECT_FALSE(in_batch.done());
  std::vector<std::byte> found(8 * kSectorBytes);
  EXPECT_EQ(host_.Submit("o", IoRequest::Read(Sector(16), found)), IoStatus::kOk);
  EXPECT_EQ(found, Pattern("SNP", Sector(16), SectorCount(8)));
  slow->Release();
  EXPECT_EQ(in_batch.Wait(), IoStatus::kOk);
  WaitUntilDone();
  EXPECT_EQ(host_.Read("o", 17, 2), data);
  EXPECT_EQ(host_.Read("o", 16, 1), Pattern("SNP", Sector(16), SectorCount(1)));
}

TEST_F(SnapshotMergeTest, OneWriteMayTouchWhatIsMergedAndWhatIsNot) {
  Diverge(40, 3);
  host_.Make("o", kMergeRow);
  ASSERT_EQ(host_.WritePattern("o", "NEW", 3, 900), IoStatus::kOk);
  std::ranges::copy(Pattern("NEW", Sector(3), SectorCount(900)),
                    view_.begin() + 3 * static_cast<ptrdiff_t>(kSectorBytes));
  EXPECT_TRUE(host_.ReadAll("o") == view_);
  WaitUntilDone();
  EXPECT_TRUE(host_.ReadAll("o") == view_);
}

TEST_F(SnapshotMergeTest, AnErrorStopsTheMergeAndTheDeviceGoesOnUntilItIsResumed) {
  Diverge(20, 1);
  auto faulty = std::make_shared<FaultyDevice>(origin_);
  faulty->Add({.op = IoOp::kWrite, .first = Sector(80), .count = SectorCount(1)});
  host_.Add("/o", faulty);
  host_.Make("o", kMergeRow);
  while (host_.Status("o") != "snapshot-merge Merge failed") host_.Settle();
  EXPECT_TRUE(host_.ReadAll("o") == view_);
  ASSERT_EQ(host_.WritePattern("o", "NEW", 80, 8), IoStatus::kOk);  // goes to the store
  EXPECT_EQ(*host_.registry().WaitEvent("o", 0, [] { return false; }), 1u);
  host_.Suspend("o");
  faulty->Heal();
  host_.Resume("o");
  WaitUntilDone();
  std::ranges::copy(Pattern("NEW", Sector(80), SectorCount(8)),
                    view_.begin() + 80 * static_cast<ptrdiff_t>(kSectorBytes));
  EXPECT_TRUE(host_.ReadAll("o") == view_);
}

TEST_F(SnapshotMergeTest, AStoreThatIsInvalidLeavesTheOriginAlone) {
  Diverge(4, 1);
  store_->bytes()[4] = std::byte{0};
  host_.Make("o", kMergeRow);
  EXPECT_EQ(host_.Status("o"), "snapshot-merge Invalid");
  EXPECT_TRUE(host_.ReadAll("o") == Pattern("ORG", Sector(0), SectorCount(kOrigin)));
  EXPECT_EQ(host_.WritePattern("o", "NEW", 0, 8), IoStatus::kOk);
  EXPECT_EQ(host_.Read("o", 0, 8), Pattern("NEW", Sector(0), SectorCount(8)));
}

TEST_F(SnapshotMergeTest, DiscardsAreIgnoredIfTheFeatureAllowsThem) {
  Diverge(4, 1);
  host_.Make("o", "0 8192 snapshot-merge /o /c P 8 1 discard_zeroes_cow");
  EXPECT_EQ(host_.Submit("o", IoRequest::Discard(Sector(0), SectorCount(100))), IoStatus::kOk);
  WaitUntilDone();
  EXPECT_TRUE(host_.ReadAll("o") == view_);
}

// What the table after the merge will take, this one takes: it ends, and who has heard once that
// there are no discards asks no more.
TEST_F(SnapshotMergeTest, DiscardsAreIgnoredWhereTheOriginTakesThem) {
  Diverge(4, 1);
  host_.Make("o", kMergeRow);
  const BlockLimits limits = host_.registry().Find("o")->limits();
  EXPECT_TRUE(limits.can_discard);
  EXPECT_FALSE(limits.discard_zeroes);
  EXPECT_EQ(limits.discard_granularity_bytes, origin_->limits().discard_granularity_bytes);
  EXPECT_EQ(host_.Submit("o", IoRequest::Discard(Sector(0), SectorCount(100))), IoStatus::kOk);
  WaitUntilDone();
  EXPECT_TRUE(host_.ReadAll("o") == view_);
}

TEST_F(SnapshotMergeTest, DiscardsAreRefusedWhereTheOriginRefusesThem) {
  auto origin = std::make_shared<FaultyDevice>(origin_);
  BlockLimits limits = origin_->limits();
  limits.can_discard = limits.discard_zeroes = false;
  limits.discard_granularity_bytes = 0;
  origin->SetLimits(limits);
  host_.Add("/o", origin);
  host_.Make("o", kMergeRow);
  EXPECT_FALSE(host_.registry().Find("o")->limits().can_discard);
  EXPECT_EQ(host_.Submit("o", IoRequest::Discard(Sector(0), SectorCount(8))),
            IoStatus::kNotSupported);
}

// The origin's granules, or the store's chunks.
TEST_F(SnapshotMergeTest, DiscardsAreAlignedToWhatTakesThem) {
  auto origin = std::make_shared<FaultyDevice>(origin_);
  BlockLimits limits = origin_->limits();
  limits.discard_granularity_bytes = 4096;
  limits.discard_alignment_bytes = 512;
  origin->SetLimits(limits);
  host_.Add("/o", origin);
  host_.Make("s", "0 8192 snapshot /o /c P 8 1 discard_zeroes_cow");
  EXPECT_EQ(host_.registry().Find("s")->limits().discard_alignment_bytes, 0u);
  host_.Remove("s");
  host_.Make("o", "0 8192 snapshot-merge /o /c P 8 1 discard_zeroes_cow");
  EXPECT_EQ(host_.registry().Find("o")->limits().discard_alignment_bytes, 0u);
  host_.Remove("o");
  host_.Make("o", kMergeRow);
  EXPECT_EQ(host_.registry().Find("o")->limits().discard_alignment_bytes, 512u);
}

TEST_F(SnapshotMergeTest, ASnapshotThatIsInUseIsHandedOverWhenItIsSuspended) {
  host_.Make("s", "0 8192 snapshot /o /c P 8");
  host_.Make("o", "0 8192 snapshot-origin /o");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 100, 50), IoStatus::kOk);
  ASSERT_EQ(host_.WritePattern("s", "SNP", 120, 50), IoStatus::kOk);
  const std::vector<std::byte> view = host_.ReadAll("s");
  ASSERT_EQ(host_.Load("o", kMergeRow), absl::OkStatus());
  EXPECT_THAT(std::string(host_.registry().Resume("o").message()),
              HasSubstr("Unable to perform snapshot handover until source is suspended."));
  host_.Suspend("s");
  host_.Resume("o");
  EXPECT_TRUE(host_.ReadAll("o") == view);
  WaitUntilDone();
  EXPECT_TRUE(host_.ReadAll("o") == view);
  EXPECT_FALSE(host_.registry().Resume("s").ok());
}

// It has everything but what the last writes to the snapshot were to be.
TEST_F(SnapshotMergeTest, AnOverflowedSnapshotIsMerged) {
  host_.AddMemory("/c", 128);
  host_.Make("s", "0 8192 snapshot /o /c PO 8");
  for (uint64_t chunk = 0; chunk < 14; ++chunk) {
    ASSERT_EQ(host_.WritePattern("s", "SNP", chunk * 8, 8), IoStatus::kOk);
  }
  ASSERT_EQ(host_.WritePattern("s", "SNP", 800, 8), IoStatus::kIoError);
  EXPECT_EQ(host_.Status("s"), "snapshot Overflow");
  view_ = host_.ReadAll("s");
  host_.Suspend("s");
  host_.Make("o", "0 8192 snapshot-merge /o /c PO 8");
  while (host_.Status("o") != "snapshot-merge 16/128 16") {
    ASSERT_NE(host_.Status("o"), "snapshot-merge Overflow");
    host_.Settle();
  }
  EXPECT_TRUE(host_.ReadAll("o") == view_);
}

// What was brought back has no copy any more: the next write has to make one.
TEST_F(SnapshotMergeTest, AMergedSnapshotThatIsASnapshotAgainIsCopiedTo) {
  Diverge(40, 3);
  host_.Make("s", kMergeRow);
  while (host_.Status("s") != kDone) host_.Settle();
  host_.Reload("s", "0 8192 snapshot /o /c P 8");  // the same store, which is not read again
  host_.Make("o", "0 8192 snapshot-origin /o");
  EXPECT_TRUE(host_.ReadAll("s") == view_);
  for (uint64_t chunk = 0; chunk < 120; chunk += 3) {
    ASSERT_EQ(host_.WritePattern("o", "NEW", chunk * 8 + 2, 1), IoStatus::kOk);
  }
  EXPECT_TRUE(host_.ReadAll("s") == view_);
  EXPECT_EQ(host_.Read("o", 2, 1), Pattern("NEW", Sector(2), SectorCount(1)));
}

// s1 stands on the device that is merged: its view stays, too.
TEST_F(SnapshotMergeTest, AnOlderSnapshotOfAChainStandsOnTheMergedDevice) {
  host_.AddMemory("/c1", kStore);
  host_.Make("s2", "0 8192 snapshot /o /c P 8");
  host_.Make("o", "0 8192 snapshot-origin /o");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 100, 500), IoStatus::kOk);
  host_.Make("s1", "0 8192 snapshot s2 /c1 P 16");
  ASSERT_EQ(host_.WritePattern("s1", "SN1", 130, 20), IoStatus::kOk);
  const std::vector<std::byte> s1 = host_.ReadAll("s1");
  const std::vector<std::byte> s2 = host_.ReadAll("s2");
  host_.Suspend("o");
  host_.Reload("s2", kMergeRow);
  host_.Make("user", "0 8192 snapshot-origin s2");
  EXPECT_TRUE(host_.ReadAll("user") == s2);
  ASSERT_EQ(host_.WritePattern("user", "USR", 90, 600), IoStatus::kOk);
  EXPECT_TRUE(host_.ReadAll("s1") == s1);
  while (host_.Status("s2") != kDone) host_.Settle();
  EXPECT_TRUE(host_.ReadAll("s1") == s1);
  EXPECT_EQ(host_.Read("user", 90, 600), Pattern("USR", Sector(90), SectorCount(600)));
  host_.Remove("user");
  host_.Remove("s1");
  host_.Resume("o");
}

}  // namespace
}  // namespace sectormap::targets
