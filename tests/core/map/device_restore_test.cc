// SPDX-License-Identifier: Apache-2.0
// DeviceRegistry's Snapshot and RestoreAll.
#include <algorithm>
#include <thread>

#include "core/map/device_registry.h"
#include "tests/core/map/map_fixture.h"

namespace sectormap {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class DeviceRestoreTest : public MapFixture {
 protected:
  // A new daemon over the same backing devices, given what the old one was.
  absl::Status Restart(std::vector<DeviceRegistry::Saved> saved) {
    registry_ = nullptr;
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, backings_);
    return registry_->RestoreAll(std::move(saved));
  }
  DeviceRegistry::Saved SavedOf(std::string_view name) { return *registry().Snapshot(name); }
};

TEST_F(DeviceRestoreTest, SnapshotAndRestoreGiveTheSameDevices) {
  Make("low", "0 100 linear /dev/a 0\n");
  ASSERT_TRUE(registry().SetUuid("low", "LOW-1").ok());
  Make("top", "0 50 linear low 50\n", /*read_only=*/true);
  ASSERT_TRUE(Load("top", "0 8 zero\n").ok());
  ASSERT_TRUE(registry().Create("bare", {}).ok());
  ASSERT_TRUE(registry().Suspend("top", SuspendMode::kNoFlush).ok());
  const DeviceInfo low = InfoOf("low");
  const DeviceInfo top = InfoOf("top");
  ASSERT_TRUE(Restart({SavedOf("top"), SavedOf("bare"), SavedOf("low")}).ok());
  EXPECT_EQ(InfoOf("low").identity, low.identity);
  EXPECT_EQ(InfoOf("low").uuid, "LOW-1");
  EXPECT_EQ(InfoOf("low").open_count, 1u);
  EXPECT_EQ(InfoOf("top").identity, top.identity);
  EXPECT_TRUE(InfoOf("top").suspended);
  EXPECT_TRUE(InfoOf("top").read_only);
  EXPECT_EQ(InfoOf("top").error, "");
  EXPECT_EQ(*registry().Table("top", TableSlot::kLive), "0 50 linear low 50\n");
  EXPECT_EQ(*registry().Table("top", TableSlot::kInactive), "0 8 zero \n");
  EXPECT_FALSE(InfoOf("bare").has_live_table);
}

TEST_F(DeviceRestoreTest, RestoreBuildsADeepStackInAnyOrder) {
  Make("d0", "0 8 linear /dev/a 0");
  std::vector<DeviceRegistry::Saved> saved = {SavedOf("d0")};
  for (int i = 1; i < 30; ++i) {
    const std::string name = "d" + std::to_string(i);
    Make(name, "0 8 linear d" + std::to_string(i - 1) + " 0");
    saved.push_back(SavedOf(name));
  }
  std::reverse(saved.begin(), saved.end());
  ASSERT_TRUE(Restart(std::move(saved)).ok());
  for (const DeviceInfo& info : registry().List()) EXPECT_EQ(info.error, "") << info.name;
  const auto top = registry().Find("d29");
  EXPECT_EQ(top->limits().can_discard, true);
  EXPECT_EQ(Fill(*top, 0, 1, 1), IoStatus::kOk);
}

TEST_F(DeviceRestoreTest, WordsThatLookLikeDevicesDoNotKeepDevicesFromBeingBuilt) {
  Make("8", "0 8 linear /dev/a 8");
  Make("0", "0 8 linear 8 0");
  ASSERT_TRUE(Restart({SavedOf("0"), SavedOf("8")}).ok());
  EXPECT_EQ(InfoOf("0").error, "");
  EXPECT_EQ(InfoOf("8").error, "");
  EXPECT_EQ(Fill(*registry().Find("0"), 0, 1, 1), IoStatus::kOk);
}

TEST_F(DeviceRestoreTest, ATableThatCannotBeBuiltLeavesABrokenDeviceThatResumeRepairs) {
  Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  Make("top", "0 8 linear x 8\n");
  const auto saved_top = SavedOf("top");
  const auto saved_x = SavedOf("x");
  backings_.Remove("/dev/b");
  ASSERT_TRUE(Restart({saved_top, saved_x}).ok());
  DeviceInfo info = InfoOf("x");
  EXPECT_THAT(info.error, HasSubstr("line 2: linear: Device lookup failed; /dev/b"));
  EXPECT_TRUE(info.has_live_table);
  EXPECT_EQ(info.size, SectorCount(16));
  EXPECT_EQ(info.target_count, 2u);
  EXPECT_EQ(*registry().Table("x", TableSlot::kLive), *saved_x.live_table);
  EXPECT_EQ(*SavedOf("x").live_table, *saved_x.live_table);
  EXPECT_FALSE(registry().Status("x", TableSlot::kLive).ok());
  EXPECT_FALSE(registry().Dependencies("x", TableSlot::kLive).ok());
  const auto top = registry().Find("top");
  EXPECT_EQ(InfoOf("top").error, "");
  EXPECT_EQ(Fill(*top, 0, 1, 1), IoStatus::kUnavailable);

  EXPECT_TRUE(absl::IsNotFound(registry().Resume("x")));
  b_ = backings_.Add("/dev/b", kDiskSize);
  EXPECT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(InfoOf("x").error, "");
  EXPECT_EQ(Fill(*top, 0, 1, 9), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*b_, 0), 9);
}

// An origin and a merge write to what their snapshots have not copied yet: by name both come first.
TEST_F(DeviceRestoreTest, WhatWritesToAnOriginGoesLiveAfterItsSnapshots) {
  backings_.Add("/dev/c", kDiskSize);
  for (const char* table :
       {"0 100 snapshot-origin real\n", "0 100 snapshot-merge real /dev/c P 8\n"}) {
    SCOPED_TRACE(table);
    registry_ = nullptr;
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, backings_);
    std::vector<DeviceRegistry::Saved> saved(3);
    saved[0].name = "first";
    saved[0].live_table = table;
    saved[1].name = "real";
    saved[1].live_table = "0 100 linear /dev/a 0\n";
    saved[2].name = "snapshot";
    saved[2].live_table = "0 100 snapshot /dev/mapper/real /dev/b P 8\n";
    b_->Forget();
    b_->Hold();
    std::thread start([&] { EXPECT_TRUE(registry().RestoreAll(saved).ok()); });
    while (b_->CountOf(IoOp::kRead) == 0) std::this_thread::yield();
    EXPECT_EQ(registry().Find("first")->table(TableSlot::kLive), nullptr);
    b_->Release();
    start.join();
    for (const DeviceInfo& info : registry().List()) EXPECT_EQ(info.error, "") << info.name;
  }
}

class MissingStoreTest : public DeviceRestoreTest {
 protected:
  // An origin with a snapshot, whose store is not there when all is started again.
  void SetUp() override {
    DeviceRestoreTest::SetUp();
    Make("real", "0 100 linear /dev/a 0");
    ASSERT_EQ(Fill(*registry().Find("real"), 0, 100, 1), IoStatus::kOk);
    Make("snapshot", "0 100 snapshot real /dev/b P 8");
    Make("origin", "0 100 snapshot-origin real");
    const std::vector saved = {SavedOf("origin"), SavedOf("real"), SavedOf("snapshot")};
    backings_.Remove("/dev/b");
    ASSERT_TRUE(Restart(saved).ok());
    EXPECT_THAT(InfoOf("snapshot").error, HasSubstr("/dev/b"));
    EXPECT_EQ(Write(), IoStatus::kUnavailable);
  }
  IoStatus Write() { return Fill(*registry().Find("origin"), 0, 1, 2); }
};

TEST_F(MissingStoreTest, TheOriginWaitsForItsSnapshot) {
  EXPECT_THAT(InfoOf("origin").error, HasSubstr("'snapshot' could not be restored"));
  const absl::Status refused = registry().Resume("origin");
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(Write(), IoStatus::kUnavailable);

  auto again = backings_.Add("/dev/b", kDiskSize);
  std::ranges::copy(b_->bytes(), again->bytes().begin());
  ASSERT_EQ(registry().Resume("snapshot"), absl::OkStatus());
  ASSERT_EQ(registry().Resume("origin"), absl::OkStatus());
  EXPECT_EQ(Write(), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*registry().Find("snapshot"), 0), 1);
}

TEST_F(MissingStoreTest, TheOriginGoesOnWithoutASnapshotThatHasBeenRemoved) {
  ASSERT_TRUE(registry().Remove("snapshot", {}).ok());
  ASSERT_EQ(registry().Resume("origin"), absl::OkStatus());
  EXPECT_EQ(Write(), IoStatus::kOk);
}

TEST_F(MissingStoreTest, TheOriginGoesOnWhenTheSnapshotHasAnotherTable) {
  ASSERT_EQ(Load("snapshot", "0 100 error"), absl::OkStatus());
  EXPECT_FALSE(registry().Resume("origin").ok());
  ASSERT_EQ(registry().Resume("snapshot"), absl::OkStatus());
  ASSERT_EQ(registry().Resume("origin"), absl::OkStatus());
  EXPECT_EQ(Write(), IoStatus::kOk);
}

TEST_F(MissingStoreTest, AnEmptyStoreInItsPlaceIsNotTakenForTheSnapshots) {
  auto empty = backings_.Add("/dev/b", kDiskSize);
  ASSERT_EQ(registry().Resume("snapshot"), absl::OkStatus());
  ASSERT_EQ(registry().Resume("origin"), absl::OkStatus());
  EXPECT_EQ(*registry().Status("snapshot", TableSlot::kLive), "0 100 snapshot Invalid\n");
  EXPECT_EQ(empty->bytes()[4], std::byte{0});  // for ever
}

TEST_F(DeviceRestoreTest, ATransientSnapshotIsInvalidAfterTheStart) {
  Make("real", "0 100 linear /dev/a 0");
  Make("snapshot", "0 100 snapshot real /dev/b N 8");
  EXPECT_EQ(*registry().Status("snapshot", TableSlot::kLive), "0 100 snapshot 0/16384 0\n");
  ASSERT_TRUE(Restart({SavedOf("real"), SavedOf("snapshot")}).ok());
  EXPECT_EQ(*registry().Status("snapshot", TableSlot::kLive), "0 100 snapshot Invalid\n");
  EXPECT_EQ(ByteAt(*registry().Find("snapshot"), 0), -1);
  // A new one is new.
  ASSERT_TRUE(registry().Remove("snapshot", {}).ok());
  Make("snapshot", "0 100 snapshot real /dev/b N 8");
  EXPECT_EQ(*registry().Status("snapshot", TableSlot::kLive), "0 100 snapshot 0/16384 0\n");
}

TEST_F(DeviceRestoreTest, ABrokenDeviceTakesANewTable) {
  ASSERT_TRUE(registry()
                  .RestoreAll({{.name = "x",
                                .uuid = "",
                                .identity = "i",
                                .live_table = "0 8 linear /dev/gone 0\n",
                                .inactive_table = std::nullopt}})
                  .ok());
  EXPECT_NE(InfoOf("x").error, "");
  ASSERT_TRUE(Load("x", "0 8 linear /dev/a 0").ok());
  EXPECT_NE(InfoOf("x").error, "");
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(InfoOf("x").error, "");
  EXPECT_EQ(Fill(*registry().Find("x"), 0, 1, 1), IoStatus::kOk);
}

TEST_F(DeviceRestoreTest, ABrokenDeviceCanBeRemovedByForce) {
  ASSERT_TRUE(registry()
                  .RestoreAll({{.name = "x",
                                .uuid = "",
                                .identity = "i",
                                .live_table = "0 8 linear /dev/gone 0\n",
                                .inactive_table = std::nullopt}})
                  .ok());
  EXPECT_TRUE(registry().Remove("x", {.force = true, .deferred = false}).ok());
}

TEST_F(DeviceRestoreTest, AnInactiveTableThatCannotBeBuiltIsKeptAsText) {
  DeviceRegistry::Saved saved;
  saved.name = "x";
  saved.identity = "i";
  saved.live_table = "0 8 linear /dev/a 0\n";
  saved.inactive_table = "0 8 linear /dev/gone 0\n";
  ASSERT_TRUE(registry().RestoreAll({saved}).ok());
  EXPECT_TRUE(InfoOf("x").has_inactive_table);
  EXPECT_EQ(InfoOf("x").error, "");
  EXPECT_EQ(*registry().Table("x", TableSlot::kInactive), *saved.inactive_table);
  EXPECT_TRUE(absl::IsNotFound(registry().Resume("x")));
  EXPECT_EQ(Fill(*registry().Find("x"), 0, 1, 1), IoStatus::kOk);
  ASSERT_TRUE(registry().Clear("x").ok());
  EXPECT_FALSE(InfoOf("x").has_inactive_table);
  EXPECT_TRUE(registry().Resume("x").ok());
}

TEST_F(DeviceRestoreTest, WhatATableThatCannotBeBuiltNamesStays) {
  for (const TableSlot slot : {TableSlot::kLive, TableSlot::kInactive}) {
    const std::string name = slot == TableSlot::kLive ? "top" : "other";
    Make("low", "0 8 linear /dev/a 0\n");
    DeviceRegistry::Saved top;
    top.name = name;
    top.identity = "0123456789abcdef0123456789abcdef";
    (slot == TableSlot::kLive ? top.live_table : top.inactive_table) =
        "0 8 linear low 0\n8 8 linear /dev/missing 0\n";
    DeviceRegistry::Saved low = SavedOf("low");
    low.deferred_remove = true;  // it was put off as `top` had it
    ASSERT_TRUE(Restart({low, top}).ok());
    registry().RemoveDeferred();
    ASSERT_NE(registry().Find("low"), nullptr);
    EXPECT_THAT(Message(registry().Remove("low", {})), HasSubstr("in use by device '" + name));
    EXPECT_THAT(Message(registry().Rename("low", "lower")), HasSubstr("in use by device"));
    // It goes when nobody names it any more.
    ASSERT_TRUE(registry().Remove(name, {}).ok());
    while (registry().Find("low") != nullptr) std::this_thread::yield();
  }
}

TEST_F(DeviceRestoreTest, RestoreGoesOnAfterARecordThatCannotBeHad) {
  DeviceRegistry::Saved bad;
  bad.name = "a/b";
  DeviceRegistry::Saved good;
  good.name = "x";
  good.live_table = "0 8 zero\n";
  EXPECT_EQ(registry().RestoreAll({bad, good}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Names(), ElementsAre("x"));
}

TEST_F(DeviceRestoreTest, DeferredRemovalsThatWereLeftOverAreDoneAfterTheStart) {
  DeviceRegistry::Saved held;
  held.name = "held";
  held.deferred_remove = true;
  DeviceRegistry::Saved free = held;
  free.name = "free";
  ASSERT_TRUE(registry().RestoreAll({held, free}).ok());
  EXPECT_TRUE(InfoOf("free").deferred_remove);
  const DeviceRef hold = *registry().Open("held");
  registry().RemoveDeferred();
  WaitUntilGone("free");
  EXPECT_TRUE(InfoOf("held").deferred_remove);
}

}  // namespace
}  // namespace sectormap
