// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/made_files.h"

#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class MadeFilesTest : public RecipeTest {
 protected:
  // vol and its snapshot s1, both written to.
  void MakeSnapshot() {
    MakeVolume();
    TakeSnapshot("s1");
    Fill("vol", 40, 100, 2);
    Fill("s1", 1500, 20, 3);
    vol_ = View("vol");
    s1_ = View("s1");
  }
  void ExpectAsBefore() {
    EXPECT_TRUE(View("vol") == vol_);
    EXPECT_TRUE(View("s1") == s1_);
  }

 private:
  std::vector<std::byte> vol_, s1_;
};

TEST_F(MadeFilesTest, AUsersStoreIsUsedAndLeft) {
  MakeVolume();
  const std::string store = MakeFile("mine", 4096);
  ASSERT_TRUE(
      snapshots_->Create({.entries = {{.name = "s1", .device = "vol", .store = store}}}).ok());
  Fill("vol", 0, 64, 2);
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_THAT(Files(), ElementsAre("mine", "vol.img"));
}

TEST_F(MadeFilesTest, AStoreGoesWithItsSnapshotAndTheLogSaysSo) {
  MakeSnapshot();
  EXPECT_THAT(file_log_, IsEmpty());
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_THAT(Files(), ElementsAre("vol.img"));
  EXPECT_THAT(file_log_, ElementsAre(Pair(Path("s1.cow"), "deleted")));
}

TEST_F(MadeFilesTest, AStoreStaysWhenASnapshotIsTakenAwayByHandAndComesBack) {
  MakeSnapshot();
  const std::string table = TableOf("s1");
  ASSERT_TRUE(catalog_->Remove("s1", {}).ok());
  SweepFiles();
  Make("s1", table);
  ExpectAsBefore();
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_FALSE(std::filesystem::exists(Path("s1.cow")));
}

TEST_F(MadeFilesTest, AStoreStaysWhenAForcedRemovalLeavesTheErrorTable) {
  MakeSnapshot();
  const std::string table = TableOf("s1");
  {
    const auto lun = catalog_->Open("s1");
    EXPECT_FALSE(catalog_->Remove("s1", {.force = true}).ok());
  }
  EXPECT_THAT(TableOf("s1"), HasSubstr("error"));
  SweepFiles();
  ASSERT_TRUE(catalog_->Replace("s1", table, false, SuspendMode::kSwap).ok());
  ExpectAsBefore();
}

TEST_F(MadeFilesTest, AStoreStaysUnderAnyNameOfItsPath) {
  MakeSnapshot();
  const std::string other = (root() / ".." / "devices" / "s1.cow").string();
  ASSERT_TRUE(catalog_
                  ->Replace("s1",
                            absl::StrCat("0 2048 snapshot /dev/mapper/vol-real ", other, " P 16\n"),
                            false, SuspendMode::kSwap)
                  .ok());
  SweepFiles();
  ExpectAsBefore();
}

TEST_F(MadeFilesTest, AStoreThatSomebodyElsesTableNamesIsLeftToHim) {
  MakeSnapshot();
  Make("peek",
       absl::StrCat("0 8 linear ", (root() / ".." / "devices" / "s1.cow").string(), " 0\n"));
  const std::vector<std::byte> bytes = View("peek");
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_THAT(file_log_, ElementsAre(Pair(Path("s1.cow"), HasSubstr("left to you"))));
  EXPECT_THAT(file_log_[Path("s1.cow")], HasSubstr("'peek'"));
  const std::string table = TableOf("peek");
  ASSERT_TRUE(catalog_->Remove("peek", {}).ok());
  SweepFiles();
  Make("peek", table);
  EXPECT_TRUE(View("peek") == bytes);
}

TEST_F(MadeFilesTest, AUsersFileIsHisEvenWhereOneOfOursWas) {
  MakeSnapshot();
  ASSERT_TRUE(catalog_->Remove("s1", {}).ok());
  std::filesystem::remove(Path("s1.cow"));
  const std::string store = MakeFile("s1.cow", 4096);
  ASSERT_TRUE(
      snapshots_->Create({.entries = {{.name = "s2", .device = "vol", .store = store}}}).ok());
  ExpectDone(snapshots_->StartRemove("s2"));
  EXPECT_THAT(Files(), ElementsAre("s1.cow", "vol.img"));
}

TEST_F(MadeFilesTest, ALogStaysWhenItsMirrorIsTakenAwayByHandAndComesBack) {
  MakeVolume();
  const std::string leg = MakeFile("leg.img", kVolumeSectors);
  ExpectDone(mirrors_->StartAdd({.device = "vol", .leg = leg}));
  const std::string table = TableOf("vol");
  ASSERT_TRUE(catalog_->Remove("vol", {}).ok());
  SweepFiles();
  Make("vol", table);
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = leg}));
  EXPECT_FALSE(std::filesystem::exists(Path("vol.mlog")));
}

}  // namespace
}  // namespace sectormap::volumes
