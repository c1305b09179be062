// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/sources.h"

namespace sectormap::metrics {

void AddGrpcFamilies(const GrpcMetrics& grpc, Families& families) {
  const GrpcMetrics::Totals totals = grpc.totals();
  Family requests =
      Counter("sectormap_grpc_requests_total", "Calls of the control plane that have ended.");
  for (const auto& [key, count] : totals.requests) {
    requests.Add({{"method", key.first}, {"code", key.second}}, count);
  }
  families.Add(std::move(requests));

  Family durations = Histogram("sectormap_grpc_request_duration_seconds",
                               "How long calls of the control plane took, streams included.");
  for (const auto& [method, durations_of] : totals.durations) {
    durations.AddHistogram({{"method", method}}, kGrpcDurationBounds, durations_of.buckets,
                           durations_of.seconds);
  }
  families.Add(std::move(durations));
}

}  // namespace sectormap::metrics
