// SPDX-License-Identifier: Apache-2.0
// MappedDevice: a named BlockDevice that sends each sector range to the target its live table names.
// It is the only place that splits requests: at row ends and at a target's io_boundary().
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
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor_pool.h"
#include "core/block/block_device.h"
#include "core/block/io_counters.h"
#include "core/map/mapping_table.h"

namespace sectormap {

enum class SuspendMode {
  kFlush,    // wait for what is in flight, then flush every backing device
  kNoFlush,  // wait for what is in flight
};

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

// Told of changes that initiators must hear of. Called on a control thread, before I/O goes on.
class DeviceObserver {
 public:
  virtual ~DeviceObserver() = default;
  virtual void OnSizeChanged() = 0;
  virtual void OnReadOnlyChanged() = 0;
};

class MappedDevice final : public BlockDevice {
 public:
  MappedDevice(std::string name, std::string uuid, std::string identity, ReactorPool& reactors);
  ~MappedDevice() override;

  // --- BlockDevice: on a reactor ---
  SectorCount size() const override;   // of the live table; 0 without one
  BlockLimits limits() const override;
  // kUnavailable without a live table; kReadOnly for a write to a read-only table.
  Task<IoStatus> Submit(IoRequest request) override;
  Task<Extent> ExtentAt(Sector first) override;

  bool read_only() const;
  const std::string& identity() const { return identity_; }
  const IoCounters& counters() const { return counters_; }

  // An observer is removed before it goes away. Any thread.
  void AddObserver(DeviceObserver* observer);
  void RemoveObserver(DeviceObserver* observer);

  // --- Control threads only: these block. Calls on one device are serialised here. ---

  // Puts a built table into the inactive slot, in place of one that is there.
  void Load(std::shared_ptr<const MappingTable> table);
  // OK if there is none.
  void Clear();
  // OK if suspended already.
  absl::Status Suspend(SuspendMode mode);
  // Swaps the inactive table in, if there is one, after suspending if need be; then lets I/O go on.
  // FailedPrecondition: suspended without any table.
  absl::Status Resume();

  DeviceInfo info() const;  // but for open_count and deferred_remove, which the registry knows
  std::shared_ptr<const MappingTable> table(TableSlot slot) const;

  // Counted events (dm's event_nr): target events, rename, removal.
  void RaiseEvent();
  // Returns the event number as soon as it differs from `seen`; DeadlineExceeded when `cancelled`
  // (asked now and then) says true.
  absl::StatusOr<uint32_t> WaitEvent(uint32_t seen, const std::function<bool()>& cancelled);

 private:
  const std::string identity_;
  IoCounters counters_;
};

}  // namespace sectormap
