// SPDX-License-Identifier: Apache-2.0
// Rows of type mirror and their status, in the kernel's words (drivers/md/dm-raid1.c).
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/map/device_registry.h"
#include "core/map/table_spec.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {

struct MirrorLeg {
  std::string device;  // as the table names it
  uint64_t start = 0;

  bool operator==(const MirrorLeg&) const = default;
};

// A mapped device may be written with and without its directory.
bool SameDevice(const std::string& a, const std::string& b);

struct MirrorRow {
  std::string log_type;               // core, disk
  std::vector<std::string> log_args;  // [log device] region [sync|nosync]
  std::vector<MirrorLeg> legs;
  std::vector<std::string> features;

  // Nothing if it is no mirror's row.
  static std::optional<MirrorRow> Parse(const TableRow& row);
  std::vector<std::string> Args() const;

  bool HasFeature(const std::string& name) const;
  uint64_t region_sectors() const;  // 0 if it cannot be read
  // The first leg that is not one of these. REQUIRES: there is one.
  size_t FirstWithout(const std::set<size_t>& gone) const;
  // It answers no write that its first leg does not have.
  bool HoldsFailedWrites() const { return HasFeature("handle_errors") && !HasFeature("keep_log"); }
  // Takes `sync` or `nosync` out, which count for one start only; then puts `word` in, if any.
  void SetSyncWord(const std::string& word);
};

struct MirrorStatus {
  Sector start;
  SectorCount length;
  std::vector<std::string> legs;  // as the status names them, in the order of the table
  uint64_t in_sync = 0, total = 0;
  std::string health;  // a character for each leg: A, F, D, S, R, U

  bool complete() const { return total != 0 && in_sync == total; }
  bool healthy() const { return health.find_first_not_of('A') == std::string::npos; }
  // What a leg could not read, if anything, another one has.
  bool only_reads_failed() const { return health.find_first_not_of("AR") == std::string::npos; }
};

// Of each mirror row of the live table, in order.
std::vector<MirrorStatus> ReadMirrorStatus(const DeviceRegistry& registry,
                                           const std::string& device);

// The legs of one row that hold all data, as the mirror knows it itself. Nothing if the live table
// has no mirror there, or could not be built.
std::optional<std::set<size_t>> ReadWholeLegs(VolumeCatalog& volumes, const std::string& device,
                                              Sector row);
// The legs of a row of this length that hold all data: they are alike.
struct WholeLegs {
  SectorCount length;
  std::vector<MirrorLeg> legs;

  bool operator==(const WholeLegs&) const = default;
};
// Of each mirror row of `table`, which is the device's live one.
std::vector<WholeLegs> ReadAllWholeLegs(VolumeCatalog& volumes, const std::string& device,
                                        const std::string& table);
// Which legs of a row are among them, for a table that takes the other's place. Empty if its first
// leg, which the row goes by, is not.
std::vector<size_t> WholeAmong(const MirrorRow& mirror, SectorCount length,
                               const std::vector<WholeLegs>& whole);
// Why a table cannot go by this leg.
std::string LegLacksData(const std::string& device, const MirrorLeg& leg);

// A whole table from rows that follow one another.
std::string TableText(const std::vector<TableRow>& rows);
TableRow LinearRow(Sector start, SectorCount length, const std::string& device, uint64_t at);
// Linear rows on `device` that go on where the one before ends become one.
void JoinLinearRows(std::vector<TableRow>& rows, const std::string& device);

}  // namespace sectormap::volumes
