// SPDX-License-Identifier: Apache-2.0
#include "cli/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sectormap::cli {

absl::StatusOr<std::string> ReadSecretFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string message = absl::StrCat("secret file ", path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
  }
  const absl::Cleanup close_file = [fd] { close(fd); };

  struct stat about {};
  if (fstat(fd, &about) != 0) {
    return absl::InternalError(absl::StrCat("secret file ", path, ": ", std::strerror(errno)));
  }
  // Of the open file, so that nobody can swap it between the check and the read.
  if ((about.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("secret file ", path, ": every user of this machine can ",
                     (about.st_mode & S_IWOTH) != 0 ? "change" : "read", " it. Run `chmod 600 ",
                     path, "`, and take a new secret if somebody may have seen this one."));
  }

  std::string text(kSecretBytesMax + 1, '\0');
  size_t length = 0;
  while (length < text.size()) {
    const ssize_t got = read(fd, text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::InternalError(absl::StrCat("secret file ", path, ": ", std::strerror(errno)));
    }
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  if (length > kSecretBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("secret file ", path, ": longer than ",
                                                   kSecretBytesMax,
                                                   " bytes; it should hold the secret alone"));
  }
  text.resize(length);
  absl::string_view secret = text;
  if (absl::ConsumeSuffix(&secret, "\n")) absl::ConsumeSuffix(&secret, "\r");
  if (secret.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("secret file ", path, ": empty"));
  }
  if (secret.find('\n') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "secret file ", path, ": more than one line; it should hold the secret alone"));
  }
  return std::string(secret);
}

}  // namespace sectormap::cli
