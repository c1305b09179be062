// SPDX-License-Identifier: Apache-2.0
// ConfigFile: the daemon's TOML file. The keys are the options' names without the dashes in front;
// `listen`, `control` and `device-root` take a text or a list of texts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sectormap {

struct ConfigFile {
  std::optional<std::string> file_mode, state_dir, metrics, log_level;
  std::vector<std::string> listen, control, device_roots;
  std::optional<int> reactors, poll;
};

// InvalidArgument: `PATH:LINE:COLUMN: what is wrong`; unknown keys are wrong. NotFound: no file
// that can be read.
absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path);

}  // namespace sectormap
