// SPDX-License-Identifier: Apache-2.0
#include "core/base/option_words.h"

#include <algorithm>
#include <string_view>

namespace sectormap {
namespace {

bool LacksItsValue(std::string_view word) {
  return word.starts_with("--") && word.size() > 3 && word.find('=') == word.size() - 1;
}

}  // namespace

std::vector<std::string> WithEmptyValues(std::vector<std::string> words) {
  auto end = std::ranges::find(words, "--");
  for (auto word = words.begin(); word != end; ++word) {
    if (!LacksItsValue(*word)) continue;
    word->pop_back();
    const auto rest = end - word;
    word = words.insert(word + 1, "");
    end = word + rest;
  }
  return words;
}

}  // namespace sectormap
