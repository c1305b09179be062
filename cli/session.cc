// SPDX-License-Identifier: Apache-2.0
#include "cli/session.h"

#include <google/protobuf/stubs/common.h>

#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/server_address.h"
#include "google/rpc/status.pb.h"
#include "sectormap/v1/errors.pb.h"

namespace sectormap::cli {
namespace {

// A daemon that refuses for now (its database is locked) gives details, as with every refusal.
bool NobodyAnswered(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty();
}

ExitCode ExitCodeOf(const grpc::Status& status) {
  if (NobodyAnswered(status)) return ExitCode::kUnreachable;
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return ExitCode::kOk;
    case grpc::StatusCode::NOT_FOUND:
      return ExitCode::kNotFound;
    case grpc::StatusCode::ALREADY_EXISTS:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::ABORTED:
      return ExitCode::kConflict;
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::UNIMPLEMENTED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::DO_NOT_USE:
      break;
  }
  return ExitCode::kError;
}

// gRPC's canonical names, as they stand in google.rpc.Code.
absl::string_view CodeName(grpc::StatusCode code) {
  static constexpr absl::string_view kNames[] = {"OK",
                                                 "CANCELLED",
                                                 "UNKNOWN",
                                                 "INVALID_ARGUMENT",
                                                 "DEADLINE_EXCEEDED",
                                                 "NOT_FOUND",
                                                 "ALREADY_EXISTS",
                                                 "PERMISSION_DENIED",
                                                 "RESOURCE_EXHAUSTED",
                                                 "FAILED_PRECONDITION",
                                                 "ABORTED",
                                                 "OUT_OF_RANGE",
                                                 "UNIMPLEMENTED",
                                                 "INTERNAL",
                                                 "UNAVAILABLE",
                                                 "DATA_LOSS",
                                                 "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

std::optional<v1::TableViolation> TableViolationIn(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& detail : details.details()) {
    v1::TableViolation violation;
    if (detail.Is<v1::TableViolation>() && detail.UnpackTo(&violation)) return violation;
  }
  return std::nullopt;
}

// The first text in `message` that protobuf would not send: the field's name, and where in it; else
// empty. Texts of a message are UTF-8, but what is typed or stands in a file may be anything.
std::string NotUtf8In(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      std::string found;
      if (field->type() == google::protobuf::FieldDescriptor::TYPE_MESSAGE) {
        found = NotUtf8In(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                               : reflection.GetMessage(message, field));
      } else if (field->type() == google::protobuf::FieldDescriptor::TYPE_STRING) {
        std::string scratch;
        const std::string& text =
            field->is_repeated()
                ? reflection.GetRepeatedStringReference(message, field, i, &scratch)
                : reflection.GetStringReference(message, field, &scratch);
        const auto good =
            static_cast<size_t>(google::protobuf::internal::UTF8SpnStructurallyValid(text));
        if (good < text.size()) found = absl::StrCat(field->name(), " (byte ", good + 1, ")");
      }
      if (!found.empty()) return found;
    }
  }
  return "";
}

// Line, type and reason, unless the daemon's sentence says them already, and the line itself.
std::string ViolationText(const v1::TableViolation& violation, absl::string_view sentence,
                          absl::string_view table) {
  std::string text;
  const bool whole = violation.line() == 0;
  const std::string place = whole ? "table" : absl::StrCat("line ", violation.line());
  if (!absl::StrContains(sentence, whole ? violation.reason() : absl::StrCat(place, ":"))) {
    absl::StrAppend(&text, "\n  ", place, ": ", violation.target_type(),
                    violation.target_type().empty() ? "" : ": ", violation.reason());
  }
  const std::vector<absl::string_view> lines = absl::StrSplit(table, '\n');
  if (violation.line() != 0 && violation.line() <= lines.size() && !table.empty()) {
    absl::StrAppend(&text, "\n  > ", lines[violation.line() - 1]);
  }
  return text;
}

// gRPC takes 4 MiB unasked, and the daemon takes tables of 128 MiB (kRequestBytesMax of its control
// server). What it gives back is as long, but where it writes a row with more words than it was
// given; twice as much is never passed.
constexpr int kAnswerBytesMax = 256 * 1024 * 1024;

}  // namespace

void PrintError(std::ostream& err, bool json, absl::string_view code, ExitCode exit_code,
                absl::string_view message, absl::string_view more_json) {
  if (json) {
    err << absl::StrCat("{\"error\":{\"code\":\"", code,
                        "\",\"exit_code\":", static_cast<int>(exit_code),
                        ",\"message\":", JsonQuoted(message), more_json, "}}\n");
  } else {
    err << absl::StrCat("sectormap: ", message, "\n");
  }
}

Session::Session(const Terminal& terminal, std::string server_uri, bool json, bool verbose)
    : terminal_(terminal), server_uri_(std::move(server_uri)), json_(json), verbose_(verbose) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kAnswerBytesMax);
  // The daemon listens on this machine only; $http_proxy is for what is elsewhere.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      GrpcTarget(server_uri_), grpc::InsecureChannelCredentials(), arguments);
  devices_ = v1::DeviceMapper::NewStub(channel);
  iscsi_ = v1::Iscsi::NewStub(channel);
  operations_ = v1::Operations::NewStub(channel);
}

ExitCode Session::ShowError(ExitCode code, absl::string_view message) {
  PrintError(terminal_.err, json_, code == ExitCode::kUsage ? "INVALID_ARGUMENT" : "UNKNOWN", code,
             message);
  return code;
}

grpc::Status Session::CheckText(const google::protobuf::Message& request) {
  const std::string found = NotUtf8In(request);
  if (found.empty()) return grpc::Status::OK;
  return {grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("not UTF-8 text: ", found)};
}

ExitCode Session::ShowRefusal(absl::string_view what, const grpc::Status& status,
                              absl::string_view table) {
  const ExitCode exit_code = ExitCodeOf(status);
  std::string message = exit_code == ExitCode::kUnreachable
                            ? WhyUnreachable(server_uri_, status.error_message())
                            : absl::StrCat(what, ": ", status.error_message());
  std::string more_json;
  if (const auto violation = TableViolationIn(status)) {
    more_json = absl::StrCat(",\"table_violation\":", JsonOf(*violation));
    if (!json_) message += ViolationText(*violation, status.error_message(), table);
  }
  PrintError(terminal_.err, json_, CodeName(status.error_code()), exit_code, message, more_json);
  return exit_code;
}

}  // namespace sectormap::cli
