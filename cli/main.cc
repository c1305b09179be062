// SPDX-License-Identifier: Apache-2.0
// sectormap: the command line of sectormapd.
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "cli/run.h"

int main(int argc, char** argv) {
  using sectormap::cli::Terminal;
  const Terminal terminal{
      .in = std::cin,
      .out = std::cout,
      .err = std::cerr,
      .in_is_terminal = isatty(STDIN_FILENO) == 1,
      .is_root = geteuid() == 0,
      .environment =
          [](const char* name) {
            const char* value = std::getenv(name);
            return std::string(value == nullptr ? "" : value);
          },
      .out_is_terminal = isatty(STDOUT_FILENO) == 1,
  };
  const auto code = sectormap::cli::Run(std::vector<std::string>(argv + 1, argv + argc), terminal);
  std::cout.flush();
  // A full disk or a closed pipe behind `>` must not look like success.
  if (!std::cout && code == sectormap::cli::ExitCode::kOk) {
    std::cerr << "sectormap: cannot write to standard output\n";
    return static_cast<int>(sectormap::cli::ExitCode::kError);
  }
  return static_cast<int>(code);
}
