// SPDX-License-Identifier: Apache-2.0
#include "core/block/backing_opener.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

#include "core/async/reactor_pool.h"
#include "tests/support/loop_device.h"
#include "tests/support/low_descriptor_limit.h"
#include "tests/support/test_directory.h"

namespace sectormap {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class BackingOpenerTest : public testing::Test {
 protected:
  BackingOpenerTest() {
    fs::create_directories(directory_.path() / "devices" / "sub");
    fs::create_directories(directory_.path() / "devices2");
    directory_.MakeFile("devices/a.img", kMiB);
    directory_.MakeFile("devices/sub/b.img", 2 * kMiB);
    directory_.MakeFile("devices2/c.img", kMiB);
    directory_.MakeFile("secret", kMiB);
    opener_ = *BackingOpener::Create({.device_roots = {directory_ / "devices"}});
  }

  std::shared_ptr<BlockDevice> Open(const std::string& name, bool read_only = false) {
    auto device = opener_->Open(name, read_only);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *device : nullptr;
  }
  absl::Status Refusal(const std::string& name) { return opener_->Open(name, false).status(); }
  std::string In(const std::string& name) { return directory_ / ("devices/" + name); }

  TestDirectory directory_;
  std::unique_ptr<BackingOpener> opener_;
};

TEST_F(BackingOpenerTest, OpensFilesBelowTheRoot) {
  EXPECT_EQ(Open(In("a.img"))->size(), SectorCount(2048));
  EXPECT_EQ(Open(In("sub/b.img"))->size(), SectorCount(4096));
  EXPECT_EQ(Open(In("sub/../a.img"))->size(), SectorCount(2048));
  EXPECT_EQ(Open(In("./sub//b.img"))->size(), SectorCount(4096));
}

TEST_F(BackingOpenerTest, RefusesWhatLiesOutsideAndNamesTheRoots) {
  const absl::Status status = Refusal(directory_ / "secret");
  EXPECT_TRUE(absl::IsPermissionDenied(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr(directory_ / "devices"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--device-root"));
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal(In("../secret"))));
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal("/etc/passwd")));
}

TEST_F(BackingOpenerTest, ADirectoryWhoseNameOnlyBeginsLikeTheRootIsOutside) {
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal(directory_ / "devices2/c.img")));
}

TEST_F(BackingOpenerTest, LinksAreFollowedBeforeTheyAreJudged) {
  fs::create_symlink(directory_ / "secret", In("escape"));
  fs::create_symlink(directory_.path(), In("up"));
  fs::create_symlink("sub/b.img", In("inside"));
  fs::create_symlink(In("a.img"), directory_ / "from_outside");
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal(In("escape"))));
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal(In("up/secret"))));
  EXPECT_EQ(Open(In("inside"))->size(), SectorCount(4096));
  EXPECT_EQ(Open(directory_ / "from_outside"), Open(In("a.img")));
}

TEST_F(BackingOpenerTest, WhatStaysOpenLeavesTheReservedDescriptorsAlone) {
  const auto read_only = Open(In("a.img"), true);
  {
    const LowDescriptorLimit limit;
    const absl::Status status = Refusal(In("sub/b.img"));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("LimitNOFILE="));
    EXPECT_TRUE(absl::IsResourceExhausted(Refusal(In("a.img"))));
    EXPECT_EQ(Open(In("a.img"), true), read_only);
  }
  EXPECT_EQ(Open(In("sub/b.img"))->size(), SectorCount(4096));
}

TEST_F(BackingOpenerTest, ARootThatIsALinkWorks) {
  fs::create_symlink(directory_ / "devices2", directory_ / "link");
  opener_ = *BackingOpener::Create({.device_roots = {directory_ / "link/", directory_ / "later"}});
  EXPECT_NE(Open(directory_ / "link/c.img"), nullptr);
  EXPECT_NE(Open(directory_ / "devices2/c.img"), nullptr);
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal(In("a.img"))));
}

TEST_F(BackingOpenerTest, ARootMayComeIntoBeingLater) {
  opener_ = *BackingOpener::Create({.device_roots = {directory_ / "later"}});
  EXPECT_FALSE(opener_->Open(directory_ / "later/x", false).ok());
  fs::create_directory(directory_.path() / "later");
  directory_.MakeFile("later/x", kMiB);
  EXPECT_NE(Open(directory_ / "later/x"), nullptr);
}

TEST_F(BackingOpenerTest, WithoutRootsNoFileMayBeUsed) {
  opener_ = *BackingOpener::Create({});
  EXPECT_THAT(std::string(Refusal(In("a.img")).message()), HasSubstr("--device-root"));
  EXPECT_NE(Open("mem:1M"), nullptr);
}

TEST_F(BackingOpenerTest, NewRootsCountForWhatIsOpenedFromThenOn) {
  const std::shared_ptr<BlockDevice> open = Open(In("a.img"));
  ASSERT_TRUE(opener_->SetDeviceRoots({directory_ / "devices2"}).ok());
  EXPECT_EQ(Open(directory_ / "devices2/c.img")->size(), SectorCount(2048));
  EXPECT_TRUE(absl::IsPermissionDenied(Refusal(In("a.img"))));
  EXPECT_EQ(open->size(), SectorCount(2048));
  EXPECT_TRUE(absl::IsInvalidArgument(opener_->SetDeviceRoots({"relative"})));
  EXPECT_EQ(Open(directory_ / "devices2/c.img")->size(), SectorCount(2048));
}

TEST_F(BackingOpenerTest, FilesAreMadeGrownAndRemovedBelowTheRootsOnly) {
  ASSERT_TRUE(opener_->MakeFile(In("new.img"), SectorCount(2048)).ok());
  const std::shared_ptr<BlockDevice> device = Open(In("new.img"));
  EXPECT_EQ(device->size(), SectorCount(2048));
  struct stat info {};
  ASSERT_EQ(stat(In("new.img").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_blocks, 0);
  ASSERT_TRUE(opener_->GrowFile(In("new.img"), SectorCount(4096)).ok());
  EXPECT_EQ(device->size(), SectorCount(4096)) << "who has it open sees it";
  ASSERT_TRUE(opener_->GrowFile(In("new.img"), SectorCount(8)).ok());
  EXPECT_EQ(device->size(), SectorCount(4096)) << "never smaller";
  EXPECT_TRUE(absl::IsAlreadyExists(opener_->MakeFile(In("new.img"), SectorCount(8))));
  ASSERT_TRUE(opener_->RemoveFile(In("new.img")).ok());
  EXPECT_TRUE(absl::IsNotFound(Refusal(In("new.img"))));
  EXPECT_TRUE(opener_->RemoveFile(In("new.img")).ok()) << "gone already";

  const std::string outside = directory_ / "devices2/new.img";
  EXPECT_TRUE(absl::IsPermissionDenied(opener_->MakeFile(outside, SectorCount(8))));
  EXPECT_TRUE(absl::IsPermissionDenied(opener_->MakeFile(In("../new.img"), SectorCount(8))));
  EXPECT_TRUE(
      absl::IsPermissionDenied(opener_->GrowFile(directory_ / "secret", SectorCount(1 << 20))));
  EXPECT_TRUE(absl::IsPermissionDenied(opener_->RemoveFile(directory_ / "secret")));
  EXPECT_TRUE(absl::IsNotFound(opener_->MakeFile(In("missing/new.img"), SectorCount(8))));
  EXPECT_TRUE(absl::IsInvalidArgument(opener_->MakeFile("new.img", SectorCount(8))));
  EXPECT_TRUE(absl::IsInvalidArgument(opener_->MakeFile(In(".."), SectorCount(8))));
  EXPECT_TRUE(fs::exists(directory_ / "secret"));
}

TEST_F(BackingOpenerTest, ANameOrSizeThatNoFileCanHaveIsTheCallersMistake) {
  fs::create_symlink("loop", In("loop"));
  const std::string long_name = In(std::string(256, 'x'));
  for (const std::string& name : {In("loop"), In("loop/a.img"), long_name}) {
    const absl::Status status = Refusal(name);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no file can be reached by this name"));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(opener_->MakeFile(long_name, SectorCount(8))));
  // More bytes than an off_t counts, and than 64 bits do.
  for (const int shift : {63 - kSectorShift, 64 - kSectorShift}) {
    const SectorCount too_many(uint64_t{1} << shift);
    const absl::Status status = opener_->MakeFile(In("new.img"), too_many);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_FALSE(fs::exists(In("new.img")));
    EXPECT_TRUE(absl::IsInvalidArgument(opener_->GrowFile(In("a.img"), too_many)));
  }
}

TEST_F(BackingOpenerTest, ALinkIsNotFollowedWhenAFileIsMadeOrRemoved) {
  fs::create_symlink(directory_ / "secret", In("link"));
  EXPECT_TRUE(absl::IsAlreadyExists(opener_->MakeFile(In("link"), SectorCount(8))));
  EXPECT_TRUE(opener_->RemoveFile(In("link")).ok());
  EXPECT_TRUE(fs::exists(directory_ / "secret"));
}

// O_NOATIME is its owner's to ask for; who may only read it does without.
TEST(BackingOpenerDeathTest, AFileOfAnotherUserIsOpenedToo) {
  const std::string file = "/etc/passwd";  // root's, for all to read, larger than a sector
  const auto open_as_nobody = [&file] {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(2);
    auto opener = BackingOpener::Create({.device_roots = {"/etc"}});
    if (!opener.ok()) _exit(3);
    _exit((*opener)->Open(file, /*read_only=*/true).ok() ? 0 : 1);
  };
  EXPECT_EXIT(open_as_nobody(), testing::ExitedWithCode(0), "");
}

TEST(BackingOpenerOptionsTest, ARootIsAnAbsolutePath) {
  EXPECT_TRUE(absl::IsInvalidArgument(BackingOpener::Create({.device_roots = {"disks"}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(BackingOpener::Create({.device_roots = {""}}).status()));
}

// Whoever swaps a file for a link at the right moment gets an error, never the link's target. The
// target is of another size, which shows which one was opened.
TEST_F(BackingOpenerTest, ASwapBetweenLookingAndOpeningGainsNothing) {
  directory_.MakeFile("secret", 3 * kMiB);
  fs::create_symlink(directory_ / "secret", In("bait"));
  std::atomic<bool> stop = false;
  std::thread swapper([&] {
    while (!stop) {
      fs::rename(In("a.img"), In("tmp"));
      fs::rename(In("bait"), In("a.img"));
      fs::rename(In("a.img"), In("bait"));
      fs::rename(In("tmp"), In("a.img"));
    }
  });
  int opened = 0;
  for (int i = 0; i < 3000; ++i) {
    auto device = opener_->Open(In("a.img"), true);
    if (!device.ok()) continue;
    ++opened;
    EXPECT_EQ((*device)->size(), SectorCount(2048));
  }
  stop = true;
  swapper.join();
  EXPECT_GT(opened, 0);
}

TEST_F(BackingOpenerTest, TheSameFileIsTheSameDeviceByWhateverName) {
  auto device = Open(In("a.img"));
  fs::create_hard_link(In("a.img"), In("hard"));
  EXPECT_EQ(Open(In("a.img")), device);
  EXPECT_EQ(Open(In("sub/../a.img")), device);
  EXPECT_EQ(Open(In("hard")), device);
  EXPECT_NE(Open(In("sub/b.img")), device);
}

TEST_F(BackingOpenerTest, ReadersAndWritersShareADevice) {
  auto reader = Open(In("a.img"), true);
  EXPECT_FALSE(reader->limits().can_discard);
  auto writer = Open(In("a.img"), false);
  EXPECT_EQ(reader, writer);
  EXPECT_TRUE(writer->limits().can_discard);
  EXPECT_EQ(Open(In("a.img"), true), writer);
}

TEST_F(BackingOpenerTest, AGrownFileIsSeenWhenItIsOpenedAgain) {
  auto device = Open(In("a.img"));
  fs::resize_file(In("a.img"), 4 * kMiB);
  EXPECT_EQ(device->size(), SectorCount(2048));
  EXPECT_EQ(Open(In("a.img"))->size(), SectorCount(8192));
  EXPECT_EQ(device->size(), SectorCount(8192));
}

TEST_F(BackingOpenerTest, AFileMayBeReplacedByAnotherOfTheSameName) {
  auto old_device = Open(In("a.img"));
  fs::remove(In("a.img"));
  directory_.MakeFile("devices/a.img", 3 * kMiB);
  EXPECT_NE(Open(In("a.img")), old_device);
  EXPECT_EQ(Open(In("a.img"))->size(), SectorCount(6144));
}

TEST_F(BackingOpenerTest, RefusesWhatIsNotADisk) {
  ASSERT_EQ(mkfifo(In("fifo").c_str(), 0600), 0);
  directory_.MakeFile("devices/small", 100);
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(In("fifo"))));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(In("sub"))));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(In("small"))));
  EXPECT_TRUE(absl::IsNotFound(Refusal(In("nothing"))));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal("a.img")));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal("")));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(std::string("/x\0y", 4))));
}

// Two openers are as two daemons. The logic without a kernel: device_claims_test.cc.
class BackingOpenerClaimTest : public BackingOpenerTest {
 protected:
  void SetUp() override {
    if (!loop_.is_there()) GTEST_SKIP() << "no loop device: not root, or none in this container";
    opener_ = *BackingOpener::Create({.device_roots = {"/dev"}});
  }
  absl::Status AnotherDaemonOpens(bool read_only) {
    const auto other = *BackingOpener::Create({.device_roots = {"/dev"}});
    return other->Open(disk(), read_only).status();
  }
  const std::string& disk() const { return loop_.path(); }

  LoopDevice loop_{In("a.img"), 512};
};

TEST_F(BackingOpenerClaimTest, ABlockDeviceInUseIsNobodyElses) {
  for (const bool read_only : {false, true}) {
    auto device = Open(disk(), read_only);
    EXPECT_EQ(Open(disk(), true), device);
    EXPECT_LT(open(disk().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC), 0);
    EXPECT_EQ(errno, EBUSY);
    EXPECT_TRUE(absl::IsFailedPrecondition(AnotherDaemonOpens(true)));
    EXPECT_EQ(Open(disk(), false), device) << "by name, for writing from now on";
    EXPECT_TRUE(absl::IsFailedPrecondition(AnotherDaemonOpens(false)));
    device = nullptr;
    EXPECT_EQ(AnotherDaemonOpens(false), absl::OkStatus());
  }
}

TEST_F(BackingOpenerClaimTest, ABlockDeviceThatIsMountedIsRefused) {
  // mount(2) claims as O_EXCL does.
  const int mounted = open(disk().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  ASSERT_GE(mounted, 0);
  for (const bool read_only : {false, true}) {
    const absl::Status status = opener_->Open(disk(), read_only).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("Device or resource busy: it is mounted, or another program has it"));
  }
  close(mounted);
  EXPECT_NE(Open(disk()), nullptr);
}

TEST_F(BackingOpenerClaimTest, WhoClosesABlockDeviceIsNotInTheWayOfWhoOpensIt) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] {
      for (int round = 0; round < 100; ++round) EXPECT_NE(Open(disk(), i % 2 == 0), nullptr);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(AnotherDaemonOpens(false), absl::OkStatus());
}

TEST_F(BackingOpenerTest, OneTextIsOneMemory) {
  auto first = Open("mem:1M");
  EXPECT_EQ(Open("mem:1M"), first);
  EXPECT_NE(Open("mem:1M@other"), first);
  EXPECT_NE(Open("mem:1024K"), first);
  std::weak_ptr<BlockDevice> gone = first;
  first.reset();
  EXPECT_TRUE(gone.expired());
}

TEST_F(BackingOpenerTest, ListNamesWhatIsHeld) {
  auto memory = Open("mem:1M@one");
  auto file = Open(In("sub/../a.img"));
  Open(In("sub/b.img"));
  const std::vector<BackingOpener::Backing> list = opener_->List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, In("a.img"));
  EXPECT_EQ(list[0].device, file);
  EXPECT_EQ(list[1].name, "mem:1M@one");
  EXPECT_EQ(list[1].device, memory);
}

TEST_F(BackingOpenerTest, ModesAreTheOptions) {
  opener_ = *BackingOpener::Create(
      {.device_roots = {directory_ / "devices"}, .file_mode = FileDevice::Mode::kDirect});
  auto device = std::dynamic_pointer_cast<FileDevice>(Open(In("a.img")));
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(device->mode(), FileDevice::Mode::kDirect);
}

TEST_F(BackingOpenerTest, ManyThreadsGetOneDevice) {
  std::vector<std::shared_ptr<BlockDevice>> devices(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < devices.size(); ++i) {
    threads.emplace_back([&, i] { devices[i] = Open(In("a.img"), i % 2 == 0); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& device : devices) EXPECT_EQ(device, devices[0]);
}

}  // namespace
}  // namespace sectormap
