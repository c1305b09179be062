// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/chunk_set.h"

#include <sys/mman.h>

#include <algorithm>

namespace sectormap::targets {

ChunkSet::ChunkSet(uint64_t chunks) {
  const uint64_t words = (std::min(chunks, kChunkSetMax) + kWordBits - 1) / kWordBits;
  if (words == 0) return;
  void* place = mmap(nullptr, words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return;  // then nobody is told anything, and looks elsewhere
  words_ = static_cast<uint64_t*>(place);
  capacity_ = words * kWordBits;
}

ChunkSet::~ChunkSet() {
  if (words_ != nullptr) munmap(words_, capacity_ / 8);
}

void ChunkSet::Add(uint64_t first, uint64_t count) {
  const uint64_t end = std::min(first + count, capacity_);
  while (first < end) {
    const uint64_t bit = first % kWordBits;
    const uint64_t here = std::min(end - first, kWordBits - bit);
    Word(first / kWordBits).fetch_or(Ones(here) << bit);
    first += here;
  }
}

void ChunkSet::Remove(uint64_t chunk) {
  if (chunk < capacity_) Word(chunk / kWordBits).fetch_and(~(uint64_t{1} << chunk % kWordBits));
}

}  // namespace sectormap::targets
