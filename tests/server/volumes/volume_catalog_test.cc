// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/volume_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/server/volumes/volume_fixture.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// As `table` prints them: the blank before no arguments is dmsetup's.
constexpr char kZero8[] = "0 8 zero \n";
constexpr char kZero16[] = "0 16 zero \n";
constexpr char kError8[] = "0 8 error \n";

class VolumeCatalogTest : public VolumeFixture {
 protected:
  std::vector<state::DeviceRecord> Records() {
    auto contents = store_->LoadAll();
    EXPECT_TRUE(contents.ok()) << contents.status();
    return contents.ok() ? contents->devices : std::vector<state::DeviceRecord>();
  }

  DeviceRegistry::Saved Snapshot(const std::string& name) {
    auto saved = registry_->Snapshot(name);
    EXPECT_TRUE(saved.ok()) << saved.status();
    return saved.ok() ? *saved : DeviceRegistry::Saved{};
  }

  // What the registry has and what the store has are the same.
  void ExpectKept() {
    std::vector<state::DeviceRecord> present;
    for (const DeviceInfo& info : registry_->List()) {
      const DeviceRegistry::Saved saved = Snapshot(info.name);
      present.push_back({.identity = saved.identity,
                         .name = saved.name,
                         .uuid = saved.uuid,
                         .live_table = saved.live_table,
                         .inactive_table = saved.inactive_table,
                         .live_read_only = saved.live_read_only,
                         .inactive_read_only = saved.inactive_read_only,
                         .suspended = saved.suspended,
                         .deferred_remove = saved.deferred_remove});
    }
    EXPECT_EQ(present, Records());
  }

  // Makes `upper` with a live table and an inactive one for which `lower` has become too small.
  void MakeShrunk() {
    MakeActive("lower", kZero16);
    MakeActive("upper", kZero8);
    ASSERT_TRUE(volumes_->Load("upper", "0 16 linear lower 0", false).ok());
    ASSERT_TRUE(volumes_->Replace("lower", kZero8, false, SuspendMode::kFlush).ok());
    store_->TakePuts();
  }

  // Given up as soon as something has been written down.
  GiveUp OnceKept() {
    store_->TakePuts();
    return [this, kept = false]() mutable { return kept = kept || !store_->TakePuts().empty(); };
  }

  void MakeActive(const std::string& name, const std::string& table = kZero8) {
    const auto made = volumes_->Create({.name = name, .table = table});
    ASSERT_TRUE(made.ok()) << made.status();
  }
};

TEST_F(VolumeCatalogTest, EveryVerbIsKeptWhenItAnswers) {
  ASSERT_TRUE(volumes_->Create({.name = "a"}).ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Load("a", kZero8, true).ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Resume("a").ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Suspend("a", SuspendMode::kFlush).ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Load("a", kZero16, false).ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Clear("a").ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Rename("a", "b").ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->SetUuid("b", "uuid").ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Replace("b", kError8, false, SuspendMode::kNoFlush).ok());
  ExpectKept();
  ASSERT_TRUE(volumes_->Remove("b", {}).ok());
  ExpectKept();
}

TEST_F(VolumeCatalogTest, ARestartBringsBackTablesStatesAndIdentities) {
  MakeActive("lower", "0 64 linear /mem 0\n");
  MakeActive("upper", "0 8 linear /dev/mapper/lower 8\n");
  ASSERT_TRUE(volumes_->Suspend("upper", SuspendMode::kNoFlush).ok());
  ASSERT_TRUE(volumes_->Load("upper", kZero16, true).ok());
  ASSERT_TRUE(volumes_->Create({.name = "bare", .uuid = "u-1"}).ok());
  const std::vector<state::DeviceRecord> before = Records();
  Restart();
  ExpectKept();
  EXPECT_EQ(Records(), before);
  EXPECT_TRUE(registry_->Info("upper")->error.empty());
  EXPECT_TRUE(registry_->Info("upper")->suspended);
  EXPECT_EQ(registry_->Info("lower")->open_count, 1u);
}

TEST_F(VolumeCatalogTest, ADeviceWhoseBackingIsGoneSaysSoAndTheOthersServe) {
  MakeActive("broken", "0 8 linear /mem 0\n");
  MakeActive("whole");
  backings_.present = false;
  Restart();
  EXPECT_THAT(registry_->Info("broken")->error, HasSubstr("no such file"));
  EXPECT_TRUE(registry_->Info("whole")->error.empty());
  ExpectKept();
  backings_.present = true;
  ASSERT_TRUE(volumes_->Resume("broken").ok());
  EXPECT_TRUE(registry_->Info("broken")->error.empty());
  ExpectKept();
}

TEST_F(VolumeCatalogTest, CreateWithABadTableLeavesNothingBehind) {
  EXPECT_EQ(volumes_->Create({.name = "a", .table = "0 8 nonsense\n"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(registry_->List(), IsEmpty());
  EXPECT_THAT(Records(), IsEmpty());
}

TEST_F(VolumeCatalogTest, CreatingTheSameAgainSucceeds) {
  MakeActive("a", "0 8 zero");
  EXPECT_TRUE(volumes_->Create({.name = "a", .table = "  0   8 zero # same\n"}).ok());
  ASSERT_TRUE(volumes_->Create({.name = "bare"}).ok());
  EXPECT_TRUE(volumes_->Create({.name = "bare"}).ok());
}

// `table` prints some of these otherwise than they are written.
TEST_F(VolumeCatalogTest, CreatingTheSameAgainSucceedsWhateverTheTablePrints) {
  MakeActive("real", "0 64 linear /mem 0\n");
  int made = 0;
  for (const std::string row :
       {"mirror core 2 8 sync 2 /mem1 0 /mem2 0", "mirror core 2 8 nosync 2 /mem1 0 /mem2 0",
        "mirror disk 3 /memlog 8 sync 2 /mem1 0 /mem2 0 2 keep_log handle_errors",
        "mirror core 1 8 2 /mem1 0 /mem2 0 0", "error some args", "snapshot real /mem P 8 0",
        "snapshot real /mem persistent 0", "snapshot real /mem PO 16 1 discard_zeroes_cow",
        "flakey /mem 0 10 0", "flakey /mem 0 1 0 2 ERROR_WRITES error_reads", "linear /mem 008",
        "striped 2 8 /mem1 0 /mem2 00", "delay /mem 0 0"}) {
    SCOPED_TRACE(row);
    const std::string name = "d" + std::to_string(made++);
    const std::string table = "0 64 " + row + "\n";
    MakeActive(name, table);
    const std::vector<state::DeviceRecord> before = Records();
    EXPECT_EQ(volumes_->Create({.name = name, .table = table}).status(), absl::OkStatus());
    EXPECT_EQ(Records(), before);
  }
}

TEST_F(VolumeCatalogTest, ATableThatDiffersInOneWordIsAnother) {
  MakeActive("real", "0 64 linear /mem 0\n");
  int made = 0;
  for (const auto& [one, other] : std::vector<std::pair<std::string, std::string>>{
           {"linear /mem 8", "linear /mem 9"},
           {"linear /mem 8", "linear /mem2 8"},
           {"linear /mem 8", "delay /mem 8 0"},
           {"mirror core 1 8 2 /mem1 0 /mem2 0", "mirror core 1 16 2 /mem1 0 /mem2 0"},
           {"mirror core 1 8 2 /mem1 0 /mem2 0", "mirror core 1 8 2 /mem2 0 /mem1 0"},
           {"mirror core 1 8 2 /mem1 0 /mem2 0", "mirror disk 2 /mem1 8 2 /mem1 0 /mem2 0"},
           {"mirror core 1 8 2 /mem1 0 /mem2 0",
            "mirror core 1 8 2 /mem1 0 /mem2 0 1 handle_errors"},
           {"snapshot real /mem P 8", "snapshot real /mem PO 8"},
           {"snapshot real /mem P 8", "snapshot /mem real P 8"},
           {"snapshot real /mem N 8", "snapshot real /mem P 8"},
           {"snapshot real /mem P 8", "snapshot real /elsewhere P 8"},
           {"flakey /mem 0 10 0", "flakey /mem 0 10 0 1 drop_writes"}}) {
    SCOPED_TRACE(other);
    const std::string name = "d" + std::to_string(made++);
    MakeActive(name, "0 64 " + one + "\n");
    EXPECT_EQ(volumes_->Create({.name = name, .table = "0 64 " + other + "\n"}).status().code(),
              absl::StatusCode::kAlreadyExists);
  }
  EXPECT_EQ(volumes_->Create({.name = "d0", .table = "0 32 linear /mem 8\n"}).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(VolumeCatalogTest, CreatingSomethingElseUnderTheNameSaysWhatDiffers) {
  MakeActive("a");
  const auto message = [this](const CreateRequest& request) {
    const absl::Status status = volumes_->Create(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
    return std::string(status.message());
  };
  EXPECT_THAT(message({.name = "a", .table = kZero16}), HasSubstr("with another table"));
  EXPECT_THAT(message({.name = "a", .uuid = "u", .table = kZero8}), HasSubstr("another uuid"));
  EXPECT_THAT(message({.name = "a", .table = kZero8, .read_only = true}), HasSubstr("writable"));
  EXPECT_THAT(message({.name = "a"}), HasSubstr("with a table"));
}

TEST_F(VolumeCatalogTest, AVerbThatCannotBeKeptIsUndone) {
  MakeActive("a");
  ASSERT_TRUE(volumes_->Load("a", kError8, true).ok());
  const std::vector<state::DeviceRecord> before = Records();
  const auto refused = [this](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(registry_->List(), SizeIs(1));
    ExpectKept();
  };
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  refused(volumes_->Create({.name = "b", .table = kZero8}).status());
  refused(volumes_->Load("a", kZero16, false).status());
  refused(volumes_->Clear("a").status());
  refused(volumes_->Suspend("a", SuspendMode::kFlush).status());
  refused(volumes_->Resume("a").status());
  refused(volumes_->Replace("a", kZero16, false, SuspendMode::kFlush).status());
  refused(volumes_->Rename("a", "b").status());
  refused(volumes_->SetUuid("a", "u").status());
  refused(volumes_->Remove("a", {}).status());
  refused(volumes_->Remove("a", {.force = false, .deferred = true}).status());
  store_->Refuse(absl::OkStatus());
  EXPECT_EQ(Records(), before);
  EXPECT_TRUE(volumes_->Resume("a").ok());
}

TEST_F(VolumeCatalogTest, AReplaceThatIsRefusedLeavesTheOldTableServing) {
  MakeActive("a");
  ASSERT_TRUE(volumes_->Load("a", kZero16, false).ok());
  EXPECT_FALSE(volumes_->Replace("a", "0 8 linear /nowhere 0", false, SuspendMode::kFlush).ok());
  const DeviceRegistry::Saved saved = Snapshot("a");
  EXPECT_EQ(saved.live_table, kZero8);
  EXPECT_EQ(saved.inactive_table, kZero16);
  EXPECT_FALSE(saved.suspended);
  ExpectKept();
}

// Refuses to go live.
class UnwillingTarget final : public Target {
 public:
  explicit UnwillingTarget(SectorCount length) : Target(length) {}
  BlockLimits limits() const override { return {}; }
  Task<IoStatus> Submit(IoRequest) override { return IoStatus::kOk; }
  std::string TableArgs() const override { return ""; }
  absl::Status PreResume() override { return absl::DataLossError("the store is damaged"); }
};

const TargetType kUnwillingTarget{
    .name = "unwilling",
    .version = "1.0.0",
    .usage = "",
    .summary = "for tests",
    .create = [](TargetArgs& args) -> absl::StatusOr<std::unique_ptr<Target>> {
      return std::make_unique<UnwillingTarget>(args.length());
    },
};

TEST_F(VolumeCatalogTest, AReplaceWhoseTargetRefusesToGoLiveBringsTheOldTableBack) {
  types_.Add(kUnwillingTarget);
  MakeActive("a");
  const auto refused = volumes_->Replace("a", "0 16 unwilling", false, SuspendMode::kFlush);
  EXPECT_EQ(refused.status().message(), "the store is damaged");
  const DeviceRegistry::Saved saved = Snapshot("a");
  EXPECT_EQ(saved.live_table, kZero8);
  EXPECT_EQ(saved.inactive_table, std::nullopt);
  EXPECT_FALSE(saved.suspended);
  ExpectKept();
}

TEST_F(VolumeCatalogTest, AResumeWithoutATableIsRefusedBeforeItIsWrittenDown) {
  ASSERT_TRUE(volumes_->Create({.name = "a"}).ok());
  ASSERT_TRUE(volumes_->Suspend("a", SuspendMode::kFlush).ok());
  store_->TakePuts();
  EXPECT_EQ(volumes_->Resume("a").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(store_->TakePuts(), IsEmpty());
  ExpectKept();
  Restart();
  EXPECT_TRUE(registry_->Info("a")->suspended);
}

TEST_F(VolumeCatalogTest, AResumeWhoseTableCannotBeBuiltIsRefusedBeforeItIsWrittenDown) {
  MakeActive("a", "0 8 linear /mem 0\n");
  ASSERT_TRUE(volumes_->Suspend("a", SuspendMode::kFlush).ok());
  backings_.present = false;
  Restart();
  EXPECT_EQ(volumes_->Resume("a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(store_->TakePuts(), IsEmpty());
  ExpectKept();
}

// Were the new table ever written down as the live one, a kill then would lose the old one.
TEST_F(VolumeCatalogTest, OfAResumeRefusedBecauseABackingShrankOnlyTheSuspensionIsWrittenDown) {
  MakeShrunk();
  EXPECT_THAT(volumes_->Resume("upper").status().message(),
              HasSubstr("suspended with its old one"));
  for (const state::DeviceRecord& put : store_->TakePuts()) {
    EXPECT_EQ(put.name, "upper");
    EXPECT_EQ(put.live_table, kZero8);
    EXPECT_EQ(put.inactive_table, std::nullopt);
    EXPECT_TRUE(put.suspended);
  }
  ExpectKept();
  Restart();
  EXPECT_TRUE(registry_->Info("upper")->suspended);
  EXPECT_EQ(Snapshot("upper").live_table, kZero8);
  EXPECT_TRUE(volumes_->Resume("upper").ok());
}

TEST_F(VolumeCatalogTest, AShrunkBackingChangesNothingWhileThatCannotBeKept) {
  MakeShrunk();
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(volumes_->Resume("upper").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(registry_->Info("upper")->suspended);
  EXPECT_TRUE(registry_->Info("upper")->has_inactive_table);
  ExpectKept();
}

TEST_F(VolumeCatalogTest, ATableThatIsBuiltAtLastIsNotLeftInTheInactiveSlotIfThatCannotBeKept) {
  MakeActive("a", "0 8 linear /mem 0\n");
  backings_.present = false;
  Restart();
  backings_.present = true;
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_FALSE(volumes_->Resume("a").ok());
  EXPECT_FALSE(registry_->Info("a")->has_inactive_table);
  ExpectKept();
}

TEST_F(VolumeCatalogTest, AResumeWhoseFlushFailsIsTakenBackInTheStoreToo) {
  MakeActive("a", "0 8 linear /unflushable 0\n");
  ASSERT_TRUE(volumes_->Load("a", kZero16, false).ok());
  EXPECT_EQ(volumes_->Resume("a").status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Snapshot("a").inactive_table, kZero16);
  ExpectKept();
  EXPECT_FALSE(volumes_->Replace("a", kZero8, false, SuspendMode::kFlush).ok());
  EXPECT_EQ(Snapshot("a").inactive_table, kZero16);
  ExpectKept();
}

TEST_F(VolumeCatalogTest, AUuidThatIsRefusedIsNotWrittenDown) {
  ASSERT_TRUE(volumes_->Create({.name = "a", .uuid = "U1"}).ok());
  ASSERT_TRUE(volumes_->Create({.name = "b"}).ok());
  store_->TakePuts();
  const absl::Status taken = volumes_->SetUuid("b", "U1").status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(taken.message(), "device 'a' has the uuid U1 already");
  for (const std::string& bad : {std::string(), std::string(200, 'u')}) {
    EXPECT_EQ(volumes_->SetUuid("b", bad).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(store_->TakePuts(), IsEmpty());
  ExpectKept();
}

TEST_F(VolumeCatalogTest, SettingTheUuidThatItHasSucceeds) {
  ASSERT_TRUE(volumes_->Create({.name = "a"}).ok());
  ASSERT_TRUE(volumes_->SetUuid("a", "U1").ok());
  EXPECT_EQ(volumes_->SetUuid("a", "U1")->uuid, "U1");
  const absl::Status other = volumes_->SetUuid("a", "U2").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(other.message(),
            "Unable to change uuid of mapped device a because uuid is already set to U1");
  ExpectKept();
}

TEST_F(VolumeCatalogTest, AVerbThatWasGivenUpBeforeItsTurnIsNotDone) {
  MakeActive("a");
  ASSERT_TRUE(volumes_->Load("a", kZero16, false).ok());
  const std::vector<state::DeviceRecord> before = Records();
  const GiveUp gone = [] { return true; };
  const auto undone = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_EQ(Records(), before);
    ExpectKept();
  };
  undone(volumes_->Create({.name = "b", .table = kZero8}, gone).status());
  undone(volumes_->Load("a", kError8, false, gone).status());
  undone(volumes_->Clear("a", gone).status());
  undone(volumes_->Suspend("a", SuspendMode::kFlush, gone).status());
  undone(volumes_->Resume("a", gone).status());
  undone(volumes_->Replace("a", kError8, false, SuspendMode::kFlush, gone).status());
  undone(volumes_->Remove("a", {}, gone).status());
  undone(volumes_->Remove("a", {.force = true, .deferred = true}, gone).status());
  undone(volumes_->Rename("a", "b", gone).status());
  undone(volumes_->SetUuid("a", "u", gone).status());
  undone(volumes_->Message("a", Sector(0), "anything", gone).status());
  undone(volumes_->ReplaceTogether({.remove = {"a"}, .give_up = gone}));
}

TEST_F(VolumeCatalogTest, ASuspendThatIsGivenUpIsTakenBackInTheStoreToo) {
  MakeActive("low", kZero8);
  MakeActive("up", "0 8 linear low 0\n");
  ASSERT_TRUE(volumes_->Suspend("low", SuspendMode::kFlush).ok());
  absl::Notification ended;
  StartRead("up", ended);
  const auto given_up = volumes_->Suspend("up", SuspendMode::kNoFlush, OnceKept());
  EXPECT_EQ(given_up.status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(Snapshot("up").suspended);
  ExpectKept();
  EXPECT_TRUE(volumes_->Resume("low").ok());
  ended.WaitForNotification();
  EXPECT_FALSE(Snapshot("up").suspended);
}

TEST_F(VolumeCatalogTest, ARemovalThatIsGivenUpIsTakenBackInTheStoreToo) {
  MakeActive("low", kZero8);
  MakeActive("up", "0 8 linear low 0\n");
  ASSERT_TRUE(volumes_->Suspend("low", SuspendMode::kFlush).ok());
  absl::Notification ended;
  StartRead("up", ended);
  for (const bool force : {false, true}) {
    const auto given_up = volumes_->Remove("up", {.force = force, .deferred = true}, OnceKept());
    EXPECT_EQ(given_up.status().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(Snapshot("up").live_table, "0 8 linear low 0\n");
    ExpectKept();
  }
  EXPECT_TRUE(volumes_->Resume("low").ok());
  ended.WaitForNotification();
  EXPECT_TRUE(volumes_->Remove("up", {}).ok());
  ExpectKept();
}

// The identity, by which the store knows a device, is made from the uuid.
TEST_F(VolumeCatalogTest, WhoHasTheUuidOfARemovedDeviceKeepsItsRecord) {
  for (const char* table : {kZero16, "0 8 linear nosuch 0\n"}) {
    ASSERT_TRUE(volumes_->Create({.name = "old", .uuid = "U1", .table = kZero8}).ok());
    store_->TakeDeletes();
    std::thread next;
    const uint64_t id =
        registry_->Subscribe([&](DeviceRegistry::Change change, const DeviceInfo& info) {
          if (change != DeviceRegistry::Change::kRemoved || info.name != "old") return;
          next = std::thread([&] {
            const auto made = volumes_->Create({.name = "new", .uuid = "U1", .table = table});
            EXPECT_EQ(made.ok(), table == kZero16) << made.status();
          });
          // Before the one that goes is forgotten.
          while (registry_->Find("new") == nullptr) std::this_thread::yield();
        });
    EXPECT_TRUE(volumes_->Remove("old", {}).ok());
    next.join();
    registry_->Unsubscribe(id);
    ExpectKept();
    if (table == kZero16) {
      EXPECT_THAT(store_->TakeDeletes(), IsEmpty());
      EXPECT_TRUE(volumes_->Remove("new", {}).ok());
    }
    EXPECT_THAT(Records(), IsEmpty());
  }
}

TEST_F(VolumeCatalogTest, ADeferredRemovalIsForgottenWhenTheLastOpenerCloses) {
  absl::Notification told;
  volumes_->SetRemovalLog([&](const std::string& name) {
    EXPECT_EQ(name, "a");
    told.Notify();
  });
  MakeActive("a");
  std::optional<DeviceRef> hold = *volumes_->Open("a");
  const auto removed = volumes_->Remove("a", {.force = false, .deferred = true});
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_TRUE(removed->deferred);
  ASSERT_THAT(Records(), SizeIs(1));
  EXPECT_TRUE(Records()[0].deferred_remove);
  EXPECT_FALSE(told.HasBeenNotified());
  hold.reset();
  told.WaitForNotification();
  while (!Records().empty()) std::this_thread::yield();
}

TEST_F(VolumeCatalogTest, ARemovalIsRefusedToWhoWaitedForItsTurnWhileAnOperationBegan) {
  int asked = 0;
  volumes_->SetGuard([&asked](std::string_view) {
    return ++asked == 1 ? absl::OkStatus() : absl::FailedPreconditionError("an operation");
  });
  MakeActive("a");
  const DeviceRef hold = *volumes_->Open("a");
  EXPECT_EQ(volumes_->Remove("a", {.deferred = true}).status().message(), "an operation");
  EXPECT_FALSE(registry_->Info("a")->deferred_remove);
  EXPECT_FALSE(Records()[0].deferred_remove);
}

TEST_F(VolumeCatalogTest, ADeferredRemovalWhoseOpenerDiedWithTheDaemonHappensAtTheNextStart) {
  MakeActive("a");
  MakeActive("b");
  state::DeviceRecord record = Records()[0];
  record.deferred_remove = true;
  ASSERT_TRUE(store_->PutDevice(record).ok());
  Restart();
  EXPECT_THAT(registry_->List(), SizeIs(2));
  volumes_->RemoveUnused();
  while (Records().size() != 1) std::this_thread::yield();
  EXPECT_EQ(Records()[0].name, "b");
}

TEST_F(VolumeCatalogTest, ANameIsFreeAtOnceAfterItsDeferredRemoval) {
  for (int round = 0; round < 50; ++round) {
    MakeActive("a");
    std::optional<DeviceRef> hold = *volumes_->Open("a");
    ASSERT_TRUE(volumes_->Remove("a", {.force = false, .deferred = true}).ok());
    hold.reset();
    while (registry_->Find("a") != nullptr) std::this_thread::yield();
    MakeActive("a");
    ExpectKept();
    ASSERT_TRUE(volumes_->Remove("a", {}).ok());
  }
}

TEST_F(VolumeCatalogTest, ABusyDeviceStaysAndStaysKept) {
  MakeActive("a");
  const DeviceRef hold = *volumes_->Open("a");
  EXPECT_EQ(volumes_->Remove("a", {}).status().code(), absl::StatusCode::kFailedPrecondition);
  ExpectKept();
  // A forced removal swaps the error table in before it finds the device busy.
  EXPECT_FALSE(volumes_->Remove("a", {.force = true, .deferred = false}).ok());
  EXPECT_EQ(Snapshot("a").live_table, kError8);
  ExpectKept();
}

TEST_F(VolumeCatalogTest, WhatHoldsForOneResumeIsNotKeptForAnother) {
  const auto row = [](const std::string& log) {
    return "0 512 mirror core " + log + " 2 /mem1 0 /mem2 0\n";
  };
  for (const std::string sync : {" nosync", " sync"}) {
    MakeActive("a");
    ASSERT_TRUE(volumes_->Load("a", row("2 64" + sync), false).ok());
    EXPECT_EQ(Records()[0].inactive_table, row("2 64" + sync));
    // If the daemon dies during the resume, legs must not be taken for equal once more. To copy
    // them once more does no harm, not to copy them would.
    EXPECT_EQ(registry_->SnapshotAfterResume("a")->live_table,
              sync == " sync" ? row("2 64 sync") : row("1 64"));
    ASSERT_TRUE(volumes_->Resume("a").ok());
    EXPECT_EQ(Records()[0].live_table, row("1 64"));
    ExpectKept();
    ASSERT_TRUE(volumes_->Replace("a", row("2 64" + sync), false, SuspendMode::kFlush).ok());
    EXPECT_EQ(Records()[0].live_table, row("1 64"));
    ExpectKept();
    Restart();
    EXPECT_EQ(Snapshot("a").live_table, row("1 64"));
    ASSERT_TRUE(volumes_->Remove("a", {}).ok());
  }
}

TEST_F(VolumeCatalogTest, VerbsOfManyThreadsOnOneDeviceEndKept) {
  MakeActive("a");
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      for (int i = 0; i < 25; ++i) {
        const std::string table = thread % 2 == 0 ? kZero8 : kZero16;
        volumes_->Replace("a", table, false, SuspendMode::kNoFlush).status().IgnoreError();
        volumes_->Load("a", table, true).status().IgnoreError();
        volumes_->Rename("a", "b").status().IgnoreError();
        volumes_->Rename("b", "a").status().IgnoreError();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(registry_->List(), SizeIs(1));
  ExpectKept();
}

}  // namespace
}  // namespace sectormap::volumes
