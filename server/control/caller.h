// SPDX-License-Identifier: Apache-2.0
// Who waits for a call's answer, as core and volumes hear of him.
#pragma once

#include <grpcpp/server_context.h>

#include "core/map/give_up.h"

namespace sectormap::control {

// For what waits for its turn or for I/O: a caller that has gone, or whose deadline has passed,
// wants no suspended device and no removal, as a signal does to dmsetup (drivers/md/dm.c,
// dm_wait_for_completion). For as long as the call runs.
inline GiveUp CallerHasGone(const grpc::ServerContext* context) {
  return [context] { return context->IsCancelled(); };
}

}  // namespace sectormap::control
