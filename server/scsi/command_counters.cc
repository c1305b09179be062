// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/command_counters.h"

namespace sectormap::scsi {

OpClass ClassOf(const CdbBytes& cdb) {
  switch (cdb[0]) {
    case 0x08:
    case 0x28:
    case 0x88:
    case 0xa8:
      return OpClass::kRead;
    case 0x0a:
    case 0x2a:
    case 0x8a:
    case 0xaa:
    case 0x2e:
    case 0x8e:
    case 0xae:
    case 0x8b:
      return OpClass::kWrite;
    case 0x42:
      return OpClass::kUnmap;
    case 0x41:
    case 0x93:
      return OpClass::kWriteSame;
    case 0x89:
      return OpClass::kCompareWrite;
    case 0x35:
    case 0x91:
      return OpClass::kFlush;
    default:
      return OpClass::kOther;
  }
}

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
