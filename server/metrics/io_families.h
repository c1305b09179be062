// SPDX-License-Identifier: Apache-2.0
// IoFamilies: requests, bytes and errors by operation, as IoCounters count them.
#pragma once

#include <string_view>

#include "core/block/io_counters.h"
#include "server/metrics/families.h"

namespace sectormap::metrics {

class IoFamilies {
 public:
  // PREFIX_requests_total, PREFIX_bytes_total, PREFIX_errors_total. `what` completes the help text.
  IoFamilies(std::string_view prefix, std::string_view what);

  // One sample per operation, also for those that never happened: a rate needs its zero.
  void Add(std::string_view label, std::string_view value, const IoTotals& totals);
  void MoveTo(Families& families);

 private:
  Family requests_, bytes_, errors_;
};

}  // namespace sectormap::metrics
