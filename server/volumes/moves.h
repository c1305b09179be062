// SPDX-License-Identifier: Apache-2.0
// Moves: a table's rows that lie on one backing device go to another one while the device is in
// use, as pvmove does it: piece after piece becomes a mirror of the old and the new place, and then
// the new place. A piece that is done is on record before the first write reaches the new place
// only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/map/table_spec.h"
#include "server/volumes/recipes.h"

namespace sectormap::volumes {

// Copied at a time and, after a kill, once more: at least this (1 GiB), more where there would be
// too many of them.
inline constexpr uint64_t kPieceSectors = uint64_t{1} << 21;
inline constexpr uint64_t kPiecesWanted = 1024;
inline constexpr size_t kPiecesMax = 65536;

// Writes to a region wait while it is copied: 512 KiB.
inline constexpr uint64_t kMoveRegionSectors = 1024;

struct MoveRequest {
  std::string device, from, to;
  uint64_t to_start = 0;       // sector
  uint64_t piece_sectors = 0;  // 0: kPieceSectors or more
};

struct MovePiece {
  enum class State { kWaiting, kCopying, kCopied };
  Sector start;  // in the device
  SectorCount length;
  uint64_t from_at = 0, to_at = 0;  // sectors
  State state = State::kWaiting;
};

struct MovePlan {
  std::string body;  // the device whose table changes
  std::string from, to;
  std::vector<MovePiece> pieces;
  std::vector<TableRow> others;  // rows that stay as they are

  std::string Text() const;
  // Nothing if the text is not a plan's.
  static std::optional<MovePlan> Parse(const std::string& text);
  // The table with each piece where its state says.
  std::vector<TableRow> Rows() const;
  uint64_t copied_sectors() const;
  uint64_t total_sectors() const;
};

// Any control thread.
class Moves {
 public:
  explicit Moves(Recipes& recipes);
  Moves(const Moves&) = delete;
  Moves& operator=(const Moves&) = delete;

  // Refused before anything begins: nothing lies on `from`, rows that are not linear lie on it, the
  // destination is too small, not aligned or in use by any table or move.
  absl::StatusOr<OperationInfo> Start(const MoveRequest& request);

 private:
  absl::Status Run(OperationRun& run);
  absl::StatusOr<MovePlan> Prepare(const MoveRequest& request);
  // What it gives is to be claimed.
  absl::StatusOr<Recipes::Claim> CheckDestination(const MoveRequest& request, const MovePlan& plan);
  // Also of one that goes on: the destination may be late at a start.
  absl::Status ClaimDestination(const OperationRun& run, const MovePlan& plan);
  absl::Status CopyPieces(OperationRun& run, MovePlan& plan);
  absl::Status GoBack(OperationRun& run, const MovePlan& plan, const absl::Status& why);
  // Puts the plan's table in place. `confirm` is asked while all I/O waits. The rows that stay are
  // as they are now.
  absl::Status PutTable(OperationRun& run, const MovePlan& before, MovePlan& next, SuspendMode mode,
                        const std::function<absl::Status()>& confirm);
  absl::Status PutTableInTime(OperationRun& run, const MovePlan& before, MovePlan& next,
                              const std::function<absl::Status()>& confirm);
  // The rows that stay as they are now. Aborted: the table is not the plan's.
  absl::StatusOr<std::vector<TableRow>> ReadOthers(const MovePlan& plan) const;
  // Unavailable: not yet. DataLoss: one of its legs has failed.
  absl::Status CheckCopied(const MovePlan& plan, size_t piece) const;
  // DataLoss: one of a piece that is being copied has failed.
  absl::Status CheckLegs(const MovePlan& plan) const;
  // Until the piece is in sync. FailedPrecondition: a leg has failed.
  absl::Status WaitForPiece(OperationRun& run, const MovePlan& plan, size_t piece) const;
  absl::Status FlushDestination(const MovePlan& plan);

  Recipes& recipes_;
};

}  // namespace sectormap::volumes
