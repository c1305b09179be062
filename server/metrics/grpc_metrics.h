// SPDX-License-Identifier: Apache-2.0
// GrpcMetrics: how many calls of the control plane ended how, and how long they took. Control plane
// only: a call costs one lock, which no I/O ever touches.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <grpcpp/support/server_interceptor.h>
#include <grpcpp/support/status.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/metrics/families.h"

namespace sectormap::metrics {

// Upper bounds of the duration buckets, in seconds; one more bucket takes the rest. Control calls
// take from a lookup (well below 1 ms) to a suspend that waits for a slow disk.
inline constexpr std::array<double, 10> kGrpcDurationBounds = {0.0005, 0.001, 0.0025, 0.005, 0.01,
                                                               0.05,   0.1,   0.5,    1.0,   10.0};

// Any thread. Outlives the server whose interceptor it is.
class GrpcMetrics {
 public:
  struct MethodTotals {
    std::array<uint64_t, kGrpcDurationBounds.size() + 1> buckets{};  // not cumulative
    double seconds = 0;
    uint64_t count = 0;
  };
  struct Totals {
    // By (method, code), as in ("sectormap.v1.DeviceMapper/Create", "ALREADY_EXISTS").
    std::map<std::pair<std::string, std::string>, uint64_t> requests;
    std::map<std::string, MethodTotals> durations;  // by method; a stream counts when it ends
  };

  // For ServerBuilder::experimental().SetInterceptorCreators(). The factory refers to *this.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> InterceptorFactory();

  void Count(std::string_view method, grpc::StatusCode code, absl::Duration duration);

  Totals totals() const;

 private:
  mutable absl::Mutex mutex_;
  Totals totals_ ABSL_GUARDED_BY(mutex_);
};

// Any thread.
void AddGrpcFamilies(const GrpcMetrics& grpc, Families& families);

// "OK", "NOT_FOUND", ...
std::string_view CodeName(grpc::StatusCode code);

}  // namespace sectormap::metrics
