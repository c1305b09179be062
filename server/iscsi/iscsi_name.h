// SPDX-License-Identifier: Apache-2.0
// iSCSI names in the one form in which they are kept and compared (RFC 7143 §4.2.7, RFC 3722): in
// lower case. Every name that comes from a login, a table of exports or a person passes here once.
// Beyond ASCII, bytes stay as they are: nobody has been seen to use them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sectormap::iscsi {

// RFC 7143 §4.2.7.1.
inline constexpr size_t kMaxIscsiNameBytes = 223;

// A target's name, which we give out, so it has to be right: iqn., eui. or naa., and only what
// stringprep leaves. InvalidArgument says what is wrong with it.
absl::StatusOr<std::string> NormalTargetName(std::string_view name);

// An initiator's name. Looser: virtual machines and hosts log in with names that have underscores,
// and nothing of ours depends on the form. It must fit, and be printable wherever it is shown.
absl::StatusOr<std::string> NormalInitiatorName(std::string_view name);

}  // namespace sectormap::iscsi
