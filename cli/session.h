// SPDX-License-Identifier: Apache-2.0
// Session: one run of the command: its way to the daemon, its output form, and how a refused call
// is shown.
#pragma once

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/string_view.h"
#include "cli/json.h"
#include "cli/terminal.h"
#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"
#include "sectormap/v1/operations.grpc.pb.h"

namespace sectormap::cli {

class Session {
 public:
  Session(const Terminal& terminal, std::string server_uri, bool json, bool verbose);

  const Terminal& terminal() const { return terminal_; }
  std::ostream& out() const { return terminal_.out; }
  bool json() const { return json_; }
  bool verbose() const { return verbose_; }

  // One call. A refusal is shown on standard error and gives the exit code. `what` is the verb and
  // what it was about. `table` is the text the call carries, if any: a refused line of it is shown.
  template <typename Service, typename Request, typename Response>
  ExitCode Call(absl::string_view what,
                grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request, Response* response, absl::string_view table = "") {
    const grpc::Status status = Ask(method, request, response);
    return status.ok() ? ExitCode::kOk : ShowRefusal(what, status, table);
  }

  // As Call, but a NOT_FOUND shows nothing: for things that may go while they are being listed.
  template <typename Service, typename Request, typename Response>
  ExitCode CallUnlessGone(absl::string_view what,
                          grpc::Status (Service::*method)(grpc::ClientContext*, const Request&,
                                                          Response*),
                          const Request& request, Response* response) {
    const grpc::Status status = Ask(method, request, response);
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) return ExitCode::kNotFound;
    return status.ok() ? ExitCode::kOk : ShowRefusal(what, status, "");
  }

  // A call that answers more than once; `show` is called for each.
  template <typename Service, typename Request, typename Response, typename Show>
  ExitCode Stream(absl::string_view what,
                  std::unique_ptr<grpc::ClientReader<Response>> (Service::*method)(
                      grpc::ClientContext*, const Request&),
                  const Request& request, Show show) {
    grpc::ClientContext context;
    const std::unique_ptr<grpc::ClientReader<Response>> reader =
        (stub<Service>().*method)(&context, request);
    for (Response response; reader->Read(&response);) show(response);
    const grpc::Status status = reader->Finish();
    return status.ok() ? ExitCode::kOk : ShowRefusal(what, status, "");
  }

  // An error that is not the daemon's.
  ExitCode ShowError(ExitCode code, absl::string_view message);

  void PrintJson(const google::protobuf::Message& message) { out() << JsonOf(message) << '\n'; }
  void PrintJson(const std::vector<std::string>& elements) { out() << JsonArray(elements) << '\n'; }

 private:
  template <typename Service>
  Service& stub();

  template <typename Service, typename Request, typename Response>
  grpc::Status Ask(grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
                   const Request& request, Response* response) {
    if (grpc::Status unsendable = CheckText(request); !unsendable.ok()) return unsendable;
    grpc::ClientContext context;
    return (stub<Service>().*method)(&context, request, response);
  }

  // InvalidArgument, with the field, if a text in it is not UTF-8.
  static grpc::Status CheckText(const google::protobuf::Message& request);

  ExitCode ShowRefusal(absl::string_view what, const grpc::Status& status, absl::string_view table);

  const Terminal& terminal_;
  const std::string server_uri_;
  const bool json_;
  const bool verbose_;
  std::unique_ptr<v1::DeviceMapper::Stub> devices_;
  std::unique_ptr<v1::Iscsi::Stub> iscsi_;
  std::unique_ptr<v1::Operations::Stub> operations_;
};

template <>
inline v1::DeviceMapper::Stub& Session::stub<v1::DeviceMapper::Stub>() {
  return *devices_;
}
template <>
inline v1::Iscsi::Stub& Session::stub<v1::Iscsi::Stub>() {
  return *iscsi_;
}

template <>
inline v1::Operations::Stub& Session::stub<v1::Operations::Stub>() {
  return *operations_;
}

// An error as `sectormap` shows it, in words or as a JSON object.
void PrintError(std::ostream& err, bool json, absl::string_view code, ExitCode exit_code,
                absl::string_view message, absl::string_view more_json = "");

}  // namespace sectormap::cli
