// SPDX-License-Identifier: Apache-2.0
// `sectormap completion bash`: a script that completes verbs, options and the names of devices.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace sectormap::cli {

// The type's name of an option whose value is a device's: the script offers those that there are.
inline constexpr char kDeviceType[] = "DEVICE";

// Made from the verbs of `app`, so that it knows every one of them.
std::string BashCompletion(const CLI::App& app);

}  // namespace sectormap::cli
