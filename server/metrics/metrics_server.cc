// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/metrics_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <future>
#include <optional>
#include <utility>

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/async/tcp_stream.h"
#include "core/base/text.h"
#include "server/metrics/device_metrics.h"
#include "server/metrics/families.h"
#include "server/metrics/iscsi_metrics.h"
#include "server/metrics/operation_metrics.h"
#include "server/metrics/process_metrics.h"
#include "server/metrics/reactor_metrics.h"

namespace sectormap::metrics {
namespace {

// Connections that are served at a time: a Prometheus or two, a person with curl, a load balancer's
// checks that connect and say nothing.
constexpr size_t kExposerThreads = 8;
// How long one may take to say what it wants; below Prometheus's own 10 s for a scrape.
constexpr std::chrono::milliseconds kRequestTimeout(2000);

// Between two attempts to wake the server that is to end: the first comes too early if it has not
// seen yet that it shall end, and one more costs nothing.
constexpr std::chrono::milliseconds kWakeInterval(10);

// Connects to ADDR:PORT and hangs up, without waiting for anything.
void Knock(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  if (!absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr) != 1) {
    return;
  }
  to.sin_port = htons(static_cast<uint16_t>(port));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  // Refused if the server is gone meanwhile: so much the better.
  static_cast<void>(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)));
  close(fd);
}

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
    AddProcessFamilies(sources_.started, families);
    return families.Take();
  }

 private:
  const MetricsSources sources_;
};

class PrometheusServer final : public MetricsServer {
 public:
  // Throws what civetweb throws if it cannot listen.
  PrometheusServer(std::string_view address, MetricsSources sources)
      : collector_(std::make_shared<Collector>(std::move(sources))) {
    exposer_.emplace(std::vector<std::string>{
        "listening_ports", std::string(address), "num_threads", absl::StrCat(kExposerThreads),
        "request_timeout_ms", absl::StrCat(kRequestTimeout.count())});
    exposer_->RegisterCollectable(collector_);
    const std::vector<int> ports = exposer_->GetListeningPorts();
    address_ = absl::StrCat(Absl(address.substr(0, address.rfind(':') + 1)),
                            ports.empty() ? 0 : ports.front());
  }

  // civetweb (1.15) accepts in a thread that sleeps in poll(2) for two seconds at a time, and only
  // between two sleeps looks whether it shall end; no option changes that. A connection wakes it.
  ~PrometheusServer() override {
    std::future<void> ended = std::async(std::launch::async, [this] { exposer_.reset(); });
    do {
      Knock(address_);
    } while (ended.wait_for(kWakeInterval) != std::future_status::ready);
  }

  std::string address() const override { return address_; }

 private:
  const std::shared_ptr<Collector> collector_;
  // Goes before the collector: no scrape reaches one that is gone.
  std::optional<prometheus::Exposer> exposer_;
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(std::string_view address,
                                                                    MetricsSources sources) {
  // prometheus-cpp tells of a failed bind by an exception that has no reason in it. So a socket of
  // our own tries first, and is gone again when the exposer binds.
  if (const auto tried = Listener::Bind(std::string(address), "--metrics"); !tried.ok()) {
    return absl::Status(tried.status().code(), absl::StrCat("cannot serve metrics: ",
                                                            std::string(tried.status().message())));
  }
  try {
    return std::make_unique<PrometheusServer>(address, std::move(sources));
  } catch (const std::exception& error) {
    const std::string_view likely_cause =
        address.starts_with('[') ? " (Debian's civetweb, which answers here, has no IPv6)" : "";
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", Absl(address), ": ",
                                               error.what(), Absl(likely_cause),
                                               "; choose another address with --metrics"));
  }
}

}  // namespace sectormap::metrics
