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

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"
#include "sectormap/v1/operations.grpc.pb.h"

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
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kRequestWindowBytes);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  // Without this a second daemon binds the same port and takes every other call.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

void SetServing(grpc::Server& server, bool serving) {
  grpc::HealthCheckServiceInterface* health = server.GetHealthCheckService();
  health->SetServingStatus(serving);
  health->SetServingStatus(v1::DeviceMapper::service_full_name(), serving);
  health->SetServingStatus(v1::Iscsi::service_full_name(), serving);
  health->SetServingStatus(v1::Operations::service_full_name(), serving);
}

}  // namespace

// gRPC's own deadline for a shutdown waits for idle connections, too, which clients may keep for
// hours. An interceptor lives as long as its call.
class ControlServer::ActiveCalls {
 public:
  // Refers to *this.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> InterceptorFactory() {
    return std::make_unique<Factory>(*this);
  }

  void AwaitNone(absl::Duration at_most) {
    const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return count_ == 0; };
    absl::MutexLock hold(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&none), at_most);
  }

 private:
  class Call final : public grpc::experimental::Interceptor {
   public:
    explicit Call(ActiveCalls& calls) : calls_(calls) { calls_.Add(1); }
    ~Call() override { calls_.Add(-1); }
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
      methods->Proceed();
    }

   private:
    ActiveCalls& calls_;
  };

  class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
   public:
    explicit Factory(ActiveCalls& calls) : calls_(calls) {}
    // gRPC takes it and deletes it when the call ends.
    grpc::experimental::Interceptor* CreateServerInterceptor(
        grpc::experimental::ServerRpcInfo*) override {
      return std::make_unique<Call>(calls_).release();
    }

   private:
    ActiveCalls& calls_;
  };

  void Add(int change) {
    absl::MutexLock hold(&mutex_);
    count_ += change;
  }

  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

ControlServer::ControlServer() : active_calls_(std::make_unique<ActiveCalls>()) {}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(Parts parts) {
  UsePluginsOnce();
  grpc::ServerBuilder builder;
  Configure(builder);
  for (grpc::Service* service : parts.services) builder.RegisterService(service);
  std::unique_ptr<ControlServer> control(new ControlServer());
  parts.interceptors.push_back(control->active_calls_->InterceptorFactory());
  builder.experimental().SetInterceptorCreators(std::move(parts.interceptors));
  std::vector<int> ports(parts.addresses.size());
  for (size_t i = 0; i < parts.addresses.size(); ++i) {
    RETURN_IF_ERROR(PrepareToListen(parts.addresses[i]));
    builder.AddListeningPort(parts.addresses[i].ToGrpc(), grpc::InsecureServerCredentials(),
                             &ports[i]);
  }
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
  active_calls_->AwaitNone(absl::FromChrono(grace));
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

}  // namespace sectormap::control
