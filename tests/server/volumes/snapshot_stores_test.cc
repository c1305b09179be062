// SPDX-License-Identifier: Apache-2.0
// Stores of snapshots that grow, and what becomes of a snapshot whose store is full.
#include "server/volumes/snapshots.h"
#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class SnapshotStoresTest : public RecipeTest {
 protected:
  // A volume whose snapshot s1 has a store that has to grow.
  void MakeSmallStore() {
    MakeVolume();
    ASSERT_TRUE(snapshots_
                    ->Create({.entries = {{.name = "s1", .device = "vol"}},
                              .store_sectors = 512,
                              .chunk_sectors = kChunk,
                              .grow_at_percent = 50,
                              .grow_by_percent = 100})
                    .ok());
  }
  // As slowly as the keeper could follow.
  void OverwriteSlowly(uint64_t from, uint64_t to) {
    for (uint64_t first = from; first < to; first += 128) {
      Fill("vol", first, 128, 2);
      static_cast<void>(snapshots_->GrowStores());
    }
  }
  // By origin, the oldest first.
  std::vector<SnapshotStatus::State> States() {
    std::vector<SnapshotStatus::State> states;
    for (const SnapshotInfo& info : snapshots_->List()) states.push_back(info.status.state);
    return states;
  }
};

TEST_F(SnapshotStoresTest, AStoreGrowsBeforeItIsFullAndNoFurtherThanItsLimit) {
  MakeSmallStore();
  OverwriteSlowly(0, kVolumeSectors);
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
  EXPECT_LE(std::filesystem::file_size(Path("s1.cow")),
            StoreSectorsForAll(SectorCount(kVolumeSectors), kChunk) * kSectorBytes);
}

// Then another device has the snapshot's row.
TEST_F(SnapshotStoresTest, TheStoreOfASnapshotThatIsMirroredGrowsToo) {
  MakeSmallStore();
  const std::string leg = MakeFile("leg", kVolumeSectors);
  ExpectDone(mirrors_->StartAdd({.device = "s1", .leg = leg}));
  Restart();
  OverwriteSlowly(0, kVolumeSectors / 2);
  const std::vector<SnapshotInfo> mirrored = snapshots_->List();
  ASSERT_EQ(mirrored.size(), 1u);
  EXPECT_EQ(mirrored[0].name, "s1-mimage-0");
  EXPECT_EQ(mirrored[0].origin, "vol");
  EXPECT_NE(mirrored[0].created_unix_seconds, 0);
  EXPECT_EQ(mirrored[0].status.state, SnapshotStatus::State::kValid);
  ExpectDone(mirrors_->StartRemove({.device = "s1", .leg = leg}));
  OverwriteSlowly(kVolumeSectors / 2, kVolumeSectors);
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
}

// Between it and its device there is a table of another kind then.
TEST_F(SnapshotStoresTest, AnOlderSnapshotStaysValidWhenTheNewerOneIsMirrored) {
  using State = SnapshotStatus::State;
  MakeVolume();
  TakeSnapshot("s1");
  TakeSnapshot("s2");
  ExpectDone(mirrors_->StartAdd({.device = "s2", .leg = MakeFile("leg", kVolumeSectors)}));
  EXPECT_TRUE(Exists("s2-real-mimage-0"));
  EXPECT_THAT(States(), ElementsAre(State::kValid, State::kValid));
}

TEST_F(SnapshotStoresTest, AStoreThatMayNotGrowTellsOnceThatItIsNearlyFull) {
  MakeVolume();
  ASSERT_TRUE(snapshots_
                  ->Create({.entries = {{.name = "s1", .device = "vol"}},
                            .store_sectors = 512,
                            .chunk_sectors = kChunk,
                            .never_grow = true})
                  .ok());
  Fill("vol", 0, 27 * kChunk, 2);
  const uint32_t events = registry_->Info("s1")->event_number;
  EXPECT_THAT(snapshots_->GrowStores(),
              ElementsAre(std::pair<std::string, std::string>("s1", "its store is nearly full")));
  EXPECT_EQ(registry_->Info("s1")->event_number, events + 1);
  EXPECT_THAT(snapshots_->GrowStores(), IsEmpty());
}

TEST_F(SnapshotStoresTest, AStoreThatIsFullTellsOnceWhatBecomesOfItsSnapshot) {
  for (const bool overflow_stays_valid : {false, true}) {
    SCOPED_TRACE(overflow_stays_valid);
    const std::string vol = overflow_stays_valid ? "vol2" : "vol1";
    MakeVolume(vol);
    ASSERT_TRUE(snapshots_
                    ->Create({.entries = {{.name = "s", .device = vol}},
                              .store_sectors = 512,
                              .chunk_sectors = kChunk,
                              .overflow_stays_valid = overflow_stays_valid,
                              .never_grow = true})
                    .ok());
    EXPECT_THAT(snapshots_->GrowStores(), IsEmpty());
    std::vector<std::byte> bytes = Pattern(0, kVolumeSectors, 2);
    const auto device = registry_->Find("s");
    EXPECT_EQ(
        reactors_->RunOn(0, [&] { return device->Submit(IoRequest::Write(Sector(0), bytes)); }),
        IoStatus::kIoError);
    const char* const told = overflow_stays_valid ? "can only be read" : "is lost";
    EXPECT_THAT(snapshots_->GrowStores(), ElementsAre(Pair("s", HasSubstr(told))));
    EXPECT_THAT(snapshots_->GrowStores(), IsEmpty());
    ASSERT_TRUE(catalog_->Remove("s", {}).ok());
  }
}

TEST_F(SnapshotStoresTest, AStoreThatIsLostTakesTheOlderSnapshotsWithIt) {
  using State = SnapshotStatus::State;
  MakeVolume();
  TakeSnapshot("s1");
  ASSERT_TRUE(snapshots_
                  ->Create({.entries = {{.name = "s2", .device = "vol"}},
                            .store_sectors = 512,
                            .chunk_sectors = kChunk,
                            .never_grow = true})
                  .ok());
  Fill("vol", 0, kChunk, 2);
  EXPECT_THAT(States(), ElementsAre(State::kValid, State::kValid));
  Fill("vol", 0, kVolumeSectors, 3);
  EXPECT_THAT(States(), ElementsAre(State::kInvalid, State::kInvalid));
  TakeSnapshot("s3");
  EXPECT_THAT(States(), ElementsAre(State::kInvalid, State::kInvalid, State::kValid));
  const auto again = snapshots_->Create(
      {.entries = {{.name = "s1", .device = "vol"}}, .chunk_sectors = kChunk, .existing_ok = true});
  EXPECT_TRUE(absl::IsAlreadyExists(again.status())) << again.status();
}

}  // namespace
}  // namespace sectormap::volumes
