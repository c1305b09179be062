// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/snapshot_chunks.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "core/base/units.h"

namespace sectormap::volumes {
namespace {

absl::Status NotUnderstood(const std::string& device, const std::string& answer) {
  return absl::InternalError(
      absl::StrCat("'", device, "' answers `exceptions` with '", answer, "'"));
}

struct ChunkRange {
  uint64_t first, count;
};
struct Answer {
  uint64_t chunk_sectors = 0;
  bool more = false;
  uint64_t next = 0;
  std::vector<ChunkRange> ranges;
};

absl::StatusOr<Answer> AskExceptions(VolumeCatalog& volumes, const std::string& device,
                                     uint64_t first) {
  ASSIGN_OR_RETURN(const std::string text, volumes.Ask(device, absl::StrCat("exceptions ", first)));
  const std::vector<std::string> words = absl::StrSplit(text, ' ', absl::SkipEmpty());
  Answer answer;
  if (words.size() < 2 || !absl::SimpleAtoi(words[0], &answer.chunk_sectors) ||
      answer.chunk_sectors == 0) {
    return NotUnderstood(device, text);
  }
  answer.more = words[1] != "-";
  // An answer that does not get on would be asked for ever.
  if (answer.more && (!absl::SimpleAtoi(words[1], &answer.next) || answer.next <= first)) {
    return NotUnderstood(device, text);
  }
  for (size_t i = 2; i < words.size(); ++i) {
    const std::vector<std::string> parts = absl::StrSplit(words[i], '+');
    ChunkRange range{};
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &range.first) ||
        !absl::SimpleAtoi(parts[1], &range.count)) {
      return NotUnderstood(device, text);
    }
    answer.ranges.push_back(range);
  }
  return answer;
}

}  // namespace

void SectorRanges::Add(uint64_t first, uint64_t end) {
  if (first >= end) return;
  if (!ranges_.empty() && first <= ranges_.back().end) {
    ranges_.back().end = std::max(ranges_.back().end, end);
  } else {
    ranges_.push_back({first, end});
  }
}

SectorRanges SectorRanges::Without(const SectorRanges& other) const {
  SectorRanges left;
  auto hole = other.ranges_.begin();
  for (Range range : ranges_) {
    while (hole != other.ranges_.end() && hole->end <= range.first) ++hole;
    for (auto next = hole; next != other.ranges_.end() && next->first < range.end; ++next) {
      left.Add(range.first, std::max(range.first, next->first));
      range.first = std::max(range.first, next->end);
    }
    left.Add(range.first, range.end);
  }
  return left;
}

uint64_t SectorRanges::sectors() const {
  uint64_t sum = 0;
  for (const Range& range : ranges_) sum += range.end - range.first;
  return sum;
}

absl::StatusOr<SectorRanges> CopiedSectors(VolumeCatalog& volumes, const std::string& device,
                                           SectorCount length) {
  SectorRanges copied;
  for (uint64_t first = 0;;) {
    ASSIGN_OR_RETURN(const Answer answer, AskExceptions(volumes, device, first));
    for (const ChunkRange& range : answer.ranges) {
      copied.Add(range.first * answer.chunk_sectors,
                 std::min((range.first + range.count) * answer.chunk_sectors, length.value()));
    }
    if (!answer.more) return copied;
    first = answer.next;
  }
}

absl::Status KeepSectors(VolumeCatalog& volumes, const std::string& device,
                         const SectorRanges& ranges,
                         const std::function<absl::Status(uint64_t done_sectors)>& go_on) {
  if (ranges.empty()) return absl::OkStatus();
  // Only to learn the chunk size, which may differ from the other snapshot's.
  ASSIGN_OR_RETURN(const Answer own, AskExceptions(volumes, device, ranges.ranges().back().end));
  const uint64_t chunk = own.chunk_sectors;
  const uint64_t at_once = std::max<uint64_t>(1, kKeepBytes / (chunk * kSectorBytes));
  uint64_t done = 0;
  for (const SectorRanges::Range& range : ranges.ranges()) {
    const uint64_t end = (range.end + chunk - 1) / chunk;
    for (uint64_t first = range.first / chunk; first < end;) {
      RETURN_IF_ERROR(go_on(done));
      const uint64_t count = std::min(at_once, end - first);
      RETURN_IF_ERROR(volumes.Ask(device, absl::StrCat("keep ", first, " ", count)).status());
      first += count;
      done += count * chunk;
    }
  }
  return absl::OkStatus();
}

double SnapshotStatus::percent() const {
  if (state != State::kValid || total == 0 || allocated == metadata) return 0;
  return 100.0 * static_cast<double>(std::min(allocated, total)) / static_cast<double>(total);
}

SnapshotStatus ReadSnapshotStatus(const DeviceRegistry& registry, const std::string& device) {
  SnapshotStatus status;
  const absl::StatusOr<std::string> text = registry.Status(device, TableSlot::kLive);
  if (!text.ok()) return status;
  // START LENGTH TYPE, then `ALLOCATED/TOTAL METADATA` or a word.
  const std::vector<std::string> words =
      absl::StrSplit(*text, absl::ByAnyChar(" /\n"), absl::SkipEmpty());
  if (words.size() < 4) return status;
  if (words[3] == "Invalid") {
    status.state = SnapshotStatus::State::kInvalid;
  } else if (words[3] == "Overflow") {
    status.state = SnapshotStatus::State::kOverflow;
  } else if (words[3] == "Merge") {
    status.state = SnapshotStatus::State::kMergeFailed;
  } else if (words.size() >= 6 && absl::SimpleAtoi(words[3], &status.allocated) &&
             absl::SimpleAtoi(words[4], &status.total) &&
             absl::SimpleAtoi(words[5], &status.metadata)) {
    status.state = SnapshotStatus::State::kValid;
  }
  return status;
}

uint64_t StoreSectorsForAll(SectorCount length, uint64_t chunk_sectors) {
  // A 16-byte entry for each exception: this many in an area of one chunk.
  const uint64_t in_area = chunk_sectors * kSectorBytes / 16;
  const uint64_t exceptions = (length.value() + chunk_sectors - 1) / chunk_sectors;
  // The header, the areas, one more that is zeroed ahead, and the data.
  const uint64_t chunks = 1 + (exceptions / in_area + 2) + exceptions;
  return chunks * chunk_sectors;
}

}  // namespace sectormap::volumes
