// SPDX-License-Identifier: Apache-2.0
#include "server/control/waiting_calls.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/control/status.h"

namespace sectormap::control {

WaitingCalls::One::One(WaitingCalls& calls, int more)
    : calls_(calls),
      max_(calls.max_ + more),
      fits_(calls.count_.fetch_add(1, std::memory_order_relaxed) < max_) {}

grpc::Status WaitingCalls::One::status() const {
  if (fits_) return grpc::Status::OK;
  return ToGrpc(absl::ResourceExhaustedError(absl::StrCat(max_, " ", calls_.refusal_)));
}

}  // namespace sectormap::control
