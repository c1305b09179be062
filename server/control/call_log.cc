// SPDX-License-Identifier: Apache-2.0
#include "server/control/call_log.h"

#include <spdlog/spdlog.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sectormap::control {

std::string Quoted(absl::string_view value) {
  return absl::StrCat("\"", absl::CEscape(value), "\"");
}

void LogChange(std::string_view verb, const std::string& device, const absl::Status& status) {
  if (status.ok()) {
    spdlog::info("event={} device={} code=OK", verb, Quoted(device));
  } else {
    spdlog::warn("event={} device={} code={} error={}", verb, Quoted(device),
                 absl::StatusCodeToString(status.code()), Quoted(status.message()));
  }
}

}  // namespace sectormap::control
