// SPDX-License-Identifier: Apache-2.0
#include "server/control/device_mapper_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "google/rpc/status.pb.h"
#include "sectormap/v1/errors.pb.h"
#include "tests/server/control/control_fixture.h"

namespace sectormap::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Stub = v1::DeviceMapper::Stub;

class DeviceMapperServiceTest : public ControlFixture {
 protected:
  grpc::Status Remove(const std::string& name, bool allow_missing = false) {
    v1::RemoveRequest request;
    request.set_name(name);
    request.set_allow_missing(allow_missing);
    v1::RemoveResponse response;
    return Call(&Stub::Remove, request, response);
  }

  grpc::Status Rename(const std::string& name, const std::string& new_name) {
    v1::RenameRequest request;
    request.set_name(name);
    request.set_new_name(new_name);
    return Call(&Stub::Rename, request, device_);
  }
};

TEST_F(DeviceMapperServiceTest, ARefusedTableNamesItsLineTypeAndReasonAsADetail) {
  const grpc::Status status = Create("a", "0 8 zero\n8 8 nonsense\n");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("line 2"));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  ASSERT_EQ(details.details_size(), 1);
  v1::TableViolation violation;
  ASSERT_TRUE(details.details(0).UnpackTo(&violation));
  EXPECT_EQ(violation.line(), 2u);
  EXPECT_EQ(violation.target_type(), "nonsense");
  EXPECT_THAT(violation.reason(), HasSubstr("unknown target type"));
}

TEST_F(DeviceMapperServiceTest, CreateAnswersTheDevice) {
  ASSERT_TRUE(Create("a", "0 8 zero\n8 8 error").ok());
  EXPECT_EQ(device_.name(), "a");
  EXPECT_FALSE(device_.identity().empty());
  EXPECT_EQ(device_.size_sectors(), 16u);
  EXPECT_EQ(device_.target_count(), 2u);
  EXPECT_TRUE(device_.has_live_table());
  EXPECT_FALSE(device_.suspended());
}

// A read of `up` is under way, which waits for `low`.
class StuckDeviceTest : public DeviceMapperServiceTest {
 protected:
  static constexpr char kTable[] = "0 8 linear low 0\n";

  void SetUp() override {
    DeviceMapperServiceTest::SetUp();
    ASSERT_TRUE(Create("low").ok());
    ASSERT_TRUE(Create("up", kTable).ok());
    v1::SuspendRequest suspend;
    suspend.set_name("low");
    ASSERT_TRUE(Call(&Stub::Suspend, suspend, device_).ok());
    StartRead("up", ended_);
  }

  // The caller's deadline passes meanwhile.
  template <typename Request, typename Response>
  grpc::Status CallInVain(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                       Response*),
                          const Request& request) {
    Response response;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    return (mapper_.get()->*method)(&context, request, &response);
  }

  void ExpectAsBefore(const std::optional<std::string>& inactive_table) {
    // Verbs on one device run one after the other: what was given up has ended when this answers.
    v1::RenameRequest next;
    next.set_name("up");
    next.set_new_uuid("u");
    ASSERT_TRUE(Call(&Stub::Rename, next, device_).ok());
    const absl::StatusOr<DeviceRegistry::Saved> saved = registry_->Snapshot("up");
    ASSERT_TRUE(saved.ok()) << saved.status();
    EXPECT_EQ(saved->live_table, kTable);
    EXPECT_EQ(saved->inactive_table, inactive_table);
    EXPECT_FALSE(saved->suspended);
    v1::ResumeRequest resume;
    resume.set_name("low");
    ASSERT_TRUE(Call(&Stub::Resume, resume, device_).ok());
    ended_.WaitForNotification();
    absl::Notification ended;
    StartRead("up", ended);
    ended.WaitForNotification();
    EXPECT_EQ(registry_->Snapshot("up")->live_table, kTable);
  }

  absl::Notification ended_;
};

TEST_F(StuckDeviceTest, ASuspendWhoseCallerHasGoneIsTakenBack) {
  v1::SuspendRequest suspend;
  suspend.set_name("up");
  EXPECT_EQ(CallInVain(&Stub::Suspend, suspend).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ExpectAsBefore(std::nullopt);
}

TEST_F(StuckDeviceTest, ARemoveWhoseCallerHasGoneLeavesTheDevice) {
  v1::RemoveRequest remove;
  remove.set_name("up");
  remove.set_force(true);
  EXPECT_EQ(CallInVain(&Stub::Remove, remove).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ExpectAsBefore(std::nullopt);
}

TEST_F(StuckDeviceTest, ACallThatWaitedBehindAnotherIsNotCarriedOutWhenItsCallerHasGone) {
  v1::LoadRequest load;
  load.set_name("up");
  load.set_table("0 16 zero");
  ASSERT_TRUE(Call(&Stub::Load, load, device_).ok());
  store_->TakePuts();
  v1::SuspendRequest suspend;
  suspend.set_name("up");
  std::thread first([&] {
    v1::Device device;
    EXPECT_TRUE(Call(&Stub::Suspend, suspend, device).ok());
  });
  // It has begun.
  const auto says_suspended = [&] {
    const std::vector<state::DeviceRecord> puts = store_->TakePuts();
    return !puts.empty() && puts.back().suspended;
  };
  while (!says_suspended()) std::this_thread::yield();
  const auto in_vain = [&](auto method, auto request) {
    request.set_name("up");
    EXPECT_EQ(CallInVain(method, request).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  };
  load.set_table("0 24 zero");
  in_vain(&Stub::Load, load);
  in_vain(&Stub::Clear, v1::ClearRequest());
  in_vain(&Stub::Suspend, suspend);
  in_vain(&Stub::Resume, v1::ResumeRequest());
  v1::ReplaceRequest replace;
  replace.set_table("0 32 zero");
  in_vain(&Stub::Replace, replace);
  v1::RemoveRequest remove;
  in_vain(&Stub::Remove, remove);
  remove.set_force(true);
  in_vain(&Stub::Remove, remove);
  v1::RenameRequest rename;
  rename.set_new_uuid("u");
  in_vain(&Stub::Rename, rename);
  rename.clear_new_uuid();
  rename.set_new_name("another");
  in_vain(&Stub::Rename, rename);
  v1::MessageRequest message;
  message.set_message("@cancel_deferred_remove");
  in_vain(&Stub::Message, message);
  v1::CreateRequest create;
  create.set_table("0 40 zero");
  in_vain(&Stub::Create, create);

  v1::ResumeRequest resume;
  resume.set_name("low");
  ASSERT_TRUE(Call(&Stub::Resume, resume, device_).ok());
  first.join();
  ended_.WaitForNotification();
  // Returns when the daemon has done with every call.
  control_->Stop(std::chrono::minutes(1));
  control_.reset();
  const absl::StatusOr<DeviceRegistry::Saved> saved = registry_->Snapshot("up");
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->live_table, kTable);
  EXPECT_EQ(saved->inactive_table, "0 16 zero \n");
  EXPECT_EQ(saved->uuid, "");
  EXPECT_TRUE(saved->suspended);
}

TEST_F(StuckDeviceTest, CallsThatWaitLeaveRoomForWhatReadsAndForResume) {
  constexpr size_t kRefused = 20;
  constexpr size_t kCalls = kDeviceChangesMax + kRefused;
  v1::SuspendRequest suspend;
  suspend.set_name("up");
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<v1::Device> answers(kCalls);
  absl::Mutex mutex;
  std::vector<grpc::Status> ended;
  for (v1::Device& answer : answers) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    mapper_->async()->Suspend(contexts.back().get(), &suspend, &answer,
                              [&](const grpc::Status& status) {
                                absl::MutexLock hold(&mutex);
                                ended.push_back(status);
                              });
  }
  const auto await = [&](size_t count) {
    const auto reached = [&] { return ended.size() >= count; };
    absl::MutexLock hold(&mutex, absl::Condition(&reached));
    return ended;
  };
  for (const grpc::Status& status : await(kRefused)) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("resume what is suspended"));
    EXPECT_FALSE(status.error_details().empty());
  }
  v1::ListResponse list;
  EXPECT_TRUE(Call(&Stub::List, v1::ListRequest(), list).ok());
  EXPECT_EQ(list.devices_size(), 2);
  EXPECT_EQ(Remove("low").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  v1::ResumeRequest resume;
  resume.set_name("low");
  EXPECT_TRUE(Call(&Stub::Resume, resume, device_).ok());
  await(kCalls);
  ended_.WaitForNotification();
}

TEST_F(StuckDeviceTest, AResumeWhoseCallerHasGoneLeavesTheNewTableInItsSlot) {
  v1::LoadRequest load;
  load.set_name("up");
  load.set_table("0 16 zero");
  ASSERT_TRUE(Call(&Stub::Load, load, device_).ok());
  v1::ResumeRequest resume;
  resume.set_name("up");
  EXPECT_EQ(CallInVain(&Stub::Resume, resume).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ExpectAsBefore("0 16 zero \n");
}

TEST_F(StuckDeviceTest, AReplaceThatIsCancelledLeavesBothTablesAsTheyWere) {
  v1::LoadRequest load;
  load.set_name("up");
  load.set_table("0 16 zero");
  ASSERT_TRUE(Call(&Stub::Load, load, device_).ok());
  v1::ReplaceRequest replace;
  replace.set_name("up");
  replace.set_table("0 24 zero");
  grpc::ClientContext context;
  grpc::Status status;
  std::thread caller([&] {
    v1::Device device;
    status = mapper_->Replace(&context, replace, &device);
  });
  // It has begun.
  while (registry_->Snapshot("up")->inactive_table != "0 24 zero \n") std::this_thread::yield();
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  ExpectAsBefore("0 16 zero \n");
}

TEST_F(DeviceMapperServiceTest, CreateIsIdempotentAndSaysWhatDiffers) {
  ASSERT_TRUE(Create("a").ok());
  EXPECT_TRUE(Create("a").ok());
  EXPECT_EQ(Create("a", "0 16 zero").error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(DeviceMapperServiceTest, RemoveIsIdempotentOnRequestOnly) {
  EXPECT_EQ(Remove("a").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(Remove("a", true).ok());
}

TEST_F(DeviceMapperServiceTest, RemovingAnOpenDeviceTellsWhatHoldsIt) {
  ASSERT_TRUE(Create("a").ok());
  const absl::StatusOr<DeviceRef> hold = volumes_->Open("a");
  const grpc::Status status = Remove("a");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("advice about holders"));
}

TEST_F(DeviceMapperServiceTest, AFullStateDiskIsResourceExhaustedAndChangesNothing) {
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(Create("a").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  v1::ListResponse list;
  ASSERT_TRUE(Call(&Stub::List, v1::ListRequest(), list).ok());
  EXPECT_EQ(list.devices_size(), 0);
}

TEST_F(DeviceMapperServiceTest, TablesAndDependenciesAreOfTheSlotThatIsAskedFor) {
  ASSERT_TRUE(Create("low", "0 8 zero").ok());
  ASSERT_TRUE(Create("a", "0 8 linear low 0").ok());
  v1::LoadRequest load;
  load.set_name("a");
  load.set_table("0 4 linear /disk 7");
  ASSERT_TRUE(Call(&Stub::Load, load, device_).ok());
  EXPECT_TRUE(device_.has_inactive_table());

  v1::GetTableRequest get;
  get.set_name("a");
  v1::GetTableResponse table;
  ASSERT_TRUE(Call(&Stub::GetTable, get, table).ok());
  EXPECT_EQ(table.table(), "0 8 linear low 0\n");
  get.set_slot(v1::TABLE_SLOT_INACTIVE);
  ASSERT_TRUE(Call(&Stub::GetTable, get, table).ok());
  EXPECT_EQ(table.table(), "0 4 linear /disk 7\n");

  v1::GetDependenciesRequest ask;
  ask.set_name("a");
  v1::GetDependenciesResponse dependencies;
  ASSERT_TRUE(Call(&Stub::GetDependencies, ask, dependencies).ok());
  ASSERT_EQ(dependencies.dependencies_size(), 1);
  EXPECT_EQ(dependencies.dependencies(0).name(), "low");
  EXPECT_TRUE(dependencies.dependencies(0).mapped());
}

TEST_F(DeviceMapperServiceTest, ATableThatCouldNotBeBuiltHasWhatItsTextNamesAndItsCounters) {
  ASSERT_TRUE(Create("low").ok());
  ASSERT_TRUE(Create("a", "0 8 linear /disk 0\n8 8 linear low 0\n16 8 linear /disk 8").ok());
  backings_.present = false;
  Restart();
  ASSERT_FALSE(registry_->Dependencies("a", TableSlot::kLive).ok());

  v1::GetDependenciesRequest ask;
  ask.set_name("a");
  v1::GetDependenciesResponse dependencies;
  ASSERT_TRUE(Call(&Stub::GetDependencies, ask, dependencies).ok());
  ASSERT_EQ(dependencies.dependencies_size(), 2);
  EXPECT_EQ(dependencies.dependencies(0).name(), "/disk");
  EXPECT_FALSE(dependencies.dependencies(0).mapped());
  EXPECT_EQ(dependencies.dependencies(1).name(), "low");
  EXPECT_TRUE(dependencies.dependencies(1).mapped());

  v1::GetStatsRequest request;
  request.set_name("a");
  v1::GetStatsResponse stats;
  ASSERT_TRUE(Call(&Stub::GetStats, request, stats).ok());
  EXPECT_EQ(stats.device().operations_size(), kIoOpCount);
  EXPECT_EQ(stats.backings_size(), 0);

  ask.set_name("nobody");
  EXPECT_EQ(Call(&Stub::GetDependencies, ask, dependencies).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(DeviceMapperServiceTest, ReplaceSwapsTheTableInOneCall) {
  ASSERT_TRUE(Create("a").ok());
  v1::ReplaceRequest replace;
  replace.set_name("a");
  replace.set_table("0 32 error");
  ASSERT_TRUE(Call(&Stub::Replace, replace, device_).ok());
  EXPECT_EQ(device_.size_sectors(), 32u);
  EXPECT_FALSE(device_.has_inactive_table());
  EXPECT_FALSE(device_.suspended());
}

TEST_F(DeviceMapperServiceTest, RenameTakesANameOrAUuidNotBoth) {
  ASSERT_TRUE(Create("a").ok());
  v1::RenameRequest request;
  request.set_name("a");
  EXPECT_EQ(Call(&Stub::Rename, request, device_).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_new_uuid("u");
  ASSERT_TRUE(Call(&Stub::Rename, request, device_).ok());
  EXPECT_EQ(device_.uuid(), "u");
}

TEST_F(DeviceMapperServiceTest, StatsListEveryOperationOfTheDeviceAndItsBackings) {
  ASSERT_TRUE(Create("low").ok());
  ASSERT_TRUE(Create("a", "0 8 linear low 0").ok());
  v1::GetStatsRequest request;
  request.set_name("a");
  v1::GetStatsResponse stats;
  ASSERT_TRUE(Call(&Stub::GetStats, request, stats).ok());
  EXPECT_EQ(stats.device().operations_size(), kIoOpCount);
  ASSERT_EQ(stats.backings_size(), 1);
  EXPECT_EQ(stats.backings(0).device(), "low");
}

TEST_F(DeviceMapperServiceTest, TargetTypesTellTheirUsage) {
  v1::ListTargetTypesResponse types;
  ASSERT_TRUE(Call(&Stub::ListTargetTypes, v1::ListTargetTypesRequest(), types).ok());
  EXPECT_EQ(static_cast<size_t>(types.types_size()), types_.all().size());
  EXPECT_FALSE(types.types(0).version().empty());
}

TEST_F(DeviceMapperServiceTest, WaitAnswersAtOnceIfTheEventNumberDiffersAlready) {
  ASSERT_TRUE(Create("a").ok());
  v1::WaitRequest request;
  request.set_name("a");
  request.set_event_number(device_.event_number() + 1);
  EXPECT_TRUE(Call(&Stub::Wait, request, device_).ok());
  EXPECT_EQ(device_.name(), "a");
}

TEST_F(DeviceMapperServiceTest, WaitAnswersWhenTheEventNumberChanges) {
  ASSERT_TRUE(Create("a").ok());
  v1::WaitRequest request;
  request.set_name("a");
  request.set_event_number(device_.event_number());
  v1::Device answer;
  std::thread waiter([&] { EXPECT_TRUE(Call(&Stub::Wait, request, answer).ok()); });
  registry_->Find("a")->RaiseEvent();
  waiter.join();
  EXPECT_EQ(answer.event_number(), request.event_number() + 1);
}

TEST_F(DeviceMapperServiceTest, WaitEndsWhenTheDeviceGoes) {
  ASSERT_TRUE(Create("a").ok());
  v1::WaitRequest request;
  request.set_name("a");
  request.set_event_number(device_.event_number());
  std::thread waiter([&] {
    v1::Device answer;
    EXPECT_EQ(Call(&Stub::Wait, request, answer).error_code(), grpc::StatusCode::NOT_FOUND);
  });
  EXPECT_TRUE(Remove("a").ok());
  waiter.join();
}

TEST_F(DeviceMapperServiceTest, ManyWaitsTakeNoThreadEachAndEndWhenCancelled) {
  ASSERT_TRUE(Create("a").ok());
  v1::WaitRequest request;
  request.set_name("a");
  request.set_event_number(device_.event_number());
  constexpr int kWaits = 2 * kControlThreadsMax;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<v1::Device> answers(kWaits);
  absl::Mutex mutex;
  int cancelled = 0;
  for (int i = 0; i < kWaits; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    mapper_->async()->Wait(contexts.back().get(), &request, &answers[i],
                           [&](const grpc::Status& status) {
                             absl::MutexLock hold(&mutex);
                             EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
                             ++cancelled;
                           });
  }
  EXPECT_TRUE(Create("b").ok());
  for (const auto& context : contexts) context->TryCancel();
  const auto all_cancelled = [&] { return cancelled == kWaits; };
  absl::MutexLock hold(&mutex, absl::Condition(&all_cancelled));
}

class WatchTest : public DeviceMapperServiceTest {
 protected:
  void Watch(const std::string& name = "") {
    v1::WatchRequest request;
    request.set_name(name);
    watch_ = mapper_->Watch(&context_, request);
  }
  // The next response that is not a heartbeat.
  v1::WatchResponse Next() {
    v1::WatchResponse response;
    do {
      if (!watch_->Read(&response)) {
        ADD_FAILURE() << "the stream ended: " << watch_->Finish().error_message();
        return {};
      }
    } while (response.kind() == v1::WatchResponse::KIND_HEARTBEAT);
    return response;
  }
  void TearDown() override {
    if (watch_ != nullptr) context_.TryCancel();
    watch_.reset();
    DeviceMapperServiceTest::TearDown();
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> watch_;
};

TEST_F(WatchTest, TellsEveryDeviceFirstAndThenEveryChange) {
  ASSERT_TRUE(Create("a").ok());
  Watch();
  v1::WatchResponse seen = Next();
  EXPECT_EQ(seen.kind(), v1::WatchResponse::KIND_PRESENT);
  EXPECT_EQ(seen.device().name(), "a");
  seen = Next();
  EXPECT_EQ(seen.kind(), v1::WatchResponse::KIND_LISTED);
  EXPECT_FALSE(seen.has_device());
  ASSERT_TRUE(Create("b").ok());
  do {
    seen = Next();
    EXPECT_EQ(seen.kind(), v1::WatchResponse::KIND_CHANGED);
    EXPECT_EQ(seen.device().name(), "b");
  } while (!seen.device().has_live_table());
  ASSERT_TRUE(Remove("a").ok());
  do {
    seen = Next();
  } while (seen.kind() == v1::WatchResponse::KIND_CHANGED);
  EXPECT_EQ(seen.kind(), v1::WatchResponse::KIND_REMOVED);
  EXPECT_EQ(seen.device().name(), "a");
}

TEST_F(WatchTest, OfOneDeviceFollowsItThroughARename) {
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("other").ok());
  Watch("a");
  EXPECT_EQ(Next().device().name(), "a");
  ASSERT_TRUE(Remove("other").ok());
  ASSERT_TRUE(Rename("a", "z").ok());
  v1::WatchResponse seen;
  do {
    seen = Next();
    EXPECT_NE(seen.device().name(), "other");
  } while (seen.device().name() != "z");
}

// Keeps the feed's thread when it has been told something, until the test lets it go.
class Holding final : public ChangeSubscriber {
 public:
  void OnChanges(std::span<const DeviceChange> changes) override {
    absl::MutexLock hold(&mutex_);
    for (const DeviceChange& change : changes) {
      if (change.kind != DeviceChange::Kind::kHeartbeat) heard_.push_back(change);
    }
    told_ = !heard_.empty();
    const auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !told_; };
    mutex_.Await(absl::Condition(&free));
  }
  void OnClosed() override {}

  // Returns when it holds the thread, with what it has heard.
  std::vector<DeviceChange> Await() {
    const auto told = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return told_; };
    absl::MutexLock hold(&mutex_, absl::Condition(&told));
    return heard_;
  }
  void LetGo() {
    absl::MutexLock hold(&mutex_);
    heard_.clear();
    told_ = false;
  }

 private:
  absl::Mutex mutex_;
  std::vector<DeviceChange> heard_ ABSL_GUARDED_BY(mutex_);
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST_F(WatchTest, ANameThatIsUsedAgainIsRemovedBeforeItIsNew) {
  ASSERT_TRUE(Create("a").ok());
  const auto feed_holder = std::make_shared<Holding>();
  feed_->Subscribe(feed_holder);
  feed_holder->Await();
  const std::string first = registry_->Info("a")->identity;
  ASSERT_TRUE(Remove("a").ok());
  ASSERT_TRUE(Create("a").ok());
  feed_holder->LetGo();
  const std::vector<DeviceChange> changes = feed_holder->Await();
  feed_holder->LetGo();
  feed_->Unsubscribe(feed_holder.get());
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].kind, DeviceChange::Kind::kRemoved);
  EXPECT_EQ(changes[0].device.identity, first);
  EXPECT_EQ(changes[1].kind, DeviceChange::Kind::kChanged);
  EXPECT_EQ(changes[1].device.identity, registry_->Info("a")->identity);
}

TEST_F(WatchTest, AClientThatDoesNotReadHearsOfRemovalsFirst) {
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("b").ok());
  Watch();
  while (Next().kind() != v1::WatchResponse::KIND_LISTED) {
  }
  const auto feed_holder = std::make_shared<Holding>();
  feed_->Subscribe(feed_holder);
  feed_holder->Await();
  // One at a time, so that the rename of what has taken the name already waits to be read. Nobody
  // reads `c`, on which the stream is until then.
  const auto tell = [&] {
    feed_holder->LetGo();
    feed_holder->Await();
  };
  ASSERT_TRUE(Create("c").ok());
  tell();
  ASSERT_TRUE(Rename("a", "x").ok());
  tell();
  ASSERT_TRUE(Remove("b").ok());
  tell();
  ASSERT_TRUE(Rename("x", "b").ok());
  tell();
  feed_holder->LetGo();
  feed_->Unsubscribe(feed_holder.get());
  std::vector<v1::WatchResponse::Kind> kinds;
  while (kinds.size() < 2) {
    const v1::WatchResponse seen = Next();
    if (seen.device().name() == "b") kinds.push_back(seen.kind());
  }
  EXPECT_THAT(kinds, ElementsAre(v1::WatchResponse::KIND_REMOVED, v1::WatchResponse::KIND_CHANGED));
}

TEST_F(WatchTest, OfAMissingDeviceIsNotFound) {
  Watch("nobody");
  v1::WatchResponse response;
  EXPECT_FALSE(watch_->Read(&response));
  EXPECT_EQ(watch_->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(WatchTest, IsAcceptedAndSaysSoIfThereIsNothingToList) {
  times_.heartbeat = std::chrono::hours(1);
  Restart();
  Watch();
  watch_->WaitForInitialMetadata();
  EXPECT_EQ(Next().kind(), v1::WatchResponse::KIND_LISTED);
}

TEST_F(WatchTest, OfOneDeviceIsListedAfterIt) {
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("b").ok());
  Watch("a");
  EXPECT_EQ(Next().device().name(), "a");
  EXPECT_EQ(Next().kind(), v1::WatchResponse::KIND_LISTED);
}

TEST_F(WatchTest, BeatsWhenNothingHappens) {
  Watch();
  v1::WatchResponse response;
  ASSERT_TRUE(watch_->Read(&response));
  EXPECT_EQ(response.kind(), v1::WatchResponse::KIND_LISTED);
  ASSERT_TRUE(watch_->Read(&response));
  EXPECT_EQ(response.kind(), v1::WatchResponse::KIND_HEARTBEAT);
}

TEST_F(WatchTest, AClientThatDoesNotReadGetsTheNewestStateOnly) {
  ASSERT_TRUE(Create("a").ok());
  Watch();
  EXPECT_EQ(Next().device().name(), "a");
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(Rename("a", "b").ok());
    ASSERT_TRUE(Rename("b", "a").ok());
  }
  ASSERT_TRUE(Rename("a", "last").ok());
  while (Next().device().name() != "last") {
  }
}

TEST_F(WatchTest, EndsUnavailableWhenTheDaemonStops) {
  Watch();
  v1::WatchResponse response;
  std::thread stopper([this] { feed_->Close(); });
  while (watch_->Read(&response)) {
  }
  EXPECT_EQ(watch_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  stopper.join();
}

}  // namespace
}  // namespace sectormap::control
