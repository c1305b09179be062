// SPDX-License-Identifier: Apache-2.0
// Descriptor: owns an open file descriptor, or none (negative, as a failed call returned it).
#pragma once

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sectormap {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  // errno stays, so that a failure can still be told.
  ~Descriptor() {
    if (fd_ < 0) return;
    const int error = errno;
    close(fd_);
    errno = error;
  }

  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

}  // namespace sectormap
