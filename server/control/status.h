// SPDX-License-Identifier: Apache-2.0
// absl::Status to grpc::Status: the same canonical code and message, and what programs want to know
// as a detail (google.rpc.Status, which gRPC carries as grpc-status-details-bin).
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace sectormap::control {

// Every refusal has details, which tells an UNAVAILABLE of ours from one that gRPC made because
// nobody answered. A refused table's have a sectormap.v1.TableViolation. Texts that are too long
// for a client lose their middle, bytes that are not of UTF-8 become `\xNN`.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace sectormap::control
