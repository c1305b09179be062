// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/reactor_metrics.h"

#include <chrono>
#include <string>

namespace sectormap::metrics {

void AddBuildFamilies(std::string_view version, Families& families) {
  Family build = Gauge("sectormap_build_info", "1, with the version that runs as a label.");
  build.Add({{"version", version}}, 1.0);
  families.Add(std::move(build));
}

void AddReactorFamilies(ReactorPool& reactors, Families& families) {
  Family busy =
      Counter("sectormap_reactor_busy_seconds_total",
              "Time in which the reactor's thread was not waiting for events; its rate is "
              "the share of a core that is used.");
  Family polled =
      Counter("sectormap_reactor_polled_seconds_total",
              "Time in which the reactor's thread looked for events instead of sleeping (--poll).");
  Family turns = Counter("sectormap_reactor_turns_total", "Turns of the reactor's loop.");
  for (int i = 0; i < reactors.size(); ++i) {
    const std::string index = std::to_string(i);
    busy.Add({{"reactor", index}}, std::chrono::duration<double>(reactors[i].busy_time()).count());
    polled.Add({{"reactor", index}},
               std::chrono::duration<double>(reactors[i].polled_time()).count());
    turns.Add({{"reactor", index}}, reactors[i].turns());
  }
  families.Add(std::move(busy));
  families.Add(std::move(polled));
  families.Add(std::move(turns));
}

}  // namespace sectormap::metrics
