// SPDX-License-Identifier: Apache-2.0
// What is typed after a command's name, for both programs: CLI11 takes the word after `--name=` for
// the option's value, whatever that word is.
#pragma once

#include <string>
#include <vector>

namespace sectormap {

// Writes `--name=` as `--name` and an empty word, which is what getopt_long(3) makes of it: a
// script's `--name=$VALUE` says nothing, and not something else, where VALUE is empty. What stands
// behind `--` is no option. Any thread.
std::vector<std::string> WithEmptyValues(std::vector<std::string> words);

}  // namespace sectormap
