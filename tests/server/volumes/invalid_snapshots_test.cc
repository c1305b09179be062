// SPDX-License-Identifier: Apache-2.0
// What is left of a snapshot whose store failed, also after a kill.
#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using InvalidSnapshotsTest = RecipeTest;

// Its store fails, so that nothing there says that it is invalid; then the store is back.
TEST_F(InvalidSnapshotsTest, ASnapshotThatItsStoreCouldNotBeToldOfNeverShowsOtherDataAfterAKill) {
  MakeVolume();
  const std::string path = MakeFile("cow", kVolumeSectors);
  const std::string works = absl::StrCat("0 2048 linear ", path, " 0\n");
  Make("store", works);
  ASSERT_TRUE(snapshots_
                  ->Create({.entries = {{.name = "s1", .device = "vol", .store = "store"}},
                            .chunk_sectors = kChunk})
                  .ok());
  const std::vector<std::byte> before = View("s1");
  ASSERT_TRUE(catalog_->Replace("store", "0 2048 error\n", false, SuspendMode::kNoFlush).ok());
  may_be_unbuilt_ = {"vol", "s1"};
  const auto check = [&](size_t step) {
    const bool written = View("vol-real") != before;
    ASSERT_TRUE(catalog_->Replace("store", works, false, SuspendMode::kNoFlush).ok());
    ASSERT_TRUE(catalog_->Resume("s1").ok());
    ASSERT_TRUE(catalog_->Resume("vol").ok());
    const bool valid = snapshots_->List().front().status.state == SnapshotStatus::State::kValid;
    EXPECT_EQ(valid, step == 0) << "the note is kept in one step";
    if (valid) EXPECT_TRUE(!written && View("s1") == before);
  };
  KillAtEveryStep([&] { Fill("vol", 320, 64, 2); }, check);
}

}  // namespace
}  // namespace sectormap::volumes
