// SPDX-License-Identifier: Apache-2.0
// The power fails in the middle of a recipe, while the devices are written to. Whatever it leaves,
// after the next start: the device has every flushed write, snapshots read as at their instants,
// and what was interrupted goes on to its end, with unchanged views; so it does if the power fails
// once more meanwhile.
#include "absl/synchronization/notification.h"
#include "server/volumes/mirror_rows.h"
#include "tests/server/volumes/recipes_crash_fixture.h"

namespace sectormap::volumes {
namespace {

// --- Moves ---

class MoveCrashTest : public RecipesCrashTest {
 protected:
  // Four rows on /old between rows on /stay.
  void MakeScattered() {
    machine_.AddDisk("/old", 400);
    machine_.AddDisk("/stay", 200);
    machine_.AddDisk("/new", 400);
    MakeDevice("vol",
               "0 70 linear /old 100\n70 30 linear /stay 5\n100 61 linear /old 3\n"
               "161 20 linear /stay 40\n181 50 linear /old 200\n231 9 linear /stay 70\n"
               "240 60 linear /old 300\n");
    Watch("vol", true);
  }
  absl::StatusOr<OperationInfo> Start() {
    return machine_.service().moves().Start(
        {.device = "vol", .from = "/old", .to = "/new", .to_start = 7});
  }
};

TEST_F(MoveCrashTest, AMoveEndsAtTheNewPlace) {
  MakeScattered();
  RecordOperation([&] { return Start(); });
  EXPECT_EQ(tables_after_.at("vol").find("/old"), std::string::npos) << tables_after_.at("vol");
  CrashEverywhere();
}

TEST_F(MoveCrashTest, ACancelledMoveLeavesTheDeviceWhole) {
  MakeScattered();
  ends_as_ = OperationState::kCancelled;
  ends_variously_ = true;
  // When the second row is on its way, which waits until the cancel has been heard.
  absl::Notification underway;
  absl::Notification heard;
  at_change_ = [&](const Durable& now) {
    for (const state::OperationRecord& record : now.contents.operations) {
      if (underway.HasBeenNotified() || record.plan.find(" copied\n") == std::string::npos)
        continue;
      underway.Notify();
      heard.WaitForNotification();
    }
  };
  RecordOperation([&]() -> absl::StatusOr<OperationInfo> {
    absl::StatusOr<OperationInfo> started = Start();
    underway.WaitForNotification();
    EXPECT_TRUE(machine_.service().operations().Cancel(started->id).ok());
    heard.Notify();
    return started;
  });
  at_end_ = [&](CrashMachine& after, const Left& left, bool begun) {
    EXPECT_EQ(after.TableOf("vol").find("mirror"), std::string::npos) << after.TableOf("vol");
    if (begun) ExpectCancelled(after, left);
  };
  CrashEverywhere();
}

TEST_F(MoveCrashTest, UnderAChainOfSnapshotsTheLayerIsMoved) {
  MakeChain();
  machine_.AddDisk("/new", 400);
  for (const char* name : {"vol", "s1", "s2", "s3"}) Watch(name, true);
  RecordOperation([&] {
    return machine_.service().moves().Start(
        {.device = "vol", .from = "/vol", .to = "/new", .to_start = 40});
  });
  EXPECT_EQ(tables_after_.at("vol-real"), absl::StrCat("0 ", kVolume, " linear /new 40\n"));
  CrashEverywhere();
}

// --- Snapshots ---

class RemovalCrashTest : public RecipesCrashTest,
                         public testing::WithParamInterface<const char*> {};

TEST_P(RemovalCrashTest, TheOthersReadAsBefore) {
  MakeChain();
  goes_ = GetParam();
  for (const char* name : {"vol", "s1", "s2", "s3"}) Watch(name, name != goes_);
  RecordOperation([&] { return machine_.service().snapshots().StartRemove(goes_); });
  CrashEverywhere();
}
INSTANTIATE_TEST_SUITE_P(OldestMiddleNewest, RemovalCrashTest, testing::Values("s1", "s2", "s3"));

class RollBackCrashTest : public RecipesCrashTest, public testing::WithParamInterface<const char*> {
 protected:
  static bool Merges(const Durable& durable) {
    return std::ranges::any_of(durable.contents.devices, [](const state::DeviceRecord& device) {
      return device.live_table->find("snapshot-merge") != std::string::npos;
    });
  }
};

TEST_P(RollBackCrashTest, TheDeviceIsTheSnapshotFromOneInstantOn) {
  // By name it comes before its snapshots: a start must not go on with the merge before they are
  // there.
  MakeChain("dev");
  goes_ = GetParam();
  becomes_it_ = "dev";
  for (const char* name : {"dev", "s1", "s2", "s3"}) Watch(name, name != goes_);
  const std::vector<std::byte> then = machine_.View(goes_);
  // When the merge is on record, nobody can take it back.
  bool merges = false;
  at_change_ = [&](const Durable& now) {
    const bool before = std::exchange(merges, merges || Merges(now));
    if (before || !merges) return;
    const int64_t id = now.contents.operations.back().id;
    EXPECT_FALSE(machine_.service().operations().Cancel(id).ok());
  };
  RecordOperation([&] { return machine_.service().snapshots().StartRollBack(goes_); });
  ASSERT_TRUE(merges);
  const std::vector<Journal::Entry> changes = machine_.journal().entries();
  const auto merge = std::ranges::find_if(
      changes, [](const Journal::Entry& entry) { return Merges(entry.durable); });
  histories_.at("dev")->Become(then, merge->begin, merge->end);
  CrashEverywhere();
}
INSTANTIATE_TEST_SUITE_P(OldestMiddleNewest, RollBackCrashTest, testing::Values("s1", "s2", "s3"));

class CreationCrashTest : public RecipesCrashTest {};

TEST_F(CreationCrashTest, AGroupIsThereAsAWholeAndReadsAsAtItsInstant) {
  MakeVolume("vol");
  MakeVolume("other");
  ASSERT_EQ(TakeSnapshots({{.name = "older", .device = "vol"}}), absl::OkStatus());
  for (const char* name : {"vol", "other", "older"}) Watch(name, true);
  Record([&] {
    EXPECT_EQ(TakeSnapshots({{.name = "a", .device = "vol"}, {.name = "b", .device = "other"}}),
              absl::OkStatus());
  });
  // Nobody writes to them: what they read as now, they read as ever since.
  for (const char* name : {"a", "b"}) {
    appears_.insert(name);
    histories_[name] =
        std::make_unique<targets::WriteHistory>(machine_.recorder(), machine_.View(name));
  }
  begun_ = [](const Durable& durable) { return durable.contents.snapshots.size() == 3; };
  CrashEverywhere();
}

// --- Mirrors ---

class MirrorCrashTest : public RecipesCrashTest {
 protected:
  AddLegRequest Wanted(const std::string& leg) {
    return {.device = "vol", .leg = leg, .leg_start = 13, .region_sectors = region_};
  }
  void ExpectLegsAgree(CrashMachine& after) {
    while (!ReadMirrorStatus(after.registry(), "vol").at(0).complete()) {
      absl::SleepFor(absl::Microseconds(100));
    }
    const auto first = after.BytesOf("/vol");
    const auto leg = after.BytesOf("/leg").subspan(13 * kSectorBytes);
    EXPECT_TRUE(
        std::ranges::equal(first.first(kVolume * kSectorBytes), leg.first(kVolume * kSectorBytes)));
  }
  uint64_t region_ = 16;
};

TEST_F(MirrorCrashTest, ANewLegGetsEverything) {
  MakeVolume("vol");
  machine_.AddDisk("/leg", 300);
  Watch("vol", true);
  RecordOperation([&] { return machine_.service().mirrors().StartAdd(Wanted("/leg")); });
  at_end_ = [&](CrashMachine& after, const Left&, bool begun) {
    if (begun) ExpectLegsAgree(after);
  };
  CrashEverywhere();
}

TEST_F(MirrorCrashTest, ANewLegThatIsCancelledGoesOutAgain) {
  MakeVolume("vol");
  machine_.AddDisk("/leg", 300);
  Watch("vol", true);
  ends_as_ = OperationState::kCancelled;
  ends_variously_ = true;
  bool cancelled = false;
  at_change_ = [&](const Durable& now) {
    const bool mirror = now.contents.devices.at(0).live_table->find("mirror") != std::string::npos;
    if (!mirror || std::exchange(cancelled, true)) return;
    const int64_t id = now.contents.operations.back().id;
    EXPECT_TRUE(machine_.service().operations().Cancel(id).ok());
  };
  RecordOperation([&] { return machine_.service().mirrors().StartAdd(Wanted("/leg")); });
  at_end_ = [&](CrashMachine& after, const Left& left, bool begun) {
    if (!begun) return;
    ExpectCancelled(after, left);
    const bool stays = after.WaitForAll().back().state == OperationState::kDone;
    if (stays) ExpectLegsAgree(after);
    EXPECT_EQ(after.TableOf("vol").find("/leg") != std::string::npos, stays);
    EXPECT_EQ(after.Files().size(), files_before_.size() + (stays ? 1 : 0));
  };
  CrashEverywhere();
}

TEST_F(MirrorCrashTest, ALegThatGoesTakesNothingAway) {
  MakeVolume("vol");
  machine_.AddDisk("/leg", 300);
  const auto added = machine_.service().mirrors().StartAdd(Wanted("/leg"));
  ASSERT_TRUE(added.ok()) << added.status();
  ASSERT_EQ(machine_.WaitFor(added->id).state, OperationState::kDone);
  Watch("vol", true);
  begun_ = [](const Durable& durable) { return durable.contents.operations.size() == 2; };
  RecordOperation(
      [&] { return machine_.service().mirrors().StartRemove({.device = "vol", .leg = "/vol"}); });
  EXPECT_EQ(tables_after_.at("vol"), absl::StrCat("0 ", kVolume, " linear /leg 13\n"));
  CrashEverywhere();
}

}  // namespace
}  // namespace sectormap::volumes
