// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "core/block/block_device.h"

namespace sectormap {
namespace {

// A preferred size is good for both; none if that would be absurdly large.
uint32_t CommonMultiple(uint32_t a, uint32_t b) {
  if (a == 0 || b == 0) return std::max(a, b);
  const uint64_t multiple = std::lcm(uint64_t{a}, uint64_t{b});
  return multiple <= UINT32_MAX ? static_cast<uint32_t>(multiple) : 0;
}

}  // namespace

BlockLimits StackedLimits(const BlockLimits& a, const BlockLimits& b) {
  BlockLimits both;
  both.logical_block_bytes = std::max(a.logical_block_bytes, b.logical_block_bytes);
  both.physical_block_bytes = std::max(a.physical_block_bytes, b.physical_block_bytes);
  both.io_min_bytes = std::max(a.io_min_bytes, b.io_min_bytes);
  both.io_opt_bytes = CommonMultiple(a.io_opt_bytes, b.io_opt_bytes);
  both.can_write_zeroes = a.can_write_zeroes && b.can_write_zeroes;
  both.can_lend = a.can_lend && b.can_lend;
  both.can_discard = a.can_discard && b.can_discard;
  if (both.can_discard) {
    both.discard_granularity_bytes =
        std::max(a.discard_granularity_bytes, b.discard_granularity_bytes);
    both.discard_zeroes = a.discard_zeroes && b.discard_zeroes;
  }
  return both;
}

}  // namespace sectormap
