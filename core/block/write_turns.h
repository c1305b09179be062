// SPDX-License-Identifier: Apache-2.0
// WriteTurns: who changes the bytes of a part of a disk of RAM does so alone, so that writers of
// the same sectors leave the bytes of one of them in each. A part is whole sectors; far parts share
// a turn. A turn is as long as a copy of a part, or as the kernel needs to give or take its memory:
// nothing is awaited in one, and who finds it taken lets other threads run and tries again.
// Any thread.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

#include "core/base/simd.h"

namespace sectormap {

class WriteTurns {
  struct alignas(kCacheLineBytes) Turn {
    void Take() {
      while (taken.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
    }
    void Leave() { taken.store(false, std::memory_order_release); }

    std::atomic<bool> taken = false;
  };

 public:
  // So large that a turn, 2 to 4 ns, is nothing beside a copy of a part, and few requests are more.
  static constexpr size_t kPartBytes = 128 << 10;
  // So many that reactors seldom meet, each in a cache line of its own.
  static constexpr size_t kTurns = 64;
  static constexpr size_t kRoundBytes = kTurns * kPartBytes;  // in which no two parts share a turn

  // The length of what begins at `offset`, as far as it is in that part, or that round.
  static size_t InPart(size_t offset, size_t length) {
    return std::min(length, kPartBytes - offset % kPartBytes);
  }
  static size_t InRound(size_t offset, size_t length) {
    return std::min(length, kRoundBytes - offset % kRoundBytes);
  }

  // For a change of bytes that are all in one part. No thread holds two.
  class OfPart {
   public:
    OfPart(WriteTurns& turns, size_t offset) : turn_(turns.turns_[IndexOf(offset)]) {
      turn_.Take();
    }
    ~OfPart() { turn_.Leave(); }
    OfPart(const OfPart&) = delete;
    OfPart& operator=(const OfPart&) = delete;

   private:
    Turn& turn_;
  };

  // For a change of bytes that are all in one round and must be in one piece. They are taken in
  // order, so that no two such wait for each other.
  class OfRange {
   public:
    OfRange(WriteTurns& turns, size_t offset, size_t length)
        : turns_(turns.turns_), first_(IndexOf(offset)), last_(IndexOf(offset + length - 1)) {
      for (size_t i = first_; i <= last_; ++i) turns_[i].Take();
    }
    ~OfRange() {
      for (size_t i = first_; i <= last_; ++i) turns_[i].Leave();
    }
    OfRange(const OfRange&) = delete;
    OfRange& operator=(const OfRange&) = delete;

   private:
    std::array<Turn, kTurns>& turns_;
    const size_t first_;
    const size_t last_;
  };

 private:
  static size_t IndexOf(size_t offset) { return offset / kPartBytes % kTurns; }

  std::array<Turn, kTurns> turns_;
};

}  // namespace sectormap
