// SPDX-License-Identifier: Apache-2.0
#include "core/map/btree_index.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <new>
#include <vector>

#include "core/base/check.h"

namespace sectormap {
namespace {

template <typename Key>
constexpr size_t kKeysPerNode = kCacheLineBytes / sizeof(Key);
template <typename Key>
constexpr size_t kChildrenPerNode = kKeysPerNode<Key> + 1;

// Greater than every key that is looked for, so padding is never counted as less.
template <typename Key>
constexpr Key kInfinity = std::numeric_limits<Key>::max();

constexpr size_t DivideUp(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

void BtreeIndex::FreeLine::operator()(std::byte* line) const {
  ::operator delete[](line, std::align_val_t{kCacheLineBytes});
}

BtreeIndex::BtreeIndex(std::span<const uint64_t> ends, SimdLevel level) : rows_(ends.size()) {
  CHECK(!ends.empty() && ends.front() > 0);
  uint64_t all_ends = 0;
  for (uint64_t end : ends) all_ends |= end;
  shift_ = std::countr_zero(all_ends);
  if (ends.back() >> shift_ <= kInfinity<uint32_t>) {
    Build<uint32_t>(ends);
    ChooseFind<uint32_t>(level);
  } else {
    Build<uint64_t>(ends);
    ChooseFind<uint64_t>(level);
  }
}

template <typename Key>
void BtreeIndex::Build(std::span<const uint64_t> ends) {
  std::vector<size_t> counts{DivideUp(ends.size(), kKeysPerNode<Key>)};  // leaves first
  while (counts.back() > 1) counts.push_back(DivideUp(counts.back(), kChildrenPerNode<Key>));
  std::reverse(counts.begin(), counts.end());
  CHECK(counts.size() <= kLevelsMax);
  depth_ = static_cast<uint32_t>(counts.size());

  size_t nodes = 0;
  for (size_t count : counts) nodes += count;
  memory_bytes_ = nodes * kCacheLineBytes;
  lines_.reset(
      static_cast<std::byte*>(::operator new[](memory_bytes_, std::align_val_t{kCacheLineBytes})));
  std::vector<Key*> levels;
  Key* next = reinterpret_cast<Key*>(lines_.get());
  for (size_t i = 0; i < counts.size(); ++i) {
    levels_[i] = reinterpret_cast<const std::byte*>(next);
    levels.push_back(next);
    next += counts[i] * kKeysPerNode<Key>;
  }

  // A row ends before unit end >> shift_, so its last unit is one less.
  Key* leaves = levels.back();
  std::fill(leaves, next, kInfinity<Key>);
  for (size_t i = 0; i < ends.size(); ++i) leaves[i] = static_cast<Key>((ends[i] >> shift_) - 1);

  // highest[n]: the highest key below node n of the level under the one being built.
  std::vector<Key> highest(counts.back());
  for (size_t n = 0; n < highest.size(); ++n) {
    highest[n] = leaves[n * kKeysPerNode<Key> + kKeysPerNode<Key> - 1];
  }
  for (size_t l = counts.size() - 1; l-- > 0;) {
    auto below = [&highest](size_t node) {
      return node < highest.size() ? highest[node] : kInfinity<Key>;
    };
    std::vector<Key> highest_here(counts[l]);
    for (size_t n = 0; n < counts[l]; ++n) {
      const size_t first_child = n * kChildrenPerNode<Key>;
      for (size_t k = 0; k < kKeysPerNode<Key>; ++k) {
        levels[l][n * kKeysPerNode<Key> + k] = below(first_child + k);
      }
      highest_here[n] = below(first_child + kKeysPerNode<Key>);
    }
    highest = std::move(highest_here);
  }
}

// The walk down the tree, once for each instruction set: a function that uses vector instructions
// must itself be compiled for them.
#define SECTORMAP_DEFINE_FIND(name, target, count_less)                                          \
  template <typename Key>                                                                        \
  target size_t BtreeIndex::name(const BtreeIndex& index, uint64_t sector) {                     \
    const Key wanted = static_cast<Key>(sector >> index.shift_);                                 \
    size_t node = 0;                                                                             \
    const uint32_t leaf_level = index.depth_ - 1;                                                \
    for (uint32_t l = 0; l < leaf_level; ++l) {                                                  \
      const Key* keys = reinterpret_cast<const Key*>(index.levels_[l]);                          \
      node = node * kChildrenPerNode<Key> + count_less(keys + node * kKeysPerNode<Key>, wanted); \
    }                                                                                            \
    const Key* leaves = reinterpret_cast<const Key*>(index.levels_[leaf_level]);                 \
    const size_t first = node * kKeysPerNode<Key>;                                               \
    return first + count_less(leaves + first, wanted);                                           \
  }

SECTORMAP_DEFINE_FIND(FindPortable, , CountLessPortable)
#if defined(SECTORMAP_SIMD_X86)
SECTORMAP_DEFINE_FIND(FindAvx2, SECTORMAP_TARGET_AVX2, CountLessAvx2)
SECTORMAP_DEFINE_FIND(FindAvx512, SECTORMAP_TARGET_AVX512, CountLessAvx512)
#elif defined(SECTORMAP_SIMD_NEON)
SECTORMAP_DEFINE_FIND(FindNeon, , CountLessNeon)
#endif
#undef SECTORMAP_DEFINE_FIND

template <typename Key>
void BtreeIndex::ChooseFind(SimdLevel level) {
  find_ = &FindPortable<Key>;
#if defined(SECTORMAP_SIMD_X86)
  if (level == SimdLevel::kAvx2) find_ = &FindAvx2<Key>;
  if (level == SimdLevel::kAvx512) find_ = &FindAvx512<Key>;
#elif defined(SECTORMAP_SIMD_NEON)
  if (level == SimdLevel::kNeon) find_ = &FindNeon<Key>;
#else
  static_cast<void>(level);
#endif
}

}  // namespace sectormap
