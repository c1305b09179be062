// SPDX-License-Identifier: Apache-2.0
// VolumeFixture: a VolumeCatalog over a real store in a directory of its own and over devices in
// memory, which can be started again.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"

#include "core/async/clock.h"
#include "core/block/memory_device.h"
#include "core/map/device_registry.h"
#include "server/volumes/volume_catalog.h"
#include "targets/builtin_targets.h"
#include "tests/support/faulty_device.h"
#include "tests/support/refusing_store.h"
#include "tests/support/test_directory.h"

namespace sectormap {

// Memory of 1024 sectors under any name but /nowhere, while `present`; of /unflushable, every flush
// fails.
class MemoryBackings final : public BackingSource {
 public:
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name, bool) override {
    if (name == "/nowhere" || !present) return absl::NotFoundError("no such file");
    auto device = MemoryDevice::Create(SectorCount(1024));
    if (!device.ok()) return device.status();
    if (name != "/unflushable") return std::shared_ptr<BlockDevice>(*std::move(device));
    auto faulty = std::make_shared<FaultyDevice>(*std::move(device));
    faulty->Add({.op = IoOp::kFlush});
    return faulty;
  }

  bool present = true;
};

class VolumeFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    targets::AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    Start();
  }
  void TearDown() override { Stop(); }

  // Whoever adds parts on top starts them after these and stops them before.
  virtual void Start() {
    auto store = state::OpenSqliteStore(scratch_.path().string());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::make_unique<testing::RefusingStore>(*std::move(store));
    const auto contents = store_->LoadAll();
    ASSERT_TRUE(contents.ok()) << contents.status();
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, backings_);
    volumes_ = std::make_unique<volumes::VolumeCatalog>(*registry_, *store_);
    EXPECT_TRUE(volumes_->Restore(contents->devices).ok());
  }
  virtual void Stop() {
    volumes_.reset();
    registry_.reset();
    store_.reset();
  }
  void Restart() {
    Stop();
    Start();
  }

  // A read of the first sector that is inside the device when it returns; `ended` comes when it has
  // been answered.
  void StartRead(std::string_view device, absl::Notification& ended) {
    const std::shared_ptr<MappedDevice> mapped = registry_->Find(device);
    ASSERT_NE(mapped, nullptr) << device;
    (*reactors_)[0].Spawn(Read(*mapped, ended));
    reactors_->OnEach([](Reactor&) {});
  }
  static Task<void> Read(BlockDevice& device, absl::Notification& ended) {
    std::vector<std::byte> data(kSectorBytes);
    EXPECT_EQ(co_await device.Submit(IoRequest::Read(Sector(0), data)), IoStatus::kOk);
    ended.Notify();
  }

  SteadyClock clock_;
  TestDirectory scratch_{"/tmp"};  // short, as a socket's path has to be
  TargetRegistry types_;
  MemoryBackings backings_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<testing::RefusingStore> store_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<volumes::VolumeCatalog> volumes_;
};

}  // namespace sectormap
