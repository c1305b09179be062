// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/moves.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "server/volumes/backing_use.h"
#include "server/volumes/mirror_rows.h"

namespace sectormap::volumes {
namespace {

// A device that somebody has suspended, or a verb that is stuck, is in the way for a while only.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);
constexpr int kGoBackTries = 30;

// drivers/md/dm-log.c: a region has at least two sectors, and is no longer than the row.
constexpr uint64_t kRegionSectorsMin = 2;

int64_t ToBytes(uint64_t sectors) {
  return static_cast<int64_t>(Bytes(SectorCount(sectors)).value());
}

std::string_view NameOf(MovePiece::State state) {
  switch (state) {
    case MovePiece::State::kWaiting:
      return "waiting";
    case MovePiece::State::kCopying:
      return "copying";
    case MovePiece::State::kCopied:
      return "copied";
  }
  return "";
}

std::optional<MovePiece::State> StateNamed(const std::string& name) {
  for (const auto state :
       {MovePiece::State::kWaiting, MovePiece::State::kCopying, MovePiece::State::kCopied}) {
    if (name == NameOf(state)) return state;
  }
  return std::nullopt;
}

TableRow MirrorRowOf(const MovePlan& plan, const MovePiece& piece) {
  MirrorRow mirror;
  mirror.log_type = "core";
  mirror.log_args = {
      absl::StrCat(std::min(kMoveRegionSectors, std::bit_floor(piece.length.value())))};
  mirror.legs = {{plan.from, piece.from_at}, {plan.to, piece.to_at}};
  mirror.features = {"handle_errors"};
  return {.line = 0,
          .start = piece.start,
          .length = piece.length,
          .type = "mirror",
          .args = mirror.Args()};
}

void CutIntoPieces(const TableRow& row, uint64_t from_at, uint64_t piece_sectors, uint64_t& to_at,
                   std::vector<MovePiece>& pieces) {
  for (uint64_t done = 0; done < row.length.value();) {
    uint64_t length = std::min(piece_sectors, row.length.value() - done);
    // A rest too short for a region goes with the piece before it.
    if (row.length.value() - done - length < kRegionSectorsMin) length = row.length.value() - done;
    pieces.push_back({.start = row.start + SectorCount(done),
                      .length = SectorCount(length),
                      .from_at = from_at + done,
                      .to_at = to_at,
                      .state = MovePiece::State::kWaiting});
    to_at += length;
    done += length;
  }
}

// However it is cut into pieces.
bool IsSameMove(const std::string& text, const MoveRequest& request) {
  const std::optional<MovePlan> plan = MovePlan::Parse(text);
  return plan.has_value() && plan->from == request.from && plan->to == request.to &&
         plan->pieces.front().to_at == request.to_start;
}

}  // namespace

// --- The plan ---

std::string MovePlan::Text() const {
  std::string text =
      absl::StrCat("move ", QuoteWord(body), " ", QuoteWord(from), " ", QuoteWord(to), "\n");
  for (const MovePiece& piece : pieces) {
    absl::StrAppend(&text, "piece ", piece.start.value(), " ", piece.length.value(), " ",
                    piece.from_at, " ", piece.to_at, " ", std::string(NameOf(piece.state)), "\n");
  }
  for (const TableRow& row : others) absl::StrAppend(&text, "row ", TableText({row}));
  return text;
}

std::optional<MovePlan> MovePlan::Parse(const std::string& text) {
  MovePlan plan;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const auto words = SplitWords({line.data(), line.size()}, Comments::kNone);
    if (!words.has_value() || words->size() < 4) return std::nullopt;
    const std::string& kind = words->front();
    if (kind == "move") {
      plan.body = (*words)[1];
      plan.from = (*words)[2];
      plan.to = (*words)[3];
      continue;
    }
    uint64_t start = 0;
    uint64_t length = 0;
    if (!absl::SimpleAtoi((*words)[1], &start) || !absl::SimpleAtoi((*words)[2], &length)) {
      return std::nullopt;
    }
    if (kind == "row") {
      plan.others.push_back({.line = 0,
                             .start = Sector(start),
                             .length = SectorCount(length),
                             .type = (*words)[3],
                             .args = {words->begin() + 4, words->end()}});
      continue;
    }
    MovePiece piece{.start = Sector(start), .length = SectorCount(length)};
    if (kind != "piece" || words->size() != 6 || !absl::SimpleAtoi((*words)[3], &piece.from_at) ||
        !absl::SimpleAtoi((*words)[4], &piece.to_at)) {
      return std::nullopt;
    }
    const auto state = StateNamed((*words)[5]);
    if (!state.has_value()) return std::nullopt;
    piece.state = *state;
    plan.pieces.push_back(piece);
  }
  if (plan.body.empty() || plan.pieces.empty()) return std::nullopt;
  return plan;
}

std::vector<TableRow> MovePlan::Rows() const {
  std::vector<TableRow> rows = others;
  for (const MovePiece& piece : pieces) {
    switch (piece.state) {
      case MovePiece::State::kWaiting:
        rows.push_back(LinearRow(piece.start, piece.length, from, piece.from_at));
        break;
      case MovePiece::State::kCopying:
        rows.push_back(MirrorRowOf(*this, piece));
        break;
      case MovePiece::State::kCopied:
        rows.push_back(LinearRow(piece.start, piece.length, to, piece.to_at));
        break;
    }
  }
  std::ranges::sort(rows, {}, &TableRow::start);
  JoinLinearRows(rows, from);
  JoinLinearRows(rows, to);
  return rows;
}

uint64_t MovePlan::copied_sectors() const {
  uint64_t sum = 0;
  for (const MovePiece& piece : pieces) {
    if (piece.state == MovePiece::State::kCopied) sum += piece.length.value();
  }
  return sum;
}

uint64_t MovePlan::total_sectors() const {
  uint64_t sum = 0;
  for (const MovePiece& piece : pieces) sum += piece.length.value();
  return sum;
}

// --- Before it starts ---

Moves::Moves(Recipes& recipes) : recipes_(recipes) {
  recipes_.operations.AddKind("move", [this](OperationRun& run) { return Run(run); });
}

absl::StatusOr<OperationInfo> Moves::Start(const MoveRequest& request) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  const auto is_same = [&](const std::string& device, const std::string& plan) {
    return device == request.device && IsSameMove(plan, request);
  };
  if (auto running = recipes_.operations.Running("move", is_same)) return *std::move(running);
  ASSIGN_OR_RETURN(const MovePlan plan, Prepare(request));
  recipes_.structure.AssertHeld();
  ASSIGN_OR_RETURN(Recipes::Claim claim, CheckDestination(request, plan));
  ASSIGN_OR_RETURN(
      OperationInfo info,
      recipes_.operations.Start("move", request.device, {request.device, plan.body}, plan.Text()));
  // The work cannot have ended: it waits for the structure's lock.
  recipes_.claims[info.id] = std::move(claim);
  return info;
}

absl::StatusOr<MovePlan> Moves::Prepare(const MoveRequest& request) {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  const VolumeTree tree = VolumeTree::Read(registry);
  ASSIGN_OR_RETURN(const Volume volume, tree.Find(request.device));
  RETURN_IF_ERROR(recipes_.CheckStays(volume));
  if (volume.read_only) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", request.device, "' is read-only: nothing could be written to '",
                     request.to, "'; load a writable table first"));
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> from, recipes_.Open(request.from));
  ASSIGN_OR_RETURN(const auto below, registry.Dependencies(volume.body, TableSlot::kLive));
  std::map<std::string, const BlockDevice*> devices;
  for (const DeviceRef& ref : below) devices[ref.name()] = ref.device.get();
  const auto is_from = [&](const std::string& word) {
    const auto known = devices.find(word);
    return known != devices.end() ? known->second == from.get() : word == request.from;
  };
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(volume.body_table));
  MovePlan plan{
      .body = volume.body, .from = request.from, .to = request.to, .pieces = {}, .others = {}};
  const std::vector<TableRow> rows = spec.Rows();
  uint64_t moved = 0;
  for (const TableRow& row : rows) {
    const bool linear = row.type == "linear" && row.args.size() == 2;
    if (linear && is_from(row.args[0])) moved += row.length.value();
  }
  const uint64_t piece = request.piece_sectors != 0
                             ? std::max(request.piece_sectors, kMoveRegionSectors)
                             : std::max(kPieceSectors, moved / kPiecesWanted);
  uint64_t to_at = request.to_start;
  for (const TableRow& row : rows) {
    uint64_t from_at = 0;
    if (row.type == "linear" && row.args.size() == 2 && is_from(row.args[0]) &&
        absl::SimpleAtoi(row.args[1], &from_at)) {
      if (row.length.value() < kRegionSectorsMin) {
        return absl::InvalidArgumentError(absl::StrCat("the row at sector ", row.start.value(),
                                                       " has one sector: a mirror needs two"));
      }
      CutIntoPieces(row, from_at, piece, to_at, plan.pieces);
      continue;
    }
    for (const DevicePart& part : PartsOf(row)) {
      if (!is_from(part.device)) continue;
      return absl::FailedPreconditionError(absl::StrCat("the row at sector ", row.start.value(),
                                                        " (", row.type, ") lies on '", request.from,
                                                        "' too: only linear rows can be moved"));
    }
    plan.others.push_back(row);
  }
  if (plan.pieces.empty()) {
    return absl::NotFoundError(absl::StrCat("no row of '", volume.body, "' lies on '", request.from,
                                            "'; its table: ", volume.body_table));
  }
  if (plan.pieces.size() > kPiecesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kPiecesMax, " pieces"));
  }
  return plan;
}

absl::StatusOr<Recipes::Claim> Moves::CheckDestination(const MoveRequest& request,
                                                       const MovePlan& plan) {
  recipes_.structure.AssertHeld();
  RETURN_IF_ERROR(recipes_.CheckAwake(request.to));
  ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> to, recipes_.Open(request.to));
  const SectorCount total(plan.total_sectors());
  if (!RangeFits(Sector(request.to_start), total, to->size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", request.to, "' is too small: ", total.value(), " sectors from sector ",
                     request.to_start, " are needed, it has ", to->size().value()));
  }
  const uint64_t block = to->limits().logical_block_bytes / kSectorBytes;
  for (const MovePiece& piece : plan.pieces) {
    if (block == 0 || (piece.to_at % block == 0 && piece.length.value() % block == 0)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("'", request.to, "' has blocks of ", block, " sectors: a row of ",
                     piece.length.value(), " sectors cannot begin there at sector ", piece.to_at));
  }
  const std::string_view mapped = MappedDeviceName(request.to);
  if (!mapped.empty() && recipes_.operations.ReservedBy(std::string(mapped)).has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("Device or resource busy: an operation is at work on '", request.to, "'"));
  }
  RETURN_IF_ERROR(recipes_.CheckFree(to, request.to, Sector(request.to_start), total));
  return Recipes::Claim{request.to, to, Sector(request.to_start), total};
}

// --- While it runs ---

// A leg that has failed may have been taken out of a row that stays (mirror_repair.cc).
absl::StatusOr<std::vector<TableRow>> Moves::ReadOthers(const MovePlan& plan) const {
  ASSIGN_OR_RETURN(const std::string text,
                   recipes_.volumes.registry().Table(plan.body, TableSlot::kLive));
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(text));
  std::vector<TableRow> rows = spec.Rows();
  MovePlan now = plan;
  for (TableRow& row : now.others) {
    const auto there = std::ranges::find(rows, row.start, &TableRow::start);
    if (row.type != "mirror" || there == rows.end() || there->length != row.length) continue;
    if (there->type == "mirror" || there->type == "linear") row = *there;
  }
  JoinLinearRows(rows, plan.from);
  JoinLinearRows(rows, plan.to);
  const bool same = std::ranges::equal(rows, now.Rows(), [](const TableRow& a, const TableRow& b) {
    return a.start == b.start && a.length == b.length && a.type == b.type &&
           (a.type != "linear" || a.args.back() == b.args.back());
  });
  if (same) return std::move(now.others);
  return absl::AbortedError(
      absl::StrCat("somebody else has changed the table of '", plan.body, "'"));
}

absl::Status Moves::CheckCopied(const MovePlan& plan, size_t piece) const {
  for (const MirrorStatus& status : ReadMirrorStatus(recipes_.volumes.registry(), plan.body)) {
    if (status.start != plan.pieces[piece].start) continue;
    if (!status.healthy()) {
      return absl::DataLossError(absl::StrCat("a leg of the piece at sector ", status.start.value(),
                                              " has failed (", status.health, ": first '",
                                              plan.from, "', then '", plan.to,
                                              "'; D a write, R a read, S the copy, F a flush)"));
    }
    if (status.complete()) return absl::OkStatus();
    return absl::UnavailableError("the piece is not in sync");
  }
  RETURN_IF_ERROR(ReadOthers(plan).status());
  // What it lies on is late at the start.
  return absl::UnavailableError("the table could not be built");
}

absl::Status Moves::CheckLegs(const MovePlan& plan) const {
  for (size_t i = 0; i < plan.pieces.size(); ++i) {
    if (plan.pieces[i].state != MovePiece::State::kCopying) continue;
    const absl::Status copied = CheckCopied(plan, i);
    if (absl::IsDataLoss(copied)) return copied;
  }
  return absl::OkStatus();
}

absl::Status Moves::WaitForPiece(OperationRun& run, const MovePlan& plan, size_t piece) const {
  const DeviceRegistry& registry = recipes_.volumes.registry();
  while (true) {
    const std::shared_ptr<MappedDevice> body = registry.Find(plan.body);
    // Before the status is read: an event after that ends the wait below.
    const uint32_t seen = body != nullptr ? body->info().event_number : 0;
    const absl::Status status = CheckCopied(plan, piece);
    if (!absl::IsUnavailable(status)) return status;
    for (const MirrorStatus& mirror : ReadMirrorStatus(registry, plan.body)) {
      if (mirror.start != plan.pieces[piece].start || mirror.total == 0) continue;
      const double part = static_cast<double>(mirror.in_sync) / static_cast<double>(mirror.total);
      const auto here =
          static_cast<uint64_t>(part * static_cast<double>(plan.pieces[piece].length.value()));
      run.Progress(ToBytes(plan.copied_sectors() + here), ToBytes(plan.total_sectors()));
    }
    // In sync, or a leg has failed: an event. None for a tenth of a second: time to show progress.
    if (body != nullptr) static_cast<void>(body->WaitEvent(seen, [] { return true; }));
    if (run.ShouldEnd()) return absl::CancelledError("ended before it was done");
  }
}

absl::Status Moves::FlushDestination(const MovePlan& plan) {
  ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> to, recipes_.Open(plan.to));
  const IoStatus flushed =
      recipes_.reactors.RunOn(0, [&] { return to->Submit(IoRequest::Flush()); });
  if (flushed == IoStatus::kOk) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("'", plan.to, "' cannot be flushed"));
}

absl::Status Moves::PutTable(OperationRun& run, const MovePlan& before, MovePlan& next,
                             SuspendMode mode, const std::function<absl::Status()>& confirm) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  ASSIGN_OR_RETURN(next.others, ReadOthers(before));
  TogetherRequest request;
  request.mode = mode;
  request.replace = {{.name = before.body, .table = TableText(next.Rows())}};
  for (const MovePiece& piece : next.pieces) {
    if (piece.state != MovePiece::State::kCopied) continue;
    request.leading_legs[{before.body, piece.start}] = 1;
  }
  // Going back: what a failed leg holds up goes on.
  request.even_if_stale = mode == SuspendMode::kNoFlush;
  request.when_still = [&](state::Changes& changes) -> absl::Status {
    if (confirm) RETURN_IF_ERROR(confirm());
    changes.put_operations.push_back(run.RecordWithPlan(next.Text()));
    return absl::OkStatus();
  };
  return recipes_.volumes.ReplaceTogether(request);
}

// Waits until it can be done.
absl::Status Moves::PutTableInTime(OperationRun& run, const MovePlan& before, MovePlan& next,
                                   const std::function<absl::Status()>& confirm) {
  while (true) {
    absl::Status status = PutTable(run, before, next, SuspendMode::kSwap, confirm);
    if (!absl::IsFailedPrecondition(status)) return status;
    RETURN_IF_ERROR(CheckLegs(before));
    if (!run.Sleep(kRetryAfter)) return absl::CancelledError("ended before it was done");
  }
}

absl::Status Moves::Run(OperationRun& run) {
  std::optional<MovePlan> plan = MovePlan::Parse(run.plan());
  if (!plan.has_value()) return absl::InternalError("the plan of the move cannot be read");
  absl::Status status = CopyPieces(run, *plan);
  // When the daemon stops, what is being copied stays a mirror, and is taken up again.
  const bool stopped = !status.ok() && run.ShouldEnd() && !run.Cancelled();
  if (!status.ok() && !stopped) status = GoBack(run, *plan, status);
  absl::MutexLock one_at_a_time(&recipes_.structure);
  recipes_.claims.erase(run.id());
  return status;
}

absl::Status Moves::ClaimDestination(const OperationRun& run, const MovePlan& plan) {
  absl::MutexLock one_at_a_time(&recipes_.structure);
  ASSIGN_OR_RETURN(std::shared_ptr<BlockDevice> to, recipes_.Open(plan.to));
  recipes_.claims[run.id()] = {plan.to, std::move(to), Sector(plan.pieces.front().to_at),
                               SectorCount(plan.total_sectors())};
  return absl::OkStatus();
}

// The plan is always that of the table in use.
absl::Status Moves::CopyPieces(OperationRun& run, MovePlan& plan) {
  while (!ClaimDestination(run, plan).ok()) {
    if (!run.Sleep(kRetryAfter)) return absl::CancelledError("ended before it was done");
  }
  for (size_t i = 0; i < plan.pieces.size(); ++i) {
    if (plan.pieces[i].state == MovePiece::State::kCopied) continue;
    run.Progress(ToBytes(plan.copied_sectors()), ToBytes(plan.total_sectors()));
    if (run.ShouldEnd()) return absl::CancelledError("ended before it was done");
    // After a restart a piece is copied once more, from the beginning: its log is in memory.
    if (plan.pieces[i].state == MovePiece::State::kWaiting) {
      MovePlan next = plan;
      next.pieces[i].state = MovePiece::State::kCopying;
      RETURN_IF_ERROR(PutTableInTime(run, plan, next, nullptr));
      plan = std::move(next);
    }
    RETURN_IF_ERROR(WaitForPiece(run, plan, i));
    // While I/O goes on: what is left for the flush below, when all I/O waits, is little.
    RETURN_IF_ERROR(FlushDestination(plan));
    // The end of this piece and the beginning of the next are one change.
    MovePlan next = plan;
    next.pieces[i].state = MovePiece::State::kCopied;
    if (i + 1 < next.pieces.size()) next.pieces[i + 1].state = MovePiece::State::kCopying;
    RETURN_IF_ERROR(PutTableInTime(run, plan, next, [&]() -> absl::Status {
      RETURN_IF_ERROR(CheckCopied(plan, i));
      return FlushDestination(plan);
    }));
    plan = std::move(next);
  }
  return absl::OkStatus();
}

// Pieces that are done stay where they are; the one under way goes back to where it was, at once: a
// failed leg holds writes until there is another table.
absl::Status Moves::GoBack(OperationRun& run, const MovePlan& plan, const absl::Status& why) {
  MovePlan back = plan;
  bool underway = false;
  for (MovePiece& piece : back.pieces) {
    if (piece.state != MovePiece::State::kCopying) continue;
    piece.state = MovePiece::State::kWaiting;
    underway = true;
  }
  if (!underway) return why;
  absl::Status undone;
  for (int tries = 0; tries < kGoBackTries; ++tries) {
    if (tries != 0) absl::SleepFor(kRetryAfter);
    undone = PutTable(run, plan, back, SuspendMode::kNoFlush, nullptr);
    if (undone.ok()) return why;
    if (!absl::IsFailedPrecondition(undone)) break;
  }
  // Failed, also if it was cancelled: somebody has to see to it.
  return absl::Status(undone.code(), absl::StrCat(std::string(why.message()),
                                                  "; the old table could not be put back: ",
                                                  std::string(undone.message())));
}

}  // namespace sectormap::volumes
