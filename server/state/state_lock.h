// SPDX-License-Identifier: Apache-2.0
// StateLock: one daemon per state directory. Locks on the open directory and on a file in it, which
// the kernel drops when the process dies, however it dies. The file, whose name anybody may take
// away, names the holder for whoever comes second.
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
  explicit StateLock(int directory) : directory_(directory) {}

  int directory_;
  int file_ = -1;
};

}  // namespace sectormap::state
