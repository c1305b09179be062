// SPDX-License-Identifier: Apache-2.0
// MetricsServer: /metrics for Prometheus. Nothing is counted here: counters live where the work is
// done, one set per reactor, and are summed when somebody scrapes. docs/metrics.md lists them all.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/async/reactor_pool.h"
#include "core/block/backing_opener.h"
#include "core/map/device_registry.h"
#include "server/iscsi/portal.h"
#include "server/iscsi/target_directory.h"
#include "server/metrics/grpc_metrics.h"
#include "server/volumes/mirrors.h"
#include "server/volumes/operations.h"
#include "server/volumes/snapshots.h"

namespace sectormap::metrics {

// Where the figures come from. All outlive the server.
struct MetricsSources {
  std::string version;                            // the daemon's, for build_info
  std::chrono::system_clock::time_point started;  // the process
  ReactorPool& reactors;
  DeviceRegistry& devices;
  BackingOpener& backings;
  iscsi::TargetDirectory& targets;
  iscsi::PortalResources& portals;
  GrpcMetrics& grpc;
  // Nothing is told of what is not there.
  const volumes::Snapshots* snapshots = nullptr;
  const volumes::Mirrors* mirrors = nullptr;
  const volumes::Operations* operations = nullptr;
};

class MetricsServer {
 public:
  // `address` is a numeric ADDR:PORT or [ADDR]:PORT; port 0 takes a free one. Fails as
  // Listener::Bind does: AlreadyExists if it is in use, and the option to change. Answers on
  // threads of its own; a scrape takes the locks of a listing, none of the I/O path's.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(std::string_view address,
                                                              MetricsSources sources);

  // Stops answering and returns when no scrape runs any more: at once, but 2 s late if somebody
  // holds a connection and asks nothing.
  virtual ~MetricsServer() = default;

  // ADDR:PORT with the port that was bound, for http://ADDR:PORT/metrics.
  virtual std::string address() const = 0;
};

}  // namespace sectormap::metrics
