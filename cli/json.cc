// SPDX-License-Identifier: Apache-2.0
#include "cli/json.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/stubs/common.h>
#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sectormap::cli {

std::string JsonOf(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Fails only for an Any of unknown type; no answer has one.
  if (!google::protobuf::util::MessageToJsonString(message, &json, options).ok()) return "{}";
  return json;
}

std::string JsonQuoted(absl::string_view text) {
  std::string mended(text);
  const char* valid = google::protobuf::internal::UTF8CoerceToStructurallyValid(
      google::protobuf::StringPiece(text.data(), text.size()), mended.data(), '?');
  google::protobuf::Value value;
  value.set_string_value(std::string(valid, text.size()));
  return JsonOf(value);
}

std::string JsonWithName(absl::string_view name, const google::protobuf::Message& message) {
  const std::string object = JsonOf(message);
  return absl::StrCat("{\"name\":", JsonQuoted(name), object == "{}" ? "" : ",", object.substr(1));
}

std::string JsonArray(const std::vector<std::string>& elements) {
  if (elements.empty()) return "[]";
  return absl::StrCat("[\n", absl::StrJoin(elements, ",\n"), "\n]");
}

}  // namespace sectormap::cli
