// SPDX-License-Identifier: Apache-2.0
// MappedDevice: a named BlockDevice that sends each sector range to the target its live table
// names. It is the only place that splits requests: at row ends and at a target's io_boundary().
//
// A table is changed as in the kernel: load it into the inactive slot, then resume; the device is
// suspended (gate closed, nothing in flight), the tables swapped, the gate opened. Requests that
// come in the meantime wait in order and are mapped by the new table.
//
// I/O takes no lock and no atomic: every reactor has a shard of its own (gate, count in flight, the
// table to use), which the control thread reaches by posting to that reactor.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor_pool.h"
#include "core/async/wait_queue.h"
#include "core/block/block_device.h"
#include "core/block/io_counters.h"
#include "core/map/give_up.h"
#include "core/map/mapping_table.h"
#include "core/map/target_host.h"

namespace sectormap {

enum class TableSlot { kLive, kInactive };

struct DeviceInfo {
  std::string name;
  std::string uuid;      // dmsetup's; empty if none was set
  std::string identity;  // never empty, never changes: what SCSI identifiers are made from
  bool suspended = false;
  bool read_only = false;
  bool has_live_table = false;
  bool has_inactive_table = false;
  bool deferred_remove = false;
  std::string error;  // why the live table could not be built at start; empty if all is well
  uint64_t open_count = 0;
  uint32_t event_number = 0;
  size_t target_count = 0;  // rows of the live table
  SectorCount size;
};

// Told of changes that initiators must hear of. Called on a control thread, before I/O goes on;
// posts what it has to do and returns without waiting.
class DeviceObserver {
 public:
  virtual ~DeviceObserver() = default;
  virtual void OnSizeChanged() = 0;
  virtual void OnReadOnlyChanged() = 0;
  virtual void OnLimitsChanged() = 0;
};

class MappedDevice final : public BlockDevice, public TargetHost {
 public:
  // `notes` outlive it.
  MappedDevice(std::string name, std::string uuid, std::string identity, ReactorPool& reactors,
               TargetNotes* notes = nullptr);
  // REQUIRES: no request is inside or waiting; Retire() came before, if a target of the live table
  // has work of its own.
  ~MappedDevice() override;

  // --- BlockDevice: on a reactor. A task ends on the reactor that it was submitted on. ---
  SectorCount size() const override;  // of the live table; 0 without one
  BlockLimits limits() const override;
  // kUnavailable without a live table, kAborted after Retire(); kReadOnly for a write to a
  // read-only table; kOutOfRange past an end that a swap may just have moved. If pieces fail, one
  // of their failures is the answer and the others have run.
  Task<IoStatus> Submit(IoRequest request) override;
  // Both: nothing while the gate is closed, nor of a range that is cut.
  Loan Lend(Sector first, SectorCount count) override;
  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override;
  Task<Extent> ExtentAt(Sector first) override;

  bool read_only() const { return read_only_.load(std::memory_order_relaxed); }
  // True if I/O would reach a medium: a table is live, and every mapped device that it passes I/O
  // on to has one, too. Any thread.
  bool has_medium() const;
  const std::string& identity() const { return identity_; }
  const IoCounters& counters() const { return counters_; }

  // An observer is removed before it goes away, and not from its own call. Any thread.
  void AddObserver(DeviceObserver* observer);
  void RemoveObserver(DeviceObserver* observer);

  // --- Control threads only: these block. ---

  // Puts a built table into the inactive slot, in place of one that is there. Never waits for I/O.
  void Load(std::shared_ptr<const MappingTable> table);
  // OK if there is none. Never waits for I/O.
  void Clear();
  // Until its first table goes live, size() and limits() are those of the table in the inactive
  // slot, so that tables can be built on it. REQUIRES: an inactive table and no live one.
  void AnnounceSize();
  // OK if suspended already. Internal: a flush failed; Cancelled: it was given up; I/O goes on as
  // before. Suspend and Resume of one device are serialised here.
  absl::Status Suspend(SuspendMode mode, const GiveUp& give_up = nullptr);
  // Swaps the inactive table in, if there is one, after suspending with `mode` if need be; then
  // lets I/O go on. FailedPrecondition: suspended without any table. If the suspend fails, the new
  // table stays in the inactive slot and the old one serves. If a target of the new table refuses
  // (PreResume), the device stays suspended with the new table. Cancelled: that suspend was given
  // up.
  absl::Status Resume(SuspendMode mode = SuspendMode::kFlush, const GiveUp& give_up = nullptr);
  // Waits for what is in flight and lets both tables go, for good; what comes later is
  // kAborted. False: it was given up, and nothing has changed.
  bool Retire(const GiveUp& give_up = nullptr);

  // A live table that could not be built when the daemon started. Until a table is swapped in,
  // size() and info() are as it says and I/O is kUnavailable. REQUIRES: no live table.
  struct UnbuiltTable {
    std::string text;
    bool read_only = false;
    SectorCount size;
    size_t rows = 0;
    std::string error;
    std::vector<std::shared_ptr<MappedDevice>> after;  // not built before these are
    std::vector<DeviceRef> named;  // by its text: kept from going, as if it were built
  };
  void SetUnbuilt(TableSlot slot, UnbuiltTable table);
  std::optional<UnbuiltTable> unbuilt(TableSlot slot) const;

  void SetName(std::string name);
  void SetUuid(std::string uuid);

  // The following never wait for I/O.
  DeviceInfo info() const;  // but for open_count and deferred_remove, which the registry knows
  std::shared_ptr<const MappingTable> table(TableSlot slot) const;

  // --- TargetHost ---
  ReactorPool& reactors() override { return reactors_; }
  TargetNotes* notes() override { return notes_; }
  // Counted events (dm's event_nr): target events, rename, removal. Any thread.
  void RaiseEvent() override;
  // The same, for who tells of it himself: the listener hears nothing.
  void CountEvent();

  // Called by RaiseEvent, on its thread: must not block. Null ends it. Control threads.
  void SetEventListener(std::function<void()> listener);
  // Returns the event number as soon as it differs from `seen`; DeadlineExceeded when `cancelled`
  // (asked ten times a second) says true.
  absl::StatusOr<uint32_t> WaitEvent(uint32_t seen, const std::function<bool()>& cancelled);

 private:
  // Reactors that a suspend waits for.
  class Drain {
   public:
    explicit Drain(int reactors) : left_(reactors) {}
    void Count() {
      absl::MutexLock lock(&mutex_);
      --left_;
    }
    // False: given up; reactors still know of it.
    bool Wait(const GiveUp& give_up);

   private:
    absl::Mutex mutex_;
    int left_ ABSL_GUARDED_BY(mutex_);
  };
  // What one reactor knows. Touched on its thread only.
  struct alignas(64) Shard {
    int reactor = 0;
    bool open = true;
    uint64_t in_flight = 0;
    const MappingTable* table = nullptr;
    Drain* drained = nullptr;  // a suspend waits for in_flight == 0
    WaitQueue waiters;

    void Leave() {
      if (--in_flight == 0 && drained != nullptr) [[unlikely]] {
        std::exchange(drained, nullptr)->Count();
      }
    }
  };
  class Pass;

  static const MappingTable::Row* RowOfOnePiece(const Shard& shard, Sector first,
                                                SectorCount count);
  Shard& ThisShard() { return shards_[Reactor::Current().index()]; }
  Task<IoStatus> SubmitWhenOpen(Shard& shard, IoRequest request);
  Task<IoStatus> SubmitAgain(Shard& shard, IoRequest request);
  Task<IoStatus> SubmitTo(BlockDevice& lower, Shard& shard, IoRequest request, IoRequest piece);
  Task<IoStatus> SubmitFlush(Shard& shard, IoRequest request);
  Task<IoStatus> Finish(Pass pass, IoRequest request, Task<IoStatus> task);
  IoStatus Counted(const IoRequest& request, IoStatus status) {
    counters_.Count(request, status);
    return status;
  }

  struct FlushEnd;
  Task<void> FlushInside(std::vector<BlockDevice*> members, std::shared_ptr<FlushEnd> end);
  absl::Status FlushAll(std::shared_ptr<const MappingTable> table, const GiveUp& give_up)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(verb_mutex_);
  bool CloseAndDrain(const GiveUp& give_up);
  void UseTable(const MappingTable* table);
  void OpenAll();
  absl::Status StartFirstTable(const MappingTable& table)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(verb_mutex_);
  absl::Status Quiesce(SuspendMode mode, const std::shared_ptr<const MappingTable>& live,
                       const GiveUp& give_up) ABSL_EXCLUSIVE_LOCKS_REQUIRED(verb_mutex_);
  absl::Status SuspendLocked(SuspendMode mode, const GiveUp& give_up)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(verb_mutex_);
  void TellObservers(bool size_changed, bool read_only_changed, bool limits_changed);

  const std::string identity_;
  ReactorPool& reactors_;
  TargetNotes* const notes_;
  std::array<Shard, kMaxReactors> shards_;
  IoCounters counters_;

  std::atomic<uint64_t> size_{0};
  std::atomic<bool> read_only_{false};
  std::atomic<bool> retired_{false};

  // Held by Suspend, Resume and Retire while they wait for I/O; never taken by anything else.
  absl::Mutex verb_mutex_;
  // What a suspend's flush goes through, also one that was given up: tables of devices below, whose
  // gates do not count it. They may be swapped meanwhile, and no table may end on a reactor.
  std::vector<std::shared_ptr<const MappingTable>> flushing_ ABSL_GUARDED_BY(verb_mutex_);

  // Held for moments only, and never while a table is destroyed.
  mutable absl::Mutex state_mutex_ ABSL_ACQUIRED_AFTER(verb_mutex_);
  std::string name_ ABSL_GUARDED_BY(state_mutex_);
  std::string uuid_ ABSL_GUARDED_BY(state_mutex_);
  bool suspended_ ABSL_GUARDED_BY(state_mutex_) = false;
  std::shared_ptr<const MappingTable> live_ ABSL_GUARDED_BY(state_mutex_);
  std::shared_ptr<const MappingTable> inactive_ ABSL_GUARDED_BY(state_mutex_);
  std::optional<UnbuiltTable> unbuilt_live_ ABSL_GUARDED_BY(state_mutex_);
  std::optional<UnbuiltTable> unbuilt_inactive_ ABSL_GUARDED_BY(state_mutex_);

  mutable absl::Mutex event_mutex_;
  uint32_t event_number_ ABSL_GUARDED_BY(event_mutex_) = 0;
  std::function<void()> event_listener_ ABSL_GUARDED_BY(event_mutex_);

  absl::Mutex observers_mutex_ ABSL_ACQUIRED_AFTER(verb_mutex_);
  std::vector<DeviceObserver*> observers_ ABSL_GUARDED_BY(observers_mutex_);
};

}  // namespace sectormap
