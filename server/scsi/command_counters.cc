// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/command_counters.h"

namespace sectormap::scsi {

CommandTotals CommandCounters::Sum() const {
  CommandTotals totals;
  shards_.ForEach([&totals](const Shard& shard) {
    for (int op = 0; op < kOpClassCount; ++op) {
      const PerClass& from = shard[op];
      CommandTotals::PerClass& to = totals.classes[op];
      to.commands += from.commands.value();
      to.bytes += from.bytes.value();
      to.errors += from.errors.value();
      to.nanoseconds += from.nanoseconds.value();
      for (size_t i = 0; i < kLatencyBuckets; ++i) to.latency[i] += from.latency[i].value();
    }
  });
  return totals;
}

}  // namespace sectormap::scsi
