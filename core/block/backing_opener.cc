// SPDX-License-Identifier: Apache-2.0
#include "core/block/backing_opener.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/descriptor.h"
#include "core/base/reserved_descriptors.h"
#include "core/base/status_macros.h"
#include "core/block/memory_device.h"
#include "core/block/memory_name.h"
#include "core/block/open_error.h"

namespace sectormap {
namespace {

// Of a file that the daemon makes: nobody else's.
constexpr mode_t kFileMode = 0600;

absl::Status FileError(const char* verb, const std::string& name, int error) {
  const std::string reason = absl::StrCat("cannot ", verb, " '", name, "': ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(reason);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(reason);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(reason);
    case EINVAL:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(
          absl::StrCat(reason, ": its file system takes no such name or size"));
    default:
      return absl::UnavailableError(reason);
  }
}

// Beyond this an off_t is negative.
absl::Status CheckFileSize(const std::string& name, SectorCount size) {
  if (size <= kMaxDeviceSectors) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' cannot have ", size.value(),
                                                 " sectors: a file has at most ",
                                                 kMaxDeviceSectors.value()));
}

// Empty, with errno set, if there is nothing or it may not be seen.
std::optional<std::string> RealPath(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return std::nullopt;
  std::string result(resolved);
  std::free(resolved);
  return result;
}

// The part of `path` below `root`, both without links; empty if it is not below. Whole components
// count: /srv/disks2 is not below /srv/disks.
std::string PartBelow(const std::string& path, const std::string& root) {
  const std::string prefix = root == "/" ? root : root + "/";
  if (!path.starts_with(prefix)) return "";
  return path.substr(prefix.size());
}

// No link is followed and no way leads out of `directory`: what was true when the path was resolved
// is still true, or the open fails.
int OpenBeneath(int directory, const std::string& part, int flags) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  for (;;) {
    const long fd = syscall(SYS_openat2, directory, part.c_str(), &how, sizeof how);
    // EAGAIN: something was renamed meanwhile; openat2(2) says to try again.
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return static_cast<int>(fd);
  }
}

int OpenForIo(int directory, const std::string& part, bool read_only) {
  const int flags = (read_only ? O_RDONLY : O_RDWR) | O_NOCTTY | O_NONBLOCK;
  // When a LUN was last read is nobody's business, and noting it costs each read a look, and the
  // file system writes. Only the file's owner and root may ask for that.
  const int fd = OpenBeneath(directory, part, flags | O_NOATIME);
  return fd < 0 && errno == EPERM ? OpenBeneath(directory, part, flags) : fd;
}

absl::Status Replaced(const std::string& name) {
  return absl::UnavailableError(
      absl::StrCat("'", name, "' was replaced while it was being opened; try again"));
}

// Reading is enough: the kernel claims for both. What claims does no I/O, as who reads may become
// one who writes (AllowWrites), and the claim stays.
absl::StatusOr<int> OpenExclusively(int directory, const std::string& part, dev_t device,
                                    const std::string& name, bool read_only) {
  Descriptor opened(OpenBeneath(directory, part, O_RDONLY | O_EXCL | O_NOCTTY | O_NONBLOCK));
  struct stat found {};
  if (opened.get() < 0 || fstat(opened.get(), &found) != 0) {
    return OpenError(name, read_only, errno);
  }
  if (!S_ISBLK(found.st_mode) || found.st_rdev != device) return Replaced(name);
  return opened.Release();
}

// In this order: the claim goes after what it is for.
struct ClaimedDevice {
  std::shared_ptr<const DeviceClaims::Claim> claim;  // null: of a file
  std::unique_ptr<FileDevice> device;
};

absl::Status CheckRoots(const std::vector<std::string>& roots) {
  for (const std::string& root : roots) {
    if (!root.starts_with('/')) {
      return absl::InvalidArgumentError(
          absl::StrCat("--device-root '", root, "' is not an absolute path"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

struct BackingOpener::Opened {
  Descriptor descriptor;
  std::string path;
  Identity identity;
  std::shared_ptr<const DeviceClaims::Claim> claim;
};

absl::StatusOr<std::unique_ptr<BackingOpener>> BackingOpener::Create(Options options) {
  RETURN_IF_ERROR(CheckRoots(options.device_roots));
  return std::unique_ptr<BackingOpener>(new BackingOpener(std::move(options)));
}

absl::Status BackingOpener::SetDeviceRoots(std::vector<std::string> roots) {
  RETURN_IF_ERROR(CheckRoots(roots));
  absl::MutexLock lock(&mutex_);
  device_roots_ = std::move(roots);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<BlockDevice>> BackingOpener::Open(std::string_view name,
                                                                 bool read_only) {
  const std::string text(name);
  if (name.starts_with(kMemoryPrefix)) return OpenMemory(text);
  if (!name.starts_with('/') || name.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is neither an absolute path nor mem:SIZE"));
  }
  return OpenFile(text, read_only);
}

absl::StatusOr<std::shared_ptr<BlockDevice>> BackingOpener::OpenMemory(const std::string& name) {
  ASSIGN_OR_RETURN(const SectorCount size, ParseMemoryName(name));
  absl::MutexLock lock(&mutex_);
  if (std::shared_ptr<CountedDevice> device = FindOpen({.memory = name})) return device;
  ASSIGN_OR_RETURN(std::shared_ptr<CountedDevice> device, MemoryDevice::Create(size));
  Remember({.memory = name}, name, device);
  return device;
}

absl::StatusOr<std::shared_ptr<BlockDevice>> BackingOpener::OpenFile(const std::string& name,
                                                                     bool read_only) {
  // Whatever may wait for a disk is done before the lock, so that one that hangs keeps no other
  // from being opened.
  ASSIGN_OR_RETURN(Opened opened, OpenBelowRoots(name, read_only));
  FileDevice::Options options;
  options.mode = opened.identity.block_device ? options_.block_device_mode : options_.file_mode;
  // A device that stays open leaves the reserve alone.
  const absl::Status room =
      IsReserved(opened.descriptor.get()) ? OpenError(name, read_only, EMFILE) : absl::OkStatus();
  Descriptor again(fcntl(opened.descriptor.get(), F_DUPFD_CLOEXEC, 0));
  if (again.get() < 0) return OpenError(name, read_only, errno);
  ASSIGN_OR_RETURN(std::unique_ptr<FileDevice> adopted,
                   FileDevice::Adopt(std::move(opened.descriptor), name, read_only, options));
  const auto claimed = std::make_shared<ClaimedDevice>(std::move(opened.claim), std::move(adopted));
  const std::shared_ptr<FileDevice> fresh(claimed, claimed->device.get());

  absl::MutexLock lock(&mutex_);
  const std::shared_ptr<CountedDevice> known = FindOpen(opened.identity);
  if (known == nullptr) {
    RETURN_IF_ERROR(room);
    Remember(opened.identity, opened.path, fresh);
    return fresh;
  }
  // What has a file's identity is a FileDevice.
  auto& file = static_cast<FileDevice&>(*known);
  if (!read_only && file.read_only()) {
    RETURN_IF_ERROR(room);
    RETURN_IF_ERROR(file.AllowWrites(std::move(again)));
  }
  RETURN_IF_ERROR(file.RefreshSize());
  return known;
}

struct BackingOpener::Root {
  std::string name;
  std::string path;
};

absl::StatusOr<BackingOpener::Root> BackingOpener::RootOf(const std::string& name,
                                                          const std::string& path) const {
  std::vector<std::string> roots;
  {
    absl::MutexLock lock(&mutex_);
    roots = device_roots_;
  }
  for (const std::string& root : roots) {
    std::optional<std::string> real_root = RealPath(root);
    if (real_root.has_value() && !PartBelow(path, *real_root).empty()) {
      return Root{root, *std::move(real_root)};
    }
  }
  return OutsideRoots(name, path, roots);
}

absl::StatusOr<BackingOpener::Opened> BackingOpener::OpenBelowRoots(const std::string& name,
                                                                    bool read_only) {
  const std::optional<std::string> path = RealPath(name);
  if (!path.has_value()) return OpenError(name, read_only, errno);
  ASSIGN_OR_RETURN(const Root root, RootOf(name, *path));
  const std::string part = PartBelow(*path, root.path);
  const Descriptor directory(open(root.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return OpenError(root.name, true, errno);
  // O_PATH first: opening a tape or a FIFO would have effects.
  const Descriptor seen(OpenBeneath(directory.get(), part, O_PATH));
  struct stat before {};
  if (seen.get() < 0 || fstat(seen.get(), &before) != 0) return OpenError(name, read_only, errno);
  if (!S_ISREG(before.st_mode) && !S_ISBLK(before.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' is neither a regular file nor a block device"));
  }
  std::shared_ptr<const DeviceClaims::Claim> claim;
  if (S_ISBLK(before.st_mode)) {
    ASSIGN_OR_RETURN(claim, claims_.Take(before.st_rdev, [&] {
      return OpenExclusively(directory.get(), part, before.st_rdev, name, read_only);
    }));
  }
  Descriptor opened(OpenForIo(directory.get(), part, read_only));
  struct stat after {};
  if (opened.get() < 0 || fstat(opened.get(), &after) != 0) {
    return OpenError(name, read_only, errno);
  }
  if (before.st_dev != after.st_dev || before.st_ino != after.st_ino) return Replaced(name);
  const bool block_device = S_ISBLK(after.st_mode);
  const Identity identity{.block_device = block_device,
                          .device = block_device ? after.st_rdev : after.st_dev,
                          .inode = block_device ? 0 : after.st_ino};
  return Opened{std::move(opened), *path, identity, std::move(claim)};
}

struct BackingOpener::Place {
  Descriptor directory;
  std::string file;  // one component
};

absl::StatusOr<BackingOpener::Place> BackingOpener::FindPlace(std::string_view name) const {
  const std::string text(name);
  const size_t slash = text.rfind('/');
  const std::string file = slash == std::string::npos ? "" : text.substr(slash + 1);
  if (!name.starts_with('/') || file.empty() || file == "." || file == ".." ||
      name.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not an absolute path of a file"));
  }
  const std::string parent = slash == 0 ? "/" : text.substr(0, slash);
  const std::optional<std::string> path = RealPath(parent);
  if (!path.has_value()) return OpenError(parent, true, errno);
  RETURN_IF_ERROR(RootOf(text, absl::StrCat(*path, "/", file)).status());
  Descriptor directory(open(path->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (directory.get() < 0) return OpenError(parent, true, errno);
  return Place{std::move(directory), file};
}

absl::Status BackingOpener::MakeFile(std::string_view name, SectorCount size) {
  ASSIGN_OR_RETURN(const Place place, FindPlace(name));
  const std::string text(name);
  RETURN_IF_ERROR(CheckFileSize(text, size));
  const Descriptor fd(openat(place.directory.get(), place.file.c_str(),
                             O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (fd.get() < 0 && errno == EEXIST) {
    return absl::AlreadyExistsError(absl::StrCat("'", text, "' exists already"));
  }
  if (fd.get() < 0) return FileError("make", text, errno);
  if (ftruncate(fd.get(), static_cast<off_t>(Bytes(size).value())) != 0 || fsync(fd.get()) != 0 ||
      fsync(place.directory.get()) != 0) {
    const int error = errno;
    unlinkat(place.directory.get(), place.file.c_str(), 0);
    return FileError("make", text, error);
  }
  return absl::OkStatus();
}

absl::Status BackingOpener::GrowFile(std::string_view name, SectorCount size) {
  const std::string text(name);
  RETURN_IF_ERROR(CheckFileSize(text, size));
  {
    ASSIGN_OR_RETURN(const Opened opened, OpenBelowRoots(text, false));
    struct stat now {};
    if (opened.identity.block_device) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", text, "' is a block device: it cannot be made larger from here"));
    }
    if (fstat(opened.descriptor.get(), &now) != 0) return FileError("grow", text, errno);
    const auto bytes = static_cast<off_t>(Bytes(size).value());
    if (now.st_size < bytes &&
        (ftruncate(opened.descriptor.get(), bytes) != 0 || fsync(opened.descriptor.get()) != 0)) {
      return FileError("grow", text, errno);
    }
  }
  // Whoever has it open has the same device, and sees its new size.
  return OpenFile(text, false).status();
}

absl::Status BackingOpener::RemoveFile(std::string_view name) {
  ASSIGN_OR_RETURN(const Place place, FindPlace(name));
  if (unlinkat(place.directory.get(), place.file.c_str(), 0) != 0 && errno != ENOENT) {
    return FileError("remove", std::string(name), errno);
  }
  return fsync(place.directory.get()) == 0 ? absl::OkStatus()
                                           : FileError("remove", std::string(name), errno);
}

absl::Status BackingOpener::OutsideRoots(const std::string& name, const std::string& path,
                                         const std::vector<std::string>& roots) {
  const std::string subject =
      name == path ? absl::StrCat("'", name, "'") : absl::StrCat("'", name, "' (", path, ")");
  if (roots.empty()) {
    return absl::PermissionDeniedError(
        absl::StrCat(subject,
                     " may not be used: no directory is allowed; name one with "
                     "--device-root"));
  }
  return absl::PermissionDeniedError(
      absl::StrCat(subject, " lies outside of ", absl::StrJoin(roots, ", "),
                   ": move it there, or allow its directory with --device-root"));
}

std::vector<BackingOpener::Backing> BackingOpener::List() {
  std::vector<Backing> backings;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [identity, entry] : entries_) {
      if (std::shared_ptr<CountedDevice> device = entry.device.lock()) {
        backings.push_back({entry.name, std::move(device)});
      }
    }
  }
  std::ranges::sort(backings, {}, &Backing::name);
  return backings;
}

std::shared_ptr<CountedDevice> BackingOpener::FindOpen(const Identity& identity) const {
  const auto found = entries_.find(identity);
  return found == entries_.end() ? nullptr : found->second.device.lock();
}

void BackingOpener::Remember(const Identity& identity, const std::string& name,
                             const std::shared_ptr<CountedDevice>& device) {
  if (entries_.size() >= forget_at_) ForgetUnused();
  entries_.insert_or_assign(identity, Entry{name, device});
}

void BackingOpener::ForgetUnused() {
  absl::erase_if(entries_, [](const auto& entry) { return entry.second.device.expired(); });
  forget_at_ = std::max(kForgetAtLeast, 2 * entries_.size());
}

}  // namespace sectormap
