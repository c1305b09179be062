// SPDX-License-Identifier: Apache-2.0
// Adding and removing legs. Failed ones: mirror_repair.cc.
#include "server/volumes/mirrors.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/volumes/backing_use.h"

namespace sectormap::volumes {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr std::string_view kImageSuffix = "-mimage-0";
constexpr std::string_view kLogSuffix = "mlog";

// drivers/md/dm-log.c: the bitmap begins there; rounded up to what any medium takes.
constexpr uint64_t kLogHeaderBytes = 1024;
constexpr uint64_t kLogAlignBytes = 4096;

std::string ImageOf(const std::string& body) { return absl::StrCat(body, kImageSuffix.data()); }

absl::Status Ended() { return absl::CancelledError("ended before it was done"); }

std::string PlanText(const AddLegRequest& request) {
  return absl::StrCat("add ", QuoteWord(request.leg), " ", request.leg_start, " ",
                      request.log.empty() ? "auto" : QuoteWord(request.log), " ",
                      request.region_sectors);
}

absl::StatusOr<AddLegRequest> AddPlanOf(const OperationRun& run) {
  const auto words = SplitWords(run.plan(), Comments::kNone);
  AddLegRequest request{.device = run.device(), .leg = ""};
  if (!words.has_value() || words->size() != 5 ||
      !absl::SimpleAtoi((*words)[2], &request.leg_start) ||
      !absl::SimpleAtoi((*words)[4], &request.region_sectors)) {
    return absl::InternalError("the plan of the mirror cannot be read");
  }
  request.leg = (*words)[1];
  request.log = (*words)[3] == "auto" ? "" : (*words)[3];
  return request;
}

std::string PlanText(const MirrorLeg& leg) {
  return absl::StrCat("remove ", QuoteWord(leg.device), " ", leg.start);
}

absl::StatusOr<MirrorLeg> RemovePlanOf(const OperationRun& run) {
  const auto words = SplitWords(run.plan(), Comments::kNone);
  MirrorLeg leg;
  if (!words.has_value() || words->size() != 3 || !absl::SimpleAtoi((*words)[2], &leg.start)) {
    return absl::InternalError("the plan of the mirror cannot be read");
  }
  leg.device = (*words)[1];
  return leg;
}

MirrorLeg LegOf(const AddLegRequest& request) { return {request.leg, request.leg_start}; }

std::optional<size_t> IndexOf(const MirrorRow& mirror, const MirrorLeg& leg) {
  const auto found = std::ranges::find(mirror.legs, leg);
  if (found == mirror.legs.end()) return std::nullopt;
  return static_cast<size_t>(found - mirror.legs.begin());
}

SectorCount LogSectors(SectorCount length, uint64_t region) {
  const uint64_t regions = (length.value() + region - 1) / region;
  const uint64_t bytes = kLogHeaderBytes + (regions + 63) / 64 * 8;
  return WholeSectors(ByteCount((bytes + kLogAlignBytes - 1) / kLogAlignBytes * kLogAlignBytes));
}

TableRow RowOf(SectorCount length, const MirrorRow& mirror) {
  return {.line = 0, .start = Sector(0), .length = length, .type = "mirror", .args = mirror.Args()};
}

absl::Status NoMirror(const std::string& device) {
  return absl::FailedPreconditionError(absl::StrCat("'", device, "' is not a mirror of one row"));
}

absl::Status NoLeg(const std::string& device, const std::string& leg, const MirrorRow& mirror) {
  std::string text = absl::StrCat("'", device, "' has no leg '", leg, "'; it has");
  for (const MirrorLeg& one : mirror.legs) {
    absl::StrAppend(&text, " ", one.device, ":", one.start);
  }
  return absl::NotFoundError(text);
}

}  // namespace

Mirrors::Mirrors(Recipes& recipes) : recipes_(recipes) {
  recipes_.operations.AddKind("mirror-add", [this](OperationRun& run) { return RunAdd(run); });
  recipes_.operations.AddKind("mirror-remove",
                              [this](OperationRun& run) { return RunRemove(run); });
}

absl::StatusOr<Mirrors::Target> Mirrors::FindTarget(const VolumeTree& tree,
                                                    const std::string& device) const {
  ASSIGN_OR_RETURN(Volume volume, tree.Find(device));
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(volume.body_table));
  Target target{.volume = std::move(volume), .rows = spec.Rows(), .mirror = std::nullopt};
  if (target.rows.size() == 1) target.mirror = MirrorRow::Parse(target.rows.front());
  return target;
}

// --- Adding ---

absl::StatusOr<OperationInfo> Mirrors::StartAdd(const AddLegRequest& request) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const auto is_same = [&](const std::string& device, const std::string& plan) {
    return device == request.device && plan == PlanText(request);
  };
  if (auto running = recipes_.operations.Running("mirror-add", is_same)) return *std::move(running);
  ASSIGN_OR_RETURN(const Target target,
                   FindTarget(VolumeTree::Read(recipes_.volumes.registry()), request.device));
  RETURN_IF_ERROR(recipes_.CheckStays(target.volume));
  if (target.volume.read_only) {
    return absl::FailedPreconditionError(absl::StrCat(
        "'", request.device, "' is read-only: nothing could be written to '", request.leg, "'"));
  }
  RETURN_IF_ERROR(CheckLeg(request, target.volume.length));
  if (target.mirror.has_value()) {
    if (!request.log.empty() || request.region_sectors != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", request.device, "' is a mirror already, with a log and a region size of its own"));
    }
    if (target.mirror->legs.size() >= kMirrorLegsMax) {
      return absl::FailedPreconditionError(
          absl::StrCat("a mirror has at most ", kMirrorLegsMax, " legs"));
    }
  } else {
    RETURN_IF_ERROR(CheckLog(request));
  }
  return recipes_.operations.Start("mirror-add", request.device,
                                   {request.device, target.volume.body}, PlanText(request));
}

absl::Status Mirrors::CheckLeg(const AddLegRequest& request, SectorCount length) {
  recipes_.structure.AssertHeld();
  const std::string_view mapped = MappedDeviceName(request.leg);
  if (!mapped.empty()) {
    RETURN_IF_ERROR(recipes_.volumes.registry().CheckUsedOnlyBy(mapped, {}));
  }
  RETURN_IF_ERROR(recipes_.CheckAwake(request.leg));
  ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> leg, recipes_.Open(request.leg));
  if (!RangeFits(Sector(request.leg_start), length, leg->size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", request.leg, "' is too small: ", length.value(), " sectors from sector ",
                     request.leg_start, " are needed, it has ", leg->size().value()));
  }
  return recipes_.CheckFree(leg, request.leg, Sector(request.leg_start), length);
}

// A path for the log is a file that is made, or one that nobody uses.
absl::Status Mirrors::CheckLog(const AddLegRequest& request) {
  if (request.log.empty() || request.log == "core") return absl::OkStatus();
  recipes_.structure.AssertHeld();
  const absl::StatusOr<std::shared_ptr<BlockDevice>> there = recipes_.Open(request.log);
  if (absl::IsNotFound(there.status())) return absl::OkStatus();
  RETURN_IF_ERROR(there.status());
  RETURN_IF_ERROR(recipes_.CheckAwake(request.log));
  return recipes_.CheckFree(*there, request.log, Sector(0), kMaxDeviceSectors);
}

absl::StatusOr<std::string> Mirrors::PrepareLog(const AddLegRequest& request,
                                                const std::string& body, SectorCount length,
                                                uint64_t region) {
  std::string path = request.log;
  if (path.empty()) {
    ASSIGN_OR_RETURN(path, recipes_.files.NewPath(body, kLogSuffix));
  } else {
    RETURN_IF_ERROR(CheckLog(request));
    if (recipes_.Open(path).ok()) {
      RETURN_IF_ERROR(recipes_.files.Disown(path));
      return path;
    }
  }
  RETURN_IF_ERROR(recipes_.files.Make(path, LogSectors(length, region)));
  return path;
}

absl::StatusOr<TogetherRequest> Mirrors::PlanAdd(const AddLegRequest& request,
                                                 const Target& target) {
  const Volume& volume = target.volume;
  const MirrorLeg leg = LegOf(request);
  Restack changes;
  if (target.mirror.has_value()) {
    MirrorRow mirror = *target.mirror;
    mirror.legs.push_back(leg);
    // What the log says is true of the other legs only, which ReplaceTogether tells the new table
    // for itself. The word counts for one resume, which writes the log.
    if (mirror.log_type != "core") mirror.SetSyncWord("sync");
    changes.Replace(volume.body, TableText({RowOf(volume.length, mirror)}));
    return changes.Take();
  }
  const uint64_t wanted =
      request.region_sectors != 0 ? request.region_sectors : kMirrorRegionSectors;
  const uint64_t region = std::min(wanted, std::bit_floor(volume.length.value()));
  MirrorRow mirror;
  mirror.features = {"handle_errors"};
  if (request.log == "core") {
    mirror.log_type = "core";
    mirror.log_args = {absl::StrCat(region)};
  } else {
    ASSIGN_OR_RETURN(const std::string log,
                     PrepareLog(request, volume.body, volume.length, region));
    mirror.log_type = "disk";
    // A log that a person gives may be one of another mirror's past.
    mirror.log_args = {log, absl::StrCat(region), "sync"};
  }
  const TableRow& row = target.rows.front();
  uint64_t start = 0;
  if (target.rows.size() == 1 && row.type == "linear" && row.args.size() == 2 &&
      absl::SimpleAtoi(row.args[1], &start)) {
    mirror.legs = {{row.args[0], start}, leg};
  } else {
    // Any other table becomes a device of its own, which is the first leg.
    const std::string image = ImageOf(volume.body);
    changes.Create(image, volume.body_table, volume.read_only);
    mirror.legs = {{absl::StrCat("/dev/mapper/", image), 0}, leg};
    // A snapshot's table, if that is what it is, changes hands.
    if (volume.snapshot.has_value()) {
      changes.StillAbove(VolumeTree::Read(recipes_.volumes.registry()), volume.snapshot->base);
    }
  }
  changes.Replace(volume.body, TableText({RowOf(volume.length, mirror)}));
  return changes.Take();
}

absl::Status Mirrors::PutLegIn(const OperationRun& run, const AddLegRequest& request) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  ASSIGN_OR_RETURN(const Target target,
                   FindTarget(VolumeTree::Read(recipes_.volumes.registry()), request.device));
  // Put in before a restart.
  if (target.mirror.has_value() && IndexOf(*target.mirror, LegOf(request)).has_value()) {
    return absl::OkStatus();
  }
  // Perhaps it has been taken out already, before a restart.
  if (run.ShouldEnd()) return Ended();
  RETURN_IF_ERROR(CheckLeg(request, target.volume.length));
  absl::StatusOr<TogetherRequest> together = PlanAdd(request, target);
  const absl::Status status =
      together.ok() ? recipes_.volumes.ReplaceTogether(*together) : together.status();
  if (!status.ok()) recipes_.files.Sweep();
  return status;
}

absl::Status Mirrors::WaitForLeg(OperationRun& run, const AddLegRequest& request) {
  while (true) {
    if (run.ShouldEnd()) return Ended();
    ASSIGN_OR_RETURN(const Target target,
                     FindTarget(VolumeTree::Read(recipes_.volumes.registry()), request.device));
    if (!target.mirror.has_value() || !IndexOf(*target.mirror, LegOf(request)).has_value()) {
      return absl::AbortedError(
          absl::StrCat("somebody else has changed the table of '", target.volume.body, "'"));
    }
    const std::vector<MirrorStatus> all =
        ReadMirrorStatus(recipes_.volumes.registry(), target.volume.body);
    if (!all.empty()) {
      const MirrorStatus& status = all.front();
      if (!status.only_reads_failed()) {
        return absl::DataLossError(absl::StrCat("a leg has failed before '", request.leg,
                                                "' had all data (", status.health,
                                                ": a letter for each leg; A is alive)"));
      }
      const auto total = static_cast<double>(Bytes(target.volume.length).value());
      const double part = status.total == 0 ? 0
                                            : static_cast<double>(status.in_sync) /
                                                  static_cast<double>(status.total);
      run.Progress(static_cast<int64_t>(total * part), static_cast<int64_t>(total));
      if (status.complete()) return absl::OkStatus();
    }
    if (!run.Sleep(kPoll)) return Ended();
  }
}

absl::Status Mirrors::RunAdd(OperationRun& run) {
  ASSIGN_OR_RETURN(const AddLegRequest request, AddPlanOf(run));
  absl::Status status = PutLegIn(run, request);
  if (!status.ok()) return status;
  status = WaitForLeg(run, request);
  if (status.ok()) return status;
  if (absl::IsCancelled(status) && !run.Cancelled()) return status;  // taken up at the next start
  if (absl::IsAborted(status)) return status;
  const absl::Status undone = TakeLegOut(request.device, LegOf(request), true);
  if (undone.ok()) return status;
  // Failed, also if it was cancelled: somebody has to see to it.
  return absl::Status(undone.code(), absl::StrCat(std::string(status.message()),
                                                  "; it could not be taken out again: ",
                                                  std::string(undone.message())));
}

// --- Removing ---

absl::StatusOr<size_t> Mirrors::LegNamed(const Target& target,
                                         const RemoveLegRequest& request) const {
  if (!target.mirror.has_value()) return NoMirror(request.device);
  std::vector<size_t> found;
  for (size_t i = 0; i < target.mirror->legs.size(); ++i) {
    const MirrorLeg& leg = target.mirror->legs[i];
    if (!SameDevice(leg.device, request.leg)) continue;
    if (leg.start == request.leg_start.value_or(leg.start)) found.push_back(i);
  }
  if (found.size() == 1) return found.front();
  if (found.empty() && request.leg_start.has_value()) {
    // Of a name that ends with a number the caller could not know that it is none.
    const std::string whole = absl::StrCat(request.leg, ":", *request.leg_start);
    const auto named = std::ranges::find(target.mirror->legs, whole, &MirrorLeg::device);
    if (named != target.mirror->legs.end()) {
      return static_cast<size_t>(named - target.mirror->legs.begin());
    }
  }
  if (found.empty()) return NoLeg(request.device, request.leg, *target.mirror);
  std::string text = absl::StrCat("'", request.device, "' has more than one leg on '", request.leg,
                                  "': say where it begins, as in");
  for (const size_t i : found) {
    const MirrorLeg& leg = target.mirror->legs[i];
    absl::StrAppend(&text, i == found.front() ? " " : " or ", leg.device, ":", leg.start);
  }
  return absl::FailedPreconditionError(text);
}

std::vector<MirrorLeg> Mirrors::LessRow::LegsLeft() const {
  std::vector<MirrorLeg> left;
  for (size_t leg = 0; leg < mirror.legs.size(); ++leg) {
    if (!gone.contains(leg)) left.push_back(mirror.legs[leg]);
  }
  return left;
}

TableRow Mirrors::LessRow::RowLeft() const {
  MirrorRow left = mirror;
  left.legs = LegsLeft();
  if (left.legs.size() == 1) {
    return LinearRow(row.start, row.length, left.legs[0].device, left.legs[0].start);
  }
  TableRow changed = row;
  changed.args = left.Args();
  return changed;
}

absl::StatusOr<TogetherRequest> Mirrors::PlanWithout(const std::string& body,
                                                     const std::vector<LessRow>& less) const {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  ASSIGN_OR_RETURN(const std::string text, registry.Table(body, TableSlot::kLive));
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(text));
  std::vector<TableRow> rows = spec.Rows();
  const std::string image = ImageOf(body);
  Restack changes;
  for (const LessRow& one : less) {
    changes.Lead(body, one.row.start, one.mirror.FirstWithout(one.gone));
    const std::vector<MirrorLeg> left = one.LegsLeft();
    if (left.size() == 1 && rows.size() == 1 && left[0].start == 0 &&
        MappedDeviceName(left[0].device) == image) {
      ASSIGN_OR_RETURN(std::string table, registry.Table(image, TableSlot::kLive));
      changes.Replace(body, std::move(table));
      changes.Remove(image);
      // A snapshot's table, if that is what it is, changes hands again.
      const VolumeTree tree = VolumeTree::Read(registry);
      const absl::StatusOr<Volume> volume = tree.Find(image);
      if (volume.ok() && volume->snapshot.has_value()) {
        changes.StillAbove(tree, volume->snapshot->base);
      }
      return changes.Take();
    }
    const auto row = std::ranges::find(rows, one.row.start, &TableRow::start);
    if (row == rows.end()) continue;
    *row = one.RowLeft();
    // A first leg of our making that has failed is of no use to anybody.
    if (rows.size() == 1 && MappedDeviceName(one.mirror.legs[0].device) == image &&
        one.gone.contains(0)) {
      changes.Remove(image);
    }
  }
  changes.Replace(body, TableText(rows));
  return changes.Take();
}

absl::StatusOr<OperationInfo> Mirrors::StartRemove(const RemoveLegRequest& request) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const std::string& device = request.device;
  ASSIGN_OR_RETURN(const Target target,
                   FindTarget(VolumeTree::Read(recipes_.volumes.registry()), device));
  ASSIGN_OR_RETURN(const size_t index, LegNamed(target, request));
  const absl::Status needed = CheckNotNeeded(target, index);
  if (!needed.ok()) return absl::FailedPreconditionError(needed.message());
  return recipes_.operations.Start("mirror-remove", device, {device, target.volume.body},
                                   PlanText(target.mirror->legs[index]));
}

absl::Status Mirrors::RunRemove(OperationRun& run) {
  ASSIGN_OR_RETURN(const MirrorLeg leg, RemovePlanOf(run));
  while (true) {
    const absl::Status status = TakeLegOut(run.device(), leg, false);
    if (TakenOut(run.device(), leg, status)) return absl::OkStatus();
    // It was in sync when this began; a start after a crash resyncs what was written to last.
    if (!absl::IsUnavailable(status)) return status;
    if (!run.Sleep(kPoll)) return Ended();
  }
}

// By this operation before a restart: then a mirror of two legs is none any more.
bool Mirrors::TakenOut(const std::string& device, const MirrorLeg& leg,
                       const absl::Status& refused) const {
  if (absl::IsNotFound(refused)) return true;
  if (!absl::IsFailedPrecondition(refused)) return false;
  const absl::StatusOr<Target> target =
      FindTarget(VolumeTree::Read(recipes_.volumes.registry()), device);
  if (!target.ok() || target->mirror.has_value()) return false;
  return std::ranges::none_of(target->rows, [&](const TableRow& row) {
    return std::ranges::any_of(PartsOf(row), [&](const DevicePart& part) {
      return SameDevice(part.device, leg.device) && part.start == Sector(leg.start);
    });
  });
}

// Unavailable: it soon may be so.
absl::Status Mirrors::CheckNotNeeded(const Target& target, size_t leg) const {
  const size_t next = target.mirror->FirstWithout({leg});
  const auto whole = ReadWholeLegs(recipes_.volumes, target.volume.body, Sector(0));
  if (whole.has_value() && whole->contains(next)) return absl::OkStatus();
  // Its table could not be built, perhaps as this leg is away: built anew it would go by the first.
  if (!whole.has_value()) return leg != 0 ? absl::OkStatus() : NotBuilt(target, leg);
  const std::string why = LegLacksData(target.volume.name, target.mirror->legs[next]);
  const std::vector<MirrorStatus> all =
      ReadMirrorStatus(recipes_.volumes.registry(), target.volume.body);
  const bool healthy = !all.empty() && all.front().healthy();
  return healthy ? absl::UnavailableError(why) : absl::FailedPreconditionError(why);
}

absl::Status Mirrors::NotBuilt(const Target& target, size_t leg) const {
  const std::string& body = target.volume.body;
  const std::shared_ptr<MappedDevice> device = recipes_.volumes.registry().Find(body);
  const auto unbuilt = device == nullptr ? std::nullopt : device->unbuilt(TableSlot::kLive);
  const LessRow less{target.rows.front(), *target.mirror, {leg}};
  std::string table = TableText({less.RowLeft()});
  table.pop_back();
  return absl::FailedPreconditionError(
      absl::StrCat("the table of '", body, "' could not be built", unbuilt.has_value() ? " (" : "",
                   unbuilt.has_value() ? unbuilt->error : "", unbuilt.has_value() ? ")" : "",
                   ", so nobody knows whether '", less.LegsLeft().front().device,
                   "' holds all data. If the mirror was in sync, it does: sectormap load ", body,
                   " --table '", table, "'; sectormap resume ", body));
}

absl::Status Mirrors::TakeLegOut(const std::string& device, const MirrorLeg& leg,
                                 bool even_if_needed) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  ASSIGN_OR_RETURN(const Target target,
                   FindTarget(VolumeTree::Read(recipes_.volumes.registry()), device));
  if (!target.mirror.has_value()) return NoMirror(device);
  const std::optional<size_t> index = IndexOf(*target.mirror, leg);
  if (!index.has_value()) return NoLeg(device, leg.device, *target.mirror);
  const std::vector<MirrorStatus> all =
      ReadMirrorStatus(recipes_.volumes.registry(), target.volume.body);
  const bool healthy = !all.empty() && all.front().healthy();
  if (!even_if_needed) RETURN_IF_ERROR(CheckNotNeeded(target, *index));
  ASSIGN_OR_RETURN(
      TogetherRequest request,
      PlanWithout(target.volume.body, {{target.rows.front(), *target.mirror, {*index}}}));
  // With a failed leg, held writes go on with the new table; there is nothing to wait for.
  request.mode = healthy ? SuspendMode::kSwap : SuspendMode::kNoFlush;
  // Back to what was there before: what waits for a leg that has failed goes on.
  request.even_if_stale = even_if_needed;
  RETURN_IF_ERROR(recipes_.volumes.ReplaceTogether(request));
  recipes_.files.Sweep();
  return absl::OkStatus();
}

}  // namespace sectormap::volumes
