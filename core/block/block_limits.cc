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

// Blocks of `step` bytes, the first of which begins at `first`.
struct Grid {
  uint32_t step;
  uint32_t first;  // or kNotAligned
};

// What begins a block of the larger begins one of the smaller, or there is no such place. The
// kernel makes one up (blk_stack_limits warns of a misaligned device and goes on).
uint32_t CommonFirst(Grid a, Grid b) {
  const auto [fine, coarse] = std::minmax(a, b, [](Grid x, Grid y) { return x.step < y.step; });
  if (fine.step == 0) return coarse.first;
  if (fine.first == kNotAligned || coarse.first == kNotAligned) return kNotAligned;
  const bool fits = coarse.step % fine.step == 0 && coarse.first % fine.step == fine.first;
  return fits ? coarse.first : kNotAligned;
}

uint32_t Moved(Grid grid, Sector from, Sector to) {
  if (grid.step <= kSectorBytes || grid.first == kNotAligned) return grid.first;
  const uint64_t up = grid.first + ByteOffset(to).value() % grid.step;
  return static_cast<uint32_t>((up + grid.step - ByteOffset(from).value() % grid.step) % grid.step);
}

}  // namespace

BlockLimits MovedLimits(BlockLimits limits, Sector from, Sector to) {
  limits.physical_alignment_bytes =
      Moved({limits.physical_block_bytes, limits.physical_alignment_bytes}, from, to);
  limits.discard_alignment_bytes =
      Moved({limits.discard_granularity_bytes, limits.discard_alignment_bytes}, from, to);
  return limits;
}

BlockLimits StackedLimits(const BlockLimits& a, const BlockLimits& b) {
  BlockLimits both;
  both.logical_block_bytes = std::max(a.logical_block_bytes, b.logical_block_bytes);
  both.physical_block_bytes = std::max(a.physical_block_bytes, b.physical_block_bytes);
  both.physical_alignment_bytes = CommonFirst({a.physical_block_bytes, a.physical_alignment_bytes},
                                              {b.physical_block_bytes, b.physical_alignment_bytes});
  both.io_min_bytes = std::max(a.io_min_bytes, b.io_min_bytes);
  both.io_opt_bytes = CommonMultiple(a.io_opt_bytes, b.io_opt_bytes);
  both.can_write_zeroes = a.can_write_zeroes && b.can_write_zeroes;
  both.can_lend = a.can_lend && b.can_lend;
  both.can_discard = a.can_discard && b.can_discard;
  if (both.can_discard) {
    both.discard_granularity_bytes =
        std::max(a.discard_granularity_bytes, b.discard_granularity_bytes);
    both.discard_alignment_bytes =
        CommonFirst({a.discard_granularity_bytes, a.discard_alignment_bytes},
                    {b.discard_granularity_bytes, b.discard_alignment_bytes});
    both.discard_zeroes = a.discard_zeroes && b.discard_zeroes;
  }
  return both;
}

}  // namespace sectormap
