// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/moves.h"

#include <thread>

#include "absl/time/clock.h"
#include "server/volumes/mirror_rows.h"
#include "tests/server/volumes/recipe_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class MovesTest : public RecipeTest {
 protected:
  // Three rows, of which the first and the last lie on old.img, in the other order.
  void MakeScattered() {
    MakeFile("old.img", 4096);
    MakeFile("stay.img", 1024);
    MakeFile("new.img", 4096);
    Make("vol", "0 600 linear " + Path("old.img") + " 2000\n600 424 linear " + Path("stay.img") +
                    " 8\n1024 1024 linear " + Path("old.img") + " 100\n");
    Fill("vol", 0, kVolumeSectors, 1);
  }
  MoveRequest Wanted(uint64_t start = 0, uint64_t piece = 0) {
    return {.device = "vol",
            .from = Path("old.img"),
            .to = Path("new.img"),
            .to_start = start,
            .piece_sectors = piece};
  }
  std::string Refusal(const MoveRequest& request) {
    const auto started = moves_->Start(request);
    EXPECT_FALSE(started.ok());
    return std::string(started.status().message());
  }
};

TEST_F(MovesTest, WhatLiesOnOnePlaceLiesOnTheOtherAndReadsTheSame) {
  MakeScattered();
  ExpectDone(moves_->Start(Wanted(48)));
  EXPECT_EQ(TableOf("vol"), "0 600 linear " + Path("new.img") + " 48\n600 424 linear " +
                                Path("stay.img") + " 8\n1024 1024 linear " + Path("new.img") +
                                " 648\n");
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
  // The old place is free, and may be written over.
  Make("other", "0 4096 linear " + Path("old.img") + " 0\n");
  Fill("other", 0, 4096, 9);
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
  EXPECT_EQ(operations_->List().back().total_bytes, 1624 * 512);
}

TEST_F(MovesTest, ALongRowGoesPieceByPieceAndIsOneRowInTheEnd) {
  MakeFile("old.img", 8192);
  MakeFile("new.img", 8192);
  Make("vol", "0 8192 linear " + Path("old.img") + " 0\n");
  Fill("vol", 0, 8192, 1);
  ExpectDone(moves_->Start(Wanted(0, 1100)));
  EXPECT_EQ(TableOf("vol"), "0 8192 linear " + Path("new.img") + " 0\n");
  EXPECT_TRUE(View("vol") == Pattern(0, 8192, 1));
}

TEST_F(MovesTest, UnderSnapshotsTheLayerBelowIsMoved) {
  MakeScattered();
  TakeSnapshot("s1");
  Fill("vol", 0, 100, 2);
  const auto vol = View("vol");
  ExpectDone(moves_->Start(Wanted()));
  EXPECT_THAT(TableOf("vol"), HasSubstr("snapshot-origin"));
  EXPECT_THAT(TableOf("vol-real"), HasSubstr("new.img"));
  EXPECT_TRUE(View("vol") == vol);
  EXPECT_TRUE(View("s1") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MovesTest, WhatCannotBeDoneIsRefusedBeforeAnythingBegins) {
  MakeScattered();
  const std::string table = TableOf("vol");
  MakeFile("small.img", 1000);
  MakeFile("nothing.img", 1000);
  Make("striped", "0 64 striped 2 16 " + Path("new.img") + " 3000 " + Path("stay.img") + " 900\n");
  MoveRequest request = Wanted();
  request.to = Path("small.img");
  EXPECT_THAT(Refusal(request), HasSubstr("too small"));
  EXPECT_THAT(Refusal(Wanted(2500)), HasSubstr("too small"));
  EXPECT_THAT(Refusal(Wanted(1400)), HasSubstr("'striped'"));
  request = Wanted();
  request.from = Path("nothing.img");
  EXPECT_THAT(Refusal(request), HasSubstr("no row"));
  request = Wanted();
  request.to = Path("old.img");
  EXPECT_THAT(Refusal(request), HasSubstr("'vol' lies on"));
  request = Wanted();
  request.device = "striped";
  request.from = Path("stay.img");
  EXPECT_THAT(Refusal(request), HasSubstr("only linear rows"));
  request = Wanted();
  request.to = "/outside/x.img";
  Refusal(request);
  request = Wanted();
  request.device = "missing";
  Refusal(request);
  Make("asleep", "0 1000 linear " + Path("nothing.img") + " 0\n");
  ASSERT_TRUE(catalog_->Suspend("asleep", SuspendMode::kFlush).ok());
  request = Wanted();
  request.to = "asleep";
  EXPECT_THAT(Refusal(request), HasSubstr("suspended"));
  EXPECT_EQ(TableOf("vol"), table);
  EXPECT_THAT(operations_->List(), SizeIs(0));
}

TEST_F(MovesTest, OnOneDeviceTheOldPlaceAndTheNewMayNotOverlap) {
  MakeFile("one.img", 8192);
  Make("vol", "0 2048 linear " + Path("one.img") + " 1000\n");
  Fill("vol", 0, kVolumeSectors, 1);
  MoveRequest request{.device = "vol", .from = Path("one.img"), .to = Path("one.img")};
  for (const uint64_t start : {1000u, 0u, 3047u}) {
    request.to_start = start;
    EXPECT_THAT(Refusal(request), HasSubstr("overlaps")) << start;
  }
  request.to_start = 3048;
  ExpectDone(moves_->Start(request));
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

TEST_F(MovesTest, ADestinationThatFailsLeavesTheDeviceWhereItWas) {
  MakeScattered();
  // Writes fail from the fourth second on... of a device that always fails: at once.
  Make("bad", "0 4096 flakey " + Path("new.img") + " 0 0 1000 1 error_writes\n");
  const std::string table = TableOf("vol");
  MoveRequest request = Wanted();
  request.to = "/dev/mapper/bad";
  const OperationInfo ended = WaitFor(moves_->Start(request));
  EXPECT_EQ(ended.state, OperationState::kFailed);
  EXPECT_THAT(ended.error, HasSubstr("leg"));
  EXPECT_EQ(TableOf("vol"), table);
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
  Fill("vol", 0, 8, 2);
}

TEST_F(MovesTest, ACancelledMoveLeavesEverythingReadable) {
  MakeFile("old.img", 16384);
  MakeFile("new.img", 16384);
  Make("slow", "0 16384 delay " + Path("new.img") + " 0 100\n");
  Make("vol", "0 16384 linear " + Path("old.img") + " 0\n");
  Fill("vol", 0, 16384, 1);
  MoveRequest request = Wanted(0, 2048);
  request.to = "/dev/mapper/slow";
  const auto started = moves_->Start(request);
  ASSERT_TRUE(started.ok()) << started.status();
  for (const absl::Status& refused :
       {catalog_->Load("vol", "0 8 zero\n", false).status(), catalog_->Rename("vol", "x").status(),
        catalog_->Remove("vol", {}).status()}) {
    EXPECT_THAT(std::string(refused.message()), HasSubstr("operation 1 (move) is at work"));
  }
  ASSERT_TRUE(operations_->Cancel(started->id).ok());
  EXPECT_EQ(WaitFor(started).state, OperationState::kCancelled);
  EXPECT_TRUE(ReadMirrorStatus(*registry_, "vol").empty()) << TableOf("vol");
  EXPECT_TRUE(View("vol") == Pattern(0, 16384, 1));
  // And again, to the end.
  const auto again = moves_->Start(request);
  if (again.ok()) EXPECT_EQ(WaitFor(again).state, OperationState::kDone);
}

TEST_F(MovesTest, AMoveThatIsKilledGoesOnAfterTheStart) {
  MakeScattered();
  Fill("vol", 100, 50, 2);
  const auto bytes = View("vol");
  KillAtEveryStep([&] { ExpectDone(moves_->Start(Wanted(0, 1030))); },
                  [&](size_t step) {
                    EXPECT_TRUE(View("vol") == bytes);
                    // Written while it goes on.
                    Fill("vol", 300, 40, 3);
                    Fill("vol", 1900, 148, 3);
                    const auto now = View("vol");
                    WaitForAll();
                    EXPECT_TRUE(View("vol") == now);
                    if (step != 0) {
                      EXPECT_THAT(TableOf("vol"), ::testing::Not(HasSubstr("old.img")));
                    }
                    for (const OperationInfo& info : operations_->List()) {
                      EXPECT_EQ(info.state, OperationState::kDone) << info.error;
                    }
                  });
}

TEST_F(MovesTest, ADeviceThatSomebodyHasSuspendedIsMovedWhenItGoesOn) {
  MakeScattered();
  ASSERT_TRUE(catalog_->Suspend("vol", SuspendMode::kFlush).ok());
  const auto started = moves_->Start(Wanted());
  ASSERT_TRUE(started.ok()) << started.status();
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(operations_->Get(started->id)->ended());
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  EXPECT_EQ(WaitFor(started).state, OperationState::kDone);
}

TEST_F(MovesTest, WhoStartsTheSameMoveAgainIsAnsweredTheOneThatRuns) {
  MakeScattered();
  ASSERT_TRUE(catalog_->Suspend("vol", SuspendMode::kFlush).ok());
  const auto started = moves_->Start(Wanted());
  ASSERT_TRUE(started.ok()) << started.status();
  const auto again = moves_->Start(Wanted());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->id, started->id);
  MoveRequest other = Wanted();
  other.to_start = 8;
  EXPECT_EQ(moves_->Start(other).status().code(), absl::StatusCode::kFailedPrecondition);
  other = Wanted();
  other.to = MakeFile("other.img", 8192);
  EXPECT_EQ(moves_->Start(other).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  EXPECT_EQ(WaitFor(started).state, OperationState::kDone);
  EXPECT_EQ(operations_->List().size(), 1u);
}

TEST_F(MovesTest, RowsThatGoOnFromOneAnotherBecomeOne) {
  MakeFile("old.img", 4096);
  MakeFile("new.img", 4096);
  Make("vol",
       "0 1024 linear " + Path("old.img") + " 0\n1024 1024 linear " + Path("old.img") + " 1024\n");
  Fill("vol", 0, kVolumeSectors, 1);
  ExpectDone(moves_->Start(Wanted()));
  EXPECT_EQ(TableOf("vol"), "0 2048 linear " + Path("new.img") + " 0\n");
  EXPECT_TRUE(View("vol") == Pattern(0, kVolumeSectors, 1));
}

// A file is late at a start in the middle of a move.
class LateMoveTest : public MovesTest {
 protected:
  // Of four pieces one or two are done, and the next one is under way.
  void StartWithout(const std::string& file) {
    MakeFile("old.img", 8192);
    MakeFile("new.img", 8192);
    Make("vol", "0 8192 linear " + Path("old.img") + " 0\n");
    Fill("vol", 0, 8192, 1);
    std::thread stop;
    const uint64_t watcher =
        registry_->Subscribe([&](DeviceRegistry::Change, const DeviceInfo& info) {
          const std::string table = TableOf("vol");
          const size_t copied = table.find("linear " + Path("new.img"));
          if (info.name != "vol" || copied == std::string::npos || stop.joinable()) return;
          stop = std::thread([this] { operations_->Stop(); });
          while (!operations_->stopping()) std::this_thread::yield();
        });
    EXPECT_TRUE(moves_->Start(Wanted(0, 2048)).ok());
    while (!operations_->stopping()) absl::SleepFor(absl::Milliseconds(1));
    registry_->Unsubscribe(watcher);
    stop.join();
    may_be_unbuilt_ = {"vol"};
    Stop();
    std::filesystem::rename(Path(file), Path("away"));
    Start();
    absl::SleepFor(absl::Milliseconds(50));
    EXPECT_NE(registry_->Info("vol")->error, "");
  }
  OperationInfo TheMove() {
    return *operations_->Wait(operations_->List().at(0).id, [] { return false; });
  }
};

TEST_F(LateMoveTest, ItGoesOnWhenTheFileIsThere) {
  for (const char* file : {"old.img", "new.img"}) {
    SCOPED_TRACE(file);
    StartWithout(file);
    EXPECT_FALSE(operations_->List().at(0).ended());
    std::filesystem::rename(Path("away"), Path(file));
    ASSERT_TRUE(catalog_->Resume("vol").ok());
    const OperationInfo ended = TheMove();
    EXPECT_EQ(ended.state, OperationState::kDone) << ended.error;
    EXPECT_EQ(TableOf("vol"), "0 8192 linear " + Path("new.img") + " 0\n");
    EXPECT_TRUE(View("vol") == Pattern(0, 8192, 1));
    Stop();
    std::filesystem::remove_all(live());
    std::filesystem::create_directories(root());
    Start();
  }
}

TEST_F(LateMoveTest, ACancelEndsIt) {
  StartWithout("new.img");
  ASSERT_TRUE(operations_->Cancel(operations_->List().at(0).id).ok());
  const OperationInfo ended = TheMove();
  // What has been moved cannot be reached: the old table cannot be put back.
  EXPECT_EQ(ended.state, OperationState::kFailed);
  EXPECT_THAT(ended.error, HasSubstr("the old table could not be put back: "));
  EXPECT_THAT(ended.error, HasSubstr(Path("new.img")));
  EXPECT_FALSE(operations_->ReservedBy("vol").has_value());
}

TEST_F(MovesTest, WhereAMoveIsGoingNobodyElseMayGo) {
  MakeFile("old.img", 8192);
  MakeFile("new.img", 16384);
  Make("slow", "0 16384 delay " + Path("new.img") + " 0 0 " + Path("new.img") + " 0 50\n");
  Make("vol", "0 8192 linear " + Path("old.img") + " 0\n");
  Make("other", "0 64 linear " + Path("old.img") + " 0\n");
  MoveRequest request = Wanted(0, 1024);
  request.to = "/dev/mapper/slow";
  const auto started = moves_->Start(request);
  ASSERT_TRUE(started.ok()) << started.status();
  MoveRequest second = request;
  second.device = "other";
  second.to = "slow";
  second.to_start = 8000;
  EXPECT_THAT(Refusal(second), HasSubstr("operation 1 moves data"));
  second.to_start = 8192;
  const auto beside = moves_->Start(second);
  EXPECT_TRUE(beside.ok()) << beside.status();
  ASSERT_TRUE(operations_->Cancel(started->id).ok());
  WaitForAll();
}

TEST_F(MovesTest, APlanIsReadBackAsItWas) {
  MovePlan plan{.body = "a b",
                .from = "/x y",
                .to = "/z",
                .pieces = {{.start = Sector(0),
                            .length = SectorCount(8),
                            .from_at = 1,
                            .to_at = 2,
                            .state = MovePiece::State::kCopying}},
                .others = {LinearRow(Sector(8), SectorCount(8), "/u v", 3)}};
  const auto read = MovePlan::Parse(plan.Text());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->Text(), plan.Text());
  EXPECT_FALSE(MovePlan::Parse("move a\n").has_value());
  EXPECT_FALSE(MovePlan::Parse("").has_value());
}

}  // namespace
}  // namespace sectormap::volumes
