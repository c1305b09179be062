// SPDX-License-Identifier: Apache-2.0
// The Operations service through a channel inside the process, over real files and recipes.
#include "server/control/operations_service.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>

#include "core/async/clock.h"
#include "core/block/backing_opener.h"
#include "server/control/control_server.h"
#include "server/volumes/recipes.h"
#include "targets/builtin_targets.h"
#include "tests/support/test_directory.h"

namespace sectormap::control {
namespace {

using ::testing::HasSubstr;

class OperationsServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    targets::AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    auto store = state::OpenSqliteStore(scratch_ / "state");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    backings_ = *BackingOpener::Create({.device_roots = {scratch_.path().string()}});
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, *backings_);
    volumes_ = std::make_unique<volumes::VolumeCatalog>(*registry_, *store_);
    operations_ = std::make_unique<volumes::Operations>(*store_);
    files_ = std::make_unique<volumes::MadeFiles>(*volumes_, *backings_, scratch_.path().string());
    recipes_ = std::make_unique<volumes::Recipes>(*volumes_, *backings_, *reactors_, *operations_,
                                                  *files_);
    snapshots_ = std::make_unique<volumes::Snapshots>(*recipes_);
    moves_ = std::make_unique<volumes::Moves>(*recipes_);
    mirrors_ = std::make_unique<volumes::Mirrors>(*recipes_);
    service_ = std::make_unique<OperationsService>(*operations_, *snapshots_, *moves_, *mirrors_);
    ControlServer::Parts parts;
    parts.services = {service_.get()};
    auto control = ControlServer::Start(std::move(parts));
    ASSERT_TRUE(control.ok()) << control.status();
    control_ = *std::move(control);
    stub_ = v1::Operations::NewStub(control_->server().InProcessChannel({}));
    const std::string path = scratch_.MakeFile("vol.img", 1 << 20);
    ASSERT_TRUE(volumes_->Create({.name = "vol", .table = "0 2048 linear " + path + " 0\n"}).ok());
  }
  void TearDown() override {
    stub_.reset();
    control_->Stop(std::chrono::seconds(1));
    control_.reset();
    service_.reset();
    operations_->Stop();
    mirrors_.reset();
    moves_.reset();
    snapshots_.reset();
    recipes_.reset();
    files_.reset();
    operations_.reset();
    volumes_.reset();
    registry_.reset();
  }

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Operations::Stub::*method)(grpc::ClientContext*,
                                                                 const Request&, Response*),
                    const Request& request, Response& response) {
    grpc::ClientContext context;
    return (stub_.get()->*method)(&context, request, &response);
  }
  grpc::Status TakeSnapshot(const std::string& name, const std::string& of = "vol",
                            bool allow_existing = false) {
    v1::CreateSnapshotsRequest request;
    request.set_allow_existing(allow_existing);
    auto& entry = *request.add_entries();
    entry.set_name(name);
    entry.set_device(of);
    v1::CreateSnapshotsResponse response;
    return Call(&v1::Operations::Stub::CreateSnapshots, request, response);
  }

  SteadyClock clock_;
  TestDirectory scratch_{"/tmp"};
  TargetRegistry types_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<state::StateStore> store_;
  std::unique_ptr<BackingOpener> backings_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<volumes::VolumeCatalog> volumes_;
  std::unique_ptr<volumes::Operations> operations_;
  std::unique_ptr<volumes::MadeFiles> files_;
  std::unique_ptr<volumes::Recipes> recipes_;
  std::unique_ptr<volumes::Snapshots> snapshots_;
  std::unique_ptr<volumes::Moves> moves_;
  std::unique_ptr<volumes::Mirrors> mirrors_;
  std::unique_ptr<OperationsService> service_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<v1::Operations::Stub> stub_;
};

TEST_F(OperationsServiceTest, SnapshotsAreTakenListedAndRemoved) {
  ASSERT_TRUE(TakeSnapshot("s1").ok());
  v1::ListSnapshotsResponse list;
  ASSERT_TRUE(Call(&v1::Operations::Stub::ListSnapshots, v1::ListSnapshotsRequest(), list).ok());
  ASSERT_EQ(list.snapshots_size(), 1);
  EXPECT_EQ(list.snapshots(0).name(), "s1");
  EXPECT_EQ(list.snapshots(0).device(), "vol");
  EXPECT_EQ(list.snapshots(0).state(), v1::Snapshot::STATE_VALID);
  EXPECT_EQ(list.snapshots(0).chunk_sectors(), 32u);
  EXPECT_GT(list.snapshots(0).total_sectors(), 2048u);

  v1::RemoveSnapshotRequest remove;
  remove.set_name("s1");
  v1::Operation operation;
  ASSERT_TRUE(Call(&v1::Operations::Stub::RemoveSnapshot, remove, operation).ok());
  EXPECT_EQ(operation.kind(), "snapshot-remove");
  v1::WatchOperationRequest watch;
  watch.set_id(operation.id());
  grpc::ClientContext context;
  const auto reader = stub_->WatchOperation(&context, watch);
  while (reader->Read(&operation)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(operation.state(), v1::Operation::STATE_DONE);
  EXPECT_EQ(registry_->Find("s1"), nullptr);
}

TEST_F(OperationsServiceTest, SnapshotsOfNothingAreNotFound) {
  v1::ListSnapshotsRequest request;
  v1::ListSnapshotsResponse list;
  request.set_device("nobody");
  EXPECT_EQ(Call(&v1::Operations::Stub::ListSnapshots, request, list).error_code(),
            grpc::StatusCode::NOT_FOUND);
  request.set_device("vol");
  EXPECT_TRUE(Call(&v1::Operations::Stub::ListSnapshots, request, list).ok());
  EXPECT_EQ(list.snapshots_size(), 0);
  ASSERT_TRUE(TakeSnapshot("s1").ok());
  ASSERT_TRUE(TakeSnapshot("s2", "s1").ok());
  ASSERT_TRUE(Call(&v1::Operations::Stub::ListSnapshots, request, list).ok());
  ASSERT_EQ(list.snapshots_size(), 1);
  EXPECT_EQ(list.snapshots(0).name(), "s1");
}

TEST_F(OperationsServiceTest, WhoAsksAgainIsAnsweredTheSame) {
  ASSERT_TRUE(TakeSnapshot("s1").ok());
  EXPECT_EQ(TakeSnapshot("s1").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(TakeSnapshot("s1", "vol", /*allow_existing=*/true).ok());
  v1::RemoveSnapshotRequest remove;
  remove.set_name("s2");
  v1::Operation operation;
  EXPECT_EQ(Call(&v1::Operations::Stub::RemoveSnapshot, remove, operation).error_code(),
            grpc::StatusCode::NOT_FOUND);
  remove.set_allow_missing(true);
  ASSERT_TRUE(Call(&v1::Operations::Stub::RemoveSnapshot, remove, operation).ok());
  EXPECT_EQ(operation.id(), 0);
  EXPECT_EQ(operation.kind(), "snapshot-remove");
  EXPECT_EQ(operation.device(), "s2");
  EXPECT_EQ(operation.state(), v1::Operation::STATE_DONE);
  // What is no snapshot is not missing.
  remove.set_name("vol");
  EXPECT_EQ(Call(&v1::Operations::Stub::RemoveSnapshot, remove, operation).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  remove.set_name("s1");
  ASSERT_TRUE(Call(&v1::Operations::Stub::RemoveSnapshot, remove, operation).ok());
  EXPECT_GT(operation.id(), 0);
}

TEST_F(OperationsServiceTest, RefusalsHaveTheirCodes) {
  ASSERT_TRUE(TakeSnapshot("s1").ok());
  EXPECT_EQ(TakeSnapshot("s1", "s1").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(TakeSnapshot("s2", "missing").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(TakeSnapshot("a/b").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TakeSnapshot("s2", "vol-real").error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  v1::Operation operation;
  v1::RollBackRequest roll_back;
  roll_back.set_snapshot("vol");
  EXPECT_EQ(Call(&v1::Operations::Stub::RollBack, roll_back, operation).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  v1::MoveRequest move;
  move.set_device("vol");
  move.set_from(scratch_ / "vol.img");
  move.set_to("/etc/passwd");
  EXPECT_EQ(Call(&v1::Operations::Stub::Move, move, operation).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  v1::GetOperationRequest get;
  get.set_id(99);
  EXPECT_EQ(Call(&v1::Operations::Stub::GetOperation, get, operation).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(OperationsServiceTest, AWaitAnswersWhenTheOperationHasEnded) {
  v1::MoveRequest move;
  move.set_device("vol");
  move.set_from(scratch_ / "vol.img");
  move.set_to(scratch_.MakeFile("new.img", 1 << 20));
  v1::Operation operation;
  const grpc::Status started = Call(&v1::Operations::Stub::Move, move, operation);
  ASSERT_TRUE(started.ok()) << started.error_message();
  v1::WaitOperationRequest wait;
  wait.set_id(operation.id());
  ASSERT_TRUE(Call(&v1::Operations::Stub::WaitOperation, wait, operation).ok());
  EXPECT_EQ(operation.state(), v1::Operation::STATE_DONE) << operation.error();
  EXPECT_EQ(operation.done_bytes(), 1 << 20);
  EXPECT_THAT(*registry_->Table("vol", TableSlot::kLive), HasSubstr("new.img"));
  v1::ListOperationsResponse list;
  ASSERT_TRUE(Call(&v1::Operations::Stub::ListOperations, v1::ListOperationsRequest(), list).ok());
  EXPECT_EQ(list.operations_size(), 1);
}

}  // namespace
}  // namespace sectormap::control
