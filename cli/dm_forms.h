// SPDX-License-Identifier: Apache-2.0
// What dmsetup prints, made from what the daemon answers. Devices here have no kernel numbers, so
// every form is that of `dmsetup -o devname`: names where dmsetup has MAJOR:MINOR, and neither the
// `Major, minor:` line nor the Maj and Min columns. Everything ends with a newline.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sectormap/v1/device_mapper.pb.h"

namespace sectormap::cli {

// `info NAME`: the block of lines, and an empty one.
std::string InfoBlock(const v1::Device& device);

// `info -c`: Name, Stat, Open, Targ, Event and UUID, or the fields asked for (comma-separated).
struct InfoColumnsOptions {
  std::string fields;  // empty: the default ones
  bool headings = true;
  std::string separator;  // empty: aligned columns
};
absl::StatusOr<std::string> InfoColumns(const std::vector<v1::Device>& devices,
                                        const InfoColumnsOptions& options);

// `ls`: NAME, a tab, (NAME).
std::string LsLines(const std::vector<v1::Device>& devices);

using Dependencies = std::vector<v1::Dependency>;

// `2 dependencies<tab>: (/srv/a) (/srv/b)`.
std::string DepsLine(const Dependencies& dependencies);

// `ls --tree`: the devices that no other one uses, and below each what it is made of.
std::string Tree(const std::map<std::string, Dependencies>& devices);

// `table` and `status` text with `prefix` before each line. A device without a table is one empty
// line. Not empty `type`: only rows of that type.
std::string RowLines(absl::string_view text, absl::string_view prefix, absl::string_view type);

// `targets`: NAME and vX.Y.Z.
std::string TargetsLines(const v1::ListTargetTypesResponse& types);

// `stats`: one line per device and operation.
std::string StatsTable(const v1::GetStatsResponse& stats);

// Left-aligned columns, each as wide as its longest cell, two blanks between.
std::string Columns(const std::vector<std::vector<std::string>>& rows);

// 512-byte sectors in the largest binary unit that keeps them exact enough to read: 8 MiB, 1.5 GiB.
std::string HumanSize(uint64_t sectors);

}  // namespace sectormap::cli
