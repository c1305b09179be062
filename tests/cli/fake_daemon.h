// SPDX-License-Identifier: Apache-2.0
// FakeDaemon: the control services with answers a test chooses, on a Unix socket of its own, and a
// command line that talks to it.
#pragma once

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "cli/run.h"
#include "gtest/gtest.h"
#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"
#include "sectormap/v1/operations.grpc.pb.h"
#include "tests/support/test_directory.h"

namespace sectormap::cli {

// Answers every call with `status` if it is not OK, else with what the test has put in.
class FakeDeviceMapper final : public v1::DeviceMapper::Service {
 public:
  struct Entry {
    v1::Device device;
    std::string table, inactive_table, status;
    std::vector<v1::Dependency> dependencies;
  };

  grpc::Status refusal;  // every call fails with it, unless OK
  std::map<std::string, Entry> devices;
  v1::ListTargetTypesResponse types;
  v1::GetStatsResponse stats;
  v1::RemoveResponse removed;
  std::string message_answer;
  // The last request of each kind.
  v1::CreateRequest created;
  v1::LoadRequest loaded;
  v1::SuspendRequest suspended;
  v1::RemoveRequest remove_asked;
  v1::RenameRequest renamed;
  v1::MessageRequest messaged;
  v1::WaitRequest waited;

  Entry& Add(const std::string& name) {
    Entry& entry = devices[name];
    entry.device.set_name(name);
    return entry;
  }

  grpc::Status Create(grpc::ServerContext*, const v1::CreateRequest* request,
                      v1::Device* device) override {
    created = *request;
    device->set_name(request->name());
    return refusal;
  }
  grpc::Status Load(grpc::ServerContext*, const v1::LoadRequest* request,
                    v1::Device* device) override {
    loaded = *request;
    return Answer(request->name(), device);
  }
  grpc::Status Suspend(grpc::ServerContext*, const v1::SuspendRequest* request,
                       v1::Device* device) override {
    suspended = *request;
    return Answer(request->name(), device);
  }
  grpc::Status Resume(grpc::ServerContext*, const v1::ResumeRequest* request,
                      v1::Device* device) override {
    return Answer(request->name(), device);
  }
  grpc::Status Clear(grpc::ServerContext*, const v1::ClearRequest* request,
                     v1::Device* device) override {
    return Answer(request->name(), device);
  }
  grpc::Status Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                      v1::RemoveResponse* response) override {
    remove_asked = *request;
    *response = removed;
    v1::Device ignored;
    return Answer(request->name(), &ignored);
  }
  grpc::Status Rename(grpc::ServerContext*, const v1::RenameRequest* request,
                      v1::Device* device) override {
    renamed = *request;
    return Answer(request->name(), device);
  }
  grpc::Status Get(grpc::ServerContext*, const v1::GetRequest* request,
                   v1::Device* device) override {
    return Answer(request->name(), device);
  }
  grpc::Status List(grpc::ServerContext*, const v1::ListRequest*,
                    v1::ListResponse* response) override {
    for (const auto& [name, entry] : devices) *response->add_devices() = entry.device;
    return refusal;
  }
  grpc::Status GetTable(grpc::ServerContext*, const v1::GetTableRequest* request,
                        v1::GetTableResponse* response) override {
    v1::Device ignored;
    const grpc::Status status = Answer(request->name(), &ignored);
    if (!status.ok()) return status;
    const Entry& entry = devices[request->name()];
    response->set_table(request->slot() == v1::TABLE_SLOT_INACTIVE ? entry.inactive_table
                                                                   : entry.table);
    return status;
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override {
    v1::Device device;
    const grpc::Status status = Answer(request->name(), &device);
    if (!status.ok()) return status;
    if (!device.error().empty()) {
      return {grpc::StatusCode::FAILED_PRECONDITION, "the table could not be built"};
    }
    response->set_status(devices[request->name()].status);
    return status;
  }
  grpc::Status GetDependencies(grpc::ServerContext*, const v1::GetDependenciesRequest* request,
                               v1::GetDependenciesResponse* response) override {
    v1::Device ignored;
    const grpc::Status status = Answer(request->name(), &ignored);
    if (!status.ok()) return status;
    for (const v1::Dependency& dependency : devices[request->name()].dependencies) {
      *response->add_dependencies() = dependency;
    }
    return status;
  }
  grpc::Status Message(grpc::ServerContext*, const v1::MessageRequest* request,
                       v1::MessageResponse* response) override {
    messaged = *request;
    response->set_answer(message_answer);
    return refusal;
  }
  grpc::Status Wait(grpc::ServerContext*, const v1::WaitRequest* request,
                    v1::Device* device) override {
    waited = *request;
    return Answer(request->name(), device);
  }
  grpc::Status ListTargetTypes(grpc::ServerContext*, const v1::ListTargetTypesRequest*,
                               v1::ListTargetTypesResponse* response) override {
    *response = types;
    return refusal;
  }
  grpc::Status GetStats(grpc::ServerContext*, const v1::GetStatsRequest*,
                        v1::GetStatsResponse* response) override {
    *response = stats;
    return refusal;
  }

 private:
  grpc::Status Answer(const std::string& name, v1::Device* device) {
    if (!refusal.ok()) return refusal;
    const auto found = devices.find(name);
    if (found == devices.end()) return {grpc::StatusCode::NOT_FOUND, "Device does not exist."};
    *device = found->second.device;
    return grpc::Status::OK;
  }
};

class FakeIscsi final : public v1::Iscsi::Service {
 public:
  grpc::Status refusal;
  v1::ExportRequest exported;
  v1::UnexportRequest unexported;
  v1::ListExportsResponse exports;
  v1::ListSessionsResponse sessions;

  grpc::Status Export(grpc::ServerContext*, const v1::ExportRequest* request,
                      v1::Export* response) override {
    exported = *request;
    response->set_device(request->device());
    response->set_iqn(request->iqn().empty() ? "iqn.2026-11.io.sectormap:" + request->device()
                                             : request->iqn());
    response->set_lun(request->lun());
    return refusal;
  }
  grpc::Status Unexport(grpc::ServerContext*, const v1::UnexportRequest* request,
                        v1::UnexportResponse*) override {
    unexported = *request;
    return refusal;
  }
  grpc::Status ListExports(grpc::ServerContext*, const v1::ListExportsRequest*,
                           v1::ListExportsResponse* response) override {
    *response = exports;
    return refusal;
  }
  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest*,
                            v1::ListSessionsResponse* response) override {
    *response = sessions;
    return refusal;
  }
};

class FakeOperations final : public v1::Operations::Service {
 public:
  grpc::Status refusal;
  std::vector<v1::Operation> course;  // of every operation, until its end
  v1::ListSnapshotsResponse snapshots;
  v1::ListOperationsResponse operations;
  v1::CreateSnapshotsRequest created;
  v1::RemoveSnapshotRequest removed;
  v1::RollBackRequest rolled_back;
  v1::MoveRequest moved;
  v1::AddMirrorLegRequest leg_added;
  v1::RemoveMirrorLegRequest leg_removed;
  v1::CancelOperationRequest cancelled;

  grpc::Status CreateSnapshots(grpc::ServerContext*, const v1::CreateSnapshotsRequest* request,
                               v1::CreateSnapshotsResponse* response) override {
    created = *request;
    for (const auto& entry : request->entries()) {
      v1::Snapshot& snapshot = *response->add_snapshots();
      snapshot.set_name(entry.name());
      snapshot.set_device(entry.device());
      snapshot.set_created_unix_seconds(1795464000);
    }
    return refusal;
  }
  grpc::Status ListSnapshots(grpc::ServerContext*, const v1::ListSnapshotsRequest*,
                             v1::ListSnapshotsResponse* response) override {
    *response = snapshots;
    return refusal;
  }
  grpc::Status RemoveSnapshot(grpc::ServerContext*, const v1::RemoveSnapshotRequest* request,
                              v1::Operation* response) override {
    removed = *request;
    return Begin(response);
  }
  grpc::Status RollBack(grpc::ServerContext*, const v1::RollBackRequest* request,
                        v1::Operation* response) override {
    rolled_back = *request;
    return Begin(response);
  }
  grpc::Status Move(grpc::ServerContext*, const v1::MoveRequest* request,
                    v1::Operation* response) override {
    moved = *request;
    return Begin(response);
  }
  grpc::Status AddMirrorLeg(grpc::ServerContext*, const v1::AddMirrorLegRequest* request,
                            v1::Operation* response) override {
    leg_added = *request;
    return Begin(response);
  }
  grpc::Status RemoveMirrorLeg(grpc::ServerContext*, const v1::RemoveMirrorLegRequest* request,
                               v1::Operation* response) override {
    leg_removed = *request;
    return Begin(response);
  }
  grpc::Status ListOperations(grpc::ServerContext*, const v1::ListOperationsRequest*,
                              v1::ListOperationsResponse* response) override {
    *response = operations;
    return refusal;
  }
  grpc::Status GetOperation(grpc::ServerContext*, const v1::GetOperationRequest*,
                            v1::Operation* response) override {
    return Begin(response);
  }
  grpc::Status WatchOperation(grpc::ServerContext*, const v1::WatchOperationRequest*,
                              grpc::ServerWriter<v1::Operation>* writer) override {
    for (const v1::Operation& operation : course) writer->Write(operation);
    return refusal;
  }
  grpc::Status CancelOperation(grpc::ServerContext*, const v1::CancelOperationRequest* request,
                               v1::Operation* response) override {
    cancelled = *request;
    return Begin(response);
  }

 private:
  grpc::Status Begin(v1::Operation* response) {
    if (!course.empty()) *response = course.front();
    return refusal;
  }
};

// What a run of the command left behind.
struct Outcome {
  ExitCode code;
  std::string out, err;
};

class CliTest : public testing::Test {
 protected:
  CliTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(uri(), grpc::InsecureServerCredentials());
    builder.RegisterService(&devices);
    builder.RegisterService(&iscsi);
    builder.RegisterService(&operations);
    server_ = builder.BuildAndStart();
  }
  ~CliTest() override { server_->Shutdown(); }

  std::string uri() const { return "unix:" + scratch / "control.sock"; }

  // Without a daemon's address: what the environment says.
  Outcome RunAsIs(std::vector<std::string> words) {
    std::istringstream in(input);
    std::ostringstream out, err;
    const Terminal terminal{.in = in,
                            .out = out,
                            .err = err,
                            .in_is_terminal = input_is_terminal,
                            .is_root = false,
                            .environment =
                                [this](const char* name) {
                                  const auto found = environment.find(name);
                                  return found == environment.end() ? std::string() : found->second;
                                },
                            .out_is_terminal = output_is_terminal};
    const ExitCode code = cli::Run(std::move(words), terminal);
    return {code, out.str(), err.str()};
  }
  Outcome RunCli(std::vector<std::string> words) {
    words.insert(words.begin(), {"--server", uri()});
    return RunAsIs(std::move(words));
  }

  TestDirectory scratch{"/tmp"};  // short, as a socket's path has to be
  FakeDeviceMapper devices;
  FakeIscsi iscsi;
  FakeOperations operations;
  bool output_is_terminal = false;
  std::string input;  // standard input
  bool input_is_terminal = true;
  std::map<std::string, std::string> environment;

 private:
  std::unique_ptr<grpc::Server> server_;
};

inline v1::Dependency Backing(const std::string& name) {
  v1::Dependency dependency;
  dependency.set_name(name);
  return dependency;
}

inline v1::Dependency Mapped(const std::string& name) {
  v1::Dependency dependency = Backing(name);
  dependency.set_mapped(true);
  return dependency;
}

}  // namespace sectormap::cli
