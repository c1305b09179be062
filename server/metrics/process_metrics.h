// SPDX-License-Identifier: Apache-2.0
// process_*: what every Prometheus client library says of its process, from /proc/self. The rest of
// /proc may be hidden (systemd's ProcSubset=pid).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "server/metrics/families.h"

namespace sectormap::metrics {

struct ProcessStat {
  double cpu_seconds = 0;
  uint64_t virtual_bytes = 0;
  uint64_t resident_bytes = 0;
  uint64_t threads = 0;
};

// Reads a line of /proc/PID/stat (proc(5)): the command name in it may hold anything, brackets and
// blanks too. Nothing if the line is cut short.
std::optional<ProcessStat> ParseProcessStat(std::string_view line, double ticks_per_second,
                                            uint64_t page_bytes);

// Blocks for a few reads of /proc/self. `started`: when the process was.
void AddProcessFamilies(std::chrono::system_clock::time_point started, Families& families);

}  // namespace sectormap::metrics
