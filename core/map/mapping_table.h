// SPDX-License-Identifier: Apache-2.0
// MappingTable: rows that cover [0, size()) without gap or overlap, each a target, and the index
// that finds them. Immutable once built; a change is always a whole new table.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/map/btree_index.h"
#include "core/map/device_resolver.h"
#include "core/map/table_spec.h"
#include "core/map/target.h"
#include "core/map/target_registry.h"

namespace sectormap {

class MappingTable {
 public:
  struct Row {
    Sector start;
    SectorCount length;
    Target::Way way;  // beside the numbers, so that an I/O meets one cache line of a row
    const TargetType* type;
    std::unique_ptr<Target> target;

    Sector end() const { return start + length; }
    // A sector of the row on the way's device.
    Sector PlaceOf(Sector sector) const { return way.first + (sector - start); }
  };

  // Opens every device and validates everything. Fails with `line N: <type>: <reason>` and what to
  // do about it (a TableError); the code is InvalidArgument, NotFound (a device) or
  // PermissionDenied. `host` outlives the table. `restored`: TargetArgs::restored(). Control
  // threads only.
  static absl::StatusOr<std::shared_ptr<const MappingTable>> Build(
      const TableSpec& spec, bool read_only, const TargetRegistry& types, DeviceResolver& devices,
      TargetHost& host, bool restored = false);

  // REQUIRES: sector < size(). Any thread.
  const Row& Find(Sector sector) const {
    return rows_.size() == 1 ? rows_.front() : rows_[index_.Find(sector)];
  }

  // How much from `offset` into the row on is one piece for its target, at most `count`: up to the
  // row's end, and if it moves data, to the target's next boundary.
  SectorCount PieceLength(const Row& row, SectorCount offset, SectorCount count,
                          bool has_data) const {
    const SectorCount length = std::min(count, row.length - offset);
    const uint64_t boundary = has_boundaries_ && has_data ? row.target->io_boundary().value() : 0;
    if (boundary == 0) return length;
    return std::min(length, SectorCount(boundary - offset.value() % boundary));
  }

  SectorCount size() const { return size_; }
  bool read_only() const { return read_only_; }
  std::span<const Row> rows() const { return rows_; }

  // Stacked over all targets: the strictest of each.
  const BlockLimits& limits() const { return limits_; }

  // Where a flush has to go: each distinct backing device once, then each target that flushes
  // itself.
  std::span<BlockDevice* const> flush_set() const { return flush_set_; }

  // True if a device below has become smaller since the table was built: it has to be built again
  // before it goes live. Control threads.
  bool BackingShrank() const;

  // `table` and `status` text, one line per row, as TableSpec::Parse reads it. Control threads.
  std::string TableText() const;
  // What to keep of a table that is about to go live (Target::TableArgsToKeep).
  std::string TableTextToKeep() const;
  std::string StatusText() const;

  // True if a table of `spec` over the same devices would once be, line by line, what this one is
  // when it is live: TableText() need not be what was read. Asks no device for anything. `host` is
  // this table's. Control threads.
  bool IsWhatSays(const TableSpec& spec, const TargetRegistry& types, TargetHost& host) const;

  // Every distinct device used, in the order of first use.
  std::vector<DeviceRef> Dependencies() const;

  // The message goes to the row that holds `sector`. Control threads.
  absl::StatusOr<std::string> Message(Sector sector, std::string_view text) const;

  // The targets' lives (target.h), row by row. Called by the mapped device, one at a time.
  absl::Status PreResume() const;
  void Resume() const;
  bool EndWork(const GiveUp& give_up) const;
  void PreSuspend(SuspendMode mode) const;
  void PostSuspend() const;

 private:
  MappingTable() = default;

  struct Seen;  // of the rows so far
  void Add(Row row, Seen& seen);
  absl::Status CheckRowsKeepBlocksWhole(const TableSpec& spec) const;
  std::string Text(void (*append_words)(const Target& target, std::string& text)) const;

  struct SeenSize {
    const BlockDevice* device;
    SectorCount size;
  };

  std::vector<Row> rows_;
  BtreeIndex index_;
  SectorCount size_;
  bool read_only_ = false;
  bool has_boundaries_ = false;  // some target has one
  BlockLimits limits_;
  std::vector<BlockDevice*> flush_set_;
  std::vector<SeenSize> sizes_at_build_;

  // Messages come one at a time (target.h).
  mutable absl::Mutex message_mutex_;
};

}  // namespace sectormap
