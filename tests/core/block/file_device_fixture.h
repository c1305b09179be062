// SPDX-License-Identifier: Apache-2.0
// A reactor and a directory, for tests of FileDevice.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "core/async/reactor_pool.h"
#include "core/block/file_device.h"
#include "tests/support/test_directory.h"

namespace sectormap {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

class FileDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }

  std::unique_ptr<FileDevice> Open(const std::string& path, bool read_only = false,
                                   FileDevice::Options options = {}) {
    auto device = FileDevice::Open(path, read_only, options);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : nullptr;
  }
  IoStatus Do(BlockDevice& device, IoRequest request) {
    return pool_->RunOn(0, [&] { return device.Submit(request); });
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  TestDirectory directory_;
};

}  // namespace sectormap
