// SPDX-License-Identifier: Apache-2.0
// sectormap.v1.DeviceMapper: translates a message, calls the catalog or the registry, translates
// the answer.
#pragma once

#include <functional>
#include <string>

#include "core/map/target_registry.h"
#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "server/control/change_feed.h"
#include "server/control/waiting_calls.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::control {

// What keeps a device from being removed, as advice to append to a refusal; empty if nothing is
// known.
using HolderAdvice = std::function<std::string(const std::string& device)>;

class DeviceMapperService final
    : public v1::DeviceMapper::WithCallbackMethod_Wait<
          v1::DeviceMapper::WithCallbackMethod_Watch<v1::DeviceMapper::Service>> {
 public:
  // All outlive it.
  DeviceMapperService(volumes::VolumeCatalog& volumes, const TargetRegistry& types,
                      ChangeFeed& feed, HolderAdvice holders);

  grpc::Status Create(grpc::ServerContext* context, const v1::CreateRequest* request,
                      v1::Device* response) override;
  grpc::Status Load(grpc::ServerContext* context, const v1::LoadRequest* request,
                    v1::Device* response) override;
  grpc::Status Clear(grpc::ServerContext* context, const v1::ClearRequest* request,
                     v1::Device* response) override;
  grpc::Status Suspend(grpc::ServerContext* context, const v1::SuspendRequest* request,
                       v1::Device* response) override;
  grpc::Status Resume(grpc::ServerContext* context, const v1::ResumeRequest* request,
                      v1::Device* response) override;
  grpc::Status Replace(grpc::ServerContext* context, const v1::ReplaceRequest* request,
                       v1::Device* response) override;
  grpc::Status Remove(grpc::ServerContext* context, const v1::RemoveRequest* request,
                      v1::RemoveResponse* response) override;
  grpc::Status Rename(grpc::ServerContext* context, const v1::RenameRequest* request,
                      v1::Device* response) override;
  grpc::Status GetTable(grpc::ServerContext* context, const v1::GetTableRequest* request,
                        v1::GetTableResponse* response) override;
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override;
  grpc::Status GetDependencies(grpc::ServerContext* context,
                               const v1::GetDependenciesRequest* request,
                               v1::GetDependenciesResponse* response) override;
  grpc::Status Get(grpc::ServerContext* context, const v1::GetRequest* request,
                   v1::Device* response) override;
  grpc::Status List(grpc::ServerContext* context, const v1::ListRequest* request,
                    v1::ListResponse* response) override;
  grpc::Status Message(grpc::ServerContext* context, const v1::MessageRequest* request,
                       v1::MessageResponse* response) override;
  grpc::Status ListTargetTypes(grpc::ServerContext* context,
                               const v1::ListTargetTypesRequest* request,
                               v1::ListTargetTypesResponse* response) override;
  grpc::Status GetStats(grpc::ServerContext* context, const v1::GetStatsRequest* request,
                        v1::GetStatsResponse* response) override;

  grpc::ServerUnaryReactor* Wait(grpc::CallbackServerContext* context,
                                 const v1::WaitRequest* request, v1::Device* response) override;
  grpc::ServerWriteReactor<v1::WatchResponse>* Watch(grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest* request) override;

 private:
  const DeviceRegistry& registry() const { return volumes_.registry(); }

  volumes::VolumeCatalog& volumes_;
  const TargetRegistry& types_;
  ChangeFeed& feed_;
  const HolderAdvice holders_;
  WaitingCalls changes_{kDeviceChangesMax,
                        "calls that change devices are under way already, and may wait for I/O "
                        "that has to end first: resume what is suspended, see to disks that do "
                        "not answer, or try again later"};
};

}  // namespace sectormap::control
