// SPDX-License-Identifier: Apache-2.0
// What its parts ask of one another, and what who asks twice is answered.
#include "server/volumes/volume_service.h"

#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using VolumeServiceTest = RecipeTest;

TEST_F(VolumeServiceTest, WhoTakesTheSameOnesAgainIsAnsweredThoseThatAreThere) {
  MakeVolume("a");
  MakeVolume("b");
  const CreateSnapshots wanted{
      .entries = {{.name = "s-a", .device = "a"},
                  {.name = "s-b", .device = "b", .store = Path("b.store")}},
      .chunk_sectors = kChunk,
      .grow_at_percent = 50,
      .existing_ok = true};
  const auto first = snapshots_->Create(wanted);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto bytes = View("s-a");
  Fill("a", 0, 100, 2);
  Restart();
  const std::vector<std::string> files = Files();
  const auto again = snapshots_->Create(wanted);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_EQ(again->size(), 2u);
  for (const size_t i : {0, 1}) {
    EXPECT_EQ(again->at(i).name, first->at(i).name);
    EXPECT_EQ(again->at(i).created_unix_seconds, first->at(i).created_unix_seconds);
  }
  EXPECT_TRUE(View("s-a") == bytes);
  EXPECT_EQ(Files(), files);
  const auto code = [&](const std::function<void(CreateSnapshots&)>& change) {
    CreateSnapshots other = wanted;
    change(other);
    return snapshots_->Create(other).status().code();
  };
  const auto exists = absl::StatusCode::kAlreadyExists;
  EXPECT_EQ(code([](auto& other) { other.existing_ok = false; }), exists);
  EXPECT_EQ(code([](auto& other) { other.entries.pop_back(); }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](auto& other) { other.chunk_sectors = 0; }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](auto& other) { other.entries[0].device = "b"; }), exists);
  EXPECT_EQ(code([&](auto& other) { other.entries[1].store = Path("c.store"); }), exists);
  EXPECT_EQ(code([](auto& other) { other.chunk_sectors = 8; }), exists);
  EXPECT_EQ(code([](auto& other) { other.overflow_stays_valid = true; }), exists);
  EXPECT_EQ(code([](auto& other) { other.never_grow = true; }), exists);
  EXPECT_EQ(code([](auto& other) { other.grow_at_percent = 60; }), exists);
  EXPECT_EQ(code([](auto& other) { other.grow_by_percent = 60; }), exists);
  EXPECT_EQ(code([](auto& other) { other.limit_sectors = 4096; }), exists);
  EXPECT_EQ(code([](auto& other) { other.entries.push_back({.name = "s-c", .device = "b"}); }),
            exists);
  EXPECT_FALSE(Exists("s-c"));
}

TEST_F(VolumeServiceTest, ASnapshotThatIsLostIsNoAnswerToWhoTakesItAgain) {
  MakeVolume();
  const CreateSnapshots wanted{.entries = {{.name = "s1", .device = "vol"}},
                               .store_sectors = 512,
                               .chunk_sectors = kChunk,
                               .never_grow = true,
                               .existing_ok = true};
  ASSERT_TRUE(snapshots_->Create(wanted).ok());
  EXPECT_TRUE(snapshots_->Create(wanted).ok());
  Fill("vol", 0, kVolumeSectors, 2);
  ASSERT_EQ(snapshots_->List().at(0).status.state, SnapshotStatus::State::kInvalid);
  EXPECT_EQ(snapshots_->Create(wanted).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(VolumeServiceTest, ADeviceWithSnapshotsIsRemovedByForceOnly) {
  MakeVolume();
  TakeSnapshot("s1");
  TakeSnapshot("s2");
  Restart();
  for (const bool deferred : {false, true}) {
    const auto refused = catalog_->Remove("vol", {.deferred = deferred}).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("sectormap snapshot rm s"));
  }
  // One that somebody has taken away is no reason.
  ASSERT_TRUE(catalog_->Remove("s1", {}).ok());
  EXPECT_FALSE(catalog_->Remove("vol", {}).ok());
  ASSERT_TRUE(catalog_->Remove("s2", {}).ok());
  EXPECT_TRUE(catalog_->Remove("vol", {}).ok());
}

TEST_F(VolumeServiceTest, SnapshotsOfADeviceThatIsRemovedByForceStay) {
  MakeVolume();
  TakeSnapshot("s1");
  Fill("vol", 0, 100, 2);
  const auto bytes = View("s1");
  const auto removed = catalog_->Remove("vol", {.force = true});
  ASSERT_TRUE(removed.ok()) << removed.status();
  ASSERT_EQ(snapshots_->List().size(), 1u);
  EXPECT_EQ(snapshots_->List()[0].origin, "");
  EXPECT_TRUE(View("s1") == bytes);
}

TEST_F(VolumeServiceTest, ADeviceKeepsTheLayerThatItsSnapshotsLieOn) {
  MakeVolume();
  TakeSnapshot("s1");
  TakeSnapshot("s2");
  Restart();
  const std::string past = absl::StrCat("0 2048 linear ", Path("vol.img"), " 0\n");
  for (const char* const device : {"vol", "s2"}) {
    const std::string before = TableOf(device);
    const auto loaded = catalog_->Load(device, past, false).status();
    EXPECT_EQ(loaded.code(), absl::StatusCode::kFailedPrecondition) << device;
    EXPECT_THAT(std::string(loaded.message()), HasSubstr(absl::StrCat("layer below, '", device)));
    EXPECT_FALSE(catalog_->Replace(device, past, false, SuspendMode::kFlush).ok()) << device;
    EXPECT_EQ(TableOf(device), before);
    EXPECT_FALSE(registry_->Info(device)->has_inactive_table);
  }
  // The same in other words, the layer itself, and the oldest snapshot.
  EXPECT_TRUE(
      catalog_->Replace("vol", "0 2048 snapshot-origin vol-real", false, SuspendMode::kFlush).ok());
  EXPECT_TRUE(catalog_->Replace("vol-real", past, false, SuspendMode::kFlush).ok());
  EXPECT_TRUE(catalog_->Replace("s1", "0 8 zero", false, SuspendMode::kFlush).ok());
  ExpectDone(snapshots_->StartRemove("s2"));
  EXPECT_TRUE(catalog_->Replace("vol", past, false, SuspendMode::kFlush).ok());
}

// As the manual has it.
TEST_F(VolumeServiceTest, ADeviceGrowsWithItsSnapshots) {
  MakeVolume();
  TakeSnapshot("monday");
  const auto bytes = View("monday");
  const std::string longer =
      absl::StrCat("0 2048 linear ", Path("vol.img"), " 0\n2048 2048 linear ",
                   MakeFile("more.img", kVolumeSectors), " 0\n");
  ASSERT_TRUE(catalog_->Load("vol-real", longer, false).ok());
  ASSERT_TRUE(catalog_->Resume("vol-real").ok());
  ASSERT_TRUE(catalog_->Load("vol", "0 4096 snapshot-origin vol-real", false).ok());
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  Fill("vol", 0, 2 * kVolumeSectors, 2);
  EXPECT_TRUE(View("vol") == Pattern(0, 2 * kVolumeSectors, 2));
  EXPECT_TRUE(View("monday") == bytes);
  TakeSnapshot("tuesday");
  const auto later = View("tuesday");
  Fill("vol", 100, 2 * kVolumeSectors - 100, 3);
  Restart();
  EXPECT_TRUE(View("monday") == bytes);
  EXPECT_TRUE(View("tuesday") == later);
  for (const SnapshotInfo& info : snapshots_->List()) {
    EXPECT_EQ(info.status.state, SnapshotStatus::State::kValid) << info.name;
  }
}

// By its uuid, a device that is made anew is the same one.
TEST_F(VolumeServiceTest, ASnapshotIsNotValidOfADeviceThatIsWrittenPastItsLayer) {
  using State = SnapshotStatus::State;
  const std::string table =
      absl::StrCat("0 2048 linear ", MakeFile("vol.img", kVolumeSectors), " 0\n");
  const CreateRequest vol{.name = "vol", .uuid = "one", .table = table};
  ASSERT_TRUE(catalog_->Create(vol).ok());
  TakeSnapshot("s1");
  TakeSnapshot("s2");
  const auto states = [this] {
    std::vector<State> all;
    for (const SnapshotInfo& info : snapshots_->List()) all.push_back(info.status.state);
    return all;
  };
  {
    // In use: it gets the error table only.
    const auto lun = catalog_->Open("vol");
    EXPECT_FALSE(catalog_->Remove("vol", {.force = true}).ok());
    EXPECT_THAT(TableOf("vol"), HasSubstr("error"));
    EXPECT_THAT(states(), ElementsAre(State::kValid, State::kValid));
  }
  ASSERT_TRUE(catalog_->Remove("vol", {.force = true}).ok());
  EXPECT_THAT(states(), ElementsAre(State::kValid, State::kValid));
  ASSERT_TRUE(catalog_->Create(vol).ok());
  EXPECT_THAT(states(), ElementsAre(State::kInvalid, State::kInvalid));
}

// Nothing else would say where its data lie.
TEST_F(VolumeServiceTest, ADeviceThatIsToGoWhenItIsClosedGetsNoRecipe) {
  MakeVolume();
  MakeVolume("real");
  Make("s1", absl::StrCat("0 2048 snapshot real ", MakeFile("1", kVolumeSectors), " P 16\n"));
  Make("origin", "0 2048 snapshot-origin real\n");
  const std::string other = MakeFile("other", kVolumeSectors);
  const std::vector<std::string> files = Files();
  std::vector<DeviceRef> luns;
  for (const char* const device : {"vol", "origin"}) {
    luns.push_back(*catalog_->Open(device));
    const auto removed = catalog_->Remove(device, {.deferred = true});
    ASSERT_TRUE(removed.ok() && removed->deferred) << device;
  }
  const auto refused = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("0 @cancel_deferred_remove"));
  };
  const CreateSnapshots snapshot{.entries = {{.name = "s2", .device = "vol"}}};
  const MoveRequest move{.device = "vol", .from = Path("vol.img"), .to = other};
  refused(snapshots_->Create(snapshot).status());
  refused(snapshots_->StartRollBack("s1").status());
  refused(moves_->Start(move).status());
  refused(mirrors_->StartAdd({.device = "vol", .leg = other}).status());
  EXPECT_TRUE(operations_->List().empty());
  EXPECT_EQ(Files(), files);
  ASSERT_TRUE(catalog_->Message("vol", Sector(0), "@cancel_deferred_remove").ok());
  const auto made = snapshots_->Create(snapshot);
  EXPECT_TRUE(made.ok()) << made.status();
  ExpectDone(moves_->Start(move));
}

TEST_F(VolumeServiceTest, WhoRollsBackAgainIsAnsweredTheOperationThatRuns) {
  MakeVolume("disk");
  Make("vol", "0 2048 linear disk 0\n");
  TakeSnapshot("s1");
  TakeSnapshot("s2");
  const auto bytes = View("s1");
  Fill("vol", 400, 100, 2);
  // The merge writes nothing before a suspend lets it go.
  const std::string disk = Path("disk.img") + " 0 ";
  ASSERT_TRUE(
      catalog_
          ->Replace("disk",
                    absl::StrCat("0 2048 delay ", disk, "0 ", disk, "3600000 ", disk, "0\n"), false,
                    SuspendMode::kFlush)
          .ok());
  const auto started = snapshots_->StartRollBack("s1");
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_FALSE(Exists("s1"));
  const auto again = snapshots_->StartRollBack("s1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->id, started->id);
  EXPECT_EQ(snapshots_->StartRollBack("s2").status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(
      catalog_->Replace("disk", "0 2048 linear " + disk + "\n", false, SuspendMode::kNoFlush).ok());
  ExpectDone(started);
  EXPECT_TRUE(View("vol") == bytes);
  EXPECT_EQ(snapshots_->StartRollBack("s1").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sectormap::volumes
