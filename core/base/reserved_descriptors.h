// SPDX-License-Identifier: Apache-2.0
// Descriptors that initiators and tables leave to the control plane, however many of them there
// are: gRPC's listener (1.51) never accepts again once accept(2) has found none.
#pragma once

#include <sys/resource.h>

#include <algorithm>

namespace sectormap {

// Calls of clients, scrapes, and what these read. Of a low limit no more than a quarter.
inline constexpr rlim_t kReservedDescriptors = 64;

// Whether `fd`, which has just been opened, is one of the last that the process may have: a new
// descriptor is the lowest free number. Any thread.
inline bool IsReserved(int fd) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  return static_cast<rlim_t>(fd) >=
         limit.rlim_cur - std::min(kReservedDescriptors, limit.rlim_cur / 4);
}

}  // namespace sectormap
