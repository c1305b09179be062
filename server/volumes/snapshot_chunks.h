// SPDX-License-Identifier: Apache-2.0
// What the stores of snapshots hold, asked and changed by the snapshot target's messages
// `exceptions` and `keep`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {

// What one `keep` is asked for: so that a cancel and the progress are never far away.
inline constexpr uint64_t kKeepBytes = 4 << 20;

// A set of sectors: ascending runs with gaps between them.
class SectorRanges {
 public:
  struct Range {
    uint64_t first = 0, end = 0;
    bool operator==(const Range&) const = default;
  };
  // REQUIRES: not before the last range's end.
  void Add(uint64_t first, uint64_t end);
  // This without `other`.
  SectorRanges Without(const SectorRanges& other) const;

  const std::vector<Range>& ranges() const { return ranges_; }
  bool empty() const { return ranges_.empty(); }
  uint64_t sectors() const;

 private:
  std::vector<Range> ranges_;
};

// Sectors whose chunks the snapshot has in its store. `device` is the snapshot's body, of `length`.
absl::StatusOr<SectorRanges> CopiedSectors(VolumeCatalog& volumes, const std::string& device,
                                           SectorCount length);

// Makes the snapshot on `device` own all chunks of `ranges`, durably, kKeepBytes at a time. Before
// each of them `go_on` is asked, with the sectors done so far; its refusal is the answer.
// ResourceExhausted: the store is full, and the snapshot is as good as before.
absl::Status KeepSectors(VolumeCatalog& volumes, const std::string& device,
                         const SectorRanges& ranges,
                         const std::function<absl::Status(uint64_t done_sectors)>& go_on);

// The words of a snapshot's or a merge's status.
struct SnapshotStatus {
  enum class State { kValid, kInvalid, kOverflow, kMergeFailed, kUnknown };
  State state = State::kUnknown;
  uint64_t allocated = 0, total = 0, metadata = 0;  // sectors; of kValid only

  // LVM's percentage: none without exceptions, all when it is full.
  double percent() const;
};
SnapshotStatus ReadSnapshotStatus(const DeviceRegistry& registry, const std::string& device);

// So large a store has room for every chunk of `length`, and its metadata (docs/formats.md).
uint64_t StoreSectorsForAll(SectorCount length, uint64_t chunk_sectors);

}  // namespace sectormap::volumes
