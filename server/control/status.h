// SPDX-License-Identifier: Apache-2.0
// absl::Status to grpc::Status: the same canonical code and message, and what programs want to know
// as a detail (google.rpc.Status, which gRPC carries as grpc-status-details-bin).
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace sectormap::control {

// A refused table gets a sectormap.v1.TableViolation.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace sectormap::control
