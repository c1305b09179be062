// SPDX-License-Identifier: Apache-2.0
// The kernel's stores read to the bytes that the kernel read, and the same operations here write
// the same stores, byte for byte (tests/golden/dm/README.md).
#include "tests/targets/snapshot_fixture.h"

namespace sectormap::targets {
namespace {

constexpr uint64_t kOrigin = 16384;
constexpr uint64_t kStore = 8192;

struct Step {
  const char* device;
  const char* tag;
  uint64_t first;
  uint64_t count;
};

std::vector<std::byte> Original() { return Pattern("ORG", Sector(0), SectorCount(kOrigin)); }

// What `device` reads as after the steps.
std::vector<std::byte> After(std::span<const Step> steps, std::string_view device) {
  std::vector<std::byte> view = Original();
  for (const Step& step : steps) {
    if (device != step.device) continue;
    std::ranges::copy(Pattern(step.tag, Sector(step.first), SectorCount(step.count)),
                      view.begin() + static_cast<ptrdiff_t>(step.first * kSectorBytes));
  }
  return view;
}

class SnapshotGoldenTest : public SnapshotFixture {
 protected:
  void Do(std::span<const Step> steps) {
    for (const Step& step : steps) {
      ASSERT_EQ(host_.WritePattern(step.device, step.tag, step.first, step.count), IoStatus::kOk);
    }
  }
  static bool Same(MemoryDevice& disk, const std::vector<std::byte>& bytes) {
    return std::ranges::equal(disk.bytes(), bytes);
  }
};

constexpr Step kPair[] = {
    {"o", "NEW", 0, 8},     {"s", "SNP", 100, 1},  {"o", "NEW", 16376, 8},
    {"s", "SNP", 4096, 64}, {"o", "NEW", 4100, 1}, {"s", "SN2", 100, 1},
};

TEST_F(SnapshotGoldenTest, TheKernelsStoresReadToTheSameBytes) {
  for (const auto& [name, chunk, status] :
       {std::tuple("snap-p16", 16, "144/8192 32"), std::tuple("snap-p64", 64, "384/8192 128")}) {
    ASSERT_EQ(Golden(absl::StrCat(name, ".origin")), After(kPair, "o"));
    host_.AddMemory("/o", Golden(absl::StrCat(name, ".origin")));
    host_.AddMemory("/c", Golden(absl::StrCat(name, ".cow")));
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c P ", chunk));
    EXPECT_EQ(host_.Status("s"), absl::StrCat("snapshot ", status));
    EXPECT_TRUE(host_.ReadAll("s") == After(kPair, "s")) << name;
    host_.Remove("s");
  }
}

TEST_F(SnapshotGoldenTest, TheSameOperationsWriteTheSameStores) {
  for (const auto& [name, chunk] : {std::pair("snap-p16", 16), std::pair("snap-p64", 64)}) {
    const auto origin = host_.AddMemory("/o", Original());
    const auto store = host_.AddMemory("/c", kStore);
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c P ", chunk));
    host_.Make("o", "0 16384 snapshot-origin /o");
    Do(kPair);
    EXPECT_TRUE(Same(*store, Golden(absl::StrCat(name, ".cow")))) << name;
    EXPECT_TRUE(Same(*origin, Golden(absl::StrCat(name, ".origin")))) << name;
    host_.Remove("s");
    host_.Remove("o");
    // Nothing changes at a clean end.
    EXPECT_TRUE(Same(*store, Golden(absl::StrCat(name, ".cow")))) << name;
  }
}

TEST_F(SnapshotGoldenTest, AStoreOfTheKernelGoesOnBeingWritten) {
  host_.AddMemory("/o", Golden("snap-p16.origin"));
  host_.AddMemory("/c", Golden("snap-p16.cow"));
  host_.Make("s", "0 16384 snapshot /o /c P 16");
  host_.Make("o", "0 16384 snapshot-origin /o");
  ASSERT_EQ(host_.WritePattern("o", "NE2", 8000, 100), IoStatus::kOk);
  EXPECT_TRUE(host_.ReadAll("s") == After(kPair, "s"));
  host_.Remove("s");
  host_.Make("s", "0 16384 snapshot /o /c P 16");
  EXPECT_TRUE(host_.ReadAll("s") == After(kPair, "s"));
}

TEST_F(SnapshotGoldenTest, AStoreThatOverflowsLooksLikeTheKernels) {
  for (const char* kind : {"P", "PO"}) {
    host_.AddMemory("/o", Original());
    const auto store = host_.AddMemory("/c", 128);
    host_.Make("s", absl::StrCat("0 16384 snapshot /o /c ", kind, " 8"));
    host_.Make("o", "0 16384 snapshot-origin /o");
    for (uint64_t chunk = 0; chunk < 20; ++chunk) {
      ASSERT_EQ(host_.WritePattern("o", "NEW", chunk * 8, 8), IoStatus::kOk);
    }
    EXPECT_TRUE(Same(*store, Golden(absl::StrCat("snap-overflow-", kind, ".cow")))) << kind;
    host_.Remove("s");
    host_.Remove("o");
  }
}

TEST_F(SnapshotGoldenTest, AStoreMadeInUserSpaceReadsAsItDoesInTheKernel) {
  host_.AddMemory("/o", Original());
  host_.AddMemory("/c", Golden("usr8.cow"));
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  constexpr Step kSteps[] = {
      {"s", "USR", 0, 8}, {"s", "USR", 40, 8}, {"s", "USR", 16376, 8}, {"s", "USR", 640, 16}};
  EXPECT_TRUE(host_.ReadAll("s") == After(kSteps, "s"));
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "8 - 0+1 5+1 80+2 2047+1");
}

constexpr Step kBeforeMerge[] = {
    {"s", "SNP", 0, 64}, {"s", "SNP", 1000, 8}, {"s", "SNP", 8000, 128}, {"o", "NEW", 12000, 8}};

TEST_F(SnapshotGoldenTest, AMergeEndsWithTheKernelsBytes) {
  const auto origin = host_.AddMemory("/o", Original());
  const auto store = host_.AddMemory("/c", kStore);
  host_.Make("s", "0 16384 snapshot /o /c P 8");
  host_.Make("o", "0 16384 snapshot-origin /o");
  Do(kBeforeMerge);
  EXPECT_TRUE(Same(*store, Golden("merge-before.cow")));
  EXPECT_TRUE(Same(*origin, Golden("merge-before.origin")));
  const std::vector<std::byte> view = host_.ReadAll("s");
  host_.Remove("s");
  host_.Reload("o", "0 16384 snapshot-merge /o /c P 8");
  EXPECT_TRUE(host_.ReadAll("o") == view);
  while (host_.Status("o") != "snapshot-merge 16/8192 16") host_.Settle();
  EXPECT_TRUE(host_.ReadAll("o") == view);
  host_.Suspend("o");
  EXPECT_TRUE(Same(*store, Golden("merge-done.cow")));
  EXPECT_TRUE(Same(*origin, Golden("merge-done.origin")));
  host_.Resume("o");
}

TEST_F(SnapshotGoldenTest, TheKernelsStoreIsMerged) {
  const auto origin = host_.AddMemory("/o", Golden("merge-before.origin"));
  const auto store = host_.AddMemory("/c", Golden("merge-before.cow"));
  host_.Make("o", "0 16384 snapshot-merge /o /c P 8");
  while (host_.Status("o") != "snapshot-merge 16/8192 16") host_.Settle();
  host_.Suspend("o");
  EXPECT_TRUE(Same(*store, Golden("merge-done.cow")));
  EXPECT_TRUE(Same(*origin, Golden("merge-done.origin")));
  host_.Resume("o");
}

}  // namespace
}  // namespace sectormap::targets
