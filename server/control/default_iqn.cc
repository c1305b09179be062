// SPDX-License-Identifier: Apache-2.0
#include "server/control/access_rules.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace sectormap::control {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  return lower;
}

absl::Status CheckCredentials(const state::ChapRecord& chap, std::string_view what) {
  const std::string name(what);
  if (chap.user.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " needs a user name"));
  }
  if (chap.user.size() > kChapUserBytesMax || chap.user.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(name, " user: give at most ", kChapUserBytesMax,
                                                   " bytes, without zero bytes"));
  }
  if (chap.secret.size() < kChapSecretBytesMin || chap.secret.size() > kChapSecretBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " secret has ", chap.secret.size(), " bytes; give ", kChapSecretBytesMin, " to ",
        kChapSecretBytesMax,
        " (RFC 7143 asks for 96 random bits at least; Windows takes no more than 16 bytes), for "
        "example: openssl rand -hex 8"));
  }
  return absl::OkStatus();
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

absl::Status CheckChap(const std::optional<state::ChapRecord>& chap,
                       const std::optional<state::ChapRecord>& mutual_chap) {
  if (chap.has_value()) RETURN_IF_ERROR(CheckCredentials(*chap, "CHAP"));
  if (!mutual_chap.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckCredentials(*mutual_chap, "mutual CHAP"));
  if (!chap.has_value()) {
    return absl::InvalidArgumentError(
        "mutual CHAP without CHAP: an initiator asks the target to prove itself only while it "
        "proves itself; give CHAP credentials too");
  }
  // RFC 7143 §9.2.1: one secret for both directions would let a peer answer with our own response.
  if (chap->secret == mutual_chap->secret) {
    return absl::InvalidArgumentError("CHAP and mutual CHAP must have different secrets");
  }
  return absl::OkStatus();
}

}  // namespace sectormap::control
