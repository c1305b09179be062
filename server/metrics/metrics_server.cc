// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/metrics_server.h"

#include <exception>
#include <utility>

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include "absl/strings/str_cat.h"
#include "core/base/text.h"
#include "server/metrics/device_metrics.h"
#include "server/metrics/families.h"
#include "server/metrics/iscsi_metrics.h"
#include "server/metrics/operation_metrics.h"
#include "server/metrics/process_metrics.h"
#include "server/metrics/reactor_metrics.h"

namespace sectormap::metrics {
namespace {

// Threads that answer scrapes: one Prometheus, and a person with curl beside it.
constexpr size_t kExposerThreads = 2;

class Collector final : public prometheus::Collectable {
 public:
  explicit Collector(MetricsSources sources) : sources_(std::move(sources)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    Families families;
    AddBuildFamilies(sources_.version, families);
    AddReactorFamilies(sources_.reactors, families);
    AddIscsiFamilies(sources_.targets, sources_.reactors.size(), families);
    AddCommandMemoryFamilies(sources_.portals, families);
    AddCommandFamilies(sources_.targets, families);
    AddDeviceFamilies(sources_.devices, families);
    AddBackingFamilies(sources_.backings, families);
    if (sources_.snapshots != nullptr) AddSnapshotFamilies(*sources_.snapshots, families);
    if (sources_.mirrors != nullptr) {
      AddMirrorFamilies(sources_.devices, *sources_.mirrors, families);
    }
    if (sources_.operations != nullptr) AddOperationFamilies(*sources_.operations, families);
    AddGrpcFamilies(sources_.grpc, families);
    AddProcessFamilies(families);
    return families.Take();
  }

 private:
  const MetricsSources sources_;
};

class PrometheusServer final : public MetricsServer {
 public:
  // Throws what civetweb throws if it cannot listen.
  PrometheusServer(std::string_view address, MetricsSources sources)
      : collector_(std::make_shared<Collector>(std::move(sources))),
        exposer_(std::string(address), kExposerThreads) {
    exposer_.RegisterCollectable(collector_);
    const std::vector<int> ports = exposer_.GetListeningPorts();
    address_ = absl::StrCat(Absl(address.substr(0, address.rfind(':') + 1)),
                            ports.empty() ? 0 : ports.front());
  }

  std::string address() const override { return address_; }

 private:
  const std::shared_ptr<Collector> collector_;
  prometheus::Exposer exposer_;  // goes first: no scrape reaches a collector that is gone
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(std::string_view address,
                                                                    MetricsSources sources) {
  if (address.rfind(':') == std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics ", Absl(address), ": write ADDR:PORT or [ADDR]:PORT"));
  }
  // prometheus-cpp tells of a failed bind by an exception; it ends here.
  try {
    return std::make_unique<PrometheusServer>(address, std::move(sources));
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", Absl(address), ": ", error.what(),
                     ". Is the port in use? Choose another with --metrics ADDR:PORT (port 0 takes "
                     "a free one)."));
  }
}

}  // namespace sectormap::metrics
