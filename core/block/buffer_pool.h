// SPDX-License-Identifier: Apache-2.0
// BufferPool: a reactor's memory for commands' data, of a fixed size decided at start, so that
// nothing on the I/O path can run out of memory: who finds the pool empty waits. Pages are touched
// only when used, so an idle daemon costs nothing.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

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
//
// A buddy allocator: a block is a power of two of kBufferAlignment, aligned to its own size within
// the region; a free block joins its free neighbour. So any mix of sizes that came back leaves
// whole largest blocks again. The last few blocks of each size that came back are spare: they are
// taken first, as they are in the caches, and join only when room is missing.
class BufferPool {
 public:
  // `capacity` is rounded up to whole largest buffers of `largest` bytes (a power of two, at least
  // kBufferAlignment).
  BufferPool(size_t capacity, size_t largest);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // REQUIRES: 0 < bytes <= largest; on a reactor's thread. Waits, first come first served, until
  // there is room: a large one that waits is not passed by small ones.
  Task<IoBuffer> Take(size_t bytes);
  // Empty if there is no room, or somebody is waiting for it.
  std::optional<IoBuffer> TryTake(size_t bytes);

  // What a buffer of so many bytes takes of the capacity.
  static size_t HeldBytes(size_t bytes) { return std::bit_ceil(std::max(bytes, kBufferAlignment)); }
  size_t capacity() const { return capacity_; }
  size_t largest() const { return kBufferAlignment << (class_count_ - 1); }
  // Counts whole blocks, as they are held. Any thread; to another than its reactor's a moment late.
  size_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  friend class IoBuffer;
  using Unit = uint32_t;  // a place in the region, in units of kBufferAlignment
  static constexpr Unit kNone = ~Unit{0};
  static constexpr uint8_t kNotFree = 0xff;
  static constexpr int kClassesMax = 20;  // largest blocks up to 2 GiB
  static constexpr int kSparesMax = 16;   // of a size: what one gathered send gives back

  struct Spares {
    int count = 0;
    std::array<Unit, kSparesMax> units;
  };

  // Where a free block begins; kept outside the region, whose pages stay untouched.
  struct Head {
    Unit next = kNone;
    Unit previous = kNone;
    uint8_t free_class = kNotFree;
  };
  struct Waiter;

  Task<IoBuffer> WaitFor(size_t bytes);
  IoBuffer TakeBlock(size_t bytes);
  Unit TakeFree(int size_class);
  void GiveFree(Unit unit, int size_class);
  bool GiveUpSpares();
  void Give(std::span<std::byte> bytes, uint8_t size_class);
  void ServeWaiters();
  void SetUsed(size_t bytes) { used_.store(bytes, std::memory_order_relaxed); }
  void Link(Unit unit, int size_class);
  void Unlink(Unit unit);

  const int class_count_;
  const size_t capacity_;
  std::byte* const region_;
  std::vector<Head> heads_;
  std::array<Unit, kClassesMax> free_;
  std::array<Spares, kClassesMax> spares_;
  std::atomic<size_t> used_{0};  // written on the reactor only: a plain store
  Waiter* first_waiter_ = nullptr;
  Waiter** last_waiter_ = &first_waiter_;
};

}  // namespace sectormap
