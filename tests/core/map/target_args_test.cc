// SPDX-License-Identifier: Apache-2.0
#include "core/map/target_args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/map/table_error.h"
#include "tests/core/map/map_fixture.h"
#include "tests/support/test_target_host.h"

namespace sectormap {
namespace {

class OneDisk final : public DeviceResolver {
 public:
  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode mode) override {
    last_mode = mode;
    if (name != "/dev/a") return absl::NotFoundError("no such file");
    return DeviceRef{disk, "/dev/a", false};
  }
  std::shared_ptr<TestDisk> disk = std::make_shared<TestDisk>(SectorCount(100));
  OpenMode last_mode = OpenMode::kReadWrite;
};

class TargetArgsTest : public testing::Test {
 protected:
  TargetArgs Args(std::vector<std::string_view> words, bool read_only = false) {
    words_ = std::move(words);
    return TargetArgs(words_, SectorCount(8), read_only, devices_, host_);
  }
  OneDisk devices_;
  TestTargetHost host_;
  std::vector<std::string_view> words_;
};

TEST_F(TargetArgsTest, TakesWordsFromLeftToRight) {
  TargetArgs args = Args({"one", "2", "3"});
  EXPECT_EQ(*args.Word("e"), "one");
  EXPECT_EQ(*args.Number("e"), 2u);
  EXPECT_EQ(*args.Place("e"), Sector(3));
  EXPECT_EQ(args.left(), 0u);
}

TEST_F(TargetArgsTest, MissingWordIsRefusedInTheTargetsWords) {
  EXPECT_EQ(Args({}).Word("Invalid argument count").status().message(), "Invalid argument count");
}

class BadNumber : public TargetArgsTest, public testing::WithParamInterface<const char*> {};

TEST_P(BadNumber, IsRefusedInTheTargetsWords) {
  const absl::Status status = Args({GetParam()}).Number("Invalid device sector").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TableViolationIn(status)->reason, "Invalid device sector");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Kernel, BadNumber,
                         testing::Values("x", "-1", "8x", "+8", " 8", "0x10", "1.0",
                                         "18446744073709551616"));

TEST_F(TargetArgsTest, LargestNumberIsTaken) {
  EXPECT_EQ(*Args({"18446744073709551615"}).Number("e"), UINT64_MAX);
}

TEST_F(TargetArgsTest, DeviceIsOpenedForReadingOnlyIfTheTableIsReadOnly) {
  EXPECT_TRUE(Args({"/dev/a"}).Device("e").ok());
  EXPECT_EQ(devices_.last_mode, OpenMode::kReadWrite);
  EXPECT_TRUE(Args({"/dev/a"}, /*read_only=*/true).Device("e").ok());
  EXPECT_EQ(devices_.last_mode, OpenMode::kReadOnly);
}

TEST_F(TargetArgsTest, WhatATargetWritesToIsOpenedForBothInEveryTable) {
  EXPECT_TRUE(Args({"/dev/a"}, /*read_only=*/true).Device("e").ok());
  EXPECT_TRUE(Args({"/dev/a"}, /*read_only=*/true).WritableDevice("e").ok());
  EXPECT_EQ(devices_.last_mode, OpenMode::kReadWrite);
}

TEST_F(TargetArgsTest, DeviceThatCannotBeHadKeepsItsCodeAndSaysWhy) {
  const absl::Status status = Args({"/dev/x"}).Device("Device lookup failed").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "Device lookup failed; no such file");
  EXPECT_EQ(TableViolationIn(status)->reason, "Device lookup failed");
}

TEST_F(TargetArgsTest, CheckFitsTakesWhatEndsAtTheLastSector) {
  const DeviceRef disk{devices_.disk, "/dev/a", false};
  EXPECT_TRUE(CheckFits(disk, Sector(0), SectorCount(100)).ok());
  EXPECT_TRUE(CheckFits(disk, Sector(99), SectorCount(1)).ok());
}

TEST_F(TargetArgsTest, CheckFitsSaysTheLargestLengthThatFits) {
  const DeviceRef disk{devices_.disk, "/dev/a", false};
  EXPECT_EQ(CheckFits(disk, Sector(60), SectorCount(41)).message(),
            "/dev/a too small for target: start=60, len=41, dev_size=100; the largest length that "
            "fits there is 40");
  EXPECT_EQ(CheckFits(disk, Sector(100), SectorCount(1)).message(),
            "/dev/a too small for target: start=100, len=1, dev_size=100; the start is past its "
            "last sector");
}

TEST_F(TargetArgsTest, CheckFitsDoesNotWrap) {
  const DeviceRef disk{devices_.disk, "/dev/a", false};
  EXPECT_FALSE(CheckFits(disk, Sector(UINT64_MAX), SectorCount(8)).ok());
  EXPECT_FALSE(CheckFits(disk, Sector(8), SectorCount(UINT64_MAX)).ok());
}

TEST_F(TargetArgsTest, CheckFitsWantsWholeBlocksOfTheMedium) {
  devices_.disk->mutable_limits().logical_block_bytes = 4096;
  const DeviceRef disk{devices_.disk, "/dev/a", false};
  EXPECT_TRUE(CheckFits(disk, Sector(8), SectorCount(16)).ok());
  EXPECT_EQ(CheckFits(disk, Sector(4), SectorCount(16)).message(),
            "start=4 not aligned to h/w logical block size 4096 of /dev/a; use a multiple of 8 "
            "sectors");
  EXPECT_EQ(CheckFits(disk, Sector(8), SectorCount(12)).message(),
            "len=12 not aligned to h/w logical block size 4096 of /dev/a; use a multiple of 8 "
            "sectors");
}

TEST(TableErrorTest, MessageIsForPeopleAndPayloadForPrograms) {
  const absl::Status status = TableError(3, "linear", "Gap in table", "begin at 8");
  EXPECT_EQ(status.message(), "line 3: linear: Gap in table; begin at 8");
  const auto violation = TableViolationIn(status);
  ASSERT_TRUE(violation.has_value());
  EXPECT_EQ(violation->line, 3);
  EXPECT_EQ(violation->type, "linear");
  EXPECT_EQ(violation->reason, "Gap in table");
}

TEST(TableErrorTest, TypeAndReasonMayHoldAnyByte) {
  const auto violation = TableViolationIn(TableError(1, "a b 9", "12 x\ny"));
  EXPECT_EQ(violation->type, "a b 9");
  EXPECT_EQ(violation->reason, "12 x\ny");
}

TEST(TableErrorTest, OtherErrorsHoldNoViolation) {
  EXPECT_FALSE(TableViolationIn(absl::InvalidArgumentError("line 1: x: y")).has_value());
  EXPECT_FALSE(TableViolationIn(absl::OkStatus()).has_value());
}

TEST(TableErrorTest, RefusalPutIntoItsRowKeepsItsOwnAdviceAndCode) {
  const absl::Status own = TableError(0, "", "r", "own", absl::StatusCode::kNotFound);
  EXPECT_EQ(TableErrorAt(2, "t", own, "other").message(), "line 2: t: r; own");
  EXPECT_EQ(TableErrorAt(2, "t", own, "other").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(TableErrorAt(2, "t", absl::InvalidArgumentError("r"), "other").message(),
            "line 2: t: r; other");
}

}  // namespace
}  // namespace sectormap
