// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/async/clock.h"
#include "core/block/memory_device.h"
#include "server/volumes/device_order.h"
#include "server/volumes/volume_catalog.h"
#include "targets/builtin_targets.h"
#include "tests/support/refusing_store.h"
#include "tests/support/test_directory.h"

namespace sectormap::volumes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Memory of 1024 sectors under any name that starts with /mem.
class MemoryBackings final : public BackingSource {
 public:
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name, bool) override {
    if (!name.starts_with("/mem")) return absl::NotFoundError("no such file");
    auto device = MemoryDevice::Create(SectorCount(1024));
    if (!device.ok()) return device.status();
    return std::shared_ptr<BlockDevice>(*std::move(device));
  }
};

class ReplaceTogetherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    targets::AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    Start();
  }
  void TearDown() override { Stop(); }

  void Start() {
    auto store = state::OpenSqliteStore(scratch_.path().string());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::make_unique<testing::RefusingStore>(*std::move(store));
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, backings_);
    catalog_ = std::make_unique<VolumeCatalog>(*registry_, *store_);
    EXPECT_TRUE(catalog_->Restore(store_->LoadAll()->devices).ok());
  }
  void Stop() {
    catalog_.reset();
    registry_.reset();
    store_.reset();
  }

  void Make(const std::string& name, const std::string& table) {
    const auto made = catalog_->Create({.name = name, .table = table});
    ASSERT_TRUE(made.ok()) << made.status();
  }

  // Every device as `name: table`, with what is unusual about it.
  std::vector<std::string> Devices() {
    std::vector<std::string> all;
    for (const DeviceInfo& info : registry_->List()) {
      std::string line = info.name + ": " + *registry_->Table(info.name, TableSlot::kLive);
      line.pop_back();
      if (info.suspended) line += " suspended";
      if (info.has_inactive_table) line += " inactive";
      all.push_back(line);
    }
    return all;
  }
  std::vector<std::string> Kept() {
    std::vector<std::string> all;
    const state::Contents contents = *store_->LoadAll();
    for (const state::DeviceRecord& record : contents.devices) {
      all.push_back(record.name + ": " + *record.live_table);
      all.back().pop_back();
    }
    return all;
  }

  // What a snapshot's creation does to a device, with plain targets: a layer is put under `vol`.
  static TogetherRequest PutLayerBelow() {
    TogetherRequest request;
    request.create = {{.name = "vol-real", .table = "0 64 linear /mem/a 0\n"},
                      {.name = "snap", .table = "0 64 linear /dev/mapper/vol-real 0\n"}};
    request.replace = {{.name = "vol", .table = "0 64 linear /dev/mapper/vol-real 0\n"}};
    return request;
  }
  const std::vector<std::string> layered_ = {"snap: 0 64 linear /dev/mapper/vol-real 0",
                                             "vol: 0 64 linear /dev/mapper/vol-real 0",
                                             "vol-real: 0 64 linear /mem/a 0"};

  SteadyClock clock_;
  TestDirectory scratch_{"/tmp"};
  TargetRegistry types_;
  MemoryBackings backings_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<testing::RefusingStore> store_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<VolumeCatalog> catalog_;
};

TEST_F(ReplaceTogetherTest, WhatIsToGoWhenItIsClosedGetsNoOtherTableUnlessSomethingHasFailed) {
  Make("vol", "0 64 linear /mem/a 0\n");
  const DeviceRef hold = *catalog_->Open("vol");
  ASSERT_TRUE(catalog_->Remove("vol", {.deferred = true}).ok());
  const std::vector<std::string> before = Devices();
  TogetherRequest request = PutLayerBelow();
  const absl::Status refused = catalog_->ReplaceTogether(request);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_EQ(Devices(), before);
  request.mode = SuspendMode::kNoFlush;
  const absl::Status done = catalog_->ReplaceTogether(request);
  EXPECT_TRUE(done.ok()) << done;
  EXPECT_EQ(Devices(), layered_);
}

TEST_F(ReplaceTogetherTest, CreatesReplacesAndKeepsInOneStep) {
  Make("vol", "0 64 linear /mem/a 0\n");
  const std::string identity = registry_->Info("vol")->identity;
  ASSERT_TRUE(catalog_->ReplaceTogether(PutLayerBelow()).ok());
  EXPECT_EQ(Devices(), layered_);
  EXPECT_EQ(Kept(), layered_);
  EXPECT_EQ(registry_->Info("vol")->identity, identity);
  Stop();
  Start();
  EXPECT_EQ(Devices(), layered_);
}

TEST_F(ReplaceTogetherTest, RemovesWhatTheNewTablesNoLongerUse) {
  Make("vol", "0 64 linear /mem/a 0\n");
  ASSERT_TRUE(catalog_->ReplaceTogether(PutLayerBelow()).ok());
  TogetherRequest request;
  request.replace = {{.name = "vol", .table = "0 64 linear /mem/a 0\n"}};
  request.remove = {"vol-real", "snap"};
  ASSERT_TRUE(catalog_->ReplaceTogether(request).ok());
  EXPECT_THAT(Devices(), ElementsAre("vol: 0 64 linear /mem/a 0"));
  EXPECT_EQ(Kept(), Devices());
}

TEST_F(ReplaceTogetherTest, WhatIsInUseIsNotRemovedAndNothingChanges) {
  Make("vol", "0 64 linear /mem/a 0\n");
  ASSERT_TRUE(catalog_->ReplaceTogether(PutLayerBelow()).ok());
  TogetherRequest request;
  request.replace = {{.name = "vol", .table = "0 64 linear /mem/a 0\n"}};
  request.remove = {"vol-real"};
  const absl::Status refused = catalog_->ReplaceTogether(request);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("'snap'"));
  request.remove = {"vol-real", "snap"};
  {
    const auto lun = catalog_->Open("snap");
    EXPECT_THAT(std::string(catalog_->ReplaceTogether(request).message()), HasSubstr("an export"));
  }
  EXPECT_EQ(Devices(), layered_);
  EXPECT_EQ(Kept(), layered_);
}

TEST_F(ReplaceTogetherTest, ATableThatCannotBeBuiltUndoesTheRest) {
  Make("vol", "0 64 linear /mem/a 0\n");
  TogetherRequest request = PutLayerBelow();
  request.replace[0].table = "0 64 linear /nowhere 0\n";
  EXPECT_FALSE(catalog_->ReplaceTogether(request).ok());
  EXPECT_THAT(Devices(), ElementsAre("vol: 0 64 linear /mem/a 0"));
  EXPECT_EQ(Kept(), Devices());
}

TEST_F(ReplaceTogetherTest, AStoreThatRefusesUndoesEverything) {
  Make("vol", "0 64 linear /mem/a 0\n");
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(catalog_->ReplaceTogether(PutLayerBelow()).code(),
            absl::StatusCode::kResourceExhausted);
  store_->Refuse(absl::OkStatus());
  EXPECT_THAT(Devices(), ElementsAre("vol: 0 64 linear /mem/a 0"));
  EXPECT_EQ(Kept(), Devices());
  EXPECT_TRUE(catalog_->ReplaceTogether(PutLayerBelow()).ok());
}

TEST_F(ReplaceTogetherTest, ARefusalOfTheCallerWhileAllIsStillUndoesEverything) {
  Make("vol", "0 64 linear /mem/a 0\n");
  TogetherRequest request = PutLayerBelow();
  bool was_still = false;
  request.when_still = [&](state::Changes& changes) {
    was_still = registry_->Info("vol")->suspended;
    changes.put_made_files.push_back("/x");
    return absl::DataLossError("a leg has failed");
  };
  EXPECT_EQ(catalog_->ReplaceTogether(request).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(was_still);
  EXPECT_THAT(Devices(), ElementsAre("vol: 0 64 linear /mem/a 0"));
  EXPECT_THAT(store_->LoadAll()->made_files, IsEmpty());
}

TEST_F(ReplaceTogetherTest, WhatTheCallerAddsIsKeptWithIt) {
  Make("vol", "0 64 linear /mem/a 0\n");
  TogetherRequest request = PutLayerBelow();
  request.when_still = [&](state::Changes& changes) {
    changes.put_snapshots.push_back({.device_identity = registry_->Info("snap")->identity,
                                     .origin_identity = registry_->Info("vol")->identity,
                                     .store = "/s"});
    return absl::OkStatus();
  };
  ASSERT_TRUE(catalog_->ReplaceTogether(request).ok());
  EXPECT_EQ(store_->LoadAll()->snapshots.at(0).store, "/s");
}

TEST_F(ReplaceTogetherTest, WritersAreStillWhileTheOthersServe) {
  Make("vol", "0 64 linear /mem/a 0\n");
  ASSERT_TRUE(catalog_->ReplaceTogether(PutLayerBelow()).ok());
  TogetherRequest request;
  request.hold = {"vol", "snap", "vol-real"};
  request.writers = {"vol"};
  std::vector<std::string> quiet;
  request.when_quiet = [&] {
    quiet = Devices();
    return absl::OkStatus();
  };
  ASSERT_TRUE(catalog_->ReplaceTogether(request).ok());
  EXPECT_THAT(quiet, ElementsAre(layered_[0], layered_[1] + " suspended", layered_[2]));
  EXPECT_EQ(Devices(), layered_);
}

TEST_F(ReplaceTogetherTest, DevicesThatSomebodyHasSuspendedOrLoadedAreLeftAlone) {
  Make("vol", "0 64 linear /mem/a 0\n");
  ASSERT_TRUE(catalog_->Suspend("vol", SuspendMode::kFlush).ok());
  EXPECT_THAT(std::string(catalog_->ReplaceTogether(PutLayerBelow()).message()),
              HasSubstr("resume it first"));
  ASSERT_TRUE(catalog_->Resume("vol").ok());
  ASSERT_TRUE(catalog_->Load("vol", "0 8 zero\n", false).ok());
  EXPECT_THAT(std::string(catalog_->ReplaceTogether(PutLayerBelow()).message()),
              HasSubstr("inactive slot"));
  EXPECT_THAT(Devices(), ElementsAre("vol: 0 64 linear /mem/a 0 inactive"));
}

TEST_F(ReplaceTogetherTest, WhoUsesAnotherIsSuspendedFirst) {
  Make("c", "0 8 linear /mem/a 0\n");
  Make("b", "0 8 linear c 0\n");
  Make("a", "0 8 linear /dev/mapper/b 0\n");
  EXPECT_THAT(SuspendOrder(*registry_, {"c", "a", "b"}), ElementsAre("a", "b", "c"));
  // Through one that is not asked for.
  EXPECT_THAT(SuspendOrder(*registry_, {"c", "a"}), ElementsAre("a", "c"));
}

}  // namespace
}  // namespace sectormap::volumes
