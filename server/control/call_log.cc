// SPDX-License-Identifier: Apache-2.0
#include "server/control/call_log.h"

#include <spdlog/spdlog.h>

#include "core/base/text.h"

namespace sectormap::control {

void LogChange(std::string_view verb, const std::string& device, const absl::Status& status) {
  if (status.ok()) {
    spdlog::info("event={} device={} code=OK", verb, Quoted(device));
  } else {
    spdlog::warn("event={} device={} code={} error={}", verb, Quoted(device),
                 absl::StatusCodeToString(status.code()), Quoted(status.message()));
  }
}

}  // namespace sectormap::control
