// SPDX-License-Identifier: Apache-2.0
#include "core/block/medium.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace sectormap {
namespace {

// Where a kernel or file system does not say what O_DIRECT needs (statx(2) STATX_DIOALIGN came with
// Linux 6.1): enough for every medium known.
constexpr uint32_t kSafeDirectBytes = 4096;

absl::Status IoctlError(const std::string& name) {
  return absl::UnavailableError(
      absl::StrCat("'", name, "' does not answer: ", std::strerror(errno)));
}

// A number in /sys/dev/block/MAJOR:MINOR/queue; a partition's queue is its disk's. 0 if not there.
uint64_t QueueAttribute(dev_t device, const char* attribute) {
  const std::string base = absl::StrCat("/sys/dev/block/", major(device), ":", minor(device));
  for (const char* place : {"/queue/", "/../queue/"}) {
    std::ifstream file(absl::StrCat(base, place, attribute));
    uint64_t value = 0;
    if (file >> value) return value;
  }
  return 0;
}

void ProbeDirect(int fd, Medium& medium) {
#ifdef STATX_DIOALIGN
  struct statx answer {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &answer) == 0 &&
      (answer.stx_mask & STATX_DIOALIGN) != 0) {
    medium.direct_block_bytes = answer.stx_dio_offset_align;
    medium.direct_memory_bytes = answer.stx_dio_mem_align;
    return;
  }
#endif
  const int flags = fcntl(fd, F_GETFL);
  if (fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return;
  static_cast<void>(fcntl(fd, F_SETFL, flags));
  medium.direct_block_bytes = kSafeDirectBytes;
  medium.direct_memory_bytes = kSafeDirectBytes;
}

bool KnowsNowait(int fd) {
  char byte = 0;
  const iovec piece{&byte, 1};
  return preadv2(fd, &piece, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

// Punching beyond the end of a file changes nothing in it, and fails as it would inside.
bool CanPunchHole(int fd, const struct stat& file) {
  const off_t beyond = (file.st_size + file.st_blksize) / file.st_blksize * file.st_blksize;
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, file.st_blksize) == 0;
}

absl::Status ProbeFile(int fd, bool writable, const struct stat& file, Medium& medium) {
  struct statfs file_system {};
  if (fstatfs(fd, &file_system) != 0) return absl::ErrnoToStatus(errno, "fstatfs");
  medium.in_memory =
      file_system.f_type == TMPFS_MAGIC || file_system.f_type == static_cast<long>(RAMFS_MAGIC);
  medium.can_punch_hole = writable && CanPunchHole(fd, file);
  // Writes of any size meet in the page cache, so its blocks are no concern of an initiator's; only
  // what a discard can free is (physical_block_bytes stays one sector).
  const auto block = static_cast<uint32_t>(std::clamp<blksize_t>(file.st_blksize, 512, 65536));
  medium.limits.discard_granularity_bytes = block;
  return absl::OkStatus();
}

absl::Status ProbeBlockDevice(int fd, bool writable, const struct stat& file, Medium& medium,
                              const std::string& name) {
  int logical = 0;
  unsigned physical = 0;
  unsigned smallest = 0;
  unsigned optimal = 0;
  if (ioctl(fd, BLKSSZGET, &logical) != 0 || ioctl(fd, BLKPBSZGET, &physical) != 0 ||
      ioctl(fd, BLKIOMIN, &smallest) != 0 || ioctl(fd, BLKIOOPT, &optimal) != 0) {
    return IoctlError(name);
  }
  medium.block_device = true;
  medium.limits.logical_block_bytes = static_cast<uint32_t>(logical);
  medium.limits.physical_block_bytes = std::max(physical, static_cast<unsigned>(logical));
  medium.limits.io_min_bytes = smallest;
  medium.limits.io_opt_bytes = optimal;
  // blkdev_fallocate() (block/fops.c) punches a hole by the device's own write-zeroes with
  // unmapping, and refuses where the device has none.
  medium.can_punch_hole = writable && QueueAttribute(file.st_rdev, "write_zeroes_max_bytes") > 0;
  const uint64_t granularity = QueueAttribute(file.st_rdev, "discard_granularity");
  medium.limits.discard_granularity_bytes =
      std::max(static_cast<uint32_t>(granularity), static_cast<uint32_t>(logical));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SectorCount> ProbeSize(int fd, const std::string& name) {
  struct stat file {};
  if (fstat(fd, &file) != 0) return IoctlError(name);
  uint64_t bytes = static_cast<uint64_t>(file.st_size);
  if (S_ISBLK(file.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes) != 0) return IoctlError(name);
  return std::min(WholeSectors(ByteCount(bytes)), kMaxDeviceSectors);
}

absl::StatusOr<Medium> ProbeMedium(int fd, bool writable, const std::string& name) {
  struct stat file {};
  if (fstat(fd, &file) != 0) return IoctlError(name);
  if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' is neither a regular file nor a block device"));
  }
  Medium medium;
  ASSIGN_OR_RETURN(medium.size, ProbeSize(fd, name));
  if (medium.size == SectorCount(0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' is smaller than one sector of ", kSectorBytes,
                     " bytes: give it a size first, as with `truncate --size=1G`"));
  }
  RETURN_IF_ERROR(S_ISBLK(file.st_mode) ? ProbeBlockDevice(fd, writable, file, medium, name)
                                        : ProbeFile(fd, writable, file, medium));
  ProbeDirect(fd, medium);
  medium.knows_nowait = medium.in_memory || KnowsNowait(fd);
  return medium;
}

}  // namespace sectormap
