// SPDX-License-Identifier: Apache-2.0
// LoopDevice: a block device over a file, for root only and not in every container (is_there()).
#pragma once

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace sectormap {

class LoopDevice {
 public:
  LoopDevice(const std::string& file, uint32_t block_bytes)
      : file_(open(file.c_str(), O_RDWR | O_CLOEXEC)) {
    const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    // Somebody else may take the free one first.
    for (int tries = 0; control >= 0 && tries < 8 && device_ < 0; ++tries) {
      const int number = ioctl(control, LOOP_CTL_GET_FREE);
      if (number < 0) break;
      path_ = absl::StrCat("/dev/loop", number);
      const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
      if (fd < 0) break;
      loop_config config{};
      config.fd = static_cast<uint32_t>(file_);
      config.block_size = block_bytes;
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
        device_ = fd;
      } else {
        close(fd);
      }
    }
    if (control >= 0) close(control);
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice() {
    if (device_ >= 0) close(device_);
    if (file_ >= 0) close(file_);
  }
  bool is_there() const { return device_ >= 0; }
  const std::string& path() const { return path_; }

 private:
  const int file_;
  int device_ = -1;
  std::string path_;
};

}  // namespace sectormap
