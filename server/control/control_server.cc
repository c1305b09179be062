// SPDX-License-Identifier: Apache-2.0
#include "server/control/control_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"

namespace sectormap::control {
namespace {

constexpr mode_t kOwnerOnly = 0177;  // as a umask: a socket of mode 0600

// For the life of a scope.
class Umask {
 public:
  explicit Umask(mode_t mask) : before_(umask(mask)) {}
  Umask(const Umask&) = delete;
  Umask& operator=(const Umask&) = delete;
  ~Umask() { umask(before_); }

 private:
  const mode_t before_;
};

void UsePluginsOnce() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

void Configure(grpc::ServerBuilder& builder) {
  grpc::ResourceQuota quota("control");
  quota.SetMaxThreads(kControlThreadsMax);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kRequestBytesMax);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  // Without this a second daemon binds the same port and takes every other call.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

void SetServing(grpc::Server& server, bool serving) {
  grpc::HealthCheckServiceInterface* health = server.GetHealthCheckService();
  health->SetServingStatus(serving);
  health->SetServingStatus(v1::DeviceMapper::service_full_name(), serving);
  health->SetServingStatus(v1::Iscsi::service_full_name(), serving);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(Parts parts) {
  UsePluginsOnce();
  grpc::ServerBuilder builder;
  Configure(builder);
  for (grpc::Service* service : parts.services) builder.RegisterService(service);
  builder.experimental().SetInterceptorCreators(std::move(parts.interceptors));
  std::vector<int> ports(parts.addresses.size());
  for (size_t i = 0; i < parts.addresses.size(); ++i) {
    RETURN_IF_ERROR(PrepareToListen(parts.addresses[i]));
    builder.AddListeningPort(parts.addresses[i].ToGrpc(), grpc::InsecureServerCredentials(),
                             &ports[i]);
  }
  std::unique_ptr<ControlServer> control(new ControlServer());
  {
    const Umask mask(kOwnerOnly);
    control->server_ = builder.BuildAndStart();
  }
  if (control->server_ == nullptr) {
    std::string all;
    for (const ControlAddress& address : parts.addresses) {
      absl::StrAppend(&all, " ", address.ToText(address.port));
    }
    return absl::UnavailableError(absl::StrCat("cannot listen on --control", all,
                                               "; check that its directory is there and writable, "
                                               "or give another address"));
  }
  for (size_t i = 0; i < parts.addresses.size(); ++i) {
    control->addresses_.push_back(parts.addresses[i].ToText(ports[i]));
  }
  SetServing(*control->server_, true);
  return control;
}

ControlServer::~ControlServer() = default;

void ControlServer::Drain() { SetServing(*server_, false); }

void ControlServer::Stop(std::chrono::milliseconds grace) {
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_->Wait();
}

}  // namespace sectormap::control
