// SPDX-License-Identifier: Apache-2.0
// Texts that come from file systems and users, for readers that take UTF-8 only (protobuf,
// Prometheus): a path may hold any bytes.
#pragma once

#include <string>
#include <string_view>

namespace sectormap {

// A byte that is not of UTF-8 (RFC 3629 section 4) becomes `\xNN`. Any thread.
std::string ToUtf8(std::string_view text);

}  // namespace sectormap
