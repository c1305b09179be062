// SPDX-License-Identifier: Apache-2.0
// DaemonOptions: what the command line and the configuration file say, checked and with defaults
// filled in. The same keys in both; the command line wins.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/block/file_device.h"
#include "server/control/control_address.h"

namespace sectormap {

// As long as it takes a client on the same host to be woken, to look at an answer and to send the
// next command.
inline constexpr std::chrono::microseconds kDefaultPoll{100};

// A longer look than this would be a core burnt.
inline constexpr std::chrono::microseconds kPollMax{1000};

struct DaemonOptions {
  std::string state_dir;  // absolute
  std::vector<std::string> listen{"127.0.0.1:3260"};
  std::vector<control::ControlAddress> control;
  std::optional<std::string> metrics{"127.0.0.1:9360"};  // empty: none
  int reactors = 1;
  // A reactor looks for events for so long before it sleeps, while they keep coming (PollPolicy).
  std::chrono::microseconds poll = kDefaultPoll;
  // How regular files are used; block devices are always FileDevice::Mode::kDirect.
  FileDevice::Mode file_mode = FileDevice::Mode::kWriteback;
  std::vector<std::string> device_roots;  // absolute
  bool default_device_root = false;       // nobody named one: STATE_DIR/devices, to be made
  std::string log_level = "info";
};

struct CommandLine {
  DaemonOptions options;
  bool check_config = false;
  std::optional<std::string> text;  // --help or --version: print this and do nothing else
};

// Reads the configuration file too, if one is named. InvalidArgument: one line that says what is
// wrong, where, and what would be right.
absl::StatusOr<CommandLine> ReadCommandLine(int argc, const char* const* argv);

// A sentence for each device root that is no directory at this moment: mistyped, or not mounted
// yet, which is no error. Not for the default one, which the daemon makes.
std::vector<std::string> MissingDeviceRoots(const DaemonOptions& options);

}  // namespace sectormap
