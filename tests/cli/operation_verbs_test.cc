// SPDX-License-Identifier: Apache-2.0
// snapshot, move, mirror and operations: what they send, and how they show what goes on.
#include <gmock/gmock.h>

#include "cli/progress.h"
#include "cli/size.h"
#include "tests/cli/fake_daemon.h"

namespace sectormap::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Operation At(v1::Operation::State state, int64_t done, int64_t total) {
  v1::Operation operation;
  operation.set_id(12);
  operation.set_kind("move");
  operation.set_device("vol");
  operation.set_state(state);
  operation.set_done_bytes(done);
  operation.set_total_bytes(total);
  return operation;
}

class OperationVerbsTest : public CliTest {
 protected:
  OperationVerbsTest() {
    operations.course = {At(v1::Operation::STATE_RUNNING, 0, 0),
                         At(v1::Operation::STATE_RUNNING, 256 << 20, 1 << 30),
                         At(v1::Operation::STATE_DONE, 1 << 30, 1 << 30)};
  }
};

TEST_F(OperationVerbsTest, OneSnapshotHasTheNameAndThoseOfAGroupTheDevicesToo) {
  const Outcome one = RunCli({"snapshot", "create", "s", "--of", "vol", "--size", "1G", "--chunk",
                              "64K", "--grow-at", "80", "--limit", "2G"});
  EXPECT_EQ(one.code, ExitCode::kOk) << one.err;
  EXPECT_EQ(one.out, "s is a snapshot of vol\n");
  EXPECT_FALSE(operations.created.allow_existing());
  ASSERT_EQ(operations.created.entries_size(), 1);
  EXPECT_EQ(operations.created.entries(0).store(), "");
  EXPECT_EQ(operations.created.store_sectors(), 2097152u);
  EXPECT_EQ(operations.created.chunk_sectors(), 128u);
  EXPECT_EQ(operations.created.growth().at_percent(), 80u);
  EXPECT_EQ(operations.created.growth().limit_sectors(), 4194304u);
  const Outcome group = RunCli({"snapshot", "create", "s", "--of", "a", "--of", "b", "--store",
                                "/x", "--store", "auto", "--chunk", "16"});
  EXPECT_EQ(group.code, ExitCode::kOk) << group.err;
  ASSERT_EQ(operations.created.entries_size(), 2);
  EXPECT_EQ(operations.created.entries(0).name(), "s-a");
  EXPECT_EQ(operations.created.entries(0).store(), "/x");
  EXPECT_EQ(operations.created.entries(1).name(), "s-b");
  EXPECT_EQ(operations.created.entries(1).store(), "");
  EXPECT_EQ(operations.created.chunk_sectors(), 16u);
}

TEST_F(OperationVerbsTest, SnapshotsThatMayBeThereAlreadyAreShownWithTheirTime) {
  const Outcome outcome = RunCli({"snapshot", "create", "s", "--of", "vol", "--existing-ok"});
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "s is a snapshot of vol, taken 2026-11-23T20:00:00Z\n");
  EXPECT_TRUE(operations.created.allow_existing());
}

TEST_F(OperationVerbsTest, WrongUsageIsSaidBeforeAnythingIsSent) {
  EXPECT_EQ(RunCli({"snapshot"}).code, ExitCode::kUsage);
  EXPECT_EQ(RunCli({"snapshot", "create", "s"}).code, ExitCode::kUsage);
  EXPECT_EQ(RunCli({"snapshot", "create", "s", "--of", "v", "--size", "1.5G"}).code,
            ExitCode::kUsage);
  EXPECT_EQ(RunCli({"snapshot", "create", "s", "--of", "a", "--of", "b", "--store", "/x"}).code,
            ExitCode::kUsage);
  EXPECT_EQ(RunCli({"move", "vol", "--from", "/a"}).code, ExitCode::kUsage);
  EXPECT_EQ(RunCli({"operations", "wait", "x"}).code, ExitCode::kUsage);
  EXPECT_EQ(operations.created.entries_size(), 0);
}

TEST_F(OperationVerbsTest, LsIsATableOrJson) {
  EXPECT_EQ(RunCli({"snapshot", "ls"}).out, "No snapshots found\n");
  v1::Snapshot& snapshot = *operations.snapshots.add_snapshots();
  snapshot.set_name("s");
  snapshot.set_device("vol");
  snapshot.set_state(v1::Snapshot::STATE_VALID);
  snapshot.set_used_sectors(2048);
  snapshot.set_total_sectors(8192);
  snapshot.set_used_percent(25);
  snapshot.set_chunk_sectors(32);
  EXPECT_THAT(RunCli({"snapshot", "ls"}).out,
              ::testing::ContainsRegex("s +vol +valid +1 MiB +4 MiB +25.0 +16 KiB"));
  EXPECT_THAT(RunCli({"-o", "json", "snapshot", "ls"}).out, HasSubstr("\"used_sectors\":\"2048\""));
}

TEST_F(OperationVerbsTest, MoveSendsTheSectorAfterTheColon) {
  const Outcome outcome =
      RunCli({"move", "vol", "--from", "/a:b", "--to", "/c:d:2048", "--piece", "64M"});
  EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
  EXPECT_EQ(operations.moved.from(), "/a:b");
  EXPECT_EQ(operations.moved.to(), "/c:d");
  EXPECT_EQ(operations.moved.to_start(), 2048u);
  EXPECT_EQ(operations.moved.piece_sectors(), 131072u);
}

TEST_F(OperationVerbsTest, WithoutATerminalProgressIsLinesAndAtMostOneASecond) {
  const Outcome outcome = RunCli({"move", "vol", "--from", "/a", "--to", "/b"});
  EXPECT_EQ(outcome.out, "move vol: running\nmove vol: done, 1.0 GiB\n");
}

TEST_F(OperationVerbsTest, OnATerminalOneLineChanges) {
  output_is_terminal = true;
  const Outcome outcome = RunCli({"move", "vol", "--from", "/a", "--to", "/b"});
  EXPECT_THAT(outcome.out, HasSubstr("\rmove vol: 25.0 %  256 MiB of 1.0 GiB"));
  EXPECT_EQ(std::ranges::count(outcome.out, '\n'), 1);
}

TEST_F(OperationVerbsTest, NoWaitPrintsTheNumberAndJsonTheOperation) {
  EXPECT_EQ(RunCli({"snapshot", "rm", "s", "--no-wait"}).out, "12\n");
  EXPECT_EQ(operations.removed.name(), "s");
  const Outcome json = RunCli({"-o", "json", "snapshot", "rollback", "s"});
  EXPECT_EQ(operations.rolled_back.snapshot(), "s");
  EXPECT_THAT(json.out, HasSubstr("\"state\":\"STATE_DONE\""));
  EXPECT_EQ(std::ranges::count(json.out, '\n'), 1);
}

TEST_F(OperationVerbsTest, ARemovalOfWhatIsNotThereMaySucceedAtOnce) {
  v1::Operation done;
  done.set_state(v1::Operation::STATE_DONE);
  operations.course = {done};
  const std::vector<std::string> follow = {"snapshot", "rm", "s", "--missing-ok"};
  const std::vector<std::string> go = {"snapshot", "rm", "s", "--missing-ok", "--no-wait"};
  for (const auto& words : {follow, go}) {
    const Outcome outcome = RunCli(words);
    EXPECT_EQ(outcome.code, ExitCode::kOk) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(operations.removed.allow_missing());
  }
  EXPECT_THAT(RunCli({"-o", "json", "snapshot", "rm", "s"}).out, HasSubstr("STATE_DONE"));
  EXPECT_FALSE(operations.removed.allow_missing());
}

TEST_F(OperationVerbsTest, AFailedOneSaysWhyAndACancelledOneIsNoSuccess) {
  v1::Operation failed = At(v1::Operation::STATE_FAILED, 5, 10);
  failed.set_error("a leg has failed");
  operations.course = {failed};
  const Outcome outcome = RunCli({"operations", "wait", "12"});
  EXPECT_EQ(outcome.code, ExitCode::kError);
  EXPECT_THAT(outcome.err, HasSubstr("operation 12): a leg has failed"));
  operations.course = {At(v1::Operation::STATE_CANCELLED, 5, 10)};
  EXPECT_EQ(RunCli({"operations", "wait", "12"}).code, ExitCode::kError);
}

TEST_F(OperationVerbsTest, MirrorVerbsSendWhatTheyWereTold) {
  EXPECT_EQ(RunCli({"mirror", "add", "vol", "/leg:100", "--log", "core", "--region", "1M"}).code,
            ExitCode::kOk);
  EXPECT_EQ(operations.leg_added.leg(), "/leg");
  EXPECT_EQ(operations.leg_added.leg_start(), 100u);
  EXPECT_EQ(operations.leg_added.log(), "core");
  EXPECT_EQ(operations.leg_added.region_sectors(), 2048u);
  EXPECT_EQ(RunCli({"mirror", "add", "vol", "/leg", "--log", "auto"}).code, ExitCode::kOk);
  EXPECT_EQ(operations.leg_added.log(), "");
  EXPECT_EQ(RunCli({"mirror", "remove", "vol", "/leg"}).code, ExitCode::kOk);
  EXPECT_EQ(operations.leg_removed.leg(), "/leg");
}

TEST_F(OperationVerbsTest, OperationsAreListedAndCancelled) {
  EXPECT_EQ(RunCli({"operations", "ls"}).out, "No operations found\n");
  *operations.operations.add_operations() = At(v1::Operation::STATE_RUNNING, 1 << 20, 4 << 20);
  EXPECT_THAT(RunCli({"operations", "ls"}).out,
              ::testing::ContainsRegex("12 +move +vol +running +25.0 +1.0 MiB +4.0 MiB"));
  EXPECT_EQ(RunCli({"operations", "cancel", "12"}).code, ExitCode::kOk);
  EXPECT_EQ(operations.cancelled.id(), 12);
  operations.refusal = {grpc::StatusCode::NOT_FOUND, "there is no operation 12"};
  EXPECT_EQ(RunCli({"operations", "cancel", "12"}).code, ExitCode::kNotFound);
}

TEST_F(OperationVerbsTest, ASnapshotIsExportedLikeAnyDevice) {
  EXPECT_EQ(RunCli({"snapshot", "export", "s", "--lun", "3"}).code, ExitCode::kOk);
  EXPECT_EQ(iscsi.exported.device(), "s");
  EXPECT_EQ(iscsi.exported.lun(), 3u);
}

TEST(SizeTest, SuffixesArePowersOf1024AndSectors) {
  EXPECT_EQ(*ParseSectors("1k", false), 2u);
  EXPECT_EQ(*ParseSectors("3G", false), 6291456u);
  EXPECT_EQ(*ParseSectors("1T", true), uint64_t{1} << 31);
  EXPECT_EQ(*ParseSectors("100s", false), 100u);
  EXPECT_EQ(*ParseSectors("100", true), 100u);
  EXPECT_EQ(*ParseSectors("1024", false), 2u);
  for (const char* wrong : {"", "k", "1.5G", "-1", "+1", " 1", "1000", "99999999999999T", "1 G"}) {
    EXPECT_FALSE(ParseSectors(wrong, false).ok()) << wrong;
  }
}

TEST(ProgressTest, SaysHowMuchHowFastAndHowLong) {
  v1::Operation operation = At(v1::Operation::STATE_RUNNING, 4 << 20, 8 << 20);
  operation.set_bytes_per_second(1 << 20);
  operation.set_left_seconds(4);
  EXPECT_EQ(ProgressLine(operation), "move vol: 50.0 %  4.0 MiB of 8.0 MiB  1.0 MiB/s  4 s left");
  operation.set_done_bytes(8 << 20);
  operation.set_left_seconds(3725);
  EXPECT_THAT(ProgressLine(operation), HasSubstr("99.9 %"));
  EXPECT_THAT(ProgressLine(operation), HasSubstr("1:02:05 left"));
  operation.set_cancelling(true);
  EXPECT_THAT(ProgressLine(operation), HasSubstr("ending"));
}

TEST(PlaceTest, MemoryHasAColonInItsName) {
  EXPECT_EQ(ParsePlace("mem:64M")->path, "mem:64M");
  EXPECT_FALSE(ParsePlace("mem:64M")->start_sector.has_value());
  EXPECT_EQ(ParsePlace("mem:64M:8")->path, "mem:64M");
  EXPECT_EQ(ParsePlace("mem:64M:8")->start_sector, 8u);
}

}  // namespace
}  // namespace sectormap::cli
