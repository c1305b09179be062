// SPDX-License-Identifier: Apache-2.0
#include "server/control/status.h"

#include "core/map/table_error.h"
#include "google/rpc/status.pb.h"
#include "sectormap/v1/errors.pb.h"

namespace sectormap::control {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // The numbers are the same by design: absl's codes are gRPC's.
  const auto code = static_cast<grpc::StatusCode>(status.raw_code());
  const std::string message(status.message());
  const std::optional<TableViolation> violation = TableViolationIn(status);
  if (!violation.has_value()) return grpc::Status(code, message);

  v1::TableViolation detail;
  detail.set_line(static_cast<uint32_t>(violation->line));
  detail.set_target_type(violation->type);
  detail.set_reason(violation->reason);
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(detail);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace sectormap::control
