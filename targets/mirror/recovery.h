// SPDX-License-Identifier: Apache-2.0
// Recovery: copies what some legs only hold to the others, region by region, in order, in the
// background (drivers/md/dm-raid1.c, recover; dm-region-hash.c). A region whose copy fails is
// passed by and stays out of sync; the next resume tries it again.
#pragma once

#include <functional>
#include <optional>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor.h"
#include "core/async/wait_queue.h"
#include "core/map/give_up.h"
#include "targets/mirror/activity.h"
#include "targets/mirror/legs.h"
#include "targets/mirror/region_gate.h"

namespace sectormap::targets {

// Regions copied side by side: one is read while another is written.
inline constexpr int kRegionsInRecovery = 4;
// One read of a copy, and one write to each leg: what bounds a recovery's memory, times the above.
inline constexpr ByteCount kCopyBytes{512 * 1024};
// While requests come, a region is begun after a pause of so many times the last region's copy
// time: a quarter of the time at most is then the recovery's.
inline constexpr int kYieldFactor = 3;
// No pause is longer: recovery goes on under a load that never ends, at 20 regions a second or
// what the medium gives.
inline constexpr std::chrono::milliseconds kYieldMax{50};

class Recovery {
 public:
  // All outlive it. `finished` is called on the home reactor when the last region has been tried.
  Recovery(RegionStates& regions, RegionGate& gate, Legs& legs, const Activity& activity,
           Reactor& home, SectorCount region_size, SectorCount length,
           std::function<void()> finished);

  // --- On the home reactor ---

  // Bytes per second; 0: as fast as the legs are. From the next region on; pauses end.
  void SetRate(uint64_t bytes_per_second);

  // From the first region on; if a stop has been given up, as soon as that would have ended.
  void Start();
  // Asks it to end. A region that it was at is left as it was.
  void Stop();

  // --- A control thread ---

  // After Stop(): returns when nothing of it is under way. False: given up; Start() may follow.
  bool AwaitEnd(const GiveUp& give_up);

 private:
  void Begin();
  void AddWorkers(int count) {
    absl::MutexLock lock(&workers_mutex_);
    workers_ += count;
  }
  int workers() const {
    absl::MutexLock lock(&workers_mutex_);
    return workers_;
  }
  Task<void> Work();
  // In order; nothing if all have been looked at, or it is to stop.
  Task<std::optional<uint64_t>> NextRegion();
  Task<void> WaitForTurn(uint64_t region);
  Task<void> Recover(uint64_t region, std::span<std::byte> buffer);
  Task<LegSet> Copy(uint64_t region, std::span<std::byte> buffer);
  Task<IoStatus> ReadPiece(uint64_t region, IoRequest read);
  SectorCount SizeOf(uint64_t region) const;

  RegionStates& regions_;
  RegionGate& gate_;
  Legs& legs_;
  const Activity& activity_;
  Reactor& home_;
  const SectorCount region_size_;
  const SectorCount length_;
  const std::function<void()> finished_;

  // On the home reactor.
  uint64_t rate_ = 0;
  uint64_t rate_changes_ = 0;
  bool stopping_ = false;
  bool again_ = false;  // to begin once all have ended
  uint64_t next_ = 0;
  MonotonicTime next_start_;  // no region is begun before
  nanoseconds last_copy_{0};  // what the last one took
  uint64_t activity_seen_ = 0;
  WaitQueue pauses_;

  mutable absl::Mutex workers_mutex_;
  int workers_ ABSL_GUARDED_BY(workers_mutex_) = 0;  // changed on the home reactor
};

}  // namespace sectormap::targets
