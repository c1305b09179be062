// SPDX-License-Identifier: Apache-2.0
// Snapshot: one store and everything that is known of it while a table uses it: exceptions, copies
// under way, reads that still need the origin as it was. The old and the new table of the same
// store share one, so a reload, a suspend and a resume read nothing again; one target at a time
// owns it (drivers/md/dm-snap.c, struct dm_snapshot).
//
// Copy-on-write of a chunk, in this order: its data are copied to the store; the data, then the
// exception are durable (one flush and one forced write for all that wait, group commit); reads of
// the chunk through the snapshot that went to the origin have ended; then the origin's write goes
// on.
//
// Two sets answer most requests without the lock. Proof that they may:
// - A chunk is *touched* from before its copy begins, as long as it has an exception. A read of
//   chunks that are not goes to the origin; it says which they are (Reading) before it asks, and
//   says so until it has ended or is tracked. A commit looks at Reading after the chunk was
//   touched. In the one order of these four one sees the other: the read does what the lock says,
//   or the commit waits for the end of the reactor's turn, and so of the read.
// - A chunk is *settled* once its exception is in the table and durable, and all reads that went to
//   the origin have ended: a write to the origin need not wait, also if the snapshot is becoming
//   invalid. That stays so until the exception is removed, by a merge, while no origin asks and
//   nobody reads (Merger has a way of its own, under the lock).
// Both change under the lock. What they do not know of (an origin that has grown since) is asked
// under it.
//
// Memory on top of the ExceptionTable: two bits for each chunk of the origin, taken page by page
// (at most 16 MiB for 1 TiB in chunks of 16 KiB); 4 KiB of Reading; kCopyBytesMax for copies, about
// 200 bytes for each copy under way, 16 for each tracked read of the origin in flight.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"
#include "core/block/block_device.h"
#include "core/map/target_host.h"
#include "targets/snapshot/chunk_set.h"
#include "targets/snapshot/copy_sectors.h"
#include "targets/snapshot/exception_store.h"
#include "targets/snapshot/exception_table.h"
#include "targets/snapshot/waiter_list.h"

namespace sectormap::targets {

class OriginGroup;

// Buffers of the copies under way of one snapshot; what needs more waits. (The kernel's limit is a
// number of copies, snapshot_cow_threshold = 2048.)
inline constexpr uint64_t kCopyBytesMax = 16 << 20;

// Chunks that one Keep() may ask for.
inline constexpr uint64_t kKeepChunksMax = 65536;

// Ranges that one answer of Exceptions() may hold, and runs that it may look at under the lock:
// neighbours on the origin that are none in the store are one range and several runs.
inline constexpr size_t kExceptionRangesMax = 256;
inline constexpr size_t kExceptionRunsMax = 4096;

class Snapshot {
 public:
  // Whose it is while its table is live.
  struct Owner {
    const void* target = nullptr;
    std::shared_ptr<OriginGroup> group;  // of the origin
    std::shared_ptr<BlockDevice> origin;
    SectorCount length;  // of the row
    TargetHost* host = nullptr;
    bool overflow_allowed = false;  // "PO"
    bool merging = false;
    std::string invalid_note;  // TargetNotes: for when the store's header cannot be written
  };
  // The store, when it was opened.
  struct Found {
    bool valid = true;
    bool header_is_wrong = false;  // it is invalid, and its header does not say so
  };

  // `origin_size` is as it is now.
  Snapshot(std::shared_ptr<BlockDevice> cow, std::unique_ptr<ExceptionStore> store,
           ExceptionTable exceptions, SectorCount origin_size, Found found);
  // REQUIRES: nobody owns it.
  ~Snapshot();

  // --- Life: control threads. ---

  // `owner` takes over. Writes to the origin are held back for it from now on, also while its
  // device is suspended, until another takes over or it lets go. OK if it has it already.
  // FailedPrecondition: another owns it and is not suspended, or another snapshot of the origin is
  // merging, or an exception lies past the new origin's end.
  absl::Status TakeOver(const Owner& owner);
  // The owner's device is suspended, or goes on. REQUIRES: it owns it.
  void SetSuspended(const void* target, bool suspended);
  // Nothing if `target` does not own it. Else it ends to hold back writes, and waits until all that
  // is under way has ended, and what the header still lacks has been tried.
  void LetGo(const void* target);

  // --- I/O of the owner's device: on a reactor. ---

  // `origin` is the owner's. kIoError once the snapshot is invalid, kAborted once it is abandoned.
  Task<IoStatus> Read(BlockDevice& origin, IoRequest request);
  // kIoError also after an overflow.
  Task<IoStatus> Write(IoRequest request);
  // Zeroes what has an exception; nothing happens to the rest, which goes on to read as the origin.
  Task<IoStatus> ZeroInStore(IoRequest request);
  Task<IoStatus> Flush() { return cow_->Submit(IoRequest::Flush()); }

  // --- For a write to the origin: on a reactor. ---

  // True if the write need not wait: every chunk of the range has been copied.
  bool IsCopied(Sector first, SectorCount count) {
    return settled_.HasAll(ChunkOf(first), ChunkCount(first, count)) ||
           IsCopiedInTable(first, count);
  }
  // Begins to copy what is missing, as far as buffers go.
  void StartCopies(Sector first, SectorCount count);
  // Ends when the snapshot no longer needs the origin's range: copied and durable, or invalid.
  // kAborted: it never will, and the range must not be written.
  Task<IoStatus> CopyBefore(Sector first, SectorCount count);
  // Whoever calls StartCopies or CopyBefore is inside from before, in the turn in which it found
  // the snapshot in its group, to after.
  void Enter();
  void Leave();

  // --- Messages: control threads; Keep on a reactor. ---

  // "<chunk sectors> <next chunk or -> <first>+<count>...": ascending, from `first` on.
  std::string Exceptions(uint64_t first);
  // Copies [first, first + count) into the store, as far as it is not there, durably.
  // ResourceExhausted: the store is full; the snapshot stays as it is.
  Task<absl::Status> Keep(uint64_t first, uint64_t count);

  // --- Any thread. ---

  std::string Status();
  bool is_valid();
  uint64_t chunk_sectors() const { return uint64_t{1} << chunk_shift_; }
  bool can_merge() const { return store_->can_merge(); }
  // FailedPrecondition if it has exceptions past the end of an origin of this size.
  absl::Status CheckOrigin(SectorCount size);

 private:
  friend class Merger;

  enum class State : uint8_t {
    kValid,
    kInvalidating,  // of no use; its header does not say so yet, so writes to the origin wait
    kInvalid,
    // What it copies from or to has gone (kAborted), as at the daemon's end. It stays what it is
    // for the next start: so nothing is written any more that it would have to know of.
    kAbandoned,
  };
  enum class Reason : uint8_t { kOriginWrite, kSnapshotWrite, kKeep };

  // A copy under way, of neighbouring chunks to neighbouring chunks.
  struct Pending {
    ExceptionRun run;
    bool copied = false;
    uint64_t readers = 0;       // a bit for each reactor whose turn has to end
    uint64_t buffer_bytes = 0;  // of kCopyBytesMax
    WaiterList waiters;

    uint64_t end() const { return run.old_chunk + run.count; }
  };

  // What is to be done after the lock is let go.
  struct After {
    absl::InlinedVector<Pending*, 4> copies;
    WaiterList wake;
    uint64_t readers = 0;  // reactors that have to say that their turn has ended
    bool commit = false;
    bool invalidate = false;
    bool event = false;
    bool no_space = false;
  };

  // Part of a request that goes to one place.
  struct Segment {
    bool in_store = false;
    SectorCount count{0};
    Sector place{0};  // in the store
  };

  class Change;

  uint64_t ChunkOf(Sector sector) const { return sector.value() >> chunk_shift_; }
  SectorCount OffsetInChunk(Sector sector) const {
    return SectorCount(sector.value() & (chunk_sectors() - 1));
  }
  uint64_t ChunkBytes() const { return chunk_sectors() * kSectorBytes; }
  uint64_t ChunkCount(Sector first, SectorCount count) const {
    return ChunkOf(first + count - SectorCount(1)) - ChunkOf(first) + 1;
  }
  Segment SegmentAt(Sector first, SectorCount count) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Chunks of the range that the snapshot has at all: [first, end).
  struct Chunks {
    uint64_t first;
    uint64_t end;
  };
  Chunks ChunksOf(Sector first, SectorCount count) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // --- snapshot_io.cc ---
  Task<IoStatus> ReadAsTableSays(BlockDevice& origin, IoRequest request);
  Task<IoStatus> ReadTracked(BlockDevice& origin, IoRequest request);
  Task<IoStatus> ReadPieces(BlockDevice& origin, IoRequest request);
  Task<IoStatus> EndTracked(Task<IoStatus> read, size_t slot);
  Task<IoStatus> WriteSlowly(IoRequest request);
  Task<IoStatus> WriteWholeChunks(IoRequest request, Pending& pending);
  void StartEnds(const IoRequest& request);

  // --- snapshot_copy.cc ---
  bool IsCopiedInTable(Sector first, SectorCount count);
  Pending* PendingAt(uint64_t chunk) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first chunk of [chunk, end) that is neither copied nor free of what waits for it, or end.
  uint64_t FirstUnsettled(uint64_t chunk, uint64_t end) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Up to `wanted` chunks, which have no exception, as far as none is being copied. Null if there
  // is no room: then what `reason` asks for has been done.
  Pending* NewPending(uint64_t chunk, uint64_t wanted, Reason reason, After& after)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartMissing(uint64_t first, uint64_t end, Reason reason, After& after)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Settle(Pending* pending, After& after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddExceptions(Pending* pending, After& after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveException(uint64_t chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SettleDrained(After& after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Reactors that are reading one of these chunks from the origin, one bit each.
  uint64_t ReadersOf(const ExceptionRun& run) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TurnEnded(int reactor);
  // A copy, or its commit, has ended so.
  void CopyFailed(IoStatus status, After& after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BecomeInvalid(After& after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Its exceptions do not count any more.
  bool IsLost() const { return state_ == State::kInvalidating || state_ == State::kInvalid; }
  // What its I/O answers when it is not valid, or has overflowed.
  IoStatus Failure() const {
    return state_ == State::kAbandoned ? IoStatus::kAborted : IoStatus::kIoError;
  }
  bool IsTracked(uint64_t first, uint64_t last) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t Track(uint64_t first, uint64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Untrack(size_t slot);
  bool IsQuiet() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return background_ == 0 && visitors_ == 0 && pending_.empty();
  }
  void Run(After& after);
  void CopyDone(Pending& pending, IoStatus status);
  Task<void> RunCopy(Pending& pending);
  Task<IoStatus> CopyRun(BlockDevice& origin, ExceptionRun run);
  Task<void> RunCommits();
  // False if there is nothing to commit; the caller is no longer in the background then.
  bool TakeBatch(std::vector<Pending*>& members, std::vector<ExceptionRun>& batch);
  bool BuffersAreOut(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return buffer_bytes_ != 0 && buffer_bytes_ + bytes > kCopyBytesMax;
  }
  uint64_t BufferBytes(uint64_t chunks) const {
    return std::min(chunks << (chunk_shift_ + kSectorShift), kCopyPieceBytes);
  }
  void EndBatch(std::span<Pending* const> members, IoStatus status);
  Task<void> RunInvalidate();
  // Writes the header, or else the note, that the snapshot is invalid.
  Task<IoStatus> TellInvalid();
  Task<void> TellInvalidAgain();

  // Chunks that a reactor reads from the origin in this turn, as they have not been touched.
  struct alignas(64) Reading {
    static constexpr int kCountBits = 16;
    static_assert(kChunksAskedMax < 1 << kCountBits && kChunkSetMax <= uint64_t{1} << 48);

    void Begin(uint64_t first, uint64_t count) { range.store(first << kCountBits | count); }
    void End() { range.store(0, std::memory_order_release); }
    bool Meets(const ExceptionRun& run) const {
      const uint64_t now = range.load();
      const uint64_t first = now >> kCountBits;
      const uint64_t end = first + (now & ((1 << kCountBits) - 1));
      return first < run.old_chunk + run.count && run.old_chunk < end;
    }

    std::atomic<uint64_t> range{0};  // the first chunk, and how many; 0: none
  };

  // One cache line: what a request needs that takes no lock.
  alignas(64) const std::shared_ptr<BlockDevice> cow_;
  const std::unique_ptr<ExceptionStore> store_;
  const int chunk_shift_;     // of sectors
  std::atomic<State> state_;  // changes under the lock
  ChunkSet touched_;
  ChunkSet settled_;

  // Another: what a look-up needs. Held for look-ups, never across I/O.
  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(life_mutex_);
  ExceptionTable exceptions_ ABSL_GUARDED_BY(mutex_);
  bool overflowed_ ABSL_GUARDED_BY(mutex_) = false;
  bool merge_failed_ ABSL_GUARDED_BY(mutex_) = false;
  bool header_is_wrong_ ABSL_GUARDED_BY(mutex_);  // and nobody is writing it now
  bool owner_suspended_ ABSL_GUARDED_BY(mutex_) = false;
  Owner owner_ ABSL_GUARDED_BY(mutex_);

  std::array<Reading, kMaxReactors> readings_;
  absl::Mutex life_mutex_;  // one TakeOver or LetGo at a time

  absl::btree_map<uint64_t, std::unique_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);
  std::deque<Pending*> commit_order_ ABSL_GUARDED_BY(mutex_);  // as allocated
  std::vector<Pending*> draining_ ABSL_GUARDED_BY(mutex_);     // committed; reads go on
  bool committing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t buffer_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  WaiterList buffer_waiters_ ABSL_GUARDED_BY(mutex_);
  WaiterList invalidate_waiters_ ABSL_GUARDED_BY(mutex_);

  // Chunks [first, last] that a read of the origin (a merge: a write to the store) in flight needs.
  struct Tracked {
    uint64_t first = 1;
    uint64_t last = 0;  // less than first: a free slot
  };
  std::vector<Tracked> tracked_ ABSL_GUARDED_BY(mutex_);
  std::vector<size_t> free_slots_ ABSL_GUARDED_BY(mutex_);

  // Coroutines of our own; origins' writes inside, and reactors that were asked for TurnEnded. What
  // has to end before an owner lets go.
  uint64_t background_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t visitors_ ABSL_GUARDED_BY(mutex_) = 0;

  // A merge at work (merger.h): these chunks, ascending, are on their way to the origin; writes to
  // them wait until they have arrived.
  std::vector<uint64_t> merging_chunks_ ABSL_GUARDED_BY(mutex_);
  WaiterList merged_waiters_ ABSL_GUARDED_BY(mutex_);
  WaiterList untracked_waiters_ ABSL_GUARDED_BY(mutex_);  // until something is no longer tracked
};

}  // namespace sectormap::targets
