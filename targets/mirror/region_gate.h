// SPDX-License-Identifier: Apache-2.0
// RegionGate: lets writes into a mirror's regions, and keeps the dirty log ahead of them.
//
// A region is marked dirty when the first write comes, and stays so until it has been left alone
// for a while: then, many regions at a time, the legs are flushed and the bits go back.
#pragma once

#include <memory>
#include <vector>

#include "core/async/gate.h"
#include "core/async/reactor.h"
#include "targets/mirror/dirty_log.h"
#include "targets/mirror/legs.h"
#include "targets/mirror/region_states.h"

namespace sectormap::targets {

// How often regions are looked through; one that was not written to between two looks becomes
// clean. So it costs a log write and a flush of the legs every two seconds at most, however writes
// come, and a crash makes those regions be copied that were written to in the last four. (The
// kernel cleans at once, and pays a log write and flushes for each burst.)
inline constexpr std::chrono::seconds kTidyPeriod{2};

class RegionGate {
 public:
  // `log` is null for a core log. All outlive it.
  RegionGate(RegionStates& regions, const Legs& legs, DirtyLog* log, Reactor& home)
      : regions_(regions), legs_(legs), log_(log), home_(home) {}

  // --- Any reactor ---

  // Empty: EnterLater().
  LegSet TryEnter(uint64_t region) { return regions_.TryEnter(region); }

  struct Entry {
    LegSet legs;                      // where the write has to go
    IoStatus status = IoStatus::kOk;  // else: the log could not be written, and nobody entered
  };
  // Enters as soon as the region may be written.
  Task<Entry> EnterLater(uint64_t region);
  // For a range that is about to be entered region by region: marks all of it dirty at once.
  Task<void> Announce(uint64_t first, uint64_t count);
  void Leave(uint64_t region) {
    if (regions_.Leave(region)) [[unlikely]] {
      TellIdle();
    }
  }

  // --- Before there is any I/O: a control thread ---

  // Sets out from what the log says: who is clean is in sync. Where memory knows better which legs
  // hold a region's data, memory counts. `whole`: legs that are known to hold all data, from before
  // this table; empty if that is not known.
  void StartFromLog(LegSet whole);
  // Sets out with every region on these legs; empty: on those that it is on now.
  void StartWithoutLog(LegSet whole);

  // --- On the home reactor ---

  // Keeps writes out of a region and waits until none is in it; false, and it is open, if
  // Interrupt() comes first.
  Task<bool> Block(uint64_t region);
  void Unblock(uint64_t region);
  // Wakes those who wait in Block; they give up until Continue().
  void Interrupt();
  void Continue() { interrupted_ = false; }

  // A dirty region that has become in sync is to become clean in time.
  void NoteRecovered(uint64_t region);

  // Flushes every leg. Those where it failed no longer count as holders of what is dirty. One at a
  // time: a leg may tell of what it lost only once, and nothing may become clean on the strength of
  // a later flush. All who come while one is under way share the next one.
  struct Flushed {
    LegSet failed{};
    IoStatus status = IoStatus::kOk;  // of the first that failed
    bool lost = false;                // some region's data is on none of the others
  };
  Task<Flushed> FlushLegs();
  // Grows with every flush that a leg has failed.
  uint64_t failed_flushes() const { return failed_flushes_; }

  // Makes clean what has been left alone; with `force` everything that has no write in flight.
  // The answer names legs that could not be flushed.
  Task<LegSet> Tidy(bool force);

 private:
  void TellIdle();
  Task<Entry> EnterAtHome(uint64_t region);
  void NoteDirty(uint64_t region);
  Task<Flushed> FlushNow();

  struct FlushRound {
    bool ended = false;
    Flushed result;
  };

  RegionStates& regions_;
  const Legs& legs_;
  DirtyLog* const log_;
  Reactor& home_;

  // On the home reactor.
  bool interrupted_ = false;
  WaitQueue unblocked_;
  WaitQueue idle_;
  std::vector<uint64_t> dirty_;  // in sync and dirty, or about to be dropped from here
  bool flushing_ = false;
  std::shared_ptr<FlushRound> next_flush_;  // for those who came since the last one began
  WaitQueue flush_ended_;
  uint64_t failed_flushes_ = 0;
};

}  // namespace sectormap::targets
