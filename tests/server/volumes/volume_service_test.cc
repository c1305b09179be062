// SPDX-License-Identifier: Apache-2.0
// What its parts ask of one another, and what who asks twice is answered.
#include "server/volumes/volume_service.h"

#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

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
