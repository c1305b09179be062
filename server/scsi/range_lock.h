// SPDX-License-Identifier: Apache-2.0
// RangeLock: makes COMPARE AND WRITE and ORWRITE atomic against every other write of the unit, on
// every reactor, without a lock or an atomic operation in an ordinary write.
//
// Every reactor has a shard: its ordinary writes in flight (a list through their own frames) and
// the ranges that are held for an exclusive operation. An ordinary write looks at its own shard
// only: it waits while a hold overlaps it, else enters the list. An exclusive operation queues on
// the unit's home reactor behind overlapping ones, has every shard hold its range, and starts when
// the overlapping writes in flight have ended. Writes elsewhere never wait.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/async/reactor.h"
#include "core/async/reactor_pool.h"
#include "core/async/task.h"
#include "core/async/wait_queue.h"
#include "core/base/units.h"

namespace sectormap::scsi {

struct SectorRange {
  Sector first;
  SectorCount count;
  bool Overlaps(const SectorRange& other) const {
    return first < other.first + other.count && other.first < first + count;
  }
};

class RangeLock {
 public:
  // `home` is the index of the reactor on which exclusive operations queue.
  RangeLock(ReactorPool& reactors, int home);
  // REQUIRES: nothing in flight and nothing held.
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

  // An ordinary write's place in its reactor's list, from here to the end of the scope.
  // REQUIRES: made and destroyed on one reactor; MustWait() is false at that moment.
  class InFlight {
   public:
    InFlight(RangeLock& lock, SectorRange range);
    ~InFlight();
    InFlight(const InFlight&) = delete;
    InFlight& operator=(const InFlight&) = delete;

   private:
    friend class RangeLock;
    RangeLock& lock_;
    const SectorRange range_;
    InFlight* next_ = nullptr;
    InFlight* previous_ = nullptr;
  };

  // On a reactor. True if an exclusive operation holds something of `range`.
  bool MustWait(SectorRange range) const;
  // Returns when MustWait(range) is false; on the same reactor.
  Task<void> WaitUntilFree(SectorRange range);

  // A held range; gives it back at its end, wherever that is.
  class Exclusive {
   public:
    Exclusive(Exclusive&& other) noexcept = default;
    Exclusive& operator=(Exclusive&&) = delete;
    ~Exclusive();

   private:
    friend class RangeLock;
    Exclusive(std::shared_ptr<struct RangeLockState> state, uint64_t id)
        : state_(std::move(state)), id_(id) {}
    std::shared_ptr<struct RangeLockState> state_;
    uint64_t id_;
  };

  // Returns, on the calling reactor, when no other write touches `range`.
  Task<Exclusive> Acquire(SectorRange range);

 private:
  struct Countdown;
  static Task<void> HoldShard(std::shared_ptr<struct RangeLockState> state, uint64_t id,
                              SectorRange range, Reactor& origin, Countdown& countdown);

  std::shared_ptr<struct RangeLockState> state_;
};

}  // namespace sectormap::scsi
