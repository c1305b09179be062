// SPDX-License-Identifier: Apache-2.0
// BtreeIndex: sector -> row, the compact B-tree of the 2003 introduction to the device mapper: keys
// only, one cache line per node, children found by arithmetic, no child pointers, immutable after
// build. Helps because a table of a million rows is searched in seven cache lines.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/units.h"

namespace sectormap {

class BtreeIndex {
 public:
  static constexpr size_t kKeysPerNode = 8;  // 64-byte cache line / 8-byte key
  static constexpr size_t kChildrenPerNode = kKeysPerNode + 1;

  BtreeIndex() = default;
  // `last_sectors[i]` is the last sector of row i, inclusive. REQUIRES: strictly ascending.
  explicit BtreeIndex(std::span<const uint64_t> last_sectors);

  // The first row whose last sector is >= `sector`. REQUIRES: sector <= the last row's last sector.
  // Any thread.
  size_t Find(Sector sector) const;

  size_t rows() const { return rows_; }

 private:
  size_t rows_ = 0;
};

}  // namespace sectormap
