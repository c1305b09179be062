// SPDX-License-Identifier: Apache-2.0
// MirrorTarget: the same data on several legs (drivers/md/dm-raid1.c).
//
//   read    from the first leg in the table that holds the region's data; another one if it fails
//   write   to every leg that holds it, side by side, once the region is marked dirty in the log
//   flush   of every leg
//
// Which legs hold a region's data is kept for each region (RegionStates), so that no answer is ever
// stale: at first the table's first leg, those that a message names, or all of them if the log says
// so; then all those that recovery has copied it to, less those where a write or flush has failed.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/map/target.h"
#include "targets/mirror/activity.h"
#include "targets/mirror/dirty_log.h"
#include "targets/mirror/held_requests.h"
#include "targets/mirror/leg_tasks.h"
#include "targets/mirror/legs.h"
#include "targets/mirror/recovery.h"
#include "targets/mirror/region_gate.h"
#include "targets/mirror/region_states.h"

namespace sectormap::targets {

// What the table says.
struct MirrorOptions {
  enum class Sync { kAsLogged, kSync, kNoSync };

  SectorCount region_size;       // a power of two
  Sync sync = Sync::kAsLogged;   // for the first resume only; kSync until the log is written
  std::optional<DeviceRef> log;  // empty: a core log
  bool handle_errors = false;
  bool keep_log = false;
  bool read_only = false;  // nothing is written: no recovery, no log
};

class MirrorTarget final : public Target {
 public:
  MirrorTarget(SectorCount length, std::vector<Legs::Leg> legs, MirrorOptions options,
               TargetHost& host);
  ~MirrorTarget() override;

  BlockLimits limits() const override { return legs_.limits(); }
  SectorCount io_boundary() const override { return options_.region_size; }
  Task<IoStatus> Submit(IoRequest request) override;
  Task<Extent> ExtentAt(Sector first) override;
  bool flush_is_for_backings() const override { return false; }

  absl::Status PreResume() override;
  void Resume() override;
  bool EndWork(const GiveUp& give_up) override;
  void PreSuspend(SuspendMode mode) override;
  void PostSuspend() override;

  std::string TableArgs() const override { return TableWords(sync()); }
  // Without nosync: after a crash it would take legs for equal that no longer are. To copy once
  // more than asked (sync) does no harm.
  std::string TableArgsToKeep() const override;
  std::string TableArgsOnceLive() const override {
    return TableWords(MirrorOptions::Sync::kAsLogged);
  }
  std::string StatusArgs() const override;
  std::span<const DeviceRef> backings() const override { return backings_; }
  // recovery_rate <bytes per second, or 0 for no limit>
  // whole_legs: answers the numbers of those that hold the data of every region, from 0
  // whole_legs <number>...: before the first resume, from who has asked the table before this one:
  //   these do, whatever the log has dirty; the first leg, which counts after a crash, among them
  absl::StatusOr<std::string> Message(std::span<const std::string> words) override;

 private:
  // Neighbouring regions, [first, end).
  struct RegionRun {
    uint64_t first;
    uint64_t end;
  };

  uint64_t RegionOf(Sector sector) const { return sector.value() >> region_shift_; }
  // A write that a leg has failed waits for another table, as with the kernel.
  bool holds_failed_writes() const { return options_.handle_errors && !options_.keep_log; }
  // After a crash the table's first leg counts. While failed writes are held, nothing is answered
  // that is not on it.
  bool MayAnswer(LegSet legs) const { return legs.Contains(0) || !holds_failed_writes(); }

  // The word that still counts.
  MirrorOptions::Sync sync() const;
  std::string TableWords(MirrorOptions::Sync sync) const;
  LegSet WholeLegs() const;
  absl::Status SetWholeLegs(std::span<const std::string> numbers);
  absl::Status SetRecoveryRate(const std::string& word);

  Task<IoStatus> SubmitRead(const IoRequest& request);
  Task<IoStatus> WatchRead(IoRequest request, size_t leg, Task<IoStatus> below);
  Task<IoStatus> ReadElsewhere(IoRequest request, size_t leg, IoStatus status);

  Task<IoStatus> SubmitWrite(const IoRequest& request);
  Task<IoStatus> WriteLater(IoRequest request);
  Task<IoStatus> WriteTo(LegSet legs, const IoRequest& request);
  Task<IoStatus> WatchWrite(RegionRun run, IoOp op, LegTasks writes);
  Task<IoStatus> WriteFailed(RegionRun run, IoOp op, LegSet failed, IoStatus failure);
  Task<IoStatus> ClearRange(IoRequest request);
  void ExtendRun(RegionRun& run, LegSet legs, uint64_t most);
  void Leave(RegionRun run);
  Task<IoStatus> HoldOrAnswer(IoStatus answer);
  Task<IoStatus> Flush();

  // On the home reactor.
  Task<void> GoOn();
  Task<void> StopRecovery();
  Task<void> TidyUp();
  Task<void> SetRate(uint64_t bytes_per_second);
  void NoteAllTried();
  void ArmTidy();
  Task<void> TidyAndArm();

  const MirrorOptions options_;
  const int region_shift_;
  TargetHost& host_;
  Reactor& home_;
  std::vector<DeviceRef> backings_;

  Legs legs_;
  RegionStates regions_;
  std::unique_ptr<DirtyLog> log_;  // null: a core log
  RegionGate gate_;
  Activity activity_;
  Recovery recovery_;
  HeldRequests held_;

  std::atomic<MirrorOptions::Sync> sync_;       // see sync()
  std::atomic<bool> began_{false};              // has been resumed, or was about to be
  std::atomic<LegSet> whole_before_{LegSet()};  // see Message(); for the first resume

  // On the home reactor.
  std::optional<Reactor::TimerId> tidy_timer_;
  Gate tidying_;
  bool told_in_sync_ = false;
};

}  // namespace sectormap::targets
