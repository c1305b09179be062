// SPDX-License-Identifier: Apache-2.0
#include "server/control/default_iqn.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sectormap::control {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  return lower;
}

}  // namespace

std::string DefaultIqn(std::string_view device) {
  std::string iqn = absl::StrCat(std::string(kDefaultIqnPrefix), Lower(device));
  for (char& letter : iqn) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(letter)) && letter != '-' &&
        letter != '.' && letter != ':') {
      letter = '-';
    }
  }
  return iqn;
}

}  // namespace sectormap::control
