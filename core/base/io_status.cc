// SPDX-License-Identifier: Apache-2.0
#include "core/base/io_status.h"

#include <cerrno>

namespace sectormap {

IoStatus FromErrno(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return IoStatus::kNoSpace;
    case EROFS:
    case EPERM:
    case EBADF:
      return IoStatus::kReadOnly;
    case EOPNOTSUPP:
    case ENOTTY:
    case ENOSYS:
      return IoStatus::kNotSupported;
    case ECANCELED:
      return IoStatus::kAborted;
    case ENODEV:
    case ENXIO:
      return IoStatus::kUnavailable;
    default:
      return IoStatus::kIoError;
  }
}

std::string_view ToString(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      return "ok";
    case IoStatus::kIoError:
      return "I/O error";
    case IoStatus::kOutOfRange:
      return "out of range";
    case IoStatus::kReadOnly:
      return "read-only";
    case IoStatus::kNoSpace:
      return "no space";
    case IoStatus::kNotSupported:
      return "not supported";
    case IoStatus::kAborted:
      return "aborted";
    case IoStatus::kRequeue:
      return "handed back by its target";
    case IoStatus::kUnavailable:
      return "unavailable";
  }
  return "unknown";
}

}  // namespace sectormap
