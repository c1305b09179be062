// SPDX-License-Identifier: Apache-2.0
// snapshot-merge: rolls an origin back to its snapshot, usable from the first moment: what has been
// brought back is read from the origin, the rest from the store (drivers/md/dm-snap.c,
// snapshot_merge_*).
//   <origin> <cow> <P|PO> <chunk> [<#features> [discard_zeroes_cow] [discard_passdown_origin]]
//
// Done when `status` shows as much metadata as is allocated; an event tells. Load the origin's own
// table then. Where the kernel fails writes that waited for a batch that could not be merged, they
// go to the store here; a resume tries again.
#include "core/base/status_macros.h"
#include "core/map/table_error.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"
#include "targets/snapshot/merger.h"
#include "targets/snapshot/origin_group.h"
#include "targets/snapshot/snapshot_args.h"
#include "targets/snapshot/snapshot_registry.h"

namespace sectormap::targets {
namespace {

class SnapshotMergeTarget final : public Target {
 public:
  SnapshotMergeTarget(SectorCount length, SnapshotArgs row, std::shared_ptr<OriginGroup> group,
                      TargetHost& host)
      : Target(length),
        row_(std::move(row)),
        backings_{row_.origin, row_.cow},
        host_(host),
        group_(std::move(group)),
        snapshot_(*row_.snapshot),
        merger_(snapshot_, *group_, *row_.origin.device, host) {}
  ~SnapshotMergeTarget() override { snapshot_.LetGo(this); }

  // Discards are offered where the origin's own table does, and ignored: an initiator that finds
  // none while a rollback runs, after a restart of the daemon, discards no more, ever.
  BlockLimits limits() const override {
    const BlockLimits origin = row_.origin.device->limits();
    BlockLimits limits = StackedLimits(origin, row_.cow.device->limits());
    limits.can_write_zeroes = false;
    limits.discard_zeroes = false;
    limits.can_discard = row_.discard_zeroes_cow || origin.can_discard;
    limits.discard_granularity_bytes =
        row_.discard_zeroes_cow ? static_cast<uint32_t>(snapshot_.chunk_sectors() * kSectorBytes)
                                : origin.discard_granularity_bytes;
    limits.discard_alignment_bytes = row_.discard_zeroes_cow ? 0 : origin.discard_alignment_bytes;
    return limits;
  }

  Task<IoStatus> Submit(IoRequest request) override {
    switch (request.op) {
      case IoOp::kRead:
        return merger_.Read(request);
      case IoOp::kWrite:
        return merger_.Write(request);
      case IoOp::kDiscard:
        return limits().can_discard ? IoStatus::kOk : IoStatus::kNotSupported;
      case IoOp::kFlush:
      case IoOp::kWriteZeroes:
        break;
    }
    return IoStatus::kNotSupported;
  }

  std::string TableArgs() const override { return row_.TableArgs(); }
  std::string StatusArgs() const override { return snapshot_.Status(); }
  std::span<const DeviceRef> backings() const override { return backings_; }

  absl::Status PreResume() override {
    return snapshot_.TakeOver({.target = this,
                               .group = group_,
                               .origin = row_.origin.device,
                               .length = size(),
                               .host = &host_,
                               .overflow_allowed = row_.overflow_allowed,
                               .merging = true,
                               .invalid_note = InvalidNote(row_.cow)});
  }
  void Resume() override {
    snapshot_.SetSuspended(this, false);
    merger_.Start();
  }
  bool EndWork(const GiveUp& give_up) override { return merger_.Stop(give_up); }
  void PostSuspend() override { snapshot_.SetSuspended(this, true); }

 private:
  const SnapshotArgs row_;
  const std::vector<DeviceRef> backings_;
  TargetHost& host_;
  const std::shared_ptr<OriginGroup> group_;
  Snapshot& snapshot_;
  Merger merger_;
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  TargetHost& host = args.host();
  const SectorCount length = args.length();
  ASSIGN_OR_RETURN(SnapshotArgs row, SnapshotArgs::Read(args, true));
  std::shared_ptr<OriginGroup> group = OriginGroup::Of(row.origin.device);
  const Snapshot* merging = group->merging();
  if (merging != nullptr && merging != row.snapshot.get()) {
    return TableError(0, "", "A snapshot is already merging.");
  }
  return std::make_unique<SnapshotMergeTarget>(length, std::move(row), std::move(group), host);
}

}  // namespace

const TargetType kSnapshotMergeTarget{
    .name = "snapshot-merge",
    .version = "1.5.0",
    .usage = kSnapshotUsage,
    .summary = "rolls an origin back to its snapshot while it is in use",
    .create = Create,
    .waits_for = "snapshot",
};

}  // namespace sectormap::targets
