// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/io_families.h"

#include "core/block/io_op_name.h"

namespace sectormap::metrics {

IoFamilies::IoFamilies(std::string_view prefix, std::string_view what)
    : requests_(Counter(std::string(prefix) + "_requests_total",
                        "Requests that have ended on " + std::string(what) + ".")),
      bytes_(Counter(std::string(prefix) + "_bytes_total",
                     "Bytes of the requests that have ended on " + std::string(what) + ".")),
      errors_(Counter(std::string(prefix) + "_errors_total",
                      "Requests that have failed on " + std::string(what) + ".")) {}

void IoFamilies::Add(std::string_view label, std::string_view value, const IoTotals& totals) {
  for (int i = 0; i < kIoOpCount; ++i) {
    const IoTotals::PerOp& op = totals.ops[i];
    const Labels labels = {{label, value}, {"op", NameOf(static_cast<IoOp>(i))}};
    requests_.Add(labels, op.requests);
    bytes_.Add(labels, op.bytes);
    errors_.Add(labels, op.errors);
  }
}

void IoFamilies::MoveTo(Families& families) {
  families.Add(std::move(requests_));
  families.Add(std::move(bytes_));
  families.Add(std::move(errors_));
}

}  // namespace sectormap::metrics
