// SPDX-License-Identifier: Apache-2.0
// The calls that last: Watch (a stream of changes) and Wait (until one device's event number
// changes). They hold no thread while nothing happens, so thousands of them cost memory only.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <string>

#include "sectormap/v1/device_mapper.pb.h"
#include "server/control/change_feed.h"

namespace sectormap::control {

// Both own themselves until gRPC is done with them. `feed` outlives them.

// `identity` empty: all devices. A client that reads slowly gets the newest state of each device,
// not every state in between, so that what waits for it is bounded by the number of devices.
grpc::ServerWriteReactor<v1::WatchResponse>* StartWatch(ChangeFeed& feed, std::string identity);

// Fills `response` when the event number differs from `seen`; NotFound if the device goes first.
grpc::ServerUnaryReactor* StartWait(ChangeFeed& feed, std::string identity, uint32_t seen,
                                    v1::Device* response);

}  // namespace sectormap::control
