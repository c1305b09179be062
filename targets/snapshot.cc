// SPDX-License-Identifier: Apache-2.0
// snapshot: its origin as it was when the snapshot was made, and can itself be written
// (drivers/md/dm-snap.c, snapshot_*). What it and the origin no longer share lies in the store.
//   <origin> <cow> <P|PO|N> <chunk> [<#features> [discard_zeroes_cow] [discard_passdown_origin]]
//
// <origin> is the device below a snapshot-origin row, not the device with that row: they find each
// other by that device's identity. The row may stand anywhere in a table.
//
// Messages of our own (docs/formats.md): `exceptions <first chunk>`, `keep <first chunk> <count>`.
#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/map/target.h"
#include "targets/builtin_targets.h"
#include "targets/snapshot/origin_group.h"
#include "targets/snapshot/snapshot_args.h"
#include "targets/snapshot/snapshot_registry.h"

namespace sectormap::targets {
namespace {

class SnapshotTarget final : public Target {
 public:
  SnapshotTarget(SectorCount length, SnapshotArgs row, TargetHost& host)
      : Target(length),
        row_(std::move(row)),
        backings_{row_.origin, row_.cow},
        host_(host),
        group_(OriginGroup::Of(row_.origin.device)),
        snapshot_(*row_.snapshot) {}
  ~SnapshotTarget() override { snapshot_.LetGo(this); }

  BlockLimits limits() const override {
    BlockLimits limits = StackedLimits(row_.origin.device->limits(), row_.cow.device->limits());
    limits.can_write_zeroes = false;
    // What has no exception goes on to read as the origin.
    limits.discard_zeroes = false;
    limits.can_discard = row_.discard_zeroes_cow;
    limits.discard_granularity_bytes = row_.discard_zeroes_cow ? ChunkBytes() : 0;
    limits.discard_alignment_bytes = 0;
    return limits;
  }

  Task<IoStatus> Submit(IoRequest request) override {
    switch (request.op) {
      case IoOp::kRead:
        return snapshot_.Read(*row_.origin.device, request);
      case IoOp::kWrite:
        return snapshot_.Write(request);
      case IoOp::kFlush:
        return snapshot_.Flush();
      case IoOp::kDiscard:
        if (row_.discard_zeroes_cow) return Discard(request);
        break;
      case IoOp::kWriteZeroes:
        break;
    }
    return IoStatus::kNotSupported;
  }

  std::string TableArgs() const override { return row_.TableArgs(); }
  std::string StatusArgs() const override { return snapshot_.Status(); }
  std::span<const DeviceRef> backings() const override { return backings_; }

  // To the store: that of the origin's data is the origin's business.
  bool flush_is_for_backings() const override { return false; }

  absl::Status PreResume() override {
    return snapshot_.TakeOver({.target = this,
                               .group = group_,
                               .origin = row_.origin.device,
                               .length = size(),
                               .host = &host_,
                               .overflow_allowed = row_.overflow_allowed,
                               .invalid_note = InvalidNote(row_.cow)});
  }
  void Resume() override { snapshot_.SetSuspended(this, false); }
  void PostSuspend() override { snapshot_.SetSuspended(this, true); }

  absl::StatusOr<std::string> Message(std::span<const std::string> words) override {
    if (words.size() == 2 && words[0] == "exceptions") {
      ASSIGN_OR_RETURN(const uint64_t first, Chunk(words[1]));
      return snapshot_.Exceptions(first);
    }
    if (words.size() == 3 && words[0] == "keep") {
      ASSIGN_OR_RETURN(const uint64_t first, Chunk(words[1]));
      ASSIGN_OR_RETURN(const uint64_t count, Chunk(words[2]));
      if (count > kKeepChunksMax) {
        return absl::InvalidArgumentError(
            absl::StrCat("keep: at most ", kKeepChunksMax, " chunks at once"));
      }
      RETURN_IF_ERROR(host_.reactors().RunOn(0, snapshot_.Keep(first, count)));
      return "";
    }
    return absl::InvalidArgumentError(
        "usage: exceptions <first chunk> | keep <first chunk> <count>");
  }

 private:
  uint32_t ChunkBytes() const {
    return static_cast<uint32_t>(snapshot_.chunk_sectors() * kSectorBytes);
  }

  static absl::StatusOr<uint64_t> Chunk(const std::string& word) {
    uint64_t value = 0;
    const char* end = word.data() + word.size();
    const auto [rest, problem] = std::from_chars(word.data(), end, value);
    if (problem == std::errc() && rest == end && value <= kChunksMax) return value;
    return absl::InvalidArgumentError(absl::StrCat("'", word, "' is not a number of chunks"));
  }

  Task<IoStatus> Discard(IoRequest request) {
    IoStatus status = co_await snapshot_.ZeroInStore(request);
    if (status != IoStatus::kOk || !row_.discard_passdown_origin) co_return status;
    if (!row_.origin.device->limits().can_discard) co_return IoStatus::kOk;
    // The origin loses it: the kernel lets other snapshots lose it, too; here they copy it first.
    co_return co_await group_->SubmitAfterCopies(*row_.origin.device, request, &snapshot_);
  }

  const SnapshotArgs row_;
  const std::vector<DeviceRef> backings_;
  TargetHost& host_;
  const std::shared_ptr<OriginGroup> group_;
  Snapshot& snapshot_;
};

absl::StatusOr<std::unique_ptr<Target>> Create(TargetArgs& args) {
  TargetHost& host = args.host();
  const SectorCount length = args.length();
  ASSIGN_OR_RETURN(SnapshotArgs row, SnapshotArgs::Read(args, false));
  return std::make_unique<SnapshotTarget>(length, std::move(row), host);
}

}  // namespace

const TargetType kSnapshotTarget{
    .name = "snapshot",
    .version = "1.16.0",
    .usage = kSnapshotUsage,
    .summary = "its origin as it was at an instant; keeps what has changed since in a store",
    .create = Create,
};

}  // namespace sectormap::targets
