// SPDX-License-Identifier: Apache-2.0
// JSON as `-o json` prints it: protobuf's own mapping with the names of the .proto files, all
// fields always there, 64-bit numbers as strings.
#pragma once

#include <string>
#include <vector>

#include <google/protobuf/message.h>

#include "absl/strings/string_view.h"

namespace sectormap::cli {

std::string JsonOf(const google::protobuf::Message& message);

// A JSON string, quoted and escaped. Bytes that are no UTF-8 become `?`.
std::string JsonQuoted(absl::string_view text);

// {"name":NAME, and then the message's own fields}.
std::string JsonWithName(absl::string_view name, const google::protobuf::Message& message);

// One element a line.
std::string JsonArray(const std::vector<std::string>& elements);

}  // namespace sectormap::cli
