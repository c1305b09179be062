// SPDX-License-Identifier: Apache-2.0
#include "server/exports/default_iqn.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"

namespace sectormap::exports {

std::string DefaultIqn(std::string_view device) {
  std::string iqn = absl::StrCat(Absl(kDefaultIqnPrefix), absl::AsciiStrToLower(Absl(device)));
  for (char& letter : iqn) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(letter)) && letter != '-' &&
        letter != '.' && letter != ':') {
      letter = '-';
    }
  }
  return iqn;
}

}  // namespace sectormap::exports
