// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/mirror_rows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sectormap::volumes {
namespace {

// `A/B`.
bool ParseRatio(const std::string& word, uint64_t& part, uint64_t& whole) {
  const std::vector<std::string> parts = absl::StrSplit(word, '/');
  return parts.size() == 2 && absl::SimpleAtoi(parts[0], &part) &&
         absl::SimpleAtoi(parts[1], &whole);
}

bool IsSyncWord(const std::string& word) { return word == "sync" || word == "nosync"; }

// START LENGTH mirror N DEVICE{N} IN_SYNC/TOTAL 1 HEALTH ...
std::optional<MirrorStatus> ParseStatus(std::string_view line) {
  const auto words = SplitWords(line, Comments::kNone);
  uint64_t start = 0;
  uint64_t length = 0;
  uint64_t legs = 0;
  if (!words.has_value() || words->size() < 4 || (*words)[2] != "mirror" ||
      !absl::SimpleAtoi((*words)[0], &start) || !absl::SimpleAtoi((*words)[1], &length) ||
      !absl::SimpleAtoi((*words)[3], &legs) || words->size() < 4 + legs + 3) {
    return std::nullopt;
  }
  MirrorStatus status;
  status.start = Sector(start);
  status.length = SectorCount(length);
  status.legs.assign(words->begin() + 4, words->begin() + 4 + static_cast<int64_t>(legs));
  if (!ParseRatio((*words)[4 + legs], status.in_sync, status.total)) return std::nullopt;
  status.health = (*words)[4 + legs + 2];
  return status;
}

}  // namespace

bool SameDevice(const std::string& a, const std::string& b) {
  return a == b || (!MappedDeviceName(a).empty() && MappedDeviceName(a) == MappedDeviceName(b));
}

std::optional<MirrorRow> MirrorRow::Parse(const TableRow& row) {
  size_t log_args = 0;
  size_t legs = 0;
  if (row.type != "mirror" || row.args.size() < 2 || !absl::SimpleAtoi(row.args[1], &log_args)) {
    return std::nullopt;
  }
  MirrorRow mirror;
  mirror.log_type = row.args[0];
  const size_t legs_at = 2 + log_args;
  if (legs_at >= row.args.size() || !absl::SimpleAtoi(row.args[legs_at], &legs) ||
      legs > row.args.size() || legs_at + 2 * legs >= row.args.size()) {
    return std::nullopt;
  }
  const auto at = [&row](size_t index) { return row.args.begin() + static_cast<ptrdiff_t>(index); };
  mirror.log_args.assign(at(2), at(legs_at));
  for (size_t i = 0; i < legs; ++i) {
    MirrorLeg leg{.device = row.args[legs_at + 1 + 2 * i], .start = 0};
    if (!absl::SimpleAtoi(row.args[legs_at + 2 + 2 * i], &leg.start)) return std::nullopt;
    mirror.legs.push_back(std::move(leg));
  }
  const size_t features_at = legs_at + 1 + 2 * legs + 1;
  if (features_at < row.args.size()) mirror.features.assign(at(features_at), row.args.end());
  return mirror;
}

std::vector<std::string> MirrorRow::Args() const {
  std::vector<std::string> args = {log_type, absl::StrCat(log_args.size())};
  args.insert(args.end(), log_args.begin(), log_args.end());
  args.push_back(absl::StrCat(legs.size()));
  for (const MirrorLeg& leg : legs) {
    args.push_back(leg.device);
    args.push_back(absl::StrCat(leg.start));
  }
  if (!features.empty()) args.push_back(absl::StrCat(features.size()));
  args.insert(args.end(), features.begin(), features.end());
  return args;
}

bool MirrorRow::HasFeature(const std::string& name) const {
  return std::ranges::find(features, name) != features.end();
}

uint64_t MirrorRow::region_sectors() const {
  const size_t at = log_type == "disk" ? 1 : 0;
  uint64_t region = 0;
  return at < log_args.size() && absl::SimpleAtoi(log_args[at], &region) ? region : 0;
}

size_t MirrorRow::FirstWithout(const std::set<size_t>& gone) const {
  size_t leg = 0;
  while (gone.contains(leg)) ++leg;
  return leg;
}

void MirrorRow::SetSyncWord(const std::string& word) {
  std::erase_if(log_args, IsSyncWord);
  if (!word.empty()) log_args.push_back(word);
}

std::vector<MirrorStatus> ReadMirrorStatus(const DeviceRegistry& registry,
                                           const std::string& device) {
  std::vector<MirrorStatus> all;
  const absl::StatusOr<std::string> text = registry.Status(device, TableSlot::kLive);
  if (!text.ok()) return all;
  for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    if (auto status = ParseStatus({line.data(), line.size()})) all.push_back(*std::move(status));
  }
  return all;
}

std::optional<std::set<size_t>> ReadWholeLegs(VolumeCatalog& volumes, const std::string& device,
                                              Sector row) {
  const absl::StatusOr<std::string> answer = volumes.Ask(device, "whole_legs", row);
  if (!answer.ok()) return std::nullopt;
  std::set<size_t> legs;
  for (const absl::string_view word : absl::StrSplit(*answer, ' ', absl::SkipEmpty())) {
    size_t leg = 0;
    if (absl::SimpleAtoi(word, &leg)) legs.insert(leg);
  }
  return legs;
}

std::vector<WholeLegs> ReadAllWholeLegs(VolumeCatalog& volumes, const std::string& device,
                                        const std::string& table) {
  std::vector<WholeLegs> all;
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table);
  if (!spec.ok()) return all;
  for (const TableRow& row : spec->Rows()) {
    const std::optional<MirrorRow> mirror = MirrorRow::Parse(row);
    if (!mirror.has_value()) continue;
    const auto whole = ReadWholeLegs(volumes, device, row.start);
    if (!whole.has_value()) continue;
    WholeLegs& found = all.emplace_back(WholeLegs{.length = row.length, .legs = {}});
    for (const size_t leg : *whole) found.legs.push_back(mirror->legs.at(leg));
  }
  return all;
}

std::vector<size_t> WholeAmong(const MirrorRow& mirror, SectorCount length,
                               const std::vector<WholeLegs>& whole) {
  std::vector<size_t> found;
  for (const WholeLegs& one : whole) {
    const auto is_whole = [&](const MirrorLeg& leg) {
      return std::ranges::find(one.legs, leg) != one.legs.end();
    };
    if (one.length != length || !is_whole(mirror.legs.front())) continue;
    for (size_t leg = 0; leg < mirror.legs.size(); ++leg) {
      if (is_whole(mirror.legs[leg])) found.push_back(leg);
    }
    return found;
  }
  return found;
}

std::string LegLacksData(const std::string& device, const MirrorLeg& leg) {
  return absl::StrCat("leg '", leg.device, "' of '", device,
                      "' lacks data that another leg holds: wait until the mirror is in sync (what "
                      "has failed is copied again after a suspend and a resume)");
}

std::string TableText(const std::vector<TableRow>& rows) {
  std::string text;
  for (const TableRow& row : rows) {
    std::string args;
    for (const std::string& arg : row.args) {
      absl::StrAppend(&args, args.empty() ? "" : " ", QuoteWord(arg));
    }
    absl::StrAppend(&text, FormatRow(row.start, row.length, row.type, args), "\n");
  }
  return text;
}

TableRow LinearRow(Sector start, SectorCount length, const std::string& device, uint64_t at) {
  return {.line = 0,
          .start = start,
          .length = length,
          .type = "linear",
          .args = {device, absl::StrCat(at)}};
}

void JoinLinearRows(std::vector<TableRow>& rows, const std::string& device) {
  std::vector<TableRow> joined;
  for (TableRow& row : rows) {
    uint64_t before_at = 0;
    uint64_t at = 0;
    if (!joined.empty() && row.type == "linear" && joined.back().type == "linear" &&
        row.args.size() == 2 && joined.back().args.size() == 2 && row.args[0] == device &&
        joined.back().args[0] == device && absl::SimpleAtoi(joined.back().args[1], &before_at) &&
        absl::SimpleAtoi(row.args[1], &at) && before_at + joined.back().length.value() == at) {
      joined.back().length += row.length;
    } else {
      joined.push_back(std::move(row));
    }
  }
  rows = std::move(joined);
}

}  // namespace sectormap::volumes
