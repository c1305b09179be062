// SPDX-License-Identifier: Apache-2.0
// Where the control plane listens: `unix:PATH` or `tcp:ADDR:PORT`.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sectormap::control {

// sockaddr_un::sun_path holds 108 bytes with the zero at the end (unix(7)).
inline constexpr size_t kUnixPathBytesMax = 107;

struct ControlAddress {
  enum class Kind { kUnix, kTcp };
  Kind kind = Kind::kUnix;
  std::string path;  // kUnix: absolute
  std::string host;  // kTcp: numeric, without brackets
  int port = 0;      // kTcp: 0 takes a free one

  // What gRPC is told: unix:/PATH, percent-encoded, 127.0.0.1:PORT or [::1]:PORT.
  std::string ToGrpc() const;
  // What the user is told, and may type for `sectormap --server`.
  std::string ToText(int bound_port) const;

  bool operator==(const ControlAddress&) const = default;
};

// InvalidArgument with advice. TCP is for loopback only, as it knows neither who calls nor secrecy.
absl::StatusOr<ControlAddress> ParseControlAddress(std::string_view text);

// Before gRPC binds: takes a socket file away that nobody answers, and says why the address cannot
// be had, which gRPC does not. Unavailable: somebody listens there; PermissionDenied;
// FailedPrecondition: something else is in the way.
absl::Status PrepareToListen(const ControlAddress& address);

}  // namespace sectormap::control
