// SPDX-License-Identifier: Apache-2.0
// The whole `sectormap` command, but for the process around it.
#pragma once

#include <string>
#include <vector>

#include "cli/terminal.h"

namespace sectormap::cli {

// `words` are the command line without the program's name.
ExitCode Run(std::vector<std::string> words, const Terminal& terminal);

}  // namespace sectormap::cli
