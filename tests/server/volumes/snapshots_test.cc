// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/snapshots.h"

#include <atomic>

#include "core/base/status_macros.h"
#include "core/map/target.h"
#include "server/volumes/device_order.h"
#include "tests/server/volumes/recipe_fixture.h"
#include "tests/support/random.h"

namespace sectormap::volumes {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using Views = std::map<std::string, std::vector<std::byte>>;

// stubborn <device>: all of it, but it does not go live while it is told not to.
class StubbornTarget final : public Target {
 public:
  static std::atomic<bool> refuses;

  StubbornTarget(SectorCount length, DeviceRef device) : Target(length), device_(device) {}
  BlockLimits limits() const override { return device_.device->limits(); }
  Task<IoStatus> Submit(IoRequest request) override { return device_.device->Submit(request); }
  std::string TableArgs() const override { return device_.name(); }
  std::span<const DeviceRef> backings() const override { return {&device_, 1}; }
  absl::Status PreResume() override {
    return refuses ? absl::InternalError("as it was told") : absl::OkStatus();
  }

 private:
  const DeviceRef device_;
};
std::atomic<bool> StubbornTarget::refuses = false;

const TargetType kStubbornTarget{
    .name = "stubborn",
    .version = "1.0.0",
    .usage = "<device>",
    .summary = "for tests",
    .create = [](TargetArgs& args) -> absl::StatusOr<std::unique_ptr<Target>> {
      ASSIGN_OR_RETURN(DeviceRef device, args.Device("Device lookup failed"));
      return std::make_unique<StubbornTarget>(args.length(), std::move(device));
    },
};

class SnapshotsTest : public RecipeTest {
 protected:
  void SetUp() override {
    types_.Add(kStubbornTarget);
    RecipeTest::SetUp();
  }
  void StartKeeper() {
    keeper_ = std::make_unique<Keeper>(
        *registry_, *snapshots_, *mirrors_, [](const std::string&, const std::string&) {},
        absl::Milliseconds(1));
  }
  // Overwrites part of a device; in each call other chunks, some of them again.
  void WriteSome(const std::string& device, uint32_t version) {
    Fill(device, 40 * (version % 45), 100, version);
    Fill(device, 1000 + 8 * (version % 100), 8, version);
    Fill(device, 5, 3, version);
  }
  // vol with snapshots s1 (the oldest) to sN, and something written after each of them.
  void MakeChain(int count) {
    MakeVolume();
    for (int i = 1; i <= count; ++i) {
      TakeSnapshot("s" + std::to_string(i));
      WriteSome("vol", 10 + i);
      // A snapshot can be written too.
      Fill("s" + std::to_string(i), 1500 + 16 * i, 20, 100 + i);
    }
  }
  Views AllViews(const std::vector<std::string>& devices) {
    Views views;
    for (const std::string& device : devices) views[device] = View(device);
    return views;
  }
  void ExpectViews(const Views& expected) {
    for (const auto& [device, bytes] : expected) {
      EXPECT_TRUE(View(device) == bytes) << device << " shows other data";
    }
  }
  // vol, which is being merged from a store into base, on a disk that works or does not. Gives what
  // vol is to show.
  std::vector<std::byte> MakeMerge(bool works) {
    MakeVolume("disk");
    Make("base", "0 2048 linear disk 0\n");
    const std::string store = MakeFile("1", kVolumeSectors);
    Make("s1", absl::StrCat("0 2048 snapshot base ", store, " P 16\n"));
    WriteSome("s1", 10);
    const std::vector<std::byte> bytes = View("s1");
    EXPECT_TRUE(catalog_->Remove("s1", {}).ok());
    SetDisk(works);
    Make("vol", absl::StrCat("0 2048 snapshot-merge base ", store, " P 16\n"));
    return bytes;
  }
  // One that does not work fails flushes, too.
  void SetDisk(bool works) {
    const std::string down = works ? "" : " 0 1000000";
    const auto set = catalog_->Replace(
        "disk",
        absl::StrCat("0 2048 ", works ? "linear " : "flakey ", Path("disk.img"), " 0", down, "\n"),
        false, SuspendMode::kNoFlush);
    ASSERT_TRUE(set.ok()) << set.status();
  }
  void SleepShortly() {
    sleep_max_ = absl::Milliseconds(1);
    Restart();
  }
  // By origin, the oldest first.
  std::vector<bool> Available() {
    std::vector<bool> available;
    for (const SnapshotInfo& info : snapshots_->List()) available.push_back(info.available);
    return available;
  }
  uint64_t UsedSectors(const std::string& snapshot) {
    for (const SnapshotInfo& info : snapshots_->List()) {
      if (info.name == snapshot) return info.status.allocated;
    }
    return 0;
  }
};

TEST_F(SnapshotsTest, TheFirstSnapshotPutsALayerUnderTheDevice) {
  MakeVolume();
  const std::string identity = registry_->Info("vol")->identity;
  TakeSnapshot("s1");
  EXPECT_THAT(Names(), ElementsAre("s1", "vol", "vol-real"));
  EXPECT_EQ(TableOf("vol"), "0 2048 snapshot-origin /dev/mapper/vol-real\n");
  EXPECT_EQ(TableOf("vol-real"), "0 2048 linear " + Path("vol.img") + " 0\n");
  EXPECT_EQ(TableOf("s1"), "0 2048 snapshot /dev/mapper/vol-real " + Path("s1.cow") + " P 16\n");
  EXPECT_EQ(registry_->Info("vol")->identity, identity);
  Fill("vol", 0, 64, 2);
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(SnapshotsTest, ANewerOneTakesTheOlderOnesPlaceInTheChain) {
  MakeChain(2);
  EXPECT_EQ(TableOf("s2-real"),
            "0 2048 snapshot /dev/mapper/vol-real " + Path("s2.cow") + " P 16\n");
  EXPECT_EQ(TableOf("s2"), "0 2048 snapshot-origin /dev/mapper/s2-real\n");
  EXPECT_EQ(TableOf("s1"), "0 2048 snapshot /dev/mapper/s2-real " + Path("s1.cow") + " P 16\n");
}

TEST_F(SnapshotsTest, AWriteToTheDeviceCopiesOnceWhateverTheNumberOfSnapshots) {
  MakeVolume();
  for (int i = 1; i <= 4; ++i) TakeSnapshot("s" + std::to_string(i));
  const uint64_t before = UsedSectors("s1") + UsedSectors("s2") + UsedSectors("s3");
  const uint64_t newest = UsedSectors("s4");
  Fill("vol", 0, 4 * kChunk, 2);
  EXPECT_EQ(UsedSectors("s1") + UsedSectors("s2") + UsedSectors("s3"), before);
  EXPECT_EQ(UsedSectors("s4"), newest + 4 * kChunk);
  for (int i = 1; i <= 4; ++i) {
    EXPECT_TRUE(View("s" + std::to_string(i)) == Pattern(0, kVolumeSectors, 1));
  }
}

TEST_F(SnapshotsTest, ListSaysWhatIsASnapshotOfWhatTheOldestFirst) {
  MakeChain(2);
  const std::vector<SnapshotInfo> list = snapshots_->List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "s1");
  EXPECT_EQ(list[0].origin, "vol");
  EXPECT_EQ(list[0].newer, "s2");
  EXPECT_EQ(list[1].newer, "");
  EXPECT_EQ(list[1].store, Path("s2.cow"));
  EXPECT_EQ(list[1].status.state, SnapshotStatus::State::kValid);
  EXPECT_GT(list[1].status.percent(), 0);
  EXPECT_GT(list[1].created_unix_seconds, 0);
}

TEST_F(SnapshotsTest, AnyOneOfAChainCanGoAndTheOthersStayAsTheyAre) {
  for (int gone = 1; gone <= 4; ++gone) {
    SCOPED_TRACE(gone);
    MakeChain(4);
    Views views = AllViews({"vol", "s1", "s2", "s3", "s4"});
    const std::string name = "s" + std::to_string(gone);
    views.erase(name);
    ExpectDone(snapshots_->StartRemove(name));
    EXPECT_FALSE(Exists(name));
    EXPECT_FALSE(Exists(name + "-real"));
    ExpectViews(views);
    EXPECT_FALSE(std::filesystem::exists(Path(name + ".cow")));
    // They stay right while the device is written on, and after a restart.
    WriteSome("vol", 30);
    views["vol"] = View("vol");
    ExpectViews(views);
    Restart();
    ExpectViews(views);
    for (const auto& [device, bytes] : views) {
      if (device != "vol") ExpectDone(snapshots_->StartRemove(device));
    }
    EXPECT_THAT(Names(), ElementsAre("vol"));
    EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("vol.img") + " 0\n");
    EXPECT_THAT(Files(), ElementsAre("vol.img"));
    ExpectViews({{"vol", views["vol"]}});
    ASSERT_TRUE(catalog_->Remove("vol", {}).ok());
  }
}

TEST_F(SnapshotsTest, ASnapshotOfASnapshotIsOneToo) {
  MakeChain(2);
  Views views = AllViews({"vol", "s1", "s2"});
  TakeSnapshot("t", "s2");
  TakeSnapshot("u", "s1");
  views["t"] = views["s2"];
  views["u"] = views["s1"];
  ExpectViews(views);
  WriteSome("s2", 50);
  WriteSome("s1", 51);
  WriteSome("vol", 52);
  for (const char* changed : {"vol", "s1", "s2"}) views[changed] = View(changed);
  ExpectViews(views);
  for (const SnapshotInfo& info : snapshots_->List()) {
    if (info.name == "t") EXPECT_EQ(info.origin, "s2");
    if (info.name == "u") EXPECT_EQ(info.origin, "s1");
    if (info.name == "s1") EXPECT_EQ(info.origin, "vol");
  }
  Restart();
  ExpectViews(views);
  for (const char* name : {"s2", "t", "s1", "u"}) {
    views.erase(name);
    ExpectDone(snapshots_->StartRemove(name));
    ExpectViews(views);
  }
  EXPECT_THAT(Names(), ElementsAre("vol"));
}

TEST_F(SnapshotsTest, WhatWritesToADeviceWaitsWhenAMirrorOfItsSnapshotComesAndGoes) {
  MakeChain(1);
  const Views views = AllViews({"vol", "s1"});
  const std::string leg = MakeFile("leg", kVolumeSectors);
  absl::Mutex mutex;
  std::set<std::string> suspended;
  const uint64_t watch = registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
    absl::MutexLock lock(&mutex);
    if (info.suspended) suspended.insert(info.name);
  });
  const auto take_suspended = [&] {
    absl::MutexLock lock(&mutex);
    return std::exchange(suspended, {});
  };
  ExpectDone(mirrors_->StartAdd({.device = "s1", .leg = leg, .log = "core"}));
  EXPECT_THAT(take_suspended(), IsSupersetOf({"vol", "s1"}));
  ExpectDone(mirrors_->StartRemove({.device = "s1", .leg = leg}));
  EXPECT_THAT(take_suspended(), IsSupersetOf({"vol", "s1", "s1-mimage-0"}));
  registry_->Unsubscribe(watch);
  ExpectViews(views);
}

TEST_F(SnapshotsTest, AGroupIsTakenAsAWholeOrNotAtAll) {
  MakeVolume("a");
  MakeVolume("b");
  const auto made = snapshots_->Create(
      {.entries = {{.name = "sa", .device = "a"}, {.name = "sb", .device = "b"}}});
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(made->size(), 2u);
  EXPECT_THAT(Names(), ElementsAre("a", "a-real", "b", "b-real", "sa", "sb"));
  const auto refused = snapshots_->Create(
      {.entries = {{.name = "ta", .device = "a"}, {.name = "tb", .device = "missing"}}});
  EXPECT_TRUE(absl::IsNotFound(refused.status())) << refused.status();
  EXPECT_THAT(Names(), ElementsAre("a", "a-real", "b", "b-real", "sa", "sb"));
  EXPECT_THAT(Files(), ElementsAre("a.img", "b.img", "sa.cow", "sb.cow"));
}

TEST_F(SnapshotsTest, WhatCannotBeDoneRightIsRefusedAndLeavesNothing) {
  MakeChain(1);
  MakeVolume("other");
  const std::vector<std::string> names = Names();
  const std::vector<std::string> files = Files();
  const auto refusal = [this](const CreateSnapshots& wanted) {
    const auto made = snapshots_->Create(wanted);
    EXPECT_FALSE(made.ok());
    return std::string(made.status().message());
  };
  EXPECT_THAT(refusal({.entries = {{.name = "s1", .device = "other"}}}),
              HasSubstr("exists already"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol-real"}}}), HasSubstr("'vol'"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol"}}, .chunk_sectors = 32}),
              HasSubstr("--chunk 16"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol", .store = Path("s1.cow")}}}),
              HasSubstr("'s1'"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol", .store = Path("vol.img")}}}),
              HasSubstr("vol"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol", .store = "/outside/x"}}}),
              HasSubstr("/outside"));
  for (const uint64_t chunk :
       {uint64_t{3}, uint64_t{1} << 22, uint64_t{1} << 54, uint64_t{1} << 55}) {
    EXPECT_EQ(
        snapshots_->Create({.entries = {{.name = "x", .device = "other"}}, .chunk_sectors = chunk})
            .status()
            .code(),
        absl::StatusCode::kInvalidArgument)
        << chunk;
    EXPECT_EQ(Files(), files);
  }
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol", .store = Path("new")},
                                   {.name = "y", .device = "other", .store = Path("new")}}}),
              HasSubstr("named for two snapshots"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol"}}, .store_sectors = 16}),
              HasSubstr("too few"));
  EXPECT_THAT(refusal({.entries = {{.name = "x", .device = "vol"}, {.name = "y", .device = "s1"}}}),
              HasSubstr("two ways"));
  EXPECT_EQ(Names(), names);
  EXPECT_EQ(Files(), files);
}

TEST_F(SnapshotsTest, AStoreOfAnotherSnapshotIsNotOverwritten) {
  MakeChain(1);
  std::filesystem::copy(Path("s1.cow"), Path("old.cow"));
  const auto made =
      snapshots_->Create({.entries = {{.name = "x", .device = "vol", .store = Path("old.cow")}}});
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("holds a snapshot's store already"));
}

TEST_F(SnapshotsTest, AnExportedSnapshotIsNotRemoved) {
  MakeChain(1);
  const auto lun = catalog_->Open("s1");
  const auto refused = snapshots_->StartRemove("s1");
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("an export"));
  EXPECT_TRUE(Exists("s1"));
}

TEST_F(SnapshotsTest, ARemovalThatFindsNoRoomFailsAndLosesNothing) {
  MakeVolume();
  ASSERT_TRUE(snapshots_
                  ->Create({.entries = {{.name = "s1", .device = "vol"}},
                            .store_sectors = 256,
                            .chunk_sectors = kChunk,
                            .never_grow = true})
                  .ok());
  TakeSnapshot("s2");
  Fill("vol", 0, 1024, 2);
  const Views views = AllViews({"vol", "s1", "s2"});
  const OperationInfo ended = WaitFor(snapshots_->StartRemove("s2"));
  EXPECT_EQ(ended.state, OperationState::kFailed);
  EXPECT_NE(ended.error, "");
  ExpectViews(views);
}

TEST_F(SnapshotsTest, ARollBackBringsTheInstantBackAndUsesTheSnapshotUp) {
  for (int to = 1; to <= 4; ++to) {
    SCOPED_TRACE(to);
    MakeChain(4);
    Views views = AllViews({"vol", "s1", "s2", "s3", "s4"});
    const std::string name = "s" + std::to_string(to);
    views["vol"] = views[name];
    views.erase(name);
    ExpectDone(snapshots_->StartRollBack(name));
    EXPECT_FALSE(Exists(name));
    ExpectViews(views);
    EXPECT_FALSE(std::filesystem::exists(Path(name + ".cow")));
    WriteSome("vol", 40);
    views["vol"] = View("vol");
    ExpectViews(views);
    Restart();
    ExpectViews(views);
    for (const auto& [device, bytes] : views) {
      if (device != "vol") ExpectDone(snapshots_->StartRemove(device));
    }
    EXPECT_THAT(Names(), ElementsAre("vol"));
    ExpectViews({{"vol", views["vol"]}});
    ASSERT_TRUE(catalog_->Remove("vol", {}).ok());
  }
}

TEST_F(SnapshotsTest, AnOverflowedSnapshotIsRolledBackTo) {
  MakeVolume();
  ASSERT_TRUE(snapshots_
                  ->Create({.entries = {{.name = "s1", .device = "vol"}},
                            .store_sectors = 512,
                            .chunk_sectors = kChunk,
                            .overflow_stays_valid = true,
                            .never_grow = true})
                  .ok());
  Fill("s1", 0, 20 * kChunk, 2);
  std::vector<std::byte> bytes = Pattern(1024, 1024, 3);
  const auto device = registry_->Find("s1");
  EXPECT_EQ(
      reactors_->RunOn(0, [&] { return device->Submit(IoRequest::Write(Sector(1024), bytes)); }),
      IoStatus::kIoError);
  EXPECT_EQ(snapshots_->List().at(0).status.state, SnapshotStatus::State::kOverflow);
  const Views views = {{"vol", View("s1")}};
  ExpectDone(snapshots_->StartRollBack("s1"));
  EXPECT_THAT(Names(), ElementsAre("vol"));
  ExpectViews(views);
}

TEST_F(SnapshotsTest, WhenARollBackHasBegunTheDeviceShowsTheSnapshot) {
  MakeChain(1);
  const auto bytes = View("s1");
  const auto started = snapshots_->StartRollBack("s1");
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_TRUE(View("vol") == bytes);
  ExpectDone(started);
  EXPECT_TRUE(View("vol") == bytes);
}

TEST_F(SnapshotsTest, ASnapshotIsThereWholeOrNotAtAllAfterAKill) {
  MakeChain(1);
  const Views before = AllViews({"vol", "s1"});
  KillAtEveryStep([&] { TakeSnapshot("s2"); },
                  [&](size_t) {
                    ExpectViews(before);
                    if (Exists("s2")) {
                      EXPECT_TRUE(View("s2") == before.at("vol"));
                      EXPECT_THAT(Names(), ElementsAre("s1", "s2", "s2-real", "vol", "vol-real"));
                    } else {
                      EXPECT_THAT(Names(), ElementsAre("s1", "vol", "vol-real"));
                      EXPECT_THAT(Files(), ElementsAre("s1.cow", "vol.img"));
                    }
                  });
}

TEST_F(SnapshotsTest, TheFirstSnapshotIsThereWholeOrNotAtAllAfterAKill) {
  MakeVolume();
  const Views before = AllViews({"vol"});
  KillAtEveryStep([&] { TakeSnapshot("s1"); },
                  [&](size_t) {
                    ExpectViews(before);
                    EXPECT_EQ(Exists("s1"), Exists("vol-real"));
                    if (Exists("s1")) EXPECT_TRUE(View("s1") == before.at("vol"));
                  });
}

// Nothing may be written that a snapshot whose store is away has not copied.
TEST_F(SnapshotsTest, ADeviceWaitsForTheStoreOfItsNewestSnapshot) {
  MakeChain(2);
  const Views views = AllViews({"vol", "s1", "s2"});
  may_be_unbuilt_ = {"vol", "s2-real"};
  Stop();
  std::filesystem::rename(Path("s2.cow"), Path("away"));
  Start();
  EXPECT_THAT(registry_->Info("vol")->error, HasSubstr("'s2-real' could not be restored"));
  EXPECT_NE(registry_->Info("s2-real")->error, "");
  EXPECT_FALSE(catalog_->Resume("vol").ok());
  EXPECT_FALSE(snapshots_->Create({.entries = {{.name = "s3", .device = "vol"}}}).ok());
  // s1 looks up in s2 what it lacks.
  EXPECT_THAT(Available(), ElementsAre(false, false));
  std::filesystem::rename(Path("away"), Path("s2.cow"));
  ASSERT_TRUE(catalog_->Resume("s2-real").ok());
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  EXPECT_THAT(Available(), ElementsAre(true, true));
  ExpectViews(views);
  Restart();
  ExpectViews(views);
}

TEST_F(SnapshotsTest, AnOlderSnapshotWhoseStoreIsAwayLeavesTheDeviceAtWork) {
  MakeChain(2);
  Views views = AllViews({"vol", "s1", "s2"});
  may_be_unbuilt_ = {"s1", "s2"};
  Stop();
  std::filesystem::rename(Path("s1.cow"), Path("away"));
  Start();
  EXPECT_THAT(registry_->Info("s2")->error, HasSubstr("'s1' could not be restored"));
  EXPECT_THAT(Available(), ElementsAre(false, true));
  WriteSome("vol", 30);
  views["vol"] = View("vol");
  std::filesystem::rename(Path("away"), Path("s1.cow"));
  Restart();
  ExpectViews(views);
}

// It would inherit nothing, and show data of the device as its own.
TEST_F(SnapshotsTest, WhatAnOlderSnapshotLooksUpStaysWhileItsStoreIsAway) {
  MakeChain(3);
  Views views = AllViews({"vol", "s1", "s2", "s3"});
  const auto restart_without_store = [this] {
    may_be_unbuilt_ = {"s1", "s2"};
    Stop();
    std::filesystem::rename(Path("s1.cow"), Path("away"));
    Start();
    std::filesystem::rename(Path("away"), Path("s1.cow"));
  };
  restart_without_store();
  for (const auto& refused : {snapshots_->StartRemove("s2"), snapshots_->StartRollBack("s2")}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("resume 's1' first"));
  }
  for (const char* device : {"s1", "s2"}) ASSERT_TRUE(catalog_->Resume(device).ok());
  ExpectViews(views);
  ExpectDone(snapshots_->StartRemove("s2"));
  views.erase("s2");
  ExpectViews(views);
}

// A new table would make a valid store of the empty file.
TEST_F(SnapshotsTest, ASnapshotThatCouldNotBeRestoredGetsNoNewTable) {
  MakeChain(1);
  const Views views = AllViews({"vol", "s1"});
  may_be_unbuilt_ = {"vol", "s1"};
  Stop();
  std::filesystem::rename(Path("s1.cow"), Path("away"));
  Start();
  MakeFile("s1.cow", kVolumeSectors);
  const std::vector<std::string> names = Names();
  const auto refused = snapshots_->Create({.entries = {{.name = "s2", .device = "vol"}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("could not be restored"));
  EXPECT_EQ(Names(), names);
  EXPECT_FALSE(registry_->Info("vol")->suspended);
  std::filesystem::rename(Path("away"), Path("s1.cow"));
  for (const char* device : {"s1", "vol"}) ASSERT_TRUE(catalog_->Resume(device).ok());
  ExpectViews(views);
}

TEST_F(SnapshotsTest, ASnapshotThatIsKeptButDoesNotGoOnIsKnownToTheListAtOnce) {
  Make("vol", "0 2048 stubborn " + MakeFile("vol.img", kVolumeSectors) + "\n");
  StubbornTarget::refuses = true;
  EXPECT_FALSE(snapshots_->Create({.entries = {{.name = "s1", .device = "vol"}}}).ok());
  StubbornTarget::refuses = false;
  ASSERT_TRUE(Exists("s1"));
  const std::vector<SnapshotInfo> list = snapshots_->List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_GT(list[0].created_unix_seconds, 0);
  ASSERT_TRUE(catalog_->Resume("vol-real").ok());
  ExpectDone(snapshots_->StartRemove("s1"));
}

// The merge goes on when all that it copies for is there.
TEST_F(SnapshotsTest, ARollBackWhoseStoreNeverComesCanBeCancelled) {
  MakeVolume("real");
  const std::string store = MakeFile("1", kVolumeSectors);
  Make("s1", absl::StrCat("0 2048 snapshot real ", store, " P 16\n"));
  WriteSome("s1", 10);
  ASSERT_TRUE(catalog_->Remove("s1", {}).ok());
  Make("vol", absl::StrCat("0 2048 snapshot-merge real ", store, " P 16\n"));
  may_be_unbuilt_ = {"vol"};
  Stop();
  std::filesystem::remove(store);
  Start();
  ASSERT_EQ(operations_->List().size(), 1u);
  // It has to have looked once.
  while (!operations_->Cancel(operations_->List().front().id).ok()) std::this_thread::yield();
  WaitForAll();
  EXPECT_EQ(operations_->List().front().state, OperationState::kCancelled);
  const auto loaded =
      catalog_->Replace("vol", "0 2048 linear real 0\n", false, SuspendMode::kFlush);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
}

TEST_F(SnapshotsTest, AMergeThatFailsIsTriedAgainThoughTheDiskTakesNoFlush) {
  SleepShortly();
  MakeMerge(false);
  snapshots_->ResumeRollBacks();
  ASSERT_EQ(operations_->List().size(), 1u);
  WaitForAll();
  EXPECT_EQ(operations_->List().front().state, OperationState::kFailed);
  EXPECT_THAT(operations_->List().front().error, HasSubstr("again after 3 more tries"));
}

TEST_F(SnapshotsTest, ARollBackThatADiskHasEndedGoesOnWhenTheMergeDoes) {
  SleepShortly();
  const Views views = {{"vol", MakeMerge(false)}};
  snapshots_->ResumeRollBacks();
  WaitForAll();
  SetDisk(true);
  // It would only fail again.
  snapshots_->TakeUpRollBacks();
  ASSERT_EQ(operations_->List().size(), 1u);
  ASSERT_TRUE(catalog_->Suspend("vol", SuspendMode::kFlush).ok());
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  snapshots_->TakeUpRollBacks();
  ASSERT_EQ(operations_->List().size(), 2u);
  WaitForAll();
  EXPECT_EQ(operations_->List().back().state, OperationState::kDone);
  EXPECT_EQ(TableOf("vol"), "0 2048 linear disk 0\n");
  ExpectViews(views);
  snapshots_->TakeUpRollBacks();
  EXPECT_EQ(operations_->List().size(), 2u);
}

// As dmsetup's users do it, who look after it themselves.
TEST_F(SnapshotsTest, AMergeThatWasMadeByHandIsNotTakenUp) {
  MakeMerge(true);
  snapshots_->TakeUpRollBacks();
  EXPECT_THAT(operations_->List(), IsEmpty());
}

TEST_F(SnapshotsTest, AMergeThatIsOverEndsWhenTheDiskTakesAFlushAgain) {
  SleepShortly();
  const Views views = {{"vol", MakeMerge(true)}};
  const auto merged = [this] {
    const SnapshotStatus status = ReadSnapshotStatus(*registry_, "vol");
    return status.state == SnapshotStatus::State::kValid && status.allocated == status.metadata;
  };
  while (!merged()) std::this_thread::yield();
  SetDisk(false);
  // Its end has been tried, and taken back, when the new table has come and gone.
  std::atomic<bool> loaded = false;
  std::atomic<bool> undone = false;
  const uint64_t watch = registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
    if (info.name != "vol") return;
    if (info.has_inactive_table) loaded = true;
    if (!info.has_inactive_table && loaded) undone = true;
  });
  snapshots_->ResumeRollBacks();
  while (!undone) std::this_thread::yield();
  registry_->Unsubscribe(watch);
  SetDisk(true);
  WaitForAll();
  ASSERT_EQ(operations_->List().size(), 1u);
  EXPECT_EQ(operations_->List().front().state, OperationState::kDone)
      << operations_->List().front().error;
  EXPECT_EQ(TableOf("vol"), "0 2048 linear disk 0\n");
  ExpectViews(views);
}

TEST_F(SnapshotsTest, ARollBackThatWasCancelledGoesOnWhenItsStoreComesAfterAll) {
  const Views views = {{"vol", MakeMerge(false)}};
  may_be_unbuilt_ = {"vol"};
  Stop();
  std::filesystem::rename(Path("1"), Path("away"));
  Start();
  ASSERT_EQ(operations_->List().size(), 1u);
  while (!operations_->Cancel(operations_->List().front().id).ok()) std::this_thread::yield();
  WaitForAll();
  // The device may get another table instead.
  snapshots_->TakeUpRollBacks();
  EXPECT_EQ(operations_->List().size(), 1u);
  SetDisk(true);
  StartKeeper();
  std::filesystem::rename(Path("away"), Path("1"));
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  while (TableOf("vol") != "0 2048 linear disk 0\n") std::this_thread::yield();
  WaitForAll();
  EXPECT_EQ(operations_->List().back().state, OperationState::kDone);
  ExpectViews(views);
}

TEST_F(SnapshotsTest, ARollBackWaitsForAStoreThatIsLate) {
  MakeVolume("real");
  const std::string store = MakeFile("1", kVolumeSectors);
  Make("s1", absl::StrCat("0 2048 snapshot real ", store, " P 16\n"));
  WriteSome("s1", 10);
  Views views = {{"vol", View("s1")}, {"s2", View("real")}};
  ASSERT_TRUE(catalog_->Remove("s1", {}).ok());
  Make("s2", absl::StrCat("0 2048 snapshot real ", MakeFile("2", kVolumeSectors), " P 16\n"));
  Make("vol", absl::StrCat("0 2048 snapshot-merge real ", store, " P 16\n"));
  may_be_unbuilt_ = {"vol", "s2"};
  Stop();
  std::filesystem::rename(Path("2"), Path("away"));
  Start();
  std::filesystem::rename(Path("away"), Path("2"));
  for (const char* device : {"s2", "vol"}) ASSERT_TRUE(catalog_->Resume(device).ok());
  WaitForAll();
  for (const OperationInfo& info : operations_->List()) {
    EXPECT_EQ(info.state, OperationState::kDone) << info.error;
  }
  EXPECT_EQ(TableOf("vol"), "0 2048 snapshot-origin /dev/mapper/real\n");
  ExpectViews(views);
}

TEST_F(SnapshotsTest, AnOriginIsKnownByWhateverPathItIsNamed) {
  const std::string path = MakeFile("real", kVolumeSectors);
  std::filesystem::create_symlink("real", Path("alias"));
  Make("s1", absl::StrCat("0 2048 snapshot ", Path("alias"), " ", MakeFile("1", kVolumeSectors),
                          " P 16\n"));
  Make("vol", absl::StrCat("0 2048 snapshot-origin ", path, "\n"));
  EXPECT_THAT(SuspendOrder(*registry_, {"s1", "vol"}), ElementsAre("vol", "s1"));
  may_be_unbuilt_ = {"vol", "s1"};
  Stop();
  std::filesystem::remove(Path("1"));
  Start();
  EXPECT_THAT(registry_->Info("vol")->error, HasSubstr("'s1' could not be restored"));
}

// Reading it would wait for the resume, and every other recipe with it.
TEST_F(SnapshotsTest, AStoreThatIsSuspendedIsRefused) {
  MakeVolume();
  Make("low", absl::StrCat("0 4096 linear ", MakeFile("low.img", 4096), " 0\n"));
  Make("high", "0 4096 linear low 0\n");
  ASSERT_TRUE(catalog_->Suspend("low", SuspendMode::kFlush).ok());
  const CreateSnapshots wanted = {
      .entries = {{.name = "s1", .device = "vol", .store = "/dev/mapper/high"}}};
  const auto refused = snapshots_->Create(wanted);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("suspended"));
  ASSERT_TRUE(catalog_->Resume("low").ok());
  EXPECT_TRUE(snapshots_->Create(wanted).ok());
}

// A chain s1, s2 whose older store is the device `st`.
class StoreOnDeviceTest : public SnapshotsTest {
 protected:
  void SetUp() override {
    SnapshotsTest::SetUp();
    MakeVolume();
    Make("st", absl::StrCat("0 4096 linear ", MakeFile("st.img", 4096), " 0\n"));
    ASSERT_TRUE(
        snapshots_
            ->Create({.entries = {{.name = "s1", .device = "vol", .store = "/dev/mapper/st"}},
                      .chunk_sectors = kChunk})
            .ok());
    TakeSnapshot("s2");
    WriteSome("vol", 10);
  }
};

TEST_F(StoreOnDeviceTest, NothingIsRemovedOrRolledBackToWhileAStoreThatInheritsIsSuspended) {
  const Views views = AllViews({"vol", "s1"});
  ASSERT_TRUE(catalog_->Suspend("st", SuspendMode::kFlush).ok());
  for (const auto& refused : {snapshots_->StartRemove("s2"), snapshots_->StartRollBack("s2"),
                              snapshots_->StartRollBack("s1")}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("'st'"));
  }
  ASSERT_TRUE(catalog_->Resume("st").ok());
  ExpectDone(snapshots_->StartRemove("s2"));
  ExpectViews(views);
}

// As one that was running when the daemon ended, with the store suspended.
TEST_F(StoreOnDeviceTest, ARemovalWaitsForASuspendedStoreAndCanBeCancelled) {
  const Views views = AllViews({"vol", "s1"});
  ASSERT_TRUE(catalog_->Suspend("st", SuspendMode::kFlush).ok());
  const auto start = [this] {
    return operations_->Start("snapshot-remove", "s2", {"s1", "s2"}, "");
  };
  const auto given_up = start();
  ASSERT_TRUE(given_up.ok()) << given_up.status();
  MakeVolume("other");  // meanwhile it has come to its first copy
  ASSERT_TRUE(operations_->Cancel(given_up->id).ok());
  EXPECT_EQ(WaitFor(given_up).state, OperationState::kCancelled);
  const auto waits = start();
  ASSERT_TRUE(catalog_->Resume("st").ok());
  ExpectDone(waits);
  ExpectViews(views);
}

// The origin's writes go to the store, whoever may write to the snapshot.
TEST_F(SnapshotsTest, AReadOnlySnapshotIsKeptAcrossARestart) {
  MakeVolume();
  const Views views = {{"s1", View("vol")}};
  TakeSnapshot("s1");
  ASSERT_TRUE(catalog_->Replace("s1", TableOf("s1"), /*read_only=*/true, SuspendMode::kSwap).ok());
  Restart();
  WriteSome("vol", 10);
  EXPECT_EQ(ReadSnapshotStatus(*registry_, "s1").state, SnapshotStatus::State::kValid);
  ExpectViews(views);
  Restart();
  ExpectViews(views);
}

TEST_F(SnapshotsTest, AReadOnlySnapshotMayHaveANewStore) {
  MakeVolume();
  const auto made = catalog_->Create(
      {.name = "s1",
       .table = absl::StrCat("0 2048 snapshot vol ", MakeFile("1", kVolumeSectors), " P 16\n"),
       .read_only = true});
  EXPECT_TRUE(made.ok()) << made.status();
}

TEST_F(SnapshotsTest, AStoreThatIsReadOnlyIsRefusedAtOnce) {
  MakeVolume();
  Make("st", absl::StrCat("0 2048 linear ", MakeFile("1", kVolumeSectors), " 0\n"));
  Make("s1", "0 2048 snapshot vol st P 16\n");
  ASSERT_TRUE(catalog_->Remove("s1", {}).ok());
  ASSERT_TRUE(catalog_->Replace("st", TableOf("st"), /*read_only=*/true, SuspendMode::kSwap).ok());
  for (const char* type : {"snapshot", "snapshot-merge"}) {
    const auto refused =
        catalog_->Create({.name = "s1", .table = absl::StrCat("0 2048 ", type, " vol st P 16\n")});
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("'st' is read-only"));
  }
}

TEST_F(SnapshotsTest, AReadOnlyDeviceIsNotRolledBack) {
  MakeChain(2);
  const Views views = AllViews({"vol", "s1", "s2"});
  for (const char* name : {"vol", "vol-real"}) {
    ASSERT_TRUE(
        catalog_->Replace(name, TableOf(name), /*read_only=*/true, SuspendMode::kSwap).ok());
    const auto refused = snapshots_->StartRollBack("s1");
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr(absl::StrCat("'", name, "' is read-only")));
    // As one that was running when the daemon ended.
    const OperationInfo failed = WaitFor(
        operations_->Start("rollback", "vol", {"s1", "s2", "vol", "vol-real"}, "snapshot s1"));
    EXPECT_EQ(failed.state, OperationState::kFailed);
    EXPECT_THAT(failed.error, HasSubstr("is read-only"));
    ASSERT_TRUE(
        catalog_->Replace(name, TableOf(name), /*read_only=*/false, SuspendMode::kSwap).ok());
  }
  ExpectViews(views);
  ExpectDone(snapshots_->StartRollBack("s1"));
  ExpectViews({{"vol", views.at("s1")}, {"s2", views.at("s2")}});
}

TEST_F(SnapshotsTest, NothingIsRemovedOrRolledBackToWhileALayerThatIsReadIsSuspended) {
  MakeChain(2);
  const Views views = AllViews({"vol", "s1"});
  ASSERT_TRUE(catalog_->Suspend("s2-real", SuspendMode::kFlush).ok());
  for (const auto& refused : {snapshots_->StartRemove("s2"), snapshots_->StartRollBack("s2"),
                              snapshots_->StartRollBack("s1")}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("'s2-real'"));
  }
  // As one that was running when the daemon ended.
  const auto given_up = operations_->Start("snapshot-remove", "s2", {"s1", "s2"}, "");
  ASSERT_TRUE(given_up.ok()) << given_up.status();
  MakeVolume("other");  // meanwhile it has come to its first copy
  ASSERT_TRUE(operations_->Cancel(given_up->id).ok());
  EXPECT_EQ(WaitFor(given_up).state, OperationState::kCancelled);
  ASSERT_TRUE(catalog_->Resume("s2-real").ok());
  ExpectDone(snapshots_->StartRemove("s2"));
  ExpectViews(views);
}

TEST_F(SnapshotsTest, ASnapshotWhoseStoreIsLostCanBeRemovedAndTheDeviceGoesOn) {
  MakeChain(1);
  const Views views = AllViews({"vol"});
  may_be_unbuilt_ = {"vol", "s1"};
  Stop();
  std::filesystem::remove(Path("s1.cow"));
  Start();
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_THAT(Names(), ElementsAre("vol"));
  ExpectViews(views);
  may_be_unbuilt_.clear();
  Restart();
  ExpectViews(views);
}

// As LVM stacks them: beside each other.
TEST_F(SnapshotsTest, OfSeveralSnapshotsOnTheDeviceALostOneCanBeRemoved) {
  MakeVolume("real");
  const std::string row = absl::StrCat("0 ", kVolumeSectors, " snapshot real ");
  Make("s1", absl::StrCat(row, MakeFile("1", kVolumeSectors), " P 16\n"));
  Make("s2", absl::StrCat(row, MakeFile("2", kVolumeSectors), " P 16\n"));
  Make("vol", absl::StrCat("0 ", kVolumeSectors, " snapshot-origin real\n"));
  may_be_unbuilt_ = {"vol", "s2"};
  Stop();
  std::filesystem::remove(Path("2"));
  Start();
  ExpectDone(snapshots_->StartRemove("s2"));
  const Views views = AllViews({"s1"});
  Fill("vol", 0, 100, 2);
  ExpectViews(views);
}

TEST_F(SnapshotsTest, ARemovalThatIsKilledEndsAfterTheStart) {
  for (const std::string gone : {"s1", "s2", "s3"}) {
    SCOPED_TRACE(gone);
    MakeChain(3);
    Views views = AllViews({"vol", "s1", "s2", "s3"});
    views.erase(gone);
    KillAtEveryStep([&] { ExpectDone(snapshots_->StartRemove(gone)); },
                    [&](size_t step) {
                      ExpectViews(views);
                      WaitForAll();
                      ExpectViews(views);
                      if (step != 0) EXPECT_FALSE(Exists(gone));
                      EXPECT_EQ(std::filesystem::exists(Path(gone + ".cow")), Exists(gone));
                      for (const OperationInfo& info : operations_->List()) {
                        EXPECT_EQ(info.state, OperationState::kDone) << info.error;
                      }
                    });
    for (const auto& [device, bytes] : views) {
      if (device != "vol") ExpectDone(snapshots_->StartRemove(device));
    }
    if (Exists(gone)) ExpectDone(snapshots_->StartRemove(gone));
    ASSERT_TRUE(catalog_->Remove("vol", {}).ok());
  }
}

TEST_F(SnapshotsTest, ARollBackThatIsKilledEndsAfterTheStart) {
  MakeChain(3);
  const Views before = AllViews({"vol", "s1", "s2", "s3"});
  Views after = before;
  after["vol"] = before.at("s2");
  after.erase("s2");
  KillAtEveryStep([&] { ExpectDone(snapshots_->StartRollBack("s2")); },
                  [&](size_t step) {
                    if (step != 0) {
                      WaitForAll();
                      EXPECT_FALSE(Exists("s2"));
                      EXPECT_FALSE(std::filesystem::exists(Path("s2.cow")));
                      ExpectViews(after);
                    } else {
                      ExpectViews(before);
                    }
                  });
}

TEST_F(SnapshotsTest, ACancelledRemovalLeavesEverySnapshotAsItWas) {
  MakeChain(3);
  const Views views = AllViews({"vol", "s1", "s2", "s3"});
  const auto started = snapshots_->StartRemove("s2");
  ASSERT_TRUE(started.ok()) << started.status();
  static_cast<void>(operations_->Cancel(started->id));
  const OperationInfo ended = WaitFor(started);
  EXPECT_THAT(ended.state, AnyOf(OperationState::kCancelled, OperationState::kDone));
  Views left = views;
  if (ended.state == OperationState::kDone) left.erase("s2");
  ExpectViews(left);
}

// Random writes to the device and its snapshots, and snapshots that come and go, against arrays.
TEST_F(SnapshotsTest, RandomHistoriesShowWhatTheyShould) {
  Random random;
  MakeVolume();
  Views views = AllViews({"vol"});
  for (int step = 0; step < 60 && !HasFailure(); ++step) {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : views) names.push_back(name);
    const std::string name = names[random.Below(names.size())];
    const uint64_t what = random.Below(10);
    if (what < 6) {
      const uint64_t first = random.Below(kVolumeSectors - 1);
      const uint64_t count = 1 + random.Below(std::min<uint64_t>(90, kVolumeSectors - first));
      Fill(name, first, count, 1000 + step);
      const std::vector<std::byte> bytes = Pattern(first, count, 1000 + step);
      std::ranges::copy(bytes, views[name].begin() + static_cast<ptrdiff_t>(first * kSectorBytes));
    } else if (what < 8 && views.size() < 8) {
      const std::string snapshot = "n" + std::to_string(step);
      TakeSnapshot(snapshot, name);
      views[snapshot] = views[name];
    } else if (what == 8 && name != "vol") {
      views.erase(name);
      ExpectDone(snapshots_->StartRemove(name));
    } else if (what == 9 && name != "vol") {
      std::string origin;
      for (const SnapshotInfo& info : snapshots_->List()) {
        if (info.name == name) origin = info.origin;
      }
      const auto started = snapshots_->StartRollBack(name);
      // What it was taken of may have gone.
      if (!started.ok()) continue;
      ExpectDone(started);
      views[origin] = views[name];
      views.erase(name);
    }
    ExpectViews(views);
  }
  Restart();
  ExpectViews(views);
}

}  // namespace
}  // namespace sectormap::volumes
