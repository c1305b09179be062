// SPDX-License-Identifier: Apache-2.0
// ControlServer: the gRPC server with its listeners, health and reflection.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/support/server_interceptor.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/control/control_address.h"
#include "server/control/waiting_calls.h"

namespace sectormap::control {

// gRPC takes 4 MiB unasked. A table of 128 MiB (TableSpec::kRowsMax rows of about 120 bytes) fits,
// and the rest of its request; clients other than our own have to allow as much for answers.
inline constexpr int kRequestBytesMax = (128 + 1) * 1024 * 1024;

// What a client may send of a request before it hears that more is welcome. gRPC's own 64 KiB grow
// only as a connection goes on, so the one long request of a command would be all small steps.
inline constexpr int kRequestWindowBytes = 8 * 1024 * 1024;

class ControlServer {
 public:
  struct Parts {
    std::vector<ControlAddress> addresses;
    std::vector<grpc::Service*> services;  // outlive the server
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
        interceptors;
  };
  // Fails, saying which option to change, if an address cannot be had. Sockets have mode 0600.
  // Without addresses it can be reached in the process only. REQUIRES: no other thread makes files
  // meanwhile, as the mode comes from the process's umask.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(Parts parts);

  // REQUIRES: Stop() was called.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // What listens, with the ports that were bound: unix:/PATH or tcp:ADDR:PORT.
  const std::vector<std::string>& addresses() const { return addresses_; }

  grpc::Server& server() { return *server_; }

  // Health says NOT_SERVING from now on; calls are still answered.
  void Drain();
  // Ends: calls that run have `grace` to end by themselves, then they are cancelled; connections
  // without calls are closed at once. Returns when all have ended.
  void Stop(std::chrono::milliseconds grace);

 private:
  class ActiveCalls;

  ControlServer();

  // Outlives the server, whose calls it counts.
  const std::unique_ptr<ActiveCalls> active_calls_;

  std::vector<std::string> addresses_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sectormap::control
