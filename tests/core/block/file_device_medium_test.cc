// SPDX-License-Identifier: Apache-2.0
// FileDevice on media that are full, lose data or hang. They are mounted, so these tests are for
// root, and skipped where that is not allowed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/async/gate.h"
#include "tests/core/block/file_device_fixture.h"
#include "tests/support/loop_device.h"

namespace sectormap {
namespace {

// Through the page cache, whatever the medium.
class FileDeviceMediumTest : public FileDeviceTest {
 protected:
  std::unique_ptr<FileDevice> OpenCached(const std::string& path) {
    return Open(path, false, {.mode = FileDevice::Mode::kWriteback});
  }
};

// A file system of 1 MiB, for root only.
class SmallFileSystem {
 public:
  explicit SmallFileSystem(const std::string& place) : place_(place) {
    std::filesystem::create_directory(place_);
    mounted_ = mount("tmpfs", place_.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m") == 0;
  }
  SmallFileSystem(const SmallFileSystem&) = delete;
  SmallFileSystem& operator=(const SmallFileSystem&) = delete;
  ~SmallFileSystem() {
    if (mounted_) umount2(place_.c_str(), MNT_DETACH);
  }
  bool is_mounted() const { return mounted_; }

 private:
  const std::string place_;
  bool mounted_ = false;
};

TEST_F(FileDeviceMediumTest, AFullFileSystemIsNoSpaceAndReadsStillWork) {
  const SmallFileSystem full(directory_ / "full");
  if (!full.is_mounted()) GTEST_SKIP() << "mounting needs root";
  const std::string path = directory_ / "full/disk";
  close(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  std::filesystem::resize_file(path, 8 * kMiB);
  auto device = OpenCached(path);
  std::vector<std::byte> bytes(2 * kMiB, std::byte{5});
  EXPECT_EQ(Do(*device, IoRequest::Write(Sector(0), bytes)), IoStatus::kNoSpace);
  std::vector<std::byte> found(4096);
  EXPECT_EQ(Do(*device, IoRequest::Read(Sector(0), found)), IoStatus::kOk);
  EXPECT_EQ(found[0], std::byte{5});
  // Room again.
  EXPECT_EQ(Do(*device, IoRequest::Discard(Sector(0), SectorCount(4096))), IoStatus::kOk);
  EXPECT_EQ(Do(*device, IoRequest::Write(Sector(9000), std::span(bytes).first(4096))),
            IoStatus::kOk);
}

// A disk that promises more than it has: what the page cache took does not fit when it is written.
TEST_F(FileDeviceMediumTest, DataThatTheMediumLostIsToldToEveryoneWhoFlushes) {
  const SmallFileSystem full(directory_ / "full");
  if (!full.is_mounted()) GTEST_SKIP() << "mounting needs root";
  const std::string path = directory_ / "full/disk";
  close(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  std::filesystem::resize_file(path, 8 * kMiB);
  const LoopDevice loop(path, 512);
  if (!loop.is_there()) GTEST_SKIP() << "no loop device: not root, or none in this container";
  auto device = OpenCached(loop.path());
  std::vector<std::byte> bytes(4 * kMiB, std::byte{5});
  EXPECT_EQ(Do(*device, IoRequest::Write(Sector(0), bytes)), IoStatus::kOk);
  EXPECT_NE(Do(*device, IoRequest::Flush()), IoStatus::kOk);
  // The kernel has told it once; here whoever asks next had data in there, too.
  EXPECT_NE(Do(*device, IoRequest::Flush()), IoStatus::kOk);
  IoRequest through = IoRequest::Write(Sector(0), std::span(bytes).first(4096));
  through.force_unit_access = true;
  EXPECT_NE(Do(*device, through), IoStatus::kOk);
  EXPECT_EQ(Do(*OpenCached(loop.path()), IoRequest::Flush()), IoStatus::kOk);
}

// An ext4 on which every change waits until it goes.
class FrozenFileSystem {
 public:
  FrozenFileSystem(const TestDirectory& directory, const std::string& file)
      : place_(directory / "frozen"),
        image_(directory.MakeFile("image", 32 * kMiB)),
        loop_(image_, 512) {
    std::filesystem::create_directory(place_);
    if (!loop_.is_there()) return;
    if (std::system(absl::StrCat("/sbin/mkfs.ext4 -q ", loop_.path()).c_str()) != 0) return;
    if (mount(loop_.path().c_str(), place_.c_str(), "ext4", MS_NOSUID | MS_NODEV, "") != 0) return;
    root_ = open(place_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const std::string path = place_ + "/" + file;
    close(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    std::filesystem::resize_file(path, 8 * kMiB);
  }
  FrozenFileSystem(const FrozenFileSystem&) = delete;
  FrozenFileSystem& operator=(const FrozenFileSystem&) = delete;
  ~FrozenFileSystem() {
    Thaw();
    if (root_ < 0) return;
    close(root_);
    umount2(place_.c_str(), MNT_DETACH);
  }
  bool is_mounted() const { return root_ >= 0; }
  void Freeze() { frozen_ = ioctl(root_, FIFREEZE, 0) == 0; }
  bool frozen() const { return frozen_; }
  void Thaw() {
    if (std::exchange(frozen_, false)) ioctl(root_, FITHAW, 0);
  }

 private:
  const std::string place_, image_;
  const LoopDevice loop_;
  int root_ = -1;
  bool frozen_ = false;
};

struct Hanging {
  Gate gate;
  int failed = 0;

  static Task<void> Discard(Hanging& all, BlockDevice& device, Sector place) {
    Gate::Pass pass(all.gate);
    const IoStatus status = co_await device.Submit(IoRequest::Discard(place, SectorCount(8)));
    if (status != IoStatus::kOk) ++all.failed;
  }
};

TEST_F(FileDeviceMediumTest, ADeviceThatHangsLeavesTheRingsThreadsToOthers) {
  FrozenFileSystem frozen(directory_, "disk");
  if (!frozen.is_mounted()) GTEST_SKIP() << "mounting an ext4 needs root and a loop device";
  auto device = OpenCached(directory_ / "frozen/disk");
  auto healthy = OpenCached(directory_.MakeFile("healthy", kMiB));
  frozen.Freeze();
  ASSERT_TRUE(frozen.frozen());
  Hanging hanging;
  constexpr uint64_t kRequests = 2 * kRingWorkers;
  pool_->OnEach([&](Reactor&) {
    for (uint64_t i = 0; i < kRequests; ++i) {
      Detach(Hanging::Discard(hanging, *device, Sector(8 * i)));
    }
  });
  // Or the test hangs here.
  EXPECT_EQ(Do(*healthy, IoRequest::Flush()), IoStatus::kOk);
  frozen.Thaw();
  pool_->RunOn(0, [&] {
    hanging.gate.Close();
    return hanging.gate.Drained();
  });
  EXPECT_EQ(hanging.failed, 0);
}

}  // namespace
}  // namespace sectormap
