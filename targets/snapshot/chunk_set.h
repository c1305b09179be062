// SPDX-License-Identifier: Apache-2.0
// ChunkSet: chunk numbers in a bitmap that any thread asks without a lock. Every operation is
// sequentially consistent (Snapshot::Read counts on it).
//
// Memory: one bit for each chunk from 0 to its capacity, in pages that are taken when something in
// them is added: at most 8 MiB for 1 TiB in chunks of 16 KiB.
#pragma once

#include <atomic>
#include <cstdint>

namespace sectormap::targets {

// Larger sets are not worth their address space, 1 GiB: 128 TiB in chunks of 16 KiB.
inline constexpr uint64_t kChunkSetMax = uint64_t{1} << 33;

// Chunks that one question may be about: those of two words.
inline constexpr uint64_t kChunksAskedMax = 64;

class ChunkSet {
 public:
  // Of [0, chunks), or of less: what it has no room for is never added.
  explicit ChunkSet(uint64_t chunks);
  ChunkSet(const ChunkSet&) = delete;
  ChunkSet& operator=(const ChunkSet&) = delete;
  ~ChunkSet();

  // All, or none, of [first, first + count) are in the set. False too if it cannot tell: more than
  // kChunksAskedMax, or past the capacity. REQUIRES: count > 0.
  bool HasAll(uint64_t first, uint64_t count) const { return Is(first, count, 0); }
  bool HasNone(uint64_t first, uint64_t count) const { return Is(first, count, ~uint64_t{0}); }

  // As far as there is room.
  void Add(uint64_t first, uint64_t count);
  void Remove(uint64_t chunk);

  uint64_t capacity() const { return capacity_; }

 private:
  static constexpr uint64_t kWordBits = 64;

  std::atomic_ref<uint64_t> Word(uint64_t index) const {
    return std::atomic_ref<uint64_t>(words_[index]);
  }
  static uint64_t Ones(uint64_t count) { return ~uint64_t{0} >> (kWordBits - count); }

  // Whether all bits are set in the words with those of `turned` turned over.
  bool Is(uint64_t first, uint64_t count, uint64_t turned) const {
    if (count > kChunksAskedMax || first >= capacity_ || count > capacity_ - first) return false;
    const uint64_t bit = first % kWordBits;
    const uint64_t here = Ones(count) << bit;
    if (((Word(first / kWordBits) ^ turned) & here) != here) return false;
    if (bit + count <= kWordBits) return true;
    const uint64_t there = Ones(count) >> (kWordBits - bit);
    return ((Word(first / kWordBits + 1) ^ turned) & there) == there;
  }

  uint64_t* words_ = nullptr;
  uint64_t capacity_ = 0;  // whole words
};

}  // namespace sectormap::targets
