// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/region_states.h"

namespace sectormap::targets {

RegionStates::RegionStates(uint64_t count, LegSet all)
    : count_(count), all_(all), words_(new std::atomic<uint32_t>[count]) {
  const uint32_t first = WithLegs(0, LegSet::Only(0));
  for (uint64_t region = 0; region < count; ++region) {
    words_[region].store(first, std::memory_order_relaxed);
  }
}

LegSet RegionStates::KeepOnly(uint64_t region, LegSet took) {
  uint32_t word = Word(region);
  while (true) {
    const LegSet before = LegsOf(word);
    const LegSet kept = before & took;
    const LegSet after = kept.empty() ? LegSet::Only(before.first()) : kept;
    if (words_[region].compare_exchange_weak(word, WithLegs(word, after), std::memory_order_acq_rel,
                                             std::memory_order_relaxed)) {
      CountSync(before, after);
      return kept;
    }
  }
}

bool RegionStates::TryClean(uint64_t region, bool force) {
  uint32_t word = Word(region);
  while (true) {
    if ((word & (kCountMask | kBlocked)) != 0 || (word & kDirty) == 0 || LegsOf(word) != all_) {
      return false;
    }
    const bool stays = (word & kTouched) != 0 && !force;
    const uint32_t next = word & ~(stays ? kTouched : kTouched | kDirty);
    if (words_[region].compare_exchange_weak(word, next, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
      return !stays;
    }
  }
}

void RegionStates::AddLegs(uint64_t region, LegSet legs) {
  uint32_t word = Word(region);
  while (!words_[region].compare_exchange_weak(word, WithLegs(word, LegsOf(word) | legs),
                                               std::memory_order_acq_rel,
                                               std::memory_order_relaxed)) {
  }
  CountSync(LegsOf(word), LegsOf(word) | legs);
}

void RegionStates::Reset(uint64_t region, LegSet legs, bool dirty) {
  CHECK(writes(region) == 0);
  const LegSet before = LegsOf(Word(region));
  words_[region].store(WithLegs(dirty ? kDirty : 0, legs), std::memory_order_release);
  CountSync(before, legs);
}

}  // namespace sectormap::targets
