// SPDX-License-Identifier: Apache-2.0
#include "core/block/open_error.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sectormap {

absl::Status OpenError(const std::string& name, bool read_only, int error) {
  const std::string reason =
      absl::StrCat("cannot open '", name, "' for ", read_only ? "reading" : "reading and writing",
                   ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(reason);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(absl::StrCat(
          reason, " (user id ", geteuid(), ")",
          read_only ? ""
                    : ": a table loaded read-only needs no writing, but to a snapshot's store"));
    case EINVAL:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(
          absl::StrCat(reason, ": no file can be reached by this name"));
    case EBUSY:
      return absl::FailedPreconditionError(
          absl::StrCat(reason,
                       ": it is mounted, or another program has it for itself (the kernel's device "
                       "mapper or md, LVM, another daemon); a disk and a partition of it exclude "
                       "each other, too"));
    case EMFILE:
      return absl::ResourceExhaustedError(
          absl::StrCat(reason, ": raise the limit, LimitNOFILE= in systemd's unit or ulimit -n"));
    default:
      return absl::UnavailableError(reason);
  }
}

}  // namespace sectormap
