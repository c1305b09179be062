// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/transient_store.h"

#include <algorithm>

namespace sectormap::targets {

ExceptionStore::Allocation TransientStore::Allocate(uint64_t wanted) {
  const uint64_t chunks = std::min(device_->size().value() / chunk_sectors_, kChunksMax);
  const Allocation allocation{next_free_, std::min(wanted, chunks - std::min(chunks, next_free_))};
  next_free_ += allocation.count;
  return allocation;
}

ExceptionStore::Usage TransientStore::usage() const {
  return {SectorCount(next_free_ * chunk_sectors_), device_->size(), SectorCount(0)};
}

}  // namespace sectormap::targets
