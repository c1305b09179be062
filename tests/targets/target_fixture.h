// SPDX-License-Identifier: Apache-2.0
// What every target's test needs: devices to name in a row, and a reactor to do I/O on.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "core/async/reactor_pool.h"
#include "core/block/memory_device.h"
#include "core/map/mapping_table.h"
#include "targets/builtin_targets.h"
#include "tests/support/test_target_host.h"

namespace sectormap::targets {

// Devices by name; NotFound for others.
class NamedDevices final : public DeviceResolver {
 public:
  void Add(const std::string& name, std::shared_ptr<BlockDevice> device) {
    devices_[name] = std::move(device);
  }
  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode) override {
    auto found = devices_.find(std::string(name));
    if (found == devices_.end()) return absl::NotFoundError("no such device");
    return DeviceRef{found->second, found->first, false};
  }

 private:
  std::map<std::string, std::shared_ptr<BlockDevice>> devices_;
};

class TargetFixture : public testing::Test {
 protected:
  static constexpr SectorCount kDeviceSize{16384};

  void SetUp() override {
    AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(1, clock());
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    host_ = std::make_unique<TestTargetHost>(reactors_.get());
    for (const char* name : {"/dev/vdd", "/dev/vde", "/dev/vdf"}) {
      disks_[name] = *MemoryDevice::Create(kDeviceSize);
      devices_.Add(name, disks_[name]);
    }
  }

  // The reactor's; a test that decides over time gives another.
  virtual const Clock& clock() { return clock_; }

  MemoryDevice& disk(const std::string& name) { return *disks_.at(name); }

  absl::StatusOr<std::shared_ptr<const MappingTable>> Build(std::string_view text) {
    absl::StatusOr<TableSpec> spec = TableSpec::Parse(text);
    if (!spec.ok()) return spec.status();
    return MappingTable::Build(*spec, /*read_only=*/false, types_, devices_, *host_);
  }

  // The only row's target. The table must be good.
  Target& TargetOf(std::string_view text) {
    auto table = Build(text);
    EXPECT_TRUE(table.ok()) << table.status();
    tables_.push_back(*table);
    return *tables_.back()->rows()[0].target;
  }

  // The refusal of a bad table.
  std::string Refusal(std::string_view text) { return std::string(Build(text).status().message()); }

  IoStatus Run(BlockDevice& device, IoRequest request) {
    return reactors_->RunOn(0, SubmitOnReactor(device, request));
  }

  SteadyClock clock_;
  TargetRegistry types_;
  NamedDevices devices_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<TestTargetHost> host_;

 private:
  // A request is submitted on the reactor, not only awaited there.
  static Task<IoStatus> SubmitOnReactor(BlockDevice& device, IoRequest request) {
    co_return co_await device.Submit(request);
  }

  std::map<std::string, std::shared_ptr<MemoryDevice>> disks_;
  std::vector<std::shared_ptr<const MappingTable>> tables_;
};

}  // namespace sectormap::targets
