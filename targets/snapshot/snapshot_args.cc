// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/snapshot_args.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/map/table_error.h"
#include "core/map/table_spec.h"
#include "targets/snapshot/persistent_store.h"

namespace sectormap::targets {
namespace {

// Whatever is wrong with the store's words, the kernel says this, and the reason in its log.
absl::Status NoStore(std::string_view why) {
  return TableError(0, "", "Couldn't create exception store", why);
}

absl::Status ReadKind(std::string_view word, SnapshotArgs& row) {
  const char letter = word.empty() ? ' ' : static_cast<char>(word[0] & ~0x20);  // upper case
  if (letter == 'N') {
    row.kind = StoreKind::kTransient;
    return absl::OkStatus();
  }
  if (letter != 'P') return NoStore("Exception store type is not P, PO or N");
  row.kind = StoreKind::kPersistent;
  if (word.size() == 1 || word.substr(1) == "ersistent") return absl::OkStatus();
  row.overflow_allowed = (word[1] & ~0x20) == 'O';
  if (row.overflow_allowed) return absl::OkStatus();
  return NoStore(
      absl::StrCat("Unsupported persistent store option: ", std::string(word.substr(1))));
}

absl::StatusOr<uint64_t> ReadChunk(std::string_view word, const SnapshotArgs& row) {
  uint32_t chunk = 0;
  const char* end = word.data() + word.size();
  const auto [rest, problem] = std::from_chars(word.data(), end, chunk);
  if (problem != std::errc() || rest != end || word.empty()) return NoStore("Invalid chunk size");
  const BlockLimits origin = row.origin.device->limits();
  const BlockLimits cow = row.cow.device->limits();
  if (chunk == 0) {
    if (row.kind == StoreKind::kTransient) return NoStore("Chunk size not set");
    const uint32_t block = std::max(origin.logical_block_bytes, cow.logical_block_bytes);
    return std::max(kDefaultChunkSectors, uint64_t{block} >> kSectorShift);
  }
  const absl::Status legal = CheckChunkSize(chunk, origin, cow);
  if (!legal.ok()) return NoStore(std::string(legal.message()));
  return chunk;
}

absl::Status ReadFeatures(TargetArgs& args, SnapshotArgs& row) {
  if (args.left() == 0) return absl::OkStatus();
  constexpr std::string_view kWrongNumber = "Invalid number of feature arguments";
  ASSIGN_OR_RETURN(const uint64_t count, args.Number(kWrongNumber));
  if (count > 2 || count != args.left()) return TableError(0, "", kWrongNumber);
  while (args.left() > 0) {
    ASSIGN_OR_RETURN(const std::string_view word, args.Word(kWrongNumber));
    if (word == "discard_zeroes_cow") {
      row.discard_zeroes_cow = true;
    } else if (word == "discard_passdown_origin") {
      row.discard_passdown_origin = true;
    } else {
      return TableError(0, "", "Unrecognised feature requested", word);
    }
  }
  if (row.discard_passdown_origin && !row.discard_zeroes_cow) {
    return TableError(0, "", "discard_passdown_origin feature depends on discard_zeroes_cow");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SnapshotArgs> SnapshotArgs::Read(TargetArgs& args, bool merging) {
  if (args.left() < 4) return TableError(0, "", "requires 4 or more arguments");
  SnapshotArgs row;
  constexpr std::string_view kNoOrigin = "Cannot get origin device";
  ASSIGN_OR_RETURN(row.origin, merging ? args.WritableDevice(kNoOrigin) : args.Device(kNoOrigin));
  // Not only the snapshot's own writes go there: a store that took none of the origin's would be
  // valid on its disk, and show wrong data.
  ASSIGN_OR_RETURN(row.cow, args.WritableDevice("Cannot get COW device"));
  if (row.cow.device == row.origin.device) {
    return TableError(0, "", "COW device cannot be the same as origin device");
  }
  ASSIGN_OR_RETURN(const std::string_view kind, args.Word("requires 4 or more arguments"));
  ASSIGN_OR_RETURN(const std::string_view chunk, args.Word("requires 4 or more arguments"));
  RETURN_IF_ERROR(ReadKind(kind, row));
  ASSIGN_OR_RETURN(const uint64_t chunk_sectors, ReadChunk(chunk, row));
  RETURN_IF_ERROR(ReadFeatures(args, row));
  if (merging && row.kind != StoreKind::kPersistent) {
    return TableError(0, "", "Snapshot exception store does not support snapshot-merge.");
  }
  RETURN_IF_ERROR(CheckFits(row.origin, Sector(0), args.length()));
  ASSIGN_OR_RETURN(row.snapshot, OpenSnapshot({row.origin, row.cow, row.kind, chunk_sectors,
                                               args.restored(), args.host().notes()},
                                              args.host().reactors()));
  if ((args.length().value() - 1) / row.snapshot->chunk_sectors() >= kChunksMax) {
    return TableError(0, "", "Couldn't create exception store",
                      absl::StrCat("the row has more than ", kChunksMax, " chunks"));
  }
  return row;
}

std::string SnapshotArgs::TableArgs() const {
  std::string text =
      absl::StrCat(QuoteWord(origin.name()), " ", QuoteWord(cow.name()), " ",
                   kind == StoreKind::kTransient ? "N" : (overflow_allowed ? "PO" : "P"), " ",
                   snapshot->chunk_sectors());
  const int features = discard_zeroes_cow + discard_passdown_origin;
  if (features > 0) absl::StrAppend(&text, " ", features);
  if (discard_zeroes_cow) absl::StrAppend(&text, " discard_zeroes_cow");
  if (discard_passdown_origin) absl::StrAppend(&text, " discard_passdown_origin");
  return text;
}

}  // namespace sectormap::targets
