// SPDX-License-Identifier: Apache-2.0
// LowDescriptorLimit: while it lives, what the process opens takes reserved descriptors.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <vector>

namespace sectormap {

class LowDescriptorLimit {
 public:
  LowDescriptorLimit() {
    do {
      held_.push_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
    } while (held_.back() >= 0 && held_.back() < kOpenAtLeast);
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    // A quarter of the limit is reserved: all that is left, enough to open a file.
    const auto used = static_cast<rlim_t>(held_.back());
    const rlimit low{used + used / 3, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  }
  ~LowDescriptorLimit() {
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before_), 0);
    for (const int fd : held_) close(fd);
  }
  LowDescriptorLimit(const LowDescriptorLimit&) = delete;
  LowDescriptorLimit& operator=(const LowDescriptorLimit&) = delete;

 private:
  static constexpr int kOpenAtLeast = 30;

  std::vector<int> held_;
  rlimit before_{};
};

}  // namespace sectormap
