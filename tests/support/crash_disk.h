// SPDX-License-Identifier: Apache-2.0
// Crash disks: disks of memory that write down what was asked of them, so that a test can look at
// every state that a loss of power may leave.
//
// The model. A write is on the medium for certain when it was written with force_unit_access and
// has ended, or when a flush of its disk that began after the write had ended has itself ended.
// Until then each of its sectors may be there or not, each for itself: 512 bytes are atomic, a
// request is not. A write that has not ended may be there too. Where writes overlap, a sector holds
// one of those that may be last. Discards and write-zeroes are writes of zeroes.
//
//   CrashRecorder recorder(random.seed());
//   auto origin = recorder.AddDisk(SectorCount(2048));      // any number: one order of events
//   ... the workload; recorder.now() says how far it has come ...
//   CrashCursor cursor(recorder);
//   for (uint64_t point = 0; point <= recorder.now(); ++point) {
//     cursor.MoveTo(point);                                 // the power fails after `point` events
//     CrashState state = cursor.Sample(random);             // bytes of every disk, as added
//   }
//
// Disks: any reactor. The rest: any thread; a cursor is for one thread, after the workload.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/block/block_device.h"
#include "core/block/memory_device.h"
#include "tests/support/random.h"

namespace sectormap {

// The bytes of every disk of a recorder, in the order in which they were added.
using CrashState = std::vector<std::vector<std::byte>>;

// A disk that holds `bytes`, for going on after the crash. REQUIRES: whole sectors, not empty.
std::shared_ptr<MemoryDevice> DiskOf(std::span<const std::byte> bytes);

class CrashDisk;

// Outlives its disks' requests; keeps the disks.
class CrashRecorder {
 public:
  // `seed` decides how long requests take (SetDelay).
  explicit CrashRecorder(uint64_t seed) : random_(seed) {}
  ~CrashRecorder();
  CrashRecorder(const CrashRecorder&) = delete;
  CrashRecorder& operator=(const CrashRecorder&) = delete;

  // Zeroed, and the zeroes are on the medium.
  std::shared_ptr<CrashDisk> AddDisk(SectorCount size);

  // Requests of every disk take 0 to `turns_max` turns of their reactor before they end, so that
  // they overlap and end in another order. 0, the default: they end at once.
  void SetDelay(uint64_t turns_max);

  // Events so far: a request begins, a request ends. A crash point is a number of events.
  uint64_t now() const;

  // How many requests of this kind `disk` was asked for.
  uint64_t CountOf(size_t disk, IoOp op) const;

 private:
  friend class CrashDisk;
  friend class CrashCursor;

  struct Write {
    size_t disk = 0;
    Sector first;
    std::vector<std::byte> bytes;
    bool force_unit_access = false;
  };
  // A flush has no write. Ended: the event that begins it is known by its number.
  struct Event {
    bool begins = true;
    size_t disk = 0;
    std::shared_ptr<const Write> write;
    uint64_t begin = 0;  // for an end: the event that began it
  };

  uint64_t Begin(size_t disk, const IoRequest& request);
  void End(uint64_t begin);
  uint64_t Turns();

  mutable absl::Mutex mutex_;
  Random random_ ABSL_GUARDED_BY(mutex_);
  uint64_t turns_max_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<CrashDisk>> disks_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<size_t, IoOp>, uint64_t> counts_ ABSL_GUARDED_BY(mutex_);
};

class CrashDisk final : public BlockDevice {
 public:
  // Its place in a CrashState.
  size_t index() const { return index_; }

  SectorCount size() const override { return memory_->size(); }
  BlockLimits limits() const override;
  Task<IoStatus> Submit(IoRequest request) override;

  // As it reads now. REQUIRES: nothing in flight.
  std::span<std::byte> bytes() { return memory_->bytes(); }

  // Puts bytes on the medium before the workload, unrecorded. REQUIRES: nothing was written yet.
  void Preset(std::span<const std::byte> bytes);

 private:
  friend class CrashRecorder;
  friend class CrashCursor;
  CrashDisk(CrashRecorder& recorder, size_t index, SectorCount size);

  Task<IoStatus> Perform(IoRequest request);
  void Apply(const IoRequest& request);

  CrashRecorder& recorder_;
  const size_t index_;
  const std::shared_ptr<MemoryDevice> memory_;
  std::vector<std::byte> preset_;
  absl::Mutex mutex_;  // over the bytes: reads and writes of two reactors may overlap
};

// Walks over the crash points of a recorded workload.
class CrashCursor {
 public:
  // REQUIRES: the workload has ended.
  explicit CrashCursor(const CrashRecorder& recorder);

  // REQUIRES: not back, and point <= recorder.now().
  void MoveTo(uint64_t point);

  // One of the states that a loss of power now may leave, by one of several strategies: nothing of
  // what is uncertain, all of it, whole writes at random, sectors at random, all but one, only one.
  CrashState Sample(Random& random) const;

  // Every such state, once. False, and nothing is visited, if there are more than `most`.
  bool VisitAll(uint64_t most, const std::function<void(const CrashState&)>& visit) const;

  // Sectors that may hold one thing or another.
  uint64_t uncertain_sectors() const;

 private:
  struct Candidate {
    uint64_t begin;  // of the write
    bool ended;
  };
  // What a sector may hold besides what is certain, the last to end at the back.
  using Uncertain = std::map<uint64_t, std::vector<Candidate>>;
  struct Disk {
    std::vector<std::byte> certain;
    Uncertain uncertain;
    std::map<uint64_t, bool> open;  // writes not certain yet, by begin; true: ended
    std::map<uint64_t, std::vector<uint64_t>> flushes;  // by begin: the writes that it is for
  };

  void Step(uint64_t event);
  void MakeCertain(Disk& disk, uint64_t begin);
  const CrashRecorder::Write& WriteOf(uint64_t begin) const { return *events_[begin].write; }
  std::span<const std::byte> BytesOf(uint64_t begin, uint64_t sector) const;
  CrashState Certain() const;
  void Put(CrashState& state, size_t disk, uint64_t sector, uint64_t begin) const;
  CrashState TakeWrites(const std::function<bool(uint64_t begin)>& takes) const;
  CrashState TakeSectors(Random& random) const;

  const std::vector<CrashRecorder::Event> events_;
  uint64_t point_ = 0;
  std::vector<Disk> disks_;
};

}  // namespace sectormap
