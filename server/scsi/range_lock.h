// SPDX-License-Identifier: Apache-2.0
// RangeLock: makes COMPARE AND WRITE and ORWRITE atomic against every other write of the unit, and
// keeps writes behind an aborted one that may still reach the medium, on every reactor. An ordinary
// write takes no lock for it, and shares one count with other reactors that it only reads.
//
// Every reactor has a shard: its ordinary writes in flight (a list through their own frames) and
// the ranges that are held for an exclusive operation. An ordinary write looks at its own shard: it
// waits while a hold overlaps it, else enters the list. An exclusive operation queues on the unit's
// home reactor behind overlapping ones, has every shard hold its range, and starts when the
// overlapping writes in flight have ended. Writes elsewhere never wait.
//
// An initiator that has heard that its session is over, or has had it replaced, takes what it had
// under way for gone (RFC 7143 §6.3.5, §11.14). A device that hangs must not delay that answer, so
// a write that is aborted in flight keeps its range from then on, for every reactor at once, until
// the device has let go of it: what is written after it stays.
#pragma once

#include <cstdint>
#include <memory>

#include "core/async/reactor.h"
#include "core/async/reactor_pool.h"
#include "core/async/task.h"
#include "core/base/units.h"
#include "server/scsi/abort_signal.h"

namespace sectormap::scsi {

struct SectorRange {
  Sector first;
  SectorCount count;
  bool Overlaps(const SectorRange& other) const {
    return first < other.first + other.count && other.first < first + count;
  }
  bool operator==(const SectorRange&) const = default;
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
  // REQUIRES: made and destroyed on one reactor, without a suspension after MustWait() was false.
  class InFlight final : AbortSignal::Listener {
   public:
    InFlight(RangeLock& lock, SectorRange range, AbortSignal& abort);
    ~InFlight();

   private:
    friend class RangeLock;
    void OnAborted() override;

    RangeLock& lock_;
    const SectorRange range_;
    InFlight* next_ = nullptr;
    InFlight* previous_ = nullptr;
    bool aborted_ = false;
  };

  // On a reactor. True if an exclusive operation or an aborted write holds something of `range`.
  bool MustWait(SectorRange range) const;
  // Returns on the same reactor: true when MustWait(range) is false, false if the command that
  // wants to write was aborted first.
  Task<bool> WaitUntilFree(SectorRange range, AbortSignal& abort);

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

  // Returns, on the calling reactor, when no other write touches `range`. An abort does not end the
  // wait: the command finds out after it.
  Task<Exclusive> Acquire(SectorRange range);

 private:
  struct Countdown;
  void ForgetAborted(SectorRange range);
  static Task<void> HoldShard(std::shared_ptr<struct RangeLockState> state, uint64_t id,
                              SectorRange range, Reactor& origin, Countdown& countdown);

  std::shared_ptr<struct RangeLockState> state_;
};

}  // namespace sectormap::scsi
