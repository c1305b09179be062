// SPDX-License-Identifier: Apache-2.0
// The devices that misbehave on request do so on request only.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/block/memory_device.h"
#include "tests/support/faulty_device.h"
#include "tests/support/slow_device.h"

namespace sectormap {
namespace {

class DevicesTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  IoStatus Do(BlockDevice& device, IoRequest request) {
    return pool_->RunOn(0, [&] { return device.Submit(request); });
  }
  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  std::shared_ptr<MemoryDevice> memory_ = *MemoryDevice::Create(SectorCount(64));
  std::vector<std::byte> bytes_ = std::vector<std::byte>(1024, std::byte{5});
};

TEST_F(DevicesTest, AFaultStrikesItsOperationPlaceAndNumber) {
  FaultyDevice faulty(memory_);
  faulty.Add({.op = IoOp::kWrite,
              .first = Sector(8),
              .count = SectorCount(2),
              .status = IoStatus::kNoSpace,
              .pass = 1,
              .times = 1});
  EXPECT_EQ(Do(faulty, IoRequest::Write(Sector(10), bytes_)), IoStatus::kOk);
  EXPECT_EQ(Do(faulty, IoRequest::Read(Sector(8), bytes_)), IoStatus::kOk);
  EXPECT_EQ(Do(faulty, IoRequest::Write(Sector(9), bytes_)), IoStatus::kOk);
  EXPECT_EQ(Do(faulty, IoRequest::Write(Sector(7), bytes_)), IoStatus::kNoSpace);
  EXPECT_EQ(Do(faulty, IoRequest::Write(Sector(8), bytes_)), IoStatus::kOk);
  EXPECT_EQ(faulty.failed(), 1u);
  faulty.FailAll(IoStatus::kIoError);
  EXPECT_EQ(Do(faulty, IoRequest::Flush()), IoStatus::kIoError);
  faulty.Heal();
  EXPECT_EQ(Do(faulty, IoRequest::Flush()), IoStatus::kOk);
}

TEST_F(DevicesTest, AFaultMayComeAfterTheWork) {
  FaultyDevice faulty(memory_);
  faulty.Add({.op = IoOp::kWrite, .after_the_work = true});
  EXPECT_EQ(Do(faulty, IoRequest::Write(Sector(3), bytes_)), IoStatus::kIoError);
  EXPECT_EQ(memory_->bytes()[3 * kSectorBytes], std::byte{5});
}

TEST_F(DevicesTest, ASlowDeviceHoldsUntilReleased) {
  SlowDevice slow(memory_);
  std::vector<std::thread> users;
  std::atomic<int> done = 0;
  for (int i = 0; i < 3; ++i) {
    users.emplace_back([&] {
      std::vector<std::byte> bytes(512);
      EXPECT_EQ(Do(slow, IoRequest::Read(Sector(0), bytes)), IoStatus::kOk);
      ++done;
    });
  }
  slow.WaitUntilHeld(3);
  EXPECT_EQ(done, 0);
  EXPECT_TRUE(slow.ReleaseOne());
  EXPECT_EQ(slow.held(), 2u);
  slow.Release();
  for (std::thread& user : users) user.join();
  EXPECT_EQ(done, 3);
  EXPECT_EQ(Do(slow, IoRequest::Flush()), IoStatus::kOk);
}

}  // namespace
}  // namespace sectormap
