// SPDX-License-Identifier: Apache-2.0
#include "server/state/state_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace sectormap::state {
namespace {

constexpr mode_t kDirectoryMode = 0700;  // CHAP secrets are inside
constexpr mode_t kFileMode = 0600;
constexpr size_t kPidTextMax = 32;

absl::Status DirectoryError(const std::string& directory, int error) {
  const std::string what =
      absl::StrCat("state directory ", directory, " cannot be used: ", std::strerror(error));
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(absl::StrCat(
          what, "; make it writable for this user or choose another with --state-dir DIR"));
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(
          absl::StrCat(what, "; free space there or choose another with --state-dir DIR"));
    default:
      return absl::FailedPreconditionError(
          absl::StrCat(what, "; choose another with --state-dir DIR"));
  }
}

absl::Status MakeDirectory(const std::string& directory) {
  for (size_t end = directory.find('/', 1); true; end = directory.find('/', end + 1)) {
    const std::string part = directory.substr(0, end);
    if (mkdir(part.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
      // A parent above us may be closed to us and the rest there all the same.
      struct stat info {};
      const int error = errno;
      if (stat(part.c_str(), &info) != 0) return DirectoryError(directory, error);
    }
    if (end == std::string::npos) break;
  }
  struct stat info {};
  if (stat(directory.c_str(), &info) != 0) return DirectoryError(directory, errno);
  if (!S_ISDIR(info.st_mode)) return DirectoryError(directory, ENOTDIR);
  // Where every file is there already, the first that has to be made would say so: the database's
  // log, or the control socket.
  if (access(directory.c_str(), R_OK | W_OK | X_OK) != 0) return DirectoryError(directory, errno);
  return absl::OkStatus();
}

// Empty if the file does not say.
std::string ReadHolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return "";
  char text[kPidTextMax];
  const ssize_t length = read(fd, text, sizeof text);
  close(fd);
  if (length <= 0) return "";
  std::string holder(text, length);
  absl::StripAsciiWhitespace(&holder);
  return holder;
}

absl::Status Lock(int fd, const std::string& directory, const std::string& pid_path) {
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) return DirectoryError(directory, errno);
  const std::string holder = ReadHolder(pid_path);
  const std::string who = holder.empty()
                              ? absl::StrCat(" (", pid_path, " does not say which: lsof does)")
                              : absl::StrCat(", process ", holder, " (it holds ", pid_path, ")");
  return absl::UnavailableError(
      absl::StrCat("state directory ", directory, " is in use by another sectormapd", who,
                   "; stop that one first, or choose another directory with --state-dir DIR"));
}

}  // namespace

absl::StatusOr<StateLock> StateLock::Acquire(const std::string& directory) {
  if (directory.empty()) {
    return absl::InvalidArgumentError("the state directory has no name; give --state-dir DIR");
  }
  RETURN_IF_ERROR(MakeDirectory(directory));
  const std::string path = absl::StrCat(directory, "/", kLockFileName);
  StateLock lock(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock.directory_ < 0) return DirectoryError(directory, errno);
  RETURN_IF_ERROR(Lock(lock.directory_, directory, path));
  lock.file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode);
  if (lock.file_ < 0) return DirectoryError(directory, errno);
  // A daemon of an earlier version holds the file alone.
  RETURN_IF_ERROR(Lock(lock.file_, directory, path));
  // Who holds it is information only; the lock does not depend on it.
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(lock.file_, 0) != 0 || pwrite(lock.file_, pid.data(), pid.size(), 0) < 0) {
    return DirectoryError(directory, errno);
  }
  return lock;
}

StateLock::StateLock(StateLock&& other) noexcept
    : directory_(std::exchange(other.directory_, -1)), file_(std::exchange(other.file_, -1)) {}

StateLock::~StateLock() {
  for (const int fd : {file_, directory_}) {
    if (fd >= 0) close(fd);
  }
}

}  // namespace sectormap::state
