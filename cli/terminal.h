// SPDX-License-Identifier: Apache-2.0
// What the command line sees of the world around it; a test gives it another one.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>

namespace sectormap::cli {

// The contract with scripts (`sectormap --help` lists them).
enum class ExitCode : int {
  kOk = 0,
  kError = 1,
  kUsage = 2,
  kNotFound = 3,
  kConflict = 4,     // already exists, busy, or in another state than the call needs
  kUnreachable = 5,  // no daemon answered
};

struct Terminal {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool in_is_terminal;
  bool is_root;
  // The value of an environment variable; empty if it is not set.
  std::function<std::string(const char* name)> environment;
  bool out_is_terminal = false;
};

}  // namespace sectormap::cli
