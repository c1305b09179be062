// SPDX-License-Identifier: Apache-2.0
// snapshot-origin: one device, whole; before something in it is overwritten, every snapshot of it
// copies what was there (drivers/md/dm-snap.c, origin_*).
//   <origin>
//
// Discards and write-zeroes, which the kernel's does not support, copy first like writes: a discard
// of what a snapshot still shares takes room in its store.
#include "core/base/status_macros.h"
#include "core/map/table_spec.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"
#include "targets/snapshot/origin_group.h"

namespace sectormap::targets {
namespace {

class SnapshotOriginTarget final : public Target {
 public:
  SnapshotOriginTarget(SectorCount length, DeviceRef device)
      : Target(length), device_(std::move(device)), group_(OriginGroup::Of(device_.device)) {}

  BlockLimits limits() const override { return device_.device->limits(); }

  Task<IoStatus> Submit(IoRequest request) override {
    if (request.op == IoOp::kRead || request.op == IoOp::kFlush) {
      return device_.device->Submit(request);
    }
    return group_->SubmitAfterCopies(*device_.device, request);
  }

  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override {
    return group_->NothingToCopy(first, WholeSectors(ByteCount(bytes.size()))) &&
           device_.device->WriteAtOnce(first, bytes);
  }

  Task<Extent> ExtentAt(Sector first) override { return device_.device->ExtentAt(first); }

  std::string TableArgs() const override { return QuoteWord(device_.name()); }
  std::span<const DeviceRef> backings() const override { return {&device_, 1}; }

 private:
  const DeviceRef device_;
  const std::shared_ptr<OriginGroup> group_;
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  if (args.left() != 1) {
    return absl::InvalidArgumentError("origin: incorrect number of arguments");
  }
  ASSIGN_OR_RETURN(DeviceRef device, args.Device("Cannot get target device"));
  RETURN_IF_ERROR(CheckFits(device, Sector(0), args.length()));
  return std::make_unique<SnapshotOriginTarget>(args.length(), std::move(device));
}

}  // namespace

const TargetType kSnapshotOriginTarget{
    .name = "snapshot-origin",
    .version = "1.9.0",
    .usage = "<origin>",
    .summary = "a device that snapshots are made of: they copy what is about to be overwritten",
    .create = Create,
    .waits_for = "snapshot",
};

}  // namespace sectormap::targets
