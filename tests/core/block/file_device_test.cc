// SPDX-License-Identifier: Apache-2.0
// What FileDevice does beyond the contract: the file changes under it, the disk is full, it may not
// write, it is asked for what the medium has not.
#include "core/block/file_device.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/async/gate.h"
#include "core/async/when_all.h"
#include "tests/core/block/file_device_fixture.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

using testing::HasSubstr;
using Mode = FileDevice::Mode;

class FileDeviceModeTest : public FileDeviceTest, public testing::WithParamInterface<Mode> {
 protected:
  FileDevice::Options options() const { return {.mode = GetParam()}; }
};

INSTANTIATE_TEST_SUITE_P(Modes, FileDeviceModeTest,
                         testing::Values(Mode::kWriteback, Mode::kDirect),
                         [](const testing::TestParamInfo<Mode>& info) {
                           return info.param == Mode::kDirect ? "Direct" : "Writeback";
                         });

TEST_P(FileDeviceModeTest, ReadingWhereTheFileWasCutOffFails) {
  const std::string path = directory_.MakeFile("disk", kMiB);
  auto device = Open(path, false, options());
  std::filesystem::resize_file(path, kMiB / 2);
  std::vector<std::byte> bytes(4096, std::byte{7});
  EXPECT_EQ(Do(*device, IoRequest::Read(Sector(0), bytes)), IoStatus::kOk);
  EXPECT_EQ(Do(*device, IoRequest::Read(Sector(1536), bytes)), IoStatus::kIoError);
  // Half of it is there.
  EXPECT_EQ(Do(*device, IoRequest::Read(Sector(1020), bytes)), IoStatus::kIoError);
  const Extent gone = pool_->RunOn(0, [&] { return device->ExtentAt(Sector(1536)); });
  EXPECT_EQ(gone.status, IoStatus::kIoError);
}

TEST_P(FileDeviceModeTest, AReadOnlyDeviceRefusesEveryChangeAndLimitsSaySo) {
  auto device = Open(directory_.MakeFile("disk", kMiB), true, options());
  std::vector<std::byte> bytes(512);
  EXPECT_EQ(Do(*device, IoRequest::Read(Sector(0), bytes)), IoStatus::kOk);
  EXPECT_EQ(Do(*device, IoRequest::Write(Sector(0), bytes)), IoStatus::kReadOnly);
  EXPECT_EQ(Do(*device, IoRequest::Discard(Sector(0), SectorCount(8))), IoStatus::kReadOnly);
  EXPECT_EQ(Do(*device, IoRequest::WriteZeroes(Sector(0), SectorCount(8))), IoStatus::kReadOnly);
  EXPECT_EQ(Do(*device, IoRequest::Flush()), IoStatus::kOk);
  EXPECT_FALSE(device->limits().can_discard);
  EXPECT_FALSE(device->limits().can_write_zeroes);
}

TEST_P(FileDeviceModeTest, AllowWritesMakesAReadOnlyDeviceWritable) {
  const std::string path = directory_.MakeFile("disk", kMiB);
  auto device = Open(path, true, options());
  ASSERT_TRUE(device->AllowWrites(Descriptor(open(path.c_str(), O_RDWR | O_CLOEXEC))).ok());
  std::vector<std::byte> bytes(4096, std::byte{9});
  EXPECT_EQ(Do(*device, IoRequest::Write(Sector(1), bytes)), IoStatus::kOk);
  EXPECT_EQ(Do(*device, IoRequest::Discard(Sector(0), SectorCount(8))), IoStatus::kOk);
  EXPECT_TRUE(device->limits().can_discard);
}

TEST_P(FileDeviceModeTest, AGrownFileIsSeenWhenAskedForAndAShrunkOneIsNot) {
  const std::string path = directory_.MakeFile("disk", kMiB);
  auto device = Open(path, false, options());
  std::filesystem::resize_file(path, 2 * kMiB);
  EXPECT_EQ(device->size(), SectorCount(2048));
  ASSERT_TRUE(device->RefreshSize().ok());
  EXPECT_EQ(device->size(), SectorCount(4096));
  std::vector<std::byte> bytes(512, std::byte{1});
  EXPECT_EQ(Do(*device, IoRequest::Write(Sector(4095), bytes)), IoStatus::kOk);
  std::filesystem::resize_file(path, kMiB);
  ASSERT_TRUE(device->RefreshSize().ok());
  EXPECT_EQ(device->size(), SectorCount(4096));
}

TEST_P(FileDeviceModeTest, ExtentsFollowTheHolesOfTheFile) {
  auto device = Open(directory_.MakeFile("disk", kMiB), false, options());
  std::vector<std::byte> bytes(65536, std::byte{1});
  ASSERT_EQ(Do(*device, IoRequest::Write(Sector(512), bytes)), IoStatus::kOk);
  auto extent = [&](uint64_t sector) {
    return pool_->RunOn(0, [&] { return device->ExtentAt(Sector(sector)); });
  };
  EXPECT_FALSE(extent(0).mapped);
  EXPECT_EQ(extent(0).count, SectorCount(512));
  EXPECT_EQ(extent(500).count, SectorCount(12));
  EXPECT_TRUE(extent(512).mapped);
  EXPECT_EQ(extent(512).count, SectorCount(128));
  EXPECT_FALSE(extent(640).mapped);
  EXPECT_EQ(extent(640).count, SectorCount(2048 - 640));
}

TEST_P(FileDeviceModeTest, ADiscardGivesSpaceBack) {
  const std::string path = directory_.MakeFile("disk", kMiB);
  auto device = Open(path, false, options());
  std::vector<std::byte> bytes(kMiB, std::byte{1});
  ASSERT_EQ(Do(*device, IoRequest::Write(Sector(0), bytes)), IoStatus::kOk);
  ASSERT_EQ(Do(*device, IoRequest::Flush()), IoStatus::kOk);
  struct stat before {};
  stat(path.c_str(), &before);
  ASSERT_EQ(Do(*device, IoRequest::Discard(Sector(0), SectorCount(1024))), IoStatus::kOk);
  struct stat after {};
  stat(path.c_str(), &after);
  EXPECT_LE(after.st_blocks, before.st_blocks - 1000);
  EXPECT_EQ(static_cast<uint64_t>(after.st_size), kMiB);
}

TEST_P(FileDeviceModeTest, EveryRequestIsCounted) {
  auto device = Open(directory_.MakeFile("disk", kMiB), false, options());
  std::vector<std::byte> bytes(4096);
  Do(*device, IoRequest::Write(Sector(0), bytes));
  Do(*device, IoRequest::Write(Sector(8), bytes, true));
  Do(*device, IoRequest::Read(Sector(0), bytes));
  Do(*device, IoRequest::Read(Sector(1), std::span(bytes).subspan(1, 512)));
  Do(*device, IoRequest::Flush());
  Do(*device, IoRequest::Discard(Sector(0), SectorCount(16)));
  Do(*device, IoRequest::WriteZeroes(Sector(0), SectorCount(3)));
  const IoTotals totals = device->counters().Sum();
  auto of = [&](IoOp op) { return totals.ops[static_cast<size_t>(op)]; };
  EXPECT_EQ(of(IoOp::kWrite).requests, 2u);
  EXPECT_EQ(of(IoOp::kWrite).bytes, 8192u);
  EXPECT_EQ(of(IoOp::kRead).requests, 2u);
  EXPECT_EQ(of(IoOp::kRead).bytes, 4608u);
  EXPECT_EQ(of(IoOp::kFlush).requests, 1u);
  EXPECT_EQ(of(IoOp::kDiscard).bytes, 8192u);
  EXPECT_EQ(of(IoOp::kWriteZeroes).bytes, 1536u);
  EXPECT_EQ(of(IoOp::kRead).errors + of(IoOp::kWrite).errors, 0u);
}

Task<IoStatus> ManyUnaligned(BlockDevice& device, std::vector<std::byte>& bytes) {
  std::vector<Task<IoStatus>> all;
  for (uint64_t i = 0; i < 1000; ++i) {
    // One byte past alignment: each needs a bounce, together more than the pool has.
    const std::span<std::byte> piece = std::span(bytes).subspan(1 + i * kSectorBytes, kSectorBytes);
    all.push_back(device.Submit(IoRequest::Write(Sector(i), piece)));
  }
  co_return co_await WhenAll(std::move(all));
}

TEST_P(FileDeviceModeTest, AThousandBouncesAtOnceAllArrive) {
  FileDevice::Options wide = options();
  wide.direct_block_bytes = 65536;  // 64 KiB for each: 64 MB in all
  auto device = Open(directory_.MakeFile("disk", kMiB), false, wide);
  std::vector<std::byte> bytes(1 + 1000 * kSectorBytes);
  Random().Fill(bytes);
  EXPECT_EQ(pool_->RunOn(0, ManyUnaligned(*device, bytes)), IoStatus::kOk);
  std::vector<std::byte> found(1000 * kSectorBytes);
  EXPECT_EQ(Do(*device, IoRequest::Read(Sector(0), found)), IoStatus::kOk);
  EXPECT_TRUE(std::equal(found.begin(), found.end(), bytes.begin() + 1));
}

TEST_F(FileDeviceTest, APartOfASectorAtTheEndIsNotUsed) {
  EXPECT_EQ(Open(directory_.MakeFile("disk", 5 * kSectorBytes + 511))->size(), SectorCount(5));
}

TEST_F(FileDeviceTest, FilesUseThePageCacheUnlessToldOtherwise) {
  const std::string path = directory_.MakeFile("disk", kMiB);
  EXPECT_EQ(Open(path)->mode(), Mode::kWriteback);
  EXPECT_EQ(Open(path, false, {.mode = Mode::kDirect})->mode(), Mode::kDirect);
}

TEST_F(FileDeviceTest, DirectSaysItsBlockInLimits) {
  const std::string path = directory_.MakeFile("disk", kMiB);
  const BlockLimits limits =
      Open(path, false, {.mode = Mode::kDirect, .direct_block_bytes = 4096})->limits();
  EXPECT_EQ(limits.logical_block_bytes, 4096u);
  EXPECT_GE(limits.physical_block_bytes, 4096u);
}

absl::Status OpenStatus(const std::string& path, FileDevice::Options options = {}) {
  return FileDevice::Open(path, false, options).status();
}

TEST_F(FileDeviceTest, DirectRefusesAFileThatEndsInsideABlock) {
  const absl::Status status = OpenStatus(directory_.MakeFile("disk", 4096 + 512),
                                         {.mode = Mode::kDirect, .direct_block_bytes = 4096});
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("9 sectors, is not a multiple"));
}

TEST_F(FileDeviceTest, RefusesWhatIsNotADiskAndSaysWhy) {
  EXPECT_THAT(std::string(OpenStatus(directory_.MakeFile("small", 511)).message()),
              HasSubstr("smaller than one sector"));
  EXPECT_TRUE(absl::IsNotFound(OpenStatus(directory_ / "nothing")));
  EXPECT_FALSE(OpenStatus(directory_.path().string()).ok());
  ASSERT_EQ(mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(std::string(OpenStatus(directory_ / "fifo").message()),
              HasSubstr("neither a regular file nor a block device"));
  EXPECT_THAT(std::string(OpenStatus("/dev/null").message()),
              HasSubstr("neither a regular file nor a block device"));
}

}  // namespace
}  // namespace sectormap
