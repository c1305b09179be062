// SPDX-License-Identifier: Apache-2.0
// StateLock: one daemon per state directory. A lock on an open file, which the kernel drops when
// the process dies, however it dies; the file names the holder for whoever comes second.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace sectormap::state {

inline constexpr char kLockFileName[] = "sectormapd.pid";

class StateLock {
 public:
  // Makes the directory (mode 0700, and its parents) if it is missing. Unavailable: another daemon
  // holds it; PermissionDenied, ResourceExhausted, FailedPrecondition (not a directory).
  static absl::StatusOr<StateLock> Acquire(const std::string& directory);

  StateLock(StateLock&& other) noexcept;
  StateLock& operator=(StateLock&&) = delete;
  ~StateLock();

 private:
  explicit StateLock(int fd) : fd_(fd) {}

  int fd_;
};

}  // namespace sectormap::state
