// SPDX-License-Identifier: Apache-2.0
// Huge pages for large memory. What is filled once, from its begin to its end, is not stopped every
// 4 KiB for a page to be zeroed and mapped; what is copied to and from has fewer pages to look up.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "core/base/rounding.h"

namespace sectormap {

// Of x86-64, and of arm64 with pages of 4 KiB. Elsewhere the kernel rounds as it likes.
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// A wish for memory that holds nothing yet: the whole huge pages in it are to be ones. Nothing
// happens to small memory, nor where the administrator has switched huge pages off.
inline void PreferHugePages(void* memory, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = RoundUp(begin, kHugePageBytes);
  const uintptr_t end = RoundDown(begin + bytes, kHugePageBytes);
  if (first >= end) return;
  static_cast<void>(madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE));
}

// `Memory` is a string or vector that has reserved its room.
template <typename Memory>
void PreferHugePages(Memory& memory) {
  PreferHugePages(memory.data(), memory.capacity() * sizeof(*memory.data()));
}

}  // namespace sectormap
