// SPDX-License-Identifier: Apache-2.0
#include "server/control/iscsi_service.h"

#include <optional>
#include <utility>

#include "server/control/call_log.h"
#include "server/control/status.h"

namespace sectormap::control {
namespace {

void FillExport(const exports::ExportInfo& info, v1::Export& message) {
  message.set_device(info.device);
  message.set_iqn(info.iqn);
  message.set_lun(info.lun_number);
  message.set_read_only(info.read_only);
  message.set_chap_user(info.chap_user);
  message.set_mutual_chap_user(info.mutual_chap_user);
  for (const std::string& name : info.allowed_initiators) message.add_allowed_initiators(name);
  message.set_size_sectors(info.size.value());
  message.set_session_count(info.session_count);
}

}  // namespace

IscsiService::IscsiService(exports::ExportCatalog& exports, const iscsi::TargetDirectory& directory,
                           std::function<std::vector<std::string>()> portals)
    : exports_(exports), directory_(directory), portals_(std::move(portals)) {}

grpc::Status IscsiService::Export(grpc::ServerContext*, const v1::ExportRequest* request,
                                  v1::Export* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  exports::ExportRequest wanted{.device = request->device(),
                                .iqn = request->iqn(),
                                .lun_number = request->lun(),
                                .read_only = request->read_only()};
  if (request->has_chap()) {
    wanted.chap = state::ChapRecord{request->chap().user(), request->chap().secret()};
  }
  if (request->has_mutual_chap()) {
    wanted.mutual_chap =
        state::ChapRecord{request->mutual_chap().user(), request->mutual_chap().secret()};
  }
  for (const std::string& name : request->allowed_initiators()) {
    wanted.allowed_initiators.push_back(name);
  }
  const absl::StatusOr<exports::ExportInfo> info = exports_.Export(wanted);
  LogChange("export", request->device(), info.status());
  if (!info.ok()) return ToGrpc(info.status());
  FillExport(*info, *response);
  return grpc::Status::OK;
}

grpc::Status IscsiService::Unexport(grpc::ServerContext*, const v1::UnexportRequest* request,
                                    v1::UnexportResponse*) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  std::optional<uint64_t> lun_number;
  if (request->has_lun()) lun_number = request->lun();
  const absl::Status status = exports_.Unexport(request->device(), request->iqn(), lun_number);
  LogChange("unexport", request->device(), status);
  if (absl::IsNotFound(status) && request->allow_missing()) return grpc::Status::OK;
  return ToGrpc(status);
}

grpc::Status IscsiService::ListExports(grpc::ServerContext*, const v1::ListExportsRequest*,
                                       v1::ListExportsResponse* response) {
  for (const exports::ExportInfo& info : exports_.List())
    FillExport(info, *response->add_exports());
  return grpc::Status::OK;
}

grpc::Status IscsiService::ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest*,
                                        v1::ListSessionsResponse* response) {
  for (const iscsi::SessionInfo& session : directory_.sessions()) {
    v1::Session& row = *response->add_sessions();
    row.set_id(session.id);
    row.set_initiator_name(session.initiator_name);
    row.set_initiator_alias(session.initiator_alias);
    row.set_iqn(session.target_name);
    row.set_isid(session.isid);
    row.set_tsih(session.tsih);
    row.set_local_address(session.local_address);
    row.set_peer_address(session.peer_address);
    row.set_reactor(static_cast<uint32_t>(session.reactor));
    row.set_header_digest(session.header_digest);
    row.set_data_digest(session.data_digest);
    row.set_login_unix_seconds(session.login_unix_seconds);
  }
  return grpc::Status::OK;
}

grpc::Status IscsiService::ListPortals(grpc::ServerContext*, const v1::ListPortalsRequest*,
                                       v1::ListPortalsResponse* response) {
  for (std::string& address : portals_()) response->add_addresses(std::move(address));
  return grpc::Status::OK;
}

}  // namespace sectormap::control
