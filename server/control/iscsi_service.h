// SPDX-License-Identifier: Apache-2.0
// sectormap.v1.Iscsi: translates a message, calls the exports or the target directory, translates
// the answer.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sectormap/v1/iscsi.grpc.pb.h"
#include "server/control/waiting_calls.h"
#include "server/exports/export_catalog.h"
#include "server/iscsi/target_directory.h"

namespace sectormap::control {

class IscsiService final : public v1::Iscsi::Service {
 public:
  // All outlive it. `portals` gives the addresses that listen now; any thread.
  IscsiService(exports::ExportCatalog& exports, const iscsi::TargetDirectory& directory,
               std::function<std::vector<std::string>()> portals);

  grpc::Status Export(grpc::ServerContext* context, const v1::ExportRequest* request,
                      v1::Export* response) override;
  grpc::Status Unexport(grpc::ServerContext* context, const v1::UnexportRequest* request,
                        v1::UnexportResponse* response) override;
  grpc::Status ListExports(grpc::ServerContext* context, const v1::ListExportsRequest* request,
                           v1::ListExportsResponse* response) override;
  grpc::Status ListSessions(grpc::ServerContext* context, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override;
  grpc::Status ListPortals(grpc::ServerContext* context, const v1::ListPortalsRequest* request,
                           v1::ListPortalsResponse* response) override;

 private:
  exports::ExportCatalog& exports_;
  const iscsi::TargetDirectory& directory_;
  const std::function<std::vector<std::string>()> portals_;
  WaitingCalls changes_{kExportChangesMax,
                        "calls that change exports are under way already: try again later"};
};

}  // namespace sectormap::control
