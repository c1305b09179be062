// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/mirrors.h"

#include "absl/time/clock.h"
#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class MirrorsTest : public RecipeTest {
 protected:
  void SetUp() override {
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
  ExpectDone(mirrors_->StartRemove("vol", Path("leg.img")));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("vol.img") + " 0\n");
  EXPECT_THAT(Files(), ElementsAre("leg.img", "vol.img"));
}

TEST_F(MirrorsTest, TheFirstLegMayGoToo) {
  MakeMirror();
  Fill("vol", 0, 8, 2);
  const auto bytes = View("vol");
  ExpectDone(mirrors_->StartRemove("vol", Path("vol.img")));
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
  ExpectDone(mirrors_->StartRemove("vol", Path("leg.img")));
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
  ExpectDone(mirrors_->StartRemove("vol", Path("leg.img")));
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
  const auto removed = mirrors_->StartRemove("vol", Path("third.img"));
  EXPECT_THAT(std::string(removed.status().message()), HasSubstr(Path("leg.img")));
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
    EXPECT_EQ(mirrors_->DegradedCounts().at("m"), first_fails ? 2u : 1u);
    for (const char* device : {"m", "x", "y"}) ASSERT_TRUE(catalog_->Remove(device, {}).ok());
  }
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
  KillAtEveryStep([&] { ExpectDone(mirrors_->StartRemove("vol", Path("leg.img"))); },
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
  KillAtEveryStep([&] { ExpectDone(mirrors_->StartRemove("vol", Path("vol.img"))); },
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
  const auto removed = mirrors_->StartRemove("vol", Path("vol.img"));
  EXPECT_THAT(std::string(removed.status().message()), HasSubstr("only leg that has all data"));
  ASSERT_TRUE(operations_->Cancel(added->id).ok());
  WaitForAll();
}

}  // namespace
}  // namespace sectormap::volumes
