// SPDX-License-Identifier: Apache-2.0
// ExceptionTable: which chunks of the origin have a copy in the store, and where. Neighbours that
// are neighbours in the store too are one run.
//
// Memory: 16 bytes for each run in B-tree nodes that are half to wholly full: 17 to 34 bytes for an
// exception that has no neighbour (10 million of them: 170 to 340 MB), next to nothing where chunks
// were written in order. (drivers/md/dm-snap.c, dm_insert_exception, has 32 bytes a run of at most
// 256 chunks, and a hash table.)
#pragma once

#include <cstdint>
#include <optional>

#include "absl/container/btree_map.h"

namespace sectormap::targets {

// `count` chunks from `old_chunk` on the origin lie from `new_chunk` on in the store.
struct ExceptionRun {
  uint64_t old_chunk = 0;
  uint64_t new_chunk = 0;
  uint64_t count = 1;

  bool operator==(const ExceptionRun&) const = default;
};

// Chunk numbers above this are refused: 2^48 chunks of one sector are 128 PiB.
inline constexpr uint64_t kChunksMax = uint64_t{1} << 48;

// Thread: whoever owns it locks.
class ExceptionTable {
 public:
  // What begins at a chunk: `count` chunks with copies from `new_chunk` on, or `count` without
  // (up to the next that has one, or to kChunksMax).
  struct Found {
    bool exists = false;
    uint64_t new_chunk = 0;
    uint64_t count = 0;
  };
  Found Find(uint64_t chunk) const;

  // The first run, or the rest of one, at or after `chunk`.
  std::optional<ExceptionRun> NextFrom(uint64_t chunk) const;

  // False, and nothing changes, if one of the chunks has a copy already.
  // REQUIRES: count > 0; both ends at most kChunksMax.
  bool Insert(const ExceptionRun& run);

  // REQUIRES: the chunk has a copy.
  void Remove(uint64_t chunk);

  uint64_t size() const { return size_; }  // chunks
  size_t runs() const { return runs_.size(); }

 private:
  static constexpr uint64_t kRunMax = 1 << 16;
  struct Place {
    uint64_t new_chunk : 48;
    uint64_t count_less_one : 16;

    uint64_t count() const { return uint64_t{count_less_one} + 1; }
  };
  static_assert(sizeof(Place) == 8);
  using Runs = absl::btree_map<uint64_t, Place>;

  static Place At(uint64_t new_chunk, uint64_t count) {
    return {.new_chunk = new_chunk, .count_less_one = count - 1};
  }
  // The run that holds `chunk`, or end().
  Runs::const_iterator Holding(uint64_t chunk) const;
  void InsertPart(const ExceptionRun& run);

  Runs runs_;  // by old chunk
  uint64_t size_ = 0;
};

}  // namespace sectormap::targets
