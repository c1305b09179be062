// SPDX-License-Identifier: Apache-2.0
// BtreeIndex: sector -> row, by the compact B-tree of the 2003 introduction to the device mapper:
// keys only, one cache line per node, children found by arithmetic, no child pointers, immutable
// after build.
//
//   level 0         [ k0 k1 ... kB-1 ]               child k of node n is node n * (B + 1) + k
//                  /    |            \               of the next level
//   level 1    [....] [....]  ...  [....]            key k is the highest row end below child k
//                                                    (the last child needs none)
//   leaves     [ ends of rows 0..B-1 ] [ B..2B-1 ] ...
//
// The kernel's nodes (drivers/md/dm-table.c) hold eight 64-bit keys. Ours hold sixteen of 32 bits
// where they can: row ends are counted in the largest power of two that divides them all, and only
// a table with odd rows on a device above 2 TiB needs 64-bit keys. Sixteen keys make a table of a
// million rows five cache lines deep instead of seven, and one vector compare searches a node.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/simd.h"
#include "core/base/units.h"

namespace sectormap {

class BtreeIndex {
 public:
  BtreeIndex() = default;

  // `ends[i]` is the first sector after row i. REQUIRES: strictly ascending, the first above 0.
  // `level` is for tests: an instruction set that this processor has.
  explicit BtreeIndex(std::span<const uint64_t> ends, SimdLevel level = BestSimdLevel());

  // The row that holds `sector`. REQUIRES: sector < ends.back(). Any thread.
  size_t Find(Sector sector) const { return find_(*this, sector.value()); }

  size_t rows() const { return rows_; }
  size_t memory_bytes() const { return memory_bytes_; }

 private:
  // 64-bit keys: nine children to a node, and at most 2^20 rows (TableSpec::kRowsMax).
  static constexpr size_t kLevelsMax = 8;

  struct FreeLine {
    void operator()(std::byte* line) const;
  };

  template <typename Key>
  void Build(std::span<const uint64_t> ends);
  template <typename Key>
  static size_t FindPortable(const BtreeIndex& index, uint64_t sector);
#if defined(SECTORMAP_SIMD_X86)
  template <typename Key>
  static size_t FindAvx2(const BtreeIndex& index, uint64_t sector);
  template <typename Key>
  static size_t FindAvx512(const BtreeIndex& index, uint64_t sector);
#elif defined(SECTORMAP_SIMD_NEON)
  template <typename Key>
  static size_t FindNeon(const BtreeIndex& index, uint64_t sector);
#endif
  template <typename Key>
  void ChooseFind(SimdLevel level);

  size_t (*find_)(const BtreeIndex&, uint64_t) = nullptr;
  int shift_ = 0;  // a key counts units of 2^shift_ sectors
  uint32_t depth_ = 0;
  std::array<const std::byte*, kLevelsMax> levels_{};  // into lines_; the last is the leaves
  std::unique_ptr<std::byte[], FreeLine> lines_;
  size_t rows_ = 0;
  size_t memory_bytes_ = 0;
};

}  // namespace sectormap
