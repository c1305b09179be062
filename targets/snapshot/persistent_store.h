// SPDX-License-Identifier: Apache-2.0
// PersistentStore: the kernel's on-disk format, version 1 (drivers/md/dm-snap-persistent.c;
// docs/formats.md). A store goes back and forth between the kernel and this program.
//
//   chunk 0         header: u32 magic "SnAp", u32 valid, u32 version, u32 chunk size in sectors
//   chunk 1         area 0: E entries of u64 old chunk, u64 new chunk; new chunk 0 ends the list
//   chunk 2..E+1    data, then area 1, and so on: area n is chunk 1 + n * (E + 1)
//
// Crash-safety. A commit is: zeroes in the next area if this one becomes full, a flush (which also
// makes the copied data durable), then the entries by a forced write. Entries are appended behind
// the terminator and what was there before is written again as it was, so a torn write shows a
// prefix of the new ones, sector by sector; 512-byte sectors are atomic, and no entry straddles
// one.
#pragma once

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "targets/snapshot/exception_store.h"

namespace sectormap::targets {

// Legal for both devices: a power of two, whole logical blocks, at most kChunkSectorsMax. The
// refusal is the kernel's text (dm-exception-store.c).
absl::Status CheckChunkSize(uint64_t chunk_sectors, const BlockLimits& origin,
                            const BlockLimits& cow);

// INT_MAX >> 9, as the kernel has it; so 2^21 sectors, 1 GiB, is the largest chunk.
inline constexpr uint64_t kChunkSectorsMax = 0x7fffffff >> kSectorShift;

// Of a new store if the table says 0.
inline constexpr uint64_t kDefaultChunkSectors = 32;

class PersistentStore final : public ExceptionStore {
 public:
  struct Opened {
    std::unique_ptr<PersistentStore> store;
    ExceptionTable exceptions;
    bool valid = true;             // false: it is of no use any more
    bool header_is_wrong = false;  // it is invalid, and its header does not say so
  };
  // What is known of a store that is opened.
  struct Known {
    bool restored = false;  // the snapshot was there before: a new store is not the one it had
    bool invalid = false;   // whatever the header of an old one says, and if it can be read at all
  };

  // Reads the whole store, or makes a new one where the first four bytes are zero.
  // `chunk_sectors` is the table's, checked, for a new one; what is on disk wins. A new store of a
  // snapshot that is restored is made invalid.
  // Every entry is checked: its origin's chunk exists, its store's chunk exists, holds no metadata
  // and no other entry's data. DataLoss: it is damaged, and why; Unavailable: it cannot be read or
  // written; InvalidArgument: a version or chunk size that cannot be used. Takes time and reads in
  // proportion to the number of exceptions; memory: ExceptionTable's, and kReadBytes. REQUIRES: on
  // a reactor.
  static Task<absl::StatusOr<Opened>> Open(std::shared_ptr<BlockDevice> cow, BlockLimits origin,
                                           SectorCount origin_size, uint64_t chunk_sectors,
                                           Known known);

  uint64_t chunk_sectors() const override { return chunk_; }
  // Refuses the exception that would make an area full if the next area has no room: the kernel
  // allocates it and then has to invalidate the snapshot.
  Allocation Allocate(uint64_t wanted) override;
  uint64_t commit_room() const override { return entries_ - committed() % entries_; }
  Task<IoStatus> Commit(std::span<const ExceptionRun> runs) override;
  Task<IoStatus> Invalidate() override;
  Usage usage() const override;

  bool can_merge() const override { return true; }
  Task<IoStatus> ReadLast(uint64_t most, std::vector<ExceptionRun>& last) override;
  Task<IoStatus> RemoveLast(uint64_t count) override;
  void Forget(uint64_t count) override;

 private:
  // What was found of the entries so far.
  class Reader;

  PersistentStore(std::shared_ptr<BlockDevice> cow, uint64_t chunk_sectors);

  uint64_t committed() const { return committed_.load(std::memory_order_relaxed); }
  uint64_t cow_chunks() const;
  Sector ChunkPlace(uint64_t chunk) const { return Sector(chunk * chunk_); }
  uint64_t AreaChunk(uint64_t area) const { return 1 + area * (entries_ + 1); }
  // Where the data of entry number `index` lie if none was ever skipped.
  uint64_t SlotChunk(uint64_t index) const {
    return AreaChunk(index / entries_) + 1 + index % entries_;
  }
  bool HoldsMetadata(uint64_t chunk) const { return chunk == 0 || chunk % (entries_ + 1) == 1; }
  // Sector of the area that holds entry number `index`.
  Sector EntrySector(uint64_t index) const;

  Task<absl::Status> ReadEntries(Reader& reader);
  Task<absl::Status> Format(bool valid);
  Task<IoStatus> WriteHeader(bool valid);
  Task<IoStatus> ZeroArea(uint64_t area);
  Task<IoStatus> ZeroBehind(uint64_t index);
  std::vector<std::byte> EntryBlocks(std::span<const ExceptionRun> runs, uint64_t index) const;

  const std::shared_ptr<BlockDevice> cow_;
  const uint64_t chunk_;        // sectors
  const uint64_t entries_;      // of an area
  const uint64_t block_bytes_;  // in which areas are written: 4096, or a chunk if that is less

  // Under the snapshot's lock.
  uint64_t next_free_ = 2;   // chunk
  uint64_t next_entry_ = 0;  // number of the entry that the next allocation gets
  bool dense_ = true;        // every entry's data are where SlotChunk() says

  // Entries on the medium. Written by whoever commits, under no lock; status reads it.
  std::atomic<uint64_t> committed_{0};
  std::vector<std::byte> block_;  // the one that the next entry goes to, as on the medium
  // A merge that was interrupted may have left entries behind the terminator: the first commit
  // clears what is there.
  bool zero_behind_ = false;
};

}  // namespace sectormap::targets
