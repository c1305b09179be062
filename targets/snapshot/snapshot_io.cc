// SPDX-License-Identifier: Apache-2.0
// Reads and writes of the snapshot's own device (drivers/md/dm-snap.c, snapshot_map).
#include <optional>

#include "core/async/pieces.h"
#include "targets/snapshot/snapshot.h"
#include "targets/snapshot/snapshot_change.h"

namespace sectormap::targets {

Snapshot::Segment Snapshot::SegmentAt(Sector first, SectorCount count) const {
  const ExceptionTable::Found found = exceptions_.Find(ChunkOf(first));
  const SectorCount offset = OffsetInChunk(first);
  // A run may be as long as the origin: compared in chunks, as its sectors could overflow.
  const uint64_t needed = (offset + count).value() + chunk_sectors() - 1;
  Segment segment{.in_store = found.exists, .count = count, .place = Sector(0)};
  if (found.count < needed >> chunk_shift_) {
    segment.count = SectorCount(found.count << chunk_shift_) - offset;
  }
  if (found.exists) segment.place = Sector(found.new_chunk << chunk_shift_) + offset;
  return segment;
}

Snapshot::Chunks Snapshot::ChunksOf(Sector first, SectorCount count) const {
  const uint64_t length = (owner_.length.value() + chunk_sectors() - 1) >> chunk_shift_;
  const uint64_t end = ChunkOf(first + count - SectorCount(1)) + 1;
  return {std::min(ChunkOf(first), length), std::min(end, length)};
}

Task<IoStatus> Snapshot::Read(BlockDevice& origin, IoRequest request) {
  const uint64_t chunk = ChunkOf(request.first);
  const uint64_t count = ChunkCount(request.first, request.count);
  if (!touched_.HasNone(chunk, count)) return ReadAsTableSays(origin, request);
  Reading& reading = readings_[Reactor::Current().index()];
  reading.Begin(chunk, count);
  // Asked again, as a copy may have begun (and ended) before we said what we read.
  if (!touched_.HasNone(chunk, count) || state_ != State::kValid) [[unlikely]] {
    reading.End();
    return ReadAsTableSays(origin, request);
  }
  Task<IoStatus> read = origin.Submit(request);
  if (read.immediate()) {
    reading.End();
    return read;
  }
  size_t slot = 0;
  {
    absl::MutexLock lock(&mutex_);
    slot = Track(chunk, chunk + count - 1);
  }
  reading.End();
  return EndTracked(std::move(read), slot);
}

Task<IoStatus> Snapshot::ReadAsTableSays(BlockDevice& origin, IoRequest request) {
  Segment segment;
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (state_ != State::kValid) return Failure();
    segment = SegmentAt(request.first, request.count);
  }
  if (segment.count < request.count) return ReadPieces(origin, request);
  if (!segment.in_store) return ReadTracked(origin, request);
  request.first = segment.place;
  return cow_->Submit(request);
}

Task<IoStatus> Snapshot::ReadTracked(BlockDevice& origin, IoRequest request) {
  size_t slot = 0;
  bool shared = false;
  {
    absl::MutexLock lock(&mutex_);
    const Segment segment = SegmentAt(request.first, request.count);
    shared = state_ == State::kValid && !segment.in_store && segment.count == request.count;
    if (shared) {
      slot = Track(ChunkOf(request.first), ChunkOf(request.first + request.count - SectorCount(1)));
    }
  }
  if (!shared) return ReadAsTableSays(origin, request);  // it has changed in between
  Task<IoStatus> read = origin.Submit(request);
  if (!read.immediate()) return EndTracked(std::move(read), slot);
  Untrack(slot);
  return read;
}

Task<IoStatus> Snapshot::EndTracked(Task<IoStatus> read, size_t slot) {
  const IoStatus status = co_await read;
  Untrack(slot);
  co_return status;
}

Task<IoStatus> Snapshot::ReadPieces(BlockDevice& origin, IoRequest request) {
  Pieces pieces;
  for (SectorCount done; done < request.count;) {
    const IoRequest rest = request.Part(done, request.count - done);
    SectorCount count;
    {
      absl::ReaderMutexLock lock(&mutex_);
      count = SegmentAt(rest.first, rest.count).count;
    }
    done += count;
    if (pieces.Add(Read(origin, rest.Part(SectorCount(0), count)))) co_await pieces.Join();
  }
  co_return co_await pieces.Join();
}

Task<IoStatus> Snapshot::Write(IoRequest request) {
  Segment segment;
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (state_ != State::kValid || overflowed_) return Failure();
    segment = SegmentAt(request.first, request.count);
  }
  if (!segment.in_store || segment.count < request.count) return WriteSlowly(request);
  request.first = segment.place;
  return cow_->Submit(request);
}

// Copies of the chunks that a write changes in part only: those at its ends. They are under way
// while what is between them is written.
void Snapshot::StartEnds(const IoRequest& request) {
  const Sector end = request.first + request.count;
  const uint64_t head = ChunkOf(request.first);
  const uint64_t tail = ChunkOf(end - SectorCount(1));
  const bool head_in_part =
      OffsetInChunk(request.first) != SectorCount(0) || request.count.value() < chunk_sectors();
  const bool tail_in_part = OffsetInChunk(end) != SectorCount(0);
  After after;
  {
    absl::MutexLock lock(&mutex_);
    if (head_in_part) StartMissing(head, head + 1, Reason::kSnapshotWrite, after);
    if (tail_in_part && tail != head) {
      StartMissing(tail, tail + 1, Reason::kSnapshotWrite, after);
    }
  }
  Run(after);
}

Task<IoStatus> Snapshot::WriteSlowly(IoRequest request) {
  StartEnds(request);
  for (SectorCount done; done < request.count;) {
    const IoRequest rest = request.Part(done, request.count - done);
    const uint64_t chunk = ChunkOf(rest.first);
    const uint64_t whole =
        OffsetInChunk(rest.first) == SectorCount(0) ? rest.count.value() >> chunk_shift_ : 0;
    Segment segment;
    Pending* mine = nullptr;
    After after;
    std::optional<IoStatus> failure;
    {
      absl::MutexLock lock(&mutex_);
      if (state_ != State::kValid || overflowed_) failure = Failure();
      segment = SegmentAt(rest.first, rest.count);
      if (!failure && !segment.in_store && PendingAt(chunk) == nullptr) {
        if (whole > 0) {
          mine = NewPending(chunk, whole, Reason::kSnapshotWrite, after);
        } else {
          StartMissing(chunk, chunk + 1, Reason::kSnapshotWrite, after);
        }
      }
    }
    Run(after);
    if (failure) co_return *failure;
    if (segment.in_store) {
      IoRequest part = rest.Part(SectorCount(0), segment.count);
      part.first = segment.place;
      const IoStatus status = co_await cow_->Submit(part);
      if (status != IoStatus::kOk) co_return status;
      done += part.count;
    } else if (mine != nullptr) {
      const SectorCount part(mine->run.count << chunk_shift_);
      const IoStatus status = co_await WriteWholeChunks(rest.Part(SectorCount(0), part), *mine);
      if (status != IoStatus::kOk) co_return status;
      done += part;
    } else {
      co_await Change(*this, chunk);
    }
  }
  co_return IoStatus::kOk;
}

// Nothing has to be copied: the data go straight to their new place.
Task<IoStatus> Snapshot::WriteWholeChunks(IoRequest request, Pending& pending) {
  const uint64_t chunk = pending.run.old_chunk;
  request.first = Sector(pending.run.new_chunk << chunk_shift_);
  const IoStatus written = co_await cow_->Submit(request);
  CopyDone(pending, written);
  co_await Change(*this, chunk);
  absl::MutexLock lock(&mutex_);
  co_return state_ == State::kValid ? IoStatus::kOk : Failure();
}

Task<IoStatus> Snapshot::ZeroInStore(IoRequest request) {
  for (SectorCount done; done < request.count;) {
    const IoRequest rest = request.Part(done, request.count - done);
    Segment segment;
    {
      absl::MutexLock lock(&mutex_);
      if (state_ != State::kValid) co_return Failure();
      segment = SegmentAt(rest.first, rest.count);
    }
    if (segment.in_store) {
      const IoStatus status = co_await WriteZeroesTo(*cow_, segment.place, segment.count);
      if (status != IoStatus::kOk) co_return status;
    }
    done += segment.count;
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap::targets
