// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/grpc_metrics.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace sectormap::metrics {
namespace {

class CallInterceptor final : public grpc::experimental::Interceptor {
 public:
  CallInterceptor(GrpcMetrics& metrics, const grpc::experimental::ServerRpcInfo& info)
      : metrics_(metrics), method_(info.method()), start_(absl::Now()) {
    if (!method_.empty() && method_.front() == '/') method_.erase(0, 1);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      metrics_.Count(method_, methods->GetSendStatus().error_code(), absl::Now() - start_);
    }
    methods->Proceed();
  }

 private:
  GrpcMetrics& metrics_;
  std::string method_;
  const absl::Time start_;
};

class CallInterceptorFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallInterceptorFactory(GrpcMetrics& metrics) : metrics_(metrics) {}

  // gRPC takes the interceptor and deletes it when the call ends.
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return std::make_unique<CallInterceptor>(metrics_, *info).release();
  }

 private:
  GrpcMetrics& metrics_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
GrpcMetrics::InterceptorFactory() {
  return std::make_unique<CallInterceptorFactory>(*this);
}

void GrpcMetrics::Count(std::string_view method, grpc::StatusCode code, absl::Duration duration) {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(duration));
  const size_t bucket = static_cast<size_t>(
      std::lower_bound(kGrpcDurationBounds.begin(), kGrpcDurationBounds.end(), seconds) -
      kGrpcDurationBounds.begin());
  absl::MutexLock lock(&mutex_);
  ++totals_.requests[{std::string(method), std::string(CodeName(code))}];
  MethodTotals& durations = totals_.durations[std::string(method)];
  ++durations.buckets[bucket];
  durations.seconds += seconds;
  ++durations.count;
}

GrpcMetrics::Totals GrpcMetrics::totals() const {
  absl::MutexLock lock(&mutex_);
  return totals_;
}

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

std::string_view CodeName(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::UNKNOWN:
      return "UNKNOWN";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::ALREADY_EXISTS:
      return "ALREADY_EXISTS";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::ABORTED:
      return "ABORTED";
    case grpc::StatusCode::OUT_OF_RANGE:
      return "OUT_OF_RANGE";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::DATA_LOSS:
      return "DATA_LOSS";
    case grpc::StatusCode::DO_NOT_USE:
      break;
  }
  return "UNKNOWN";
}

}  // namespace sectormap::metrics
