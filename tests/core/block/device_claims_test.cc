// SPDX-License-Identifier: Apache-2.0
#include "core/block/device_claims.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/test_directory.h"

namespace sectormap {
namespace {

// A lock of flock(2) for the kernel's claim: it, too, belongs to one open file, and ends with it.
class DeviceClaimsTest : public testing::Test {
 protected:
  static constexpr dev_t kDisk = 0x800;

  absl::StatusOr<int> OpenExclusively() {
    const int fd = open(disk_.c_str(), O_RDONLY | O_CLOEXEC);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    close(fd);
    return absl::FailedPreconditionError("Device or resource busy");
  }
  auto Take(dev_t device = kDisk) {
    return claims_.Take(device, [this] {
      ++opened_;
      return OpenExclusively();
    });
  }
  bool IsClaimed() {
    const absl::StatusOr<int> fd = OpenExclusively();
    if (fd.ok()) close(*fd);
    return !fd.ok();
  }

  TestDirectory directory_;
  const std::string disk_ = directory_.MakeFile("disk", 512);
  DeviceClaims claims_;
  std::atomic<int> opened_{0};
};

TEST_F(DeviceClaimsTest, AllShareOneClaimAndTheLastOneEndsIt) {
  auto first = Take();
  auto second = Take();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(opened_, 1);
  first->reset();
  EXPECT_TRUE(IsClaimed());
  second->reset();
  EXPECT_FALSE(IsClaimed());
  EXPECT_TRUE(Take().ok());
  EXPECT_EQ(opened_, 2);
}

TEST_F(DeviceClaimsTest, ARefusalIsTheAnswerAndTheNextOneAsksAgain) {
  const absl::StatusOr<int> others = OpenExclusively();
  ASSERT_TRUE(others.ok());
  EXPECT_EQ(Take().status(), absl::FailedPreconditionError("Device or resource busy"));
  close(*others);
  EXPECT_TRUE(Take().ok());
}

TEST_F(DeviceClaimsTest, EachDeviceHasAClaimOfItsOwn) {
  const auto disk = Take();
  ASSERT_TRUE(disk.ok());
  EXPECT_FALSE(Take(kDisk + 1).ok()) << "it was opened, and this file cannot be twice";
  EXPECT_EQ(opened_, 2);
}

TEST_F(DeviceClaimsTest, TheEndOfOneUseIsNeverInTheWayOfTheNext) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int round = 0; round < 1000; ++round) EXPECT_TRUE(Take().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(IsClaimed());
}

}  // namespace
}  // namespace sectormap
