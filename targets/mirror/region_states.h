// SPDX-License-Identifier: Apache-2.0
// RegionStates: one word for each region of a mirror: which legs hold its data, whether its dirty
// mark is durable, how many writes are in flight. A write to a region that may be written costs two
// atomic operations and no lock.
//
// States, in the kernel's words (drivers/md/dm-region-hash.c):
//   CLEAN       in sync (all legs), not dirty
//   DIRTY       in sync, dirty: the log's bit is durably 0, writes may go on
//   NOSYNC      some legs only hold the data; always dirty. Writes go to those, and reads
//   RECOVERING  NOSYNC and blocked: no write may enter
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/base/check.h"
#include "targets/mirror/leg_set.h"

namespace sectormap::targets {

class RegionStates {
 public:
  // No region is in sync: leg 0 holds the data. None is dirty.
  RegionStates(uint64_t count, LegSet all);

  uint64_t count() const { return count_; }

  // --- Any thread ---

  LegSet legs(uint64_t region) const {
    return LegsOf(words_[region].load(std::memory_order_acquire));
  }
  bool in_sync(uint64_t region) const { return legs(region) == all_; }
  uint64_t in_sync_count() const { return in_sync_.load(); }

  // Lets a write in and says which legs it has to go to; Leave() must follow. Empty: not now, since
  // the region is not dirty, or blocked.
  LegSet TryEnter(uint64_t region) {
    std::atomic<uint32_t>& state = words_[region];
    uint32_t word = state.load(std::memory_order_relaxed);
    while ((word & (kDirty | kBlocked)) == kDirty) {
      if (state.compare_exchange_weak(word, (word | kTouched) + 1, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        return LegsOf(word);
      }
    }
    return LegSet();
  }
  // True: it was the last one in a region that is blocked, so that somebody may be waiting.
  bool Leave(uint64_t region) {
    const uint32_t before = words_[region].fetch_sub(1, std::memory_order_release);
    return (before & (kCountMask | kBlocked)) == (kBlocked | 1);
  }

  // After a write that only the legs in `took` have: these hold everything, if they did before.
  // Empty: no leg does; then the region's first leg counts, whose sectors of that write may be old
  // or new.
  LegSet KeepOnly(uint64_t region, LegSet took);

  // --- One thread at a time (the mirror's home) ---

  bool dirty(uint64_t region) const { return (Word(region) & kDirty) != 0; }
  uint32_t writes(uint64_t region) const {
    return words_[region].load(std::memory_order_acquire) & kCountMask;
  }
  bool blocked(uint64_t region) const { return (Word(region) & kBlocked) != 0; }

  // Writes may enter from now on. False: they could before.
  bool SetDirty(uint64_t region) {
    return (words_[region].fetch_or(kDirty | kTouched, std::memory_order_release) & kDirty) == 0;
  }
  // Ends the dirty time of a region that is in sync and has no write in flight; true if so. Without
  // `force`, one that was written to since it was last asked about stays dirty.
  bool TryClean(uint64_t region, bool force);

  void Block(uint64_t region) { words_[region].fetch_or(kBlocked, std::memory_order_acquire); }
  void Unblock(uint64_t region) { words_[region].fetch_and(~kBlocked, std::memory_order_release); }

  // They hold the region's data too. REQUIRES: blocked without writes.
  void AddLegs(uint64_t region, LegSet legs);
  // REQUIRES: no I/O at all.
  void Reset(uint64_t region, LegSet legs, bool dirty);

 private:
  static constexpr uint32_t kCountMask = (1u << 20) - 1;  // the buffers of a million writes
  static constexpr int kLegsShift = 20;
  static constexpr uint32_t kLegsMask = ((1u << kLegsMax) - 1) << kLegsShift;
  static constexpr uint32_t kDirty = 1u << 29;
  static constexpr uint32_t kBlocked = 1u << 30;
  static constexpr uint32_t kTouched = 1u << 31;
  static_assert(kLegsShift + kLegsMax == 29);

  static LegSet LegsOf(uint32_t word) {
    return LegSet(static_cast<uint16_t>((word & kLegsMask) >> kLegsShift));
  }
  static uint32_t WithLegs(uint32_t word, LegSet legs) {
    return (word & ~kLegsMask) | static_cast<uint32_t>(legs.bits()) << kLegsShift;
  }
  uint32_t Word(uint64_t region) const { return words_[region].load(std::memory_order_relaxed); }
  // Ordered with what comes before and after (MirrorTarget::NoteAllTried).
  void CountSync(LegSet before, LegSet after) {
    if (before != all_ && after == all_) in_sync_.fetch_add(1);
    if (before == all_ && after != all_) in_sync_.fetch_sub(1);
  }

  const uint64_t count_;
  const LegSet all_;
  const std::unique_ptr<std::atomic<uint32_t>[]> words_;
  std::atomic<uint64_t> in_sync_{0};
};

}  // namespace sectormap::targets
