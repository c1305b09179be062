// SPDX-License-Identifier: Apache-2.0
// BufferPool: a reactor's memory for commands' data, of a fixed size decided at start, so that
// nothing on the I/O path can run out of memory: who finds the pool empty waits. Pages are touched
// only when used, so an idle daemon costs nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/async/task.h"

namespace sectormap {

// Aligned for O_DIRECT on every medium.
inline constexpr size_t kBufferAlignment = 4096;

class BufferPool;

// One contiguous piece; gives itself back. Empty after a move. For its reactor only.
class IoBuffer {
 public:
  IoBuffer() = default;
  IoBuffer(IoBuffer&& other) noexcept;
  IoBuffer& operator=(IoBuffer&& other) noexcept;
  ~IoBuffer();

  std::span<std::byte> bytes() const { return bytes_; }
  explicit operator bool() const { return pool_ != nullptr; }

 private:
  friend class BufferPool;
  BufferPool* pool_ = nullptr;
  std::span<std::byte> bytes_;  // of the size asked for
  uint8_t size_class_ = 0;
};

// For one reactor. REQUIRES: every buffer has come back before it goes.
class BufferPool {
 public:
  // `capacity` is rounded up to whole largest buffers of `largest` bytes (a power of two).
  BufferPool(size_t capacity, size_t largest);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // REQUIRES: 0 < bytes <= largest. Waits, first come first served, until there is room.
  Task<IoBuffer> Take(size_t bytes);
  // Empty if there is no room, or somebody is waiting for it.
  std::optional<IoBuffer> TryTake(size_t bytes);

  size_t capacity() const;
  size_t used() const;
};

}  // namespace sectormap
