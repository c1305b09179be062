// SPDX-License-Identifier: Apache-2.0
// sectormap.v1.Operations: translates a message, calls the recipes or the operations, translates
// the answer.
#pragma once

#include "sectormap/v1/operations.grpc.pb.h"
#include "server/control/waiting_calls.h"
#include "server/volumes/mirrors.h"
#include "server/volumes/moves.h"
#include "server/volumes/operations.h"
#include "server/volumes/snapshots.h"

namespace sectormap::control {

class OperationsService final : public v1::Operations::Service {
 public:
  // All outlive it.
  OperationsService(volumes::Operations& operations, volumes::Snapshots& snapshots,
                    volumes::Moves& moves, volumes::Mirrors& mirrors)
      : operations_(operations), snapshots_(snapshots), moves_(moves), mirrors_(mirrors) {}

  grpc::Status CreateSnapshots(grpc::ServerContext* context,
                               const v1::CreateSnapshotsRequest* request,
                               v1::CreateSnapshotsResponse* response) override;
  grpc::Status ListSnapshots(grpc::ServerContext* context, const v1::ListSnapshotsRequest* request,
                             v1::ListSnapshotsResponse* response) override;
  grpc::Status RemoveSnapshot(grpc::ServerContext* context,
                              const v1::RemoveSnapshotRequest* request,
                              v1::Operation* response) override;
  grpc::Status RollBack(grpc::ServerContext* context, const v1::RollBackRequest* request,
                        v1::Operation* response) override;
  grpc::Status Move(grpc::ServerContext* context, const v1::MoveRequest* request,
                    v1::Operation* response) override;
  grpc::Status AddMirrorLeg(grpc::ServerContext* context, const v1::AddMirrorLegRequest* request,
                            v1::Operation* response) override;
  grpc::Status RemoveMirrorLeg(grpc::ServerContext* context,
                               const v1::RemoveMirrorLegRequest* request,
                               v1::Operation* response) override;
  grpc::Status ListOperations(grpc::ServerContext* context,
                              const v1::ListOperationsRequest* request,
                              v1::ListOperationsResponse* response) override;
  grpc::Status GetOperation(grpc::ServerContext* context, const v1::GetOperationRequest* request,
                            v1::Operation* response) override;
  grpc::Status WatchOperation(grpc::ServerContext* context,
                              const v1::WatchOperationRequest* request,
                              grpc::ServerWriter<v1::Operation>* writer) override;
  grpc::Status WaitOperation(grpc::ServerContext* context, const v1::WaitOperationRequest* request,
                             v1::Operation* response) override;
  grpc::Status CancelOperation(grpc::ServerContext* context,
                               const v1::CancelOperationRequest* request,
                               v1::Operation* response) override;

 private:
  volumes::Operations& operations_;
  volumes::Snapshots& snapshots_;
  volumes::Moves& moves_;
  volumes::Mirrors& mirrors_;
  WaitingCalls starts_{kOperationStartsMax,
                       "calls that take snapshots or begin operations are under way already, and "
                       "may wait for one another: try again later"};
  WaitingCalls waiters_{kOperationWaitersMax,
                        "callers wait for operations already: ask with GetOperation now and then "
                        "instead"};
};

}  // namespace sectormap::control
