// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/mirrors.h"

#include <atomic>
#include <climits>
#include <thread>

#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/map/target.h"
#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

// brittle <device>: all of it, until it fails what it is told to.
class BrittleTarget final : public Target {
 public:
  struct Faults {
    std::atomic<bool> writes{false};
    std::atomic<int> good_flushes{INT_MAX};  // before they fail
  };
  static Faults faults;

  BrittleTarget(SectorCount length, DeviceRef device) : Target(length), device_(device) {}
  BlockLimits limits() const override { return device_.device->limits(); }
  Task<IoStatus> Submit(IoRequest request) override {
    const bool fails = (request.op == IoOp::kWrite && faults.writes) ||
                       (request.op == IoOp::kFlush && faults.good_flushes-- <= 0);
    if (fails) return IoStatus::kIoError;
    return device_.device->Submit(request);
  }
  std::string TableArgs() const override { return device_.name(); }
  std::span<const DeviceRef> backings() const override { return {&device_, 1}; }
  bool flush_is_for_backings() const override { return false; }

 private:
  const DeviceRef device_;
};
BrittleTarget::Faults BrittleTarget::faults;

const TargetType kBrittleTarget{
    .name = "brittle",
    .version = "1.0.0",
    .usage = "<device>",
    .summary = "for tests",
    .create = [](TargetArgs& args) -> absl::StatusOr<std::unique_ptr<Target>> {
      ASSIGN_OR_RETURN(DeviceRef device, args.Device("Device lookup failed"));
      return std::make_unique<BrittleTarget>(args.length(), std::move(device));
    },
};

class MirrorsTest : public RecipeTest {
 protected:
  void SetUp() override {
    Mend();
    types_.Add(kBrittleTarget);
    RecipeTest::SetUp();
    MakeFile("leg.img", kVolumeSectors + 64);
  }
  AddLegRequest Wanted(const std::string& leg = "leg.img", const std::string& log = "") {
    return {.device = "vol", .leg = Path(leg), .log = log};
  }
  void MakeMirror(const std::string& log = "") {
    MakeVolume();
    ExpectDone(mirrors_->StartAdd(Wanted("leg.img", log)));
  }
  // `vol`, a mirror in sync of x.img and y.img, one of them below the brittle device.
  void MakeBrittleMirror(size_t brittle, const std::string& features) {
    std::string legs;
    for (const size_t leg : {0, 1}) {
      const std::string path = MakeFile(leg == 0 ? "x.img" : "y.img", kVolumeSectors);
      if (leg == brittle) Make("brittle", "0 2048 brittle " + path + "\n");
      absl::StrAppend(&legs, " ", leg == brittle ? "/dev/mapper/brittle" : path, " 0");
    }
    Make("vol", absl::StrCat("0 2048 mirror core 1 64 2", legs, features, "\n"));
    AwaitSync();
    Fill("vol", 0, kVolumeSectors, 1);
  }
  void AwaitSync(const std::string& device = "vol") {
    const auto lacks = [](const MirrorStatus& row) { return !row.complete(); };
    while (true) {
      const std::vector<MirrorStatus> rows = ReadMirrorStatus(*registry_, device);
      ASSERT_FALSE(rows.empty());
      if (std::ranges::none_of(rows, lacks)) return;
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  void AwaitTable(const std::string& device, const std::string& word) {
    while (TableOf(device).find(word) == std::string::npos) absl::SleepFor(absl::Milliseconds(1));
  }
  static void Mend() {
    BrittleTarget::faults.writes = false;
    BrittleTarget::faults.good_flushes = INT_MAX;
  }
  void StartKeeper() {
    keeper_ = std::make_unique<Keeper>(
        *registry_, *snapshots_, *mirrors_, [](const std::string&, const std::string&) {},
        absl::Milliseconds(50));
  }
  // Puts into a leg's file what the mirror does not know of, so that a copy of it shows.
  void Mark(const std::string& file) {
    std::fstream(Path(file), std::ios::binary | std::ios::in | std::ios::out).write("mark", 4);
  }
  bool IsMarked(const std::string& file) {
    char found[4];
    std::ifstream(Path(file), std::ios::binary).read(found, sizeof found);
    return std::string_view(found, sizeof found) == "mark";
  }
  std::vector<std::byte> Bytes(const std::string& file, uint64_t first = 0) {
    std::vector<std::byte> bytes(kVolumeSectors * kSectorBytes);
    std::ifstream in(Path(file), std::ios::binary);
    in.seekg(static_cast<std::streamoff>(first * kSectorBytes));
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return bytes;
  }
};

TEST_F(MirrorsTest, ANewLegHasAllDataWhenTheOperationEnds) {
  MakeMirror();
  EXPECT_EQ(TableOf("vol"), "0 2048 mirror disk 2 " + Path("vol.mlog") + " 1024 2 " +
                                Path("vol.img") + " 0 " + Path("leg.img") + " 0 1 handle_errors\n");
  EXPECT_TRUE(Bytes("leg.img") == Pattern(0, kVolumeSectors, 1));
  Fill("vol", 100, 50, 2);
  EXPECT_TRUE(Bytes("leg.img") == View("vol"));
  Restart();
  EXPECT_TRUE(ReadMirrorStatus(*registry_, "vol").at(0).complete());
}

TEST_F(MirrorsTest, ALegMayBeginAnywhereAndTheLogMayBeInMemory) {
  MakeVolume();
  AddLegRequest request = Wanted("leg.img", "core");
  request.leg_start = 40;
  request.region_sectors = 64;
  ExpectDone(mirrors_->StartAdd(request));
  EXPECT_THAT(TableOf("vol"), HasSubstr("mirror core 1 64 2"));
  EXPECT_TRUE(Bytes("leg.img", 40) == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MirrorsTest, ATakenLegLeavesWhatWasBeforeAndTheLogGoes) {
  MakeMirror();
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("leg.img")}));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("vol.img") + " 0\n");
  EXPECT_THAT(Files(), ElementsAre("leg.img", "vol.img"));
}

TEST_F(MirrorsTest, TheFirstLegMayGoToo) {
  MakeMirror();
  Fill("vol", 0, 8, 2);
  const auto bytes = View("vol");
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("vol.img")}));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("leg.img") + " 0\n");
  EXPECT_TRUE(View("vol") == bytes);
}

TEST_F(MirrorsTest, AThirdLegIsCopiedToEvenIfTheLogSaysThatAllIsInSync) {
  MakeMirror();
  MakeFile("third.img", kVolumeSectors);
  ExpectDone(mirrors_->StartAdd(Wanted("third.img")));
  EXPECT_TRUE(Bytes("third.img") == Pattern(0, kVolumeSectors, 1));
  EXPECT_THAT(TableOf("vol"), HasSubstr("third.img 0 1 handle_errors"));
  EXPECT_THAT(TableOf("vol"), Not(HasSubstr(" sync")));
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("leg.img")}));
  EXPECT_THAT(TableOf("vol"), HasSubstr(" 2 " + Path("vol.img") + " 0 " + Path("third.img")));
}

TEST_F(MirrorsTest, ATableOfSeveralRowsBecomesADeviceOfItsOwnAndComesBack) {
  MakeFile("a.img", 1024);
  MakeFile("b.img", 1024);
  Make("vol", "0 1024 linear " + Path("a.img") + " 0\n1024 1024 linear " + Path("b.img") + " 0\n");
  Fill("vol", 0, kVolumeSectors, 1);
  const std::string table = TableOf("vol");
  ExpectDone(mirrors_->StartAdd(Wanted()));
  EXPECT_EQ(TableOf("vol-mimage-0"), table);
  EXPECT_THAT(TableOf("vol"), HasSubstr("/dev/mapper/vol-mimage-0 0 " + Path("leg.img")));
  EXPECT_TRUE(Bytes("leg.img") == Pattern(0, kVolumeSectors, 1));
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("leg.img")}));
  EXPECT_EQ(TableOf("vol"), table);
  EXPECT_THAT(Names(), ElementsAre("vol"));
}

TEST_F(MirrorsTest, UnderSnapshotsTheLayerBelowIsMirrored) {
  MakeVolume();
  TakeSnapshot("s1");
  ExpectDone(mirrors_->StartAdd(Wanted()));
  EXPECT_THAT(TableOf("vol"), HasSubstr("snapshot-origin"));
  EXPECT_THAT(TableOf("vol-real"), HasSubstr("mirror disk"));
  Fill("vol", 0, 100, 2);
  EXPECT_TRUE(Bytes("leg.img") == View("vol"));
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MirrorsTest, AMappedDeviceCanBeTheLog) {
  MakeVolume();
  Make("log", absl::StrCat("0 64 linear ", MakeFile("log.img", 64), " 0\n"));
  AddLegRequest request = Wanted();
  request.log = "/dev/mapper/log";
  ExpectDone(mirrors_->StartAdd(request));
  EXPECT_THAT(TableOf("vol"), HasSubstr("mirror disk 2 /dev/mapper/log 1024"));
}

TEST_F(MirrorsTest, WhatCannotBeDoneIsRefused) {
  MakeMirror();
  MakeFile("small.img", 100);
  MakeFile("third.img", kVolumeSectors);
  const auto refusal = [this](const AddLegRequest& request) {
    const auto started = mirrors_->StartAdd(request);
    EXPECT_FALSE(started.ok());
    return std::string(started.status().message());
  };
  EXPECT_THAT(refusal(Wanted("small.img")), HasSubstr("too small"));
  EXPECT_THAT(refusal(Wanted("vol.img")), HasSubstr("'vol' lies on"));
  EXPECT_THAT(refusal(Wanted("third.img", "core")), HasSubstr("already"));
  const auto removed = mirrors_->StartRemove({.device = "vol", .leg = Path("third.img")});
  EXPECT_THAT(std::string(removed.status().message()), HasSubstr(Path("leg.img")));
}

TEST_F(MirrorsTest, ALogThatIsSuspendedIsRefused) {
  MakeVolume();
  Make("log", "0 64 linear " + MakeFile("log.img", 64) + " 0\n");
  ASSERT_TRUE(catalog_->Suspend("log", SuspendMode::kFlush).ok());
  AddLegRequest request = Wanted();
  request.log = "/dev/mapper/log";
  const auto refused = mirrors_->StartAdd(request);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("suspended"));
}

TEST_F(MirrorsTest, ALegThatIsSuspendedIsRefused) {
  MakeVolume();
  Make("leg", "0 2048 linear " + Path("leg.img") + " 0\n");
  ASSERT_TRUE(catalog_->Suspend("leg", SuspendMode::kFlush).ok());
  AddLegRequest request = Wanted();
  request.leg = "/dev/mapper/leg";
  const auto refused = mirrors_->StartAdd(request);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("suspended"));
}

// Parts of one disk, as two devices: both fail, and neither keeps the other in the table.
TEST_F(MirrorsTest, ADiskThatFailsUnderTwoRowsGoesOutOfBoth) {
  for (const char* name : {"x", "y"}) MakeFile(name, kVolumeSectors);
  Make("dead", absl::StrCat("0 1024 linear ", Path("x"), " 0\n"));
  Make("dead2", absl::StrCat("0 1024 linear ", Path("x"), " 1024\n"));
  Make("vol", absl::StrCat("0 1024 mirror core 1 64 2 dead 0 ", Path("y"),
                           " 0 1 handle_errors\n1024 1024 mirror core 1 64 2 dead2 0 ", Path("y"),
                           " 1024 1 handle_errors\n"));
  AwaitSync();
  Fill("vol", 0, kVolumeSectors, 1);
  for (const char* name : {"dead", "dead2"}) {
    ASSERT_TRUE(catalog_->Replace(name, "0 1024 error\n", false, SuspendMode::kNoFlush).ok());
  }
  // Waits in both rows.
  std::thread writer([&] { Fill("vol", 1000, 48, 1); });
  while (ReadMirrorStatus(*registry_, "vol").back().healthy() ||
         ReadMirrorStatus(*registry_, "vol").front().healthy()) {
    std::this_thread::yield();
  }
  StartKeeper();
  writer.join();
  EXPECT_EQ(TableOf("vol"), absl::StrCat("0 1024 linear ", Path("y"), " 0\n1024 1024 linear ",
                                         Path("y"), " 1024\n"));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

// The command takes what follows the last colon for the place.
TEST_F(MirrorsTest, ALegWhoseNameEndsWithANumberCanBeTakenOut) {
  MakeFile("x.img", kVolumeSectors);
  MakeFile("y:7", kVolumeSectors);
  Make("vol", "0 2048 mirror core 1 64 2 " + Path("x.img") + " 0 " + Path("y:7") + " 0\n");
  AwaitSync();
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("y"), .leg_start = 7}));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("x.img") + " 0\n");
}

class LegAwayTest : public MirrorsTest {
 protected:
  void StartWithoutTheSecondLeg() { StartWithout("y.img"); }
  void StartWithout(const std::string& leg) {
    MakeFile("x.img", kVolumeSectors);
    MakeFile("y.img", kVolumeSectors);
    Make("vol", "0 2048 mirror core 1 64 2 " + Path("x.img") + " 0 " + Path("y.img") + " 0\n");
    AwaitSync();
    Fill("vol", 0, kVolumeSectors, 1);
    may_be_unbuilt_ = {"vol"};
    Stop();
    std::filesystem::remove(Path(leg));
    Start();
  }
};

TEST_F(LegAwayTest, ItCanBeTakenOut) {
  StartWithoutTheSecondLeg();
  ASSERT_TRUE(mirrors_->StartRemove({.device = "vol", .leg = Path("y.img")}).ok());
  WaitForAll();
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("x.img") + " 0\n");
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

// What the others hold is not known, but perhaps to who asks: he is told what to do.
TEST_F(LegAwayTest, TheFirstOneIsReplacedByHand) {
  StartWithout("x.img");
  const auto refused = mirrors_->StartRemove({.device = "vol", .leg = Path("x.img")});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  const std::string why(refused.status().message());
  EXPECT_THAT(why, HasSubstr("could not be built"));
  EXPECT_THAT(why, HasSubstr(Path("x.img")));
  EXPECT_THAT(why, Not(HasSubstr("lacks data")));
  const std::string table = "0 2048 linear " + Path("y.img") + " 0";
  EXPECT_THAT(why, HasSubstr("sectormap load vol --table '" + table + "'"));
  ASSERT_TRUE(catalog_->Load("vol", table, false).ok());
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

// A new table for what could not be restored is only taken from who goes back.
TEST_F(LegAwayTest, TheMirrorCanGoBack) {
  StartWithoutTheSecondLeg();
  TogetherRequest request;
  request.replace = {{.name = "vol", .table = "0 2048 linear " + Path("x.img") + " 0\n"}};
  const absl::Status refused = catalog_->ReplaceTogether(request);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("could not be restored"));
  request.mode = SuspendMode::kNoFlush;
  ASSERT_TRUE(catalog_->ReplaceTogether(request).ok());
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MirrorsTest, ANewLegThatFailsIsTakenOutAgain) {
  MakeVolume();
  Make("bad", absl::StrCat("0 2112 flakey ", Path("leg.img"), " 0 0 1000 1 error_writes\n"));
  AddLegRequest request = Wanted();
  request.leg = "/dev/mapper/bad";
  const OperationInfo ended = WaitFor(mirrors_->StartAdd(request));
  EXPECT_EQ(ended.state, OperationState::kFailed);
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("vol.img") + " 0\n");
  Fill("vol", 0, 8, 2);
}

TEST_F(MirrorsTest, ACancelThatCannotTakeTheLegOutAgainSaysSo) {
  MakeFile("a.img", 2048);
  Make("vol", absl::StrCat("0 1024 linear ", Path("a.img"), " 1024\n1024 1024 linear ",
                           Path("a.img"), " 0\n"));
  // Nothing is copied before a suspend lets it go.
  const std::string leg = Path("leg.img");
  Make("slow", absl::StrCat("0 2112 delay ", leg, " 0 0 ", leg, " 0 3600000\n"));
  AddLegRequest request = Wanted();
  request.leg = "/dev/mapper/slow";
  const auto started = mirrors_->StartAdd(request);
  ASSERT_TRUE(started.ok()) << started.status();
  AwaitTable("vol", "mirror");
  Make("user", "0 8 linear /dev/mapper/vol-mimage-0 0\n");
  ASSERT_TRUE(operations_->Cancel(started->id).ok());
  const OperationInfo ended = WaitFor(started);
  EXPECT_EQ(ended.state, OperationState::kFailed);
  EXPECT_THAT(ended.error, HasSubstr("it could not be taken out again: "));
  ASSERT_TRUE(
      catalog_->Replace("slow", "0 2112 linear " + leg + " 0\n", false, SuspendMode::kNoFlush)
          .ok());
}

TEST_F(MirrorsTest, WhoAddsTheSameLegAgainIsAnsweredTheOperationThatRuns) {
  MakeVolume();
  // Nothing is copied before a suspend lets it go.
  const std::string leg = Path("leg.img");
  Make("slow", absl::StrCat("0 2112 delay ", leg, " 0 0 ", leg, " 0 3600000\n"));
  AddLegRequest request = Wanted();
  request.leg = "/dev/mapper/slow";
  const auto started = mirrors_->StartAdd(request);
  ASSERT_TRUE(started.ok()) << started.status();
  AwaitTable("vol", "mirror");
  const auto again = mirrors_->StartAdd(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->id, started->id);
  request.leg_start = 8;
  EXPECT_EQ(mirrors_->StartAdd(request).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(
      catalog_->Replace("slow", "0 2112 linear " + leg + " 0\n", false, SuspendMode::kNoFlush)
          .ok());
  ExpectDone(started);
  EXPECT_EQ(operations_->List().size(), 1u);
}

// A leg on the device that the first one lies on, at another place.
class LegOnSameDeviceTest : public MirrorsTest {
 protected:
  void SetUp() override {
    MirrorsTest::SetUp();
    MakeFile("big.img", 2 * kVolumeSectors);
    Make("vol", "0 2048 linear " + Path("big.img") + " 0\n");
    Fill("vol", 0, kVolumeSectors, 1);
  }
  AddLegRequest SecondHalf() {
    AddLegRequest request = Wanted("big.img", "core");
    request.leg_start = kVolumeSectors;
    return request;
  }
  // Cancels the operation when its leg is in, before it waits for it: recovery may be as fast as it
  // likes.
  OperationInfo AddAndCancel() {
    const int64_t id = operations_->List().size() + 1;
    const uint64_t watcher =
        registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
          if (info.name == "vol" && TableOf("vol").find("mirror") != std::string::npos) {
            EXPECT_TRUE(operations_->Cancel(id).ok());
          }
        });
    const OperationInfo ended = WaitFor(mirrors_->StartAdd(SecondHalf()));
    registry_->Unsubscribe(watcher);
    return ended;
  }
};

TEST_F(LegOnSameDeviceTest, AddingItThatIsCancelledTakesThatOneOut) {
  EXPECT_EQ(AddAndCancel().state, OperationState::kCancelled);
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("big.img") + " 0\n");
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(LegOnSameDeviceTest, AddingItThatIsCancelledAndKilledDoesNot) {
  KillAtEveryStep([&] { EXPECT_EQ(AddAndCancel().state, OperationState::kCancelled); },
                  [&](size_t) {
                    WaitForAll();
                    EXPECT_THAT(TableOf("vol"), HasSubstr(Path("big.img") + " 0"));
                    EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
                  });
}

TEST_F(LegOnSameDeviceTest, TakingOneNeedsItsPlace) {
  ExpectDone(mirrors_->StartAdd(SecondHalf()));
  const std::string path = Path("big.img");
  const auto unclear = mirrors_->StartRemove({.device = "vol", .leg = path});
  EXPECT_THAT(std::string(unclear.status().message()), HasSubstr(path + ":0 or " + path + ":2048"));
  EXPECT_FALSE(mirrors_->StartRemove({.device = "vol", .leg = path, .leg_start = 8}).ok());
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = path, .leg_start = kVolumeSectors}));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + path + " 0\n");
  ExpectDone(mirrors_->StartAdd(SecondHalf()));
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = path, .leg_start = 0}));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + path + " 2048\n");
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(LegOnSameDeviceTest, TakingItThatIsKilledEndsAfterTheStart) {
  ExpectDone(mirrors_->StartAdd(SecondHalf()));
  KillAtEveryStep(
      [&] {
        ExpectDone(mirrors_->StartRemove(
            {.device = "vol", .leg = Path("big.img"), .leg_start = kVolumeSectors}));
      },
      [&](size_t step) {
        WaitForAll();
        EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
        for (const OperationInfo& info : operations_->List()) {
          EXPECT_EQ(info.state, OperationState::kDone) << info.error;
        }
        if (step != 0) EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("big.img") + " 0\n");
      });
}

TEST_F(MirrorsTest, AFailedLegGoesOutByItselfAndItsWritesGoOn) {
  for (const bool first_fails : {false, true}) {
    SCOPED_TRACE(first_fails);
    MakeFile("x.img", kVolumeSectors);
    MakeFile("y.img", kVolumeSectors);
    Make("x", absl::StrCat("0 2048 linear ", Path("x.img"), " 0\n"));
    Make("y", absl::StrCat("0 2048 linear ", Path("y.img"), " 0\n"));
    Make("m", "0 2048 mirror core 1 64 2 /dev/mapper/x 0 /dev/mapper/y 0 1 handle_errors\n");
    while (!ReadMirrorStatus(*registry_, "m").at(0).complete()) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    Fill("m", 0, kVolumeSectors, 1);
    std::string said;
    keeper_ = std::make_unique<Keeper>(
        *registry_, *snapshots_, *mirrors_,
        [&](const std::string& device, const std::string& what) { said = device + " " + what; },
        absl::Milliseconds(50));
    const uint32_t events = registry_->Info("m")->event_number;
    const std::string failing = first_fails ? "x" : "y";
    const std::string good = first_fails ? "y" : "x";
    ASSERT_TRUE(catalog_->Replace(failing, "0 2048 error\n", false, SuspendMode::kNoFlush).ok());
    // Held by the mirror until it has another table.
    Fill("m", 100, 20, 2);
    while (TableOf("m").find("mirror") != std::string::npos) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_EQ(TableOf("m"), "0 2048 linear /dev/mapper/" + good + " 0\n");
    EXPECT_GT(registry_->Info("m")->event_number, events);
    const auto bytes = View("m");
    EXPECT_TRUE(std::ranges::equal(std::span(bytes).subspan(100 * kSectorBytes, 20 * kSectorBytes),
                                   Pattern(100, 20, 2)));
    keeper_.reset();
    EXPECT_THAT(said, HasSubstr("m degraded"));
    EXPECT_THAT(mirrors_->DegradedCounts(), ElementsAre(Pair("m", 1)));
    for (const char* device : {"m", "x", "y"}) ASSERT_TRUE(catalog_->Remove(device, {}).ok());
  }
}

TEST_F(MirrorsTest, TheCountOfFailuresGoesWithTheDevice) {
  MakeBrittleMirror(1, " 1 handle_errors");
  StartKeeper();
  BrittleTarget::faults.writes = true;
  Fill("vol", 0, 8, 1);
  AwaitTable("vol", "linear");
  keeper_.reset();
  ASSERT_TRUE(catalog_->Rename("vol", "data").ok());
  EXPECT_THAT(mirrors_->DegradedCounts(), ElementsAre(Pair("data", 1)));
  TakeSnapshot("s1", "data");
  EXPECT_THAT(mirrors_->DegradedCounts(), ElementsAre(Pair("data", 1)));
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_THAT(mirrors_->DegradedCounts(), ElementsAre(Pair("data", 1)));
  ASSERT_TRUE(catalog_->Remove("data", {}).ok());
  EXPECT_THAT(mirrors_->DegradedCounts(), IsEmpty());
  Make("data", "0 8 zero\n");
  EXPECT_THAT(mirrors_->DegradedCounts(), IsEmpty());
}

TEST_F(MirrorsTest, ALegThatGoesOutBelowSnapshotsIsTheVolumesEvent) {
  MakeBrittleMirror(1, " 1 handle_errors");
  TakeSnapshot("s1");
  AwaitSync("vol-real");
  StartKeeper();
  const uint32_t volume = registry_->Info("vol")->event_number;
  const uint32_t layer = registry_->Info("vol-real")->event_number;
  BrittleTarget::faults.writes = true;
  Fill("vol", 0, 8, 2);
  AwaitTable("vol-real", "linear");
  keeper_.reset();
  EXPECT_GT(registry_->Info("vol-real")->event_number, layer);
  EXPECT_GT(registry_->Info("vol")->event_number, volume);
  EXPECT_THAT(mirrors_->DegradedCounts(), ElementsAre(Pair("vol", 1)));
}

// A new table takes with it what a core log knows of every row.
TEST_F(MirrorsTest, AFailedLegOfOneRowTakesNothingFromTheOthers) {
  for (const char* name : {"x", "y", "z"}) MakeFile(name, kVolumeSectors);
  Make("dead", absl::StrCat("0 2048 linear ", Path("x"), " 0\n"));
  const std::string features = " 1 handle_errors\n";
  Make("vol", absl::StrCat("0 512 mirror core 1 64 2 dead 0 ", Path("y"), " 0", features,
                           "512 512 mirror core 1 64 2 dead 512 ", Path("y"), " 512", features,
                           "1024 1024 mirror core 1 64 2 ", Path("y"), " 1024 ", Path("z"), " 0",
                           features));
  AwaitSync();
  Fill("vol", 0, kVolumeSectors, 1);
  Mark("z");
  ASSERT_TRUE(catalog_->Replace("dead", "0 2048 error\n", false, SuspendMode::kNoFlush).ok());
  StartKeeper();
  Fill("vol", 100, 8, 1);
  EXPECT_EQ(TableOf("vol"), absl::StrCat("0 512 linear ", Path("y"), " 0\n512 512 linear ",
                                         Path("y"), " 512\n1024 1024 mirror core 1 64 2 ",
                                         Path("y"), " 1024 ", Path("z"), " 0", features));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
  AwaitSync();
  EXPECT_TRUE(IsMarked("z")) << "copied again";
}

TEST_F(MirrorsTest, NoRecipeCopiesAgainWhatIsWhole) {
  MakeMirror("core");
  MakeFile("third.img", kVolumeSectors);
  ExpectDone(mirrors_->StartAdd(Wanted("third.img")));
  Mark("leg.img");
  TakeSnapshot("s1");
  AwaitSync("vol-real");
  EXPECT_TRUE(IsMarked("leg.img"));
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("third.img")}));
  AwaitSync("vol-real");
  EXPECT_TRUE(IsMarked("leg.img"));
  ExpectDone(snapshots_->StartRemove("s1"));
  AwaitSync();
  EXPECT_TRUE(IsMarked("leg.img"));
  // A start does: nobody knows what was under way.
  Restart();
  AwaitSync();
  EXPECT_FALSE(IsMarked("leg.img"));
}

// What the first leg cannot read any more, the second one has.
class BadSectorTest : public MirrorsTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    MirrorsTest::SetUp();
    Make("x", "0 2048 linear " + MakeFile("x.img", kVolumeSectors) + " 0\n");
    const std::string y = MakeFile("y.img", kVolumeSectors);
    MakeFile("log.img", 8);
    const std::string words =
        GetParam() == std::string("core") ? "core 1" : "disk 2 " + Path("log.img");
    Make("vol", absl::StrCat("0 2048 mirror ", words, " 64 2 x 0 ", y, " 0 1 handle_errors\n"));
    AwaitSync();
    Fill("vol", 0, kVolumeSectors, 1);
  }
  void GoBad() {
    const std::string table =
        absl::StrCat("0 1000 linear ", Path("x.img"), " 0\n1000 8 error\n1008 1040 linear ",
                     Path("x.img"), " 1008\n");
    ASSERT_TRUE(catalog_->Replace("x", table, false, SuspendMode::kFlush).ok());
  }
  void AwaitLegs(size_t legs) {
    while (true) {
      const auto rows = ReadMirrorStatus(*registry_, "vol");
      const bool live = !rows.empty() && rows.front().legs.size() == legs;
      // A table that is about to be resumed has not begun.
      if (live && !registry_->Info("vol")->suspended) return;
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Logs, BadSectorTest, ::testing::Values("core", "disk"));

TEST_P(BadSectorTest, AThirdLegTakesItsPlace) {
  GoBad();
  Make("slow", absl::StrCat("0 2112 delay ", Path("leg.img"), " 0 100\n"));
  AddLegRequest request = Wanted();
  request.leg = "/dev/mapper/slow";
  const auto added = mirrors_->StartAdd(request);
  AwaitLegs(3);
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1)) << "while it is copied";
  Fill("vol", 992, 8, 1);
  ASSERT_TRUE(operations_->Cancel(added->id).ok());
  WaitForAll();
  AwaitLegs(2);
  EXPECT_TRUE(ReadMirrorStatus(*registry_, "vol").front().complete());
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1)) << "when it has gone again";
  ASSERT_TRUE(catalog_->Remove("slow", {}).ok());

  ExpectDone(mirrors_->StartAdd(Wanted()));
  ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = "x"}));
  EXPECT_THAT(TableOf("vol"), HasSubstr(" 2 " + Path("y.img") + " 0 " + Path("leg.img") + " 0 1"));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
  EXPECT_TRUE(Bytes("leg.img") == Pattern(0, kVolumeSectors, 1));
}

TEST_P(BadSectorTest, AThirdLegThatFailsTakesNothingFromTheSecond) {
  Make("brittle", "0 2112 brittle " + Path("leg.img") + "\n");
  AddLegRequest request = Wanted();
  request.leg = "brittle";
  ExpectDone(mirrors_->StartAdd(request));
  GoBad();
  StartKeeper();
  BrittleTarget::faults.writes = true;
  Fill("vol", 992, 8, 1);
  AwaitLegs(2);
  EXPECT_TRUE(ReadMirrorStatus(*registry_, "vol").front().complete());
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MirrorsTest, ALegThatFailsBeforeAllIsStillIsCopiedAgain) {
  MakeBrittleMirror(1, "");
  Mark("y.img");
  const uint64_t watcher =
      registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
        if (info.has_inactive_table) BrittleTarget::faults.good_flushes = 0;
      });
  TakeSnapshot("s1");
  registry_->Unsubscribe(watcher);
  Mend();
  ASSERT_TRUE(catalog_->Suspend("vol-real", SuspendMode::kFlush).ok());
  ASSERT_TRUE(catalog_->Resume("vol-real").ok());
  AwaitSync("vol-real");
  EXPECT_FALSE(IsMarked("y.img"));
}

// Flushes fail when the check before is over: while I/O goes on, and in the suspend itself.
TEST_F(MirrorsTest, ALegThatBecomesStaleMeanwhileDoesNotStayAlone) {
  for (const int good_flushes : {0, 1}) {
    SCOPED_TRACE(good_flushes);
    MakeBrittleMirror(1, "");
    const std::string table = TableOf("vol");
    const uint64_t watcher =
        registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
          if (info.has_inactive_table) BrittleTarget::faults.good_flushes = good_flushes;
        });
    const OperationInfo ended =
        WaitFor(mirrors_->StartRemove({.device = "vol", .leg = Path("x.img")}));
    registry_->Unsubscribe(watcher);
    EXPECT_EQ(ended.state, OperationState::kFailed);
    EXPECT_THAT(ended.error, HasSubstr("'/dev/mapper/brittle' of 'vol' lacks data"));
    EXPECT_EQ(TableOf("vol"), table);
    EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
    // The other one may go.
    ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = "brittle"}));
    EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("x.img") + " 0\n");
    Mend();
    for (const char* device : {"vol", "brittle"}) ASSERT_TRUE(catalog_->Remove(device, {}).ok());
  }
}

// With keep_log a write that only the first leg has failed is answered. A new table would begin
// with the first leg.
TEST_F(MirrorsTest, NoRecipeForgetsWhichLegHasTheData) {
  MakeBrittleMirror(0, " 2 handle_errors keep_log");
  const auto fail_a_write = [&](uint32_t version) {
    BrittleTarget::faults.writes = true;
    Fill("vol", 0, kVolumeSectors, version);
  };
  const auto mend_by_a_resync = [&](const std::string& device) {
    Mend();
    ASSERT_TRUE(catalog_->Suspend(device, SuspendMode::kFlush).ok());
    ASSERT_TRUE(catalog_->Resume(device).ok());
    AwaitSync(device);
  };
  fail_a_write(2);
  const std::string table = TableOf("vol");
  const auto taken = snapshots_->Create({.entries = {{.name = "s1", .device = "vol"}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(taken.status())) << taken.status();
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr("brittle' of 'vol' lacks data"));
  EXPECT_EQ(WaitFor(mirrors_->StartAdd(Wanted())).state, OperationState::kFailed);
  EXPECT_THAT(Names(), ElementsAre("brittle", "vol"));
  EXPECT_EQ(TableOf("vol"), table);
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 2));
  mend_by_a_resync("vol");
  TakeSnapshot("s1");
  AwaitSync("vol-real");

  fail_a_write(3);
  EXPECT_EQ(WaitFor(snapshots_->StartRemove("s1")).state, OperationState::kFailed);
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 3));
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 2));
  mend_by_a_resync("vol-real");
  ExpectDone(snapshots_->StartRemove("s1"));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 3));
}

// Not even one that goes back, as a move does for a piece of its own in another row.
TEST_F(MirrorsTest, WhoGoesBackForgetsNoAnsweredWrite) {
  for (const bool keep_log : {false, true}) {
    SCOPED_TRACE(keep_log);
    MakeBrittleMirror(0, keep_log ? " 2 handle_errors keep_log" : " 1 handle_errors");
    BrittleTarget::faults.writes = true;
    std::thread writer([&] { Fill("vol", 0, kVolumeSectors, 2); });
    while (ReadMirrorStatus(*registry_, "vol").at(0).healthy()) std::this_thread::yield();
    if (keep_log) writer.join();
    TogetherRequest request;
    request.replace = {{.name = "vol", .table = "0 2048 linear " + Path("x.img") + " 0\n"}};
    request.mode = SuspendMode::kNoFlush;
    request.even_if_stale = true;
    const absl::Status went = catalog_->ReplaceTogether(request);
    if (keep_log) {
      EXPECT_TRUE(absl::IsFailedPrecondition(went)) << went;
      EXPECT_THAT(std::string(went.message()), HasSubstr("brittle' of 'vol' lacks data"));
    } else {
      EXPECT_TRUE(went.ok()) << went;
      writer.join();
    }
    EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 2));
    Mend();
    for (const char* device : {"vol", "brittle"}) ASSERT_TRUE(catalog_->Remove(device, {}).ok());
  }
}

// Both hold what the recipe waits for until they have another table, which the keeper's thread
// gives them in its turn: a flush that the recipe has asked for itself, and a write of somebody
// else.
TEST_F(MirrorsTest, ARecipeThatWaitsForWhatAFailedLegHoldsMakesWay) {
  MakeBrittleMirror(1, " 1 handle_errors");
  StartKeeper();
  BrittleTarget::faults.good_flushes = 0;
  const auto taken = snapshots_->Create({.entries = {{.name = "s1", .device = "vol"}}});
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr("has to go first"));
  AwaitTable("vol", "linear");
  EXPECT_THAT(Names(), ElementsAre("brittle", "vol"));
  TakeSnapshot("s1");
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MirrorsTest, ARecipeThatWaitsForAHeldWriteMakesWay) {
  MakeBrittleMirror(1, " 1 handle_errors");
  TakeSnapshot("s1");
  AwaitSync("vol-real");
  BrittleTarget::faults.writes = true;
  std::thread writer([&] { Fill("vol", 0, kVolumeSectors, 2); });
  while (ReadMirrorStatus(*registry_, "vol-real").at(0).healthy()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  absl::Status refused;
  std::thread recipe([&] {
    refused = snapshots_->Create({.entries = {{.name = "s2", .device = "vol"}}}).status();
  });
  while (!Exists("s2")) absl::SleepFor(absl::Milliseconds(1));
  StartKeeper();
  recipe.join();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("has to go first"));
  writer.join();
  EXPECT_FALSE(Exists("s2"));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 2));
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
  TakeSnapshot("s2");
}

// The merge's own write is held.
TEST_F(MirrorsTest, ASuspendThatWaitsForAMergeIsGivenUpAndTheMergeGoesOn) {
  chunk_ = 2;  // more than one batch
  MakeBrittleMirror(1, " 1 handle_errors");
  TakeSnapshot("s1");
  AwaitSync("vol-real");
  Fill("vol", 0, kVolumeSectors, 2);
  BrittleTarget::faults.writes = true;
  const auto started = snapshots_->StartRollBack("s1");
  while (ReadMirrorStatus(*registry_, "vol-real").at(0).healthy()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const auto given_up = catalog_->Suspend("vol", SuspendMode::kFlush, [] { return true; });
  EXPECT_TRUE(absl::IsCancelled(given_up.status())) << given_up.status();
  EXPECT_FALSE(registry_->Info("vol")->suspended);
  StartKeeper();
  ExpectDone(started);
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

// The second flush of the destination is the recipe's own, through the mirror, which holds it.
TEST_F(MirrorsTest, AMoveThatWaitsForWhatAFailedLegHoldsGoesBack) {
  MakeVolume();
  Make("brittle", absl::StrCat("0 2048 brittle ", Path("leg.img"), "\n"));
  StartKeeper();
  BrittleTarget::faults.good_flushes = 1;
  const OperationInfo ended =
      WaitFor(moves_->Start({.device = "vol", .from = Path("vol.img"), .to = "brittle"}));
  EXPECT_EQ(ended.state, OperationState::kFailed);
  EXPECT_THAT(ended.error, HasSubstr("has failed"));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("vol.img") + " 0\n");
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

// That of another row fails when the first piece has just begun.
TEST_F(MirrorsTest, ALegThatFailsBesideAMoveGoesOutAndTheMoveGoesOn) {
  for (const char* file : {"old.img", "x.img", "y.img"}) MakeFile(file, 1024);
  Make("brittle", absl::StrCat("0 1024 brittle ", Path("y.img"), "\n"));
  Make("vol", absl::StrCat("0 1024 linear ", Path("old.img"), " 0\n1024 1024 mirror core 1 64 2 ",
                           Path("x.img"), " 0 brittle 0 1 handle_errors\n"));
  AwaitSync();
  Fill("vol", 0, kVolumeSectors, 1);
  std::thread writer;
  const uint64_t watcher =
      registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
        const auto rows = ReadMirrorStatus(*registry_, "vol");
        if (info.name != "vol" || rows.size() != 2 || writer.joinable()) return;
        BrittleTarget::faults.writes = true;
        writer = std::thread([&] { Fill("vol", 1024, 1024, 2); });
        while (ReadMirrorStatus(*registry_, "vol").back().healthy()) std::this_thread::yield();
      });
  StartKeeper();
  ExpectDone(moves_->Start(
      {.device = "vol", .from = Path("old.img"), .to = Path("leg.img"), .to_start = 8}));
  registry_->Unsubscribe(watcher);
  writer.join();
  EXPECT_EQ(TableOf("vol"), absl::StrCat("0 1024 linear ", Path("leg.img"), " 8\n1024 1024 linear ",
                                         Path("x.img"), " 0\n"));
  std::vector<std::byte> bytes = Pattern(0, 1024, 1);
  std::ranges::copy(Pattern(1024, 1024, 2), std::back_inserter(bytes));
  EXPECT_TRUE(View("vol") == bytes);
}

TEST_F(MirrorsTest, ARecipeDoesNotFailWhatAFailedLegHolds) {
  MakeBrittleMirror(1, " 1 handle_errors");
  BrittleTarget::faults.writes = true;
  std::thread writer([&] { Fill("vol", 0, kVolumeSectors, 2); });
  while (ReadMirrorStatus(*registry_, "vol").at(0).healthy()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  TogetherRequest request;
  request.replace = {{.name = "vol", .table = "0 2048 linear " + Path("x.img") + " 0\n"}};
  EXPECT_TRUE(catalog_->ReplaceTogether(request).ok());
  writer.join();
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 2));
}

TEST_F(MirrorsTest, TheEndOfTheDaemonEndsARecipeThatWaits) {
  MakeBrittleMirror(1, " 1 handle_errors");
  BrittleTarget::faults.good_flushes = 0;
  absl::Status refused;
  std::thread recipe([&] {
    refused = snapshots_->Create({.entries = {{.name = "s1", .device = "vol"}}}).status();
  });
  while (!Exists("s1")) absl::SleepFor(absl::Milliseconds(1));
  operations_->Stop();
  recipe.join();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("is stopping"));
  EXPECT_THAT(Names(), ElementsAre("brittle", "vol"));
}

TEST_F(MirrorsTest, ALegThatFailsDuringARollbackGoesOutToo) {
  MakeBrittleMirror(1, " 1 handle_errors");
  TakeSnapshot("s1");
  AwaitSync("vol-real");
  Fill("vol", 0, kVolumeSectors, 2);
  StartKeeper();
  BrittleTarget::faults.writes = true;
  ExpectDone(snapshots_->StartRollBack("s1"));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
  keeper_.reset();
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("x.img") + " 0\n");
  EXPECT_THAT(mirrors_->DegradedCounts(), ElementsAre(Pair("vol", 1))) << "the layer has gone";
}

TEST_F(MirrorsTest, AddingThatIsKilledGoesOnAfterTheStart) {
  MakeVolume();
  KillAtEveryStep([&] { ExpectDone(mirrors_->StartAdd(Wanted())); },
                  [&](size_t step) {
                    EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
                    WaitForAll();
                    EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
                    if (step == 0) return;
                    EXPECT_THAT(TableOf("vol"), HasSubstr("mirror disk"));
                    EXPECT_TRUE(Bytes("leg.img") == Pattern(0, kVolumeSectors, 1));
                  });
}

TEST_F(MirrorsTest, TakingThatIsKilledEndsAfterTheStart) {
  MakeMirror();
  KillAtEveryStep(
      [&] { ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("leg.img")})); },
      [&](size_t step) {
        WaitForAll();
        EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
        if (step == 0) return;
        EXPECT_THAT(TableOf("vol"), HasSubstr("linear"));
        EXPECT_THAT(Files(), ElementsAre("leg.img", "vol.img"));
      });
}

// The start resyncs what was written to last: until then the first leg has to stay.
TEST_F(MirrorsTest, TakingTheFirstLegThatIsKilledWaitsForTheResync) {
  MakeMirror();
  Fill("vol", 0, kVolumeSectors, 2);  // every region is marked, and stays so for two seconds
  KillAtEveryStep(
      [&] { ExpectDone(mirrors_->StartRemove({.device = "vol", .leg = Path("vol.img")})); },
      [&](size_t step) {
        WaitForAll();
        EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 2));
        for (const OperationInfo& info : operations_->List()) {
          EXPECT_EQ(info.state, OperationState::kDone) << info.error;
        }
        if (step != 0) EXPECT_THAT(TableOf("vol"), HasSubstr("leg.img"));
      });
}

TEST_F(MirrorsTest, TheOnlyLegThatHasAllDataIsNotTaken) {
  MakeVolume();
  Make("slow", absl::StrCat("0 2112 delay ", Path("leg.img"), " 0 100\n"));
  AddLegRequest request = Wanted();
  request.leg = "/dev/mapper/slow";
  request.region_sectors = 64;
  const auto added = mirrors_->StartAdd(request);
  while (ReadMirrorStatus(*registry_, "vol").empty()) absl::SleepFor(absl::Milliseconds(1));
  const auto removed = mirrors_->StartRemove({.device = "vol", .leg = Path("vol.img")});
  EXPECT_THAT(std::string(removed.status().message()), HasSubstr("slow' of 'vol' lacks data"));
  ASSERT_TRUE(operations_->Cancel(added->id).ok());
  WaitForAll();
}

}  // namespace
}  // namespace sectormap::volumes
