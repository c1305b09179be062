// SPDX-License-Identifier: Apache-2.0
// Huge pages for large memory that is filled once, from its begin to its end: without them the
// kernel stops the filling every 4 KiB, to zero a page and to map it.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace sectormap {

// Of x86-64, and of arm64 with pages of 4 KiB. Elsewhere the kernel rounds as it likes.
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// A wish for memory that holds nothing yet: the whole huge pages in it are to be ones. `Memory` is
// a string or vector that has reserved its room. Nothing happens to small memory, nor where the
// administrator has switched huge pages off.
template <typename Memory>
void PreferHugePages(Memory& memory) {
  const auto begin = reinterpret_cast<uintptr_t>(memory.data());
  const uintptr_t first = (begin + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
  const uintptr_t end =
      (begin + memory.capacity() * sizeof(*memory.data())) & ~(kHugePageBytes - 1);
  if (first >= end) return;
  static_cast<void>(madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE));
}

}  // namespace sectormap
