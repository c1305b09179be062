// SPDX-License-Identifier: Apache-2.0
// AlignedBytes: memory that O_DIRECT takes as it is, for copies that targets make in the
// background. (Commands' data lies in the reactor's BufferPool, which cannot run out.)
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "core/block/buffer_pool.h"

namespace sectormap {

// Owns its bytes. Any thread.
class AlignedBytes {
 public:
  // `size` in bytes; not cleared.
  explicit AlignedBytes(size_t size)
      : bytes_(static_cast<std::byte*>(
            ::operator new(std::max<size_t>(size, 1), std::align_val_t(kBufferAlignment)))),
        size_(size) {}

  std::span<std::byte> get() const { return {bytes_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const {
      ::operator delete(bytes, std::align_val_t(kBufferAlignment));
    }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  size_t size_;
};

}  // namespace sectormap
