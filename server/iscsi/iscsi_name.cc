// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/iscsi_name.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "server/iscsi/text_keys.h"

namespace sectormap::iscsi {
namespace {

bool IsDigits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

// RFC 7143 §4.2.7.4: "iqn." YYYY-MM "." reversed domain [":" anything].
bool IsIqn(std::string_view name) {
  if (name.size() < 13 || !name.starts_with("iqn.")) return false;
  const std::string_view month = name.substr(9, 2);
  return IsDigits(name.substr(4, 4)) && name[8] == '-' && IsDigits(month) && month >= "01" &&
         month <= "12" && name[11] == '.' && absl::ascii_isalnum(name[12]);
}

// "eui." and 16 hex digits, "naa." and 16 or 32.
bool IsHexName(std::string_view name, std::string_view prefix,
               std::initializer_list<size_t> sizes) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  return std::find(sizes.begin(), sizes.end(), name.size()) != sizes.end() &&
         std::all_of(name.begin(), name.end(), absl::ascii_isxdigit);
}

std::string Escaped(std::string_view name) {
  return absl::StrCat("'", absl::CHexEscape(Absl(name)), "'");
}

absl::Status CheckLength(std::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("an iSCSI name must not be empty");
  if (name.size() <= kMaxIscsiNameBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("an iSCSI name is at most ", kMaxIscsiNameBytes,
                                                 " bytes long; this one has ", name.size()));
}

}  // namespace

absl::StatusOr<std::string> NormalTargetName(std::string_view given) {
  RETURN_IF_ERROR(CheckLength(given));
  std::string name = LowerCase(given);
  if (IsHexName(name, "eui.", {16}) || IsHexName(name, "naa.", {16, 32})) return name;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    // RFC 3722: what stringprep leaves.
    const bool allowed = byte >= 0x80 || absl::ascii_islower(byte) || absl::ascii_isdigit(byte) ||
                         c == '-' || c == '.' || c == ':';
    if (!allowed) {
      return absl::InvalidArgumentError(absl::StrCat(
          "an iSCSI name has letters, digits, '-', '.' and ':' only: ", Escaped(name)));
    }
  }
  if (IsIqn(name)) return name;
  return absl::InvalidArgumentError(
      absl::StrCat(Escaped(name),
                   " is not an iSCSI name: iqn.YYYY-MM.REVERSED.DOMAIN[:TEXT], eui. and 16 hex "
                   "digits, or naa. and 16 or 32"));
}

absl::StatusOr<std::string> NormalInitiatorName(std::string_view given) {
  RETURN_IF_ERROR(CheckLength(given));
  std::string name = LowerCase(given);
  if (name.find(' ') == std::string::npos && PrintableUtf8(name) == name) return name;
  return absl::InvalidArgumentError(absl::StrCat(
      "an initiator's name has no blanks or control characters and is UTF-8: ", Escaped(name)));
}

}  // namespace sectormap::iscsi
