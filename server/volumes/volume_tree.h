// SPDX-License-Identifier: Apache-2.0
// VolumeTree: how live tables make volumes, their layers and their snapshots, as LVM stacks them.
//
//   vol                    a volume without snapshots: the device has its own table
//   vol -> vol-real        with snapshots: `snapshot-origin` (or, while it is rolled back,
//                          `snapshot-merge`) over the body, which has the table
//   s1                     a snapshot: a body with one row `snapshot <body of another volume> ...`.
//                          It is a volume too, and gets a layer as soon as it has snapshots itself.
//
// Snapshots of one volume form a chain: the newest lies on the volume's body, each older one on the
// body of the next newer one. So a write to the volume copies a chunk once, whatever their number,
// and what a snapshot lacks is looked up in the newer ones.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/map/device_registry.h"
#include "core/map/table_spec.h"

namespace sectormap::volumes {

// The words of a `snapshot` or `snapshot-merge` row.
struct SnapshotRow {
  std::string base;   // name of the mapped device, or the path, that it is a snapshot of
  std::string store;  // as the table names it
  std::string persistence;
  uint64_t chunk_sectors = 0;
  std::vector<std::string> features{};

  // The row of a table of `length` with this type. `base` is written as a mapped device's name.
  std::string Table(std::string_view type, SectorCount length) const;
};

struct Volume {
  std::string name;
  std::string body;  // the device with the table: `name`, or the layer below
  SectorCount length;
  bool read_only = false;
  std::string body_table;
  std::optional<SnapshotRow> snapshot;  // of the body's table
  std::optional<SnapshotRow> merge;     // being rolled back

  bool layered() const { return body != name; }
};

// What the tables were when it was read. A value.
class VolumeTree {
 public:
  static VolumeTree Read(const DeviceRegistry& registry);

  const std::map<std::string, Volume>& volumes() const { return volumes_; }
  // NotFound; FailedPrecondition: it is the layer of another one, or has no table.
  absl::StatusOr<Volume> Find(const std::string& name) const;
  // The volume with this body; null if there is none.
  const Volume* WithBody(const std::string& body) const;
  // As its users know a device: the volume's name for its body, `device` for what is none.
  std::string NameOver(const std::string& device) const;
  // Those that are snapshots of this body, by name.
  std::vector<Volume> SnapshotsOf(const std::string& body) const;
  // The volumes above `snapshot`, each the base of the one before: where it looks up what it lacks.
  // They live as long as this.
  std::vector<const Volume*> Above(const Volume& snapshot) const;
  // The same up to `origin` (counted). Empty if `origin` is not above it.
  std::vector<Volume> WayUp(const Volume& snapshot, const std::string& origin) const;

 private:
  std::map<std::string, Volume> volumes_;  // by name
  std::map<std::string, std::string> name_of_body_;
};

// "/dev/mapper/NAME", as a word of a table.
std::string DeviceWord(std::string_view name);
std::string OriginTable(std::string_view body, SectorCount length);
// The mapped device that a table of one row, `snapshot-origin` or `snapshot-merge`, lies on. Empty
// if it is another table.
std::string LayerBelow(const TableSpec& table);

}  // namespace sectormap::volumes
