// SPDX-License-Identifier: Apache-2.0
// LogicalUnit: the Lun of lun.h, as its command handlers see it.
//
// Threads: commands run on their session's reactor and share nothing on the way of a READ or WRITE
// but one byte per nexus, its gates, read relaxed. Everything else (nexuses, unit attentions,
// reservations, mode parameters) changes seldom and is guarded by one mutex that is never held
// across I/O or a suspension. PERSISTENT RESERVE OUT is serialised on the unit's home reactor.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor_pool.h"
#include "core/async/wait_queue.h"
#include "core/block/block_device.h"
#include "core/map/mapped_device.h"
#include "server/scsi/command.h"
#include "server/scsi/lun.h"
#include "server/scsi/range_lock.h"
#include "server/scsi/reservations.h"
#include "server/scsi/unit_attention.h"
#include "server/scsi/unit_identity.h"

namespace sectormap::scsi {

// What may stop a command of a nexus before it is looked at closer.
enum NexusGate : uint8_t {
  kAttentionPending = 1,
  kReadsConflict = 2,    // persistent reservation of another nexus, exclusive access
  kWritesConflict = 4,   // ... or write exclusive
  kReservedByOther = 8,  // RESERVE(6)
  kProtected = 16,       // read-only export, read-only device, or SWP
  kNoMedium = 32,        // the device had no live table when it was last looked at
};

class LunNexus {
 public:
  LunNexus(std::shared_ptr<LogicalUnit> unit, uint64_t id, NexusIdentity identity,
           uint64_t lun_number, bool read_only, NexusTasks* tasks);

  const std::shared_ptr<LogicalUnit> unit;  // the unit goes after its last nexus
  const uint64_t id;                        // never used again, unlike the address
  const NexusIdentity identity;
  const uint64_t lun_number;
  const bool read_only;
  NexusTasks* const tasks;
  Reactor* const reactor;  // where it was attached

  std::atomic<uint8_t> gates{0};

  // Guarded by the unit's mutex.
  AttentionQueue attentions;
  std::shared_ptr<LunListChange> luns_changed;  // the last, with kReportedLunsChanged

  NexusName name() const {
    return {identity.initiator_port, identity.target_port, identity.relative_target_port};
  }
};

struct ModeParameters {
  bool software_write_protect = false;  // SWP
  bool descriptor_sense = false;        // D_SENSE
  bool operator==(const ModeParameters&) const = default;
};

// What the unit says of its device in VPD pages B0h and B2h and in READ CAPACITY(16). Initiators
// ask once, so what a table takes away stays said if that may be (SBC-3 §4.7.3: a block that is
// to be unmapped may stay mapped).
struct Characteristics {
  uint32_t physical_block_bytes = 0;
  uint32_t physical_alignment_bytes = 0;  // or kNotAligned
  uint32_t io_min_bytes = 0;
  uint32_t io_opt_bytes = 0;
  bool unmaps = false;  // for good
  uint32_t unmap_granularity_bytes = 0;
  uint32_t unmap_alignment_bytes = 0;  // or kNotAligned
  bool write_same_unmaps = false;      // for good
  bool reads_zeros = false;            // where nothing is mapped

  // With another table.
  Characteristics After(const BlockLimits& limits) const;

  bool operator==(const Characteristics&) const = default;
};

// What a unit is made over. In the daemon all of it is one MappedDevice.
struct UnitBacking {
  BlockDevice* device = nullptr;
  const MappedDevice* mapped = nullptr;  // null in tests that use another device
  std::function<bool()> read_only;       // null: never
  std::function<bool()> has_medium;      // null: always
  std::function<void(DeviceObserver*)> add_observer, remove_observer;  // null: nothing changes
  std::shared_ptr<void> hold;                                          // kept until the unit goes
  std::string identity;                                                // MappedDevice::identity()
};

class LogicalUnit final : public Lun,
                          public DeviceObserver,
                          public std::enable_shared_from_this<LogicalUnit> {
 public:
  // DataLoss: the saved reservation record is damaged.
  static absl::StatusOr<std::shared_ptr<LogicalUnit>> Create(UnitBacking backing,
                                                             ReactorPool& reactors,
                                                             LunOptions options);
  ~LogicalUnit() override;

  // --- Lun ---
  const MappedDevice& device() const override;
  LunNexusPtr Attach(NexusIdentity identity, uint64_t lun_number, bool read_only,
                     NexusTasks* tasks) override;
  CommandPlan Plan(const CdbBytes& cdb) const override;
  SenseFormat sense_format() const override {
    return descriptor_sense_.load(std::memory_order_relaxed) ? SenseFormat::kDescriptor
                                                             : SenseFormat::kFixed;
  }
  Task<ScsiResult> Execute(LunNexus& nexus, const CdbBytes& cdb, std::span<std::byte> buffer,
                           AbortSignal& abort) override;
  std::optional<ScsiResult> ReadInPlace(LunNexus& nexus, const CdbBytes& cdb, Loan& loan) override;
  std::optional<ScsiResult> WriteAtOnce(LunNexus& nexus, const CdbBytes& cdb,
                                        std::span<std::byte> data) override;
  Task<void> Reset(LunNexus& from, AbortSignal& abort) override;
  Task<void> ClearTaskSet(LunNexus& from, AbortSignal& abort) override;
  void TellLunsChanged(LunNexus& nexus, std::shared_ptr<LunListChange> change) override;

  // --- DeviceObserver ---
  void OnSizeChanged() override;
  void OnReadOnlyChanged() override;
  void OnLimitsChanged() override;

  // --- For the handlers ---
  BlockDevice& disk() const { return *backing_.device; }
  BlockLimits limits() const { return backing_.device->limits(); }
  // 0 as long as there was no medium to take it from; then a nexus's gates are closed, and it
  // changes before they open.
  uint32_t block_bytes() const { return block_bytes_.load(std::memory_order_relaxed); }
  uint64_t capacity_blocks() const {
    const uint32_t block = block_bytes();
    return block == 0 ? 0 : Bytes(backing_.device->size()).value() / block;
  }
  SectorRange SectorsOf(uint64_t lba, uint64_t blocks) const {
    const int shift = std::countr_zero(block_bytes()) - kSectorShift;
    return {Sector(lba << shift), SectorCount(blocks << shift)};
  }
  const LunOptions& options() const { return options_; }
  const UnitIdentity& identity() const { return identity_; }
  RangeLock& range_lock() { return range_lock_; }
  Characteristics characteristics() const;
  bool Has(const CommandEntry& entry) const {
    return !entry.is_set(kNeedsDiscard) || OffersUnmap();
  }

  ModeParameters mode_parameters() const;
  // Tells the other nexuses, if something changed.
  void SetModeParameters(const LunNexus& from, ModeParameters parameters);
  bool IsWriteProtected(const LunNexus& nexus) const;

  // The oldest unit attention that waits for the nexus, which then waits no more.
  std::optional<SenseCode> TakeAttention(LunNexus& nexus);

  // RESERVE(6): false means conflict.
  bool ReserveFor(LunNexus& nexus);
  bool ReleaseFrom(LunNexus& nexus);
  bool IsReserved() const;

  // A copy, for PERSISTENT RESERVE IN.
  Reservations reservations() const;
  // Runs one PERSISTENT RESERVE OUT after the other. On any reactor; comes back to it. If it is
  // aborted, it waits no more for the tasks that it ends: else two sessions that preempt and abort
  // each other would wait for each other for ever.
  Task<ReservationOutcome> ChangeReservations(LunNexus& nexus, ReservationRequest request,
                                              AbortSignal& abort);

  // The distinct relative target ports through which the unit is in use, in order.
  std::vector<uint16_t> RelativePorts() const;

 private:
  friend struct LunNexusDeleter;

  LogicalUnit(UnitBacking backing, ReactorPool& reactors, LunOptions options);

  Command CommandOf(LunNexus& nexus, const CdbBytes& cdb, std::span<std::byte> buffer,
                    AbortSignal* abort);
  // Why a command does not get to its handler; empty if it does.
  std::optional<ScsiResult> Stop(Command& command, uint8_t gates);
  bool HasMedium() const { return !backing_.has_medium || backing_.has_medium(); }
  // Answers a command that needs a medium, while the gates say that there is none.
  Task<ScsiResult> LookForMedium(Command command);
  // False: it could not be saved.
  Task<bool> TakeBlockBytes();
  // Tells every nexus but `from`.
  void OnMediumCame(const LunNexus* from);
  bool OffersUnmap() const;

  void Detach(LunNexus& nexus);
  void UpdateGates(LunNexus& nexus) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateAllGates() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddAttention(LunNexus& nexus, SenseCode code) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellAttentions(const ReservationOutcome& outcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Ends tasks of nexuses side by side, and waits, unless `abort` is raised. Each call is made on
  // the nexus's own reactor, where the nexus cannot go away in between.
  struct NexusPlace {
    uint64_t id;
    Reactor* reactor;
  };
  template <typename Predicate>
  std::vector<NexusPlace> PlacesOf(Predicate matches) const;
  Task<void> AbortTasksOf(std::vector<NexusPlace> places, AbortSignal& abort);
  // Of all nexuses but `from`. False: the wait was given up, and they have been told.
  Task<bool> EndOthersTasks(LunNexus& from, AbortSignal& abort);
  void TellOthersOfCleared(LunNexus& from);
  Task<void> AbortTasksAt(NexusPlace place, Reactor& origin,
                          std::shared_ptr<struct AbortWait> wait);
  LunNexus* FindNexus(uint64_t id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const UnitBacking backing_;
  ReactorPool& reactors_;
  const LunOptions options_;
  const UnitIdentity identity_;
  std::atomic<uint32_t> block_bytes_;
  const int home_;
  RangeLock range_lock_;
  std::atomic<bool> descriptor_sense_{false};

  mutable absl::Mutex mutex_;
  std::vector<LunNexus*> nexuses_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_nexus_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool has_medium_ ABSL_GUARDED_BY(mutex_) = false;
  Characteristics characteristics_ ABSL_GUARDED_BY(mutex_);
  ModeParameters mode_ ABSL_GUARDED_BY(mutex_);
  Reservations reservations_ ABSL_GUARDED_BY(mutex_);
  LunNexus* reserved_by_ ABSL_GUARDED_BY(mutex_) = nullptr;  // RESERVE(6)

  // On the home reactor.
  bool changing_reservations_ = false;
  WaitQueue reservation_turn_;
};

}  // namespace sectormap::scsi
