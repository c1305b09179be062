// SPDX-License-Identifier: Apache-2.0
// The real daemon does verbs and is killed at random moments. A second daemon, which nobody kills,
// does the same verbs and is the measure: after each new start every device, table, suspended
// state, export and allow-list is as last acknowledged; of the one verb that was under way at the
// kill, either all is there or nothing, and doing it again succeeds as it would have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <thread>

#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"
#include "tests/server/control/daemon_process.h"
#include "tests/support/random.h"
#include "tests/support/test_directory.h"

namespace sectormap {
namespace {

using ::testing::HasSubstr;

constexpr int kRounds = 24;
constexpr int kNames = 6;
constexpr int kDisks = 3;
constexpr uint64_t kFileSectors = 4096;
constexpr uint64_t kMappedSectors = 64;

struct ExportState {
  uint64_t lun = 0;
  bool read_only = false;
  std::string chap_user;
  std::vector<std::string> allowed;
  bool operator==(const ExportState&) const = default;
};

struct DeviceState {
  std::string identity, live, inactive;
  bool suspended = false;
  bool read_only = false;
  std::map<std::string, ExportState> exports;  // by iqn
  bool operator==(const DeviceState&) const = default;
};

// By name; what one sees from outside.
using World = std::map<std::string, DeviceState>;

std::string Print(const World& world) {
  std::string text;
  for (const auto& [name, device] : world) {
    text += name + ": " + device.identity + " live=" + device.live +
            " inactive=" + device.inactive + (device.suspended ? " suspended" : "") +
            (device.read_only ? " ro" : "");
    for (const auto& [iqn, entry] : device.exports) {
      text += " " + iqn + "/" + std::to_string(entry.lun) + " " + entry.chap_user + " " +
              std::to_string(entry.allowed.size());
    }
    text += "\n";
  }
  return text;
}

class Client {
 public:
  explicit Client(const std::shared_ptr<grpc::Channel>& channel)
      : mapper_(v1::DeviceMapper::NewStub(channel)), iscsi_(v1::Iscsi::NewStub(channel)) {}

  World Look() {
    World world;
    v1::ListResponse list;
    Must(Call(*mapper_, &v1::DeviceMapper::Stub::List, v1::ListRequest(), list));
    for (const v1::Device& device : list.devices()) {
      DeviceState& state = world[device.name()];
      state.identity = device.identity();
      state.suspended = device.suspended();
      state.read_only = device.read_only();
      state.live = Table(device.name(), v1::TABLE_SLOT_LIVE);
      state.inactive = Table(device.name(), v1::TABLE_SLOT_INACTIVE);
    }
    v1::ListExportsResponse exports;
    Must(Call(*iscsi_, &v1::Iscsi::Stub::ListExports, v1::ListExportsRequest(), exports));
    for (const v1::Export& entry : exports.exports()) {
      world[entry.device()].exports[entry.iqn()] = {
          entry.lun(),
          entry.read_only(),
          entry.chap_user(),
          {entry.allowed_initiators().begin(), entry.allowed_initiators().end()}};
    }
    return world;
  }

  template <typename Stub, typename Request, typename Response>
  static grpc::Status Call(Stub& stub,
                           grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Response*),
                           const Request& request, Response& response) {
    grpc::ClientContext context;
    return (stub.*method)(&context, request, &response);
  }

  v1::DeviceMapper::Stub& mapper() { return *mapper_; }
  v1::Iscsi::Stub& iscsi() { return *iscsi_; }

 private:
  static void Must(const grpc::Status& status) {
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  std::string Table(const std::string& name, v1::TableSlot slot) {
    v1::GetTableRequest request;
    request.set_name(name);
    request.set_slot(slot);
    v1::GetTableResponse response;
    Must(Call(*mapper_, &v1::DeviceMapper::Stub::GetTable, request, response));
    return response.table();
  }

  std::unique_ptr<v1::DeviceMapper::Stub> mapper_;
  std::unique_ptr<v1::Iscsi::Stub> iscsi_;
};

// A verb with all that it is given, to be done on either daemon.
struct Verb {
  std::string what;
  std::function<grpc::Status(Client&)> run;
};

class VerbSource {
 public:
  VerbSource(Random& random, std::string device_dir)
      : random_(random), device_dir_(std::move(device_dir)) {}

  Verb Next() {
    using Mapper = v1::DeviceMapper::Stub;
    switch (random_.Below(11)) {
      case 0:
      case 1:
        return Create();
      case 2:
        return OnDevice<v1::Device>(&Mapper::Load, WithTable(v1::LoadRequest()));
      case 3:
        return OnDevice<v1::Device>(&Mapper::Replace, WithTable(v1::ReplaceRequest()));
      case 4:
        return OnDevice<v1::Device>(&Mapper::Suspend, v1::SuspendRequest());
      case 5:
        return OnDevice<v1::Device>(&Mapper::Resume, v1::ResumeRequest());
      case 6:
        return OnDevice<v1::Device>(&Mapper::Clear, v1::ClearRequest());
      case 7:
        return OnDevice<v1::RemoveResponse>(&Mapper::Remove, v1::RemoveRequest());
      case 8: {
        v1::RenameRequest request;
        request.set_new_name(Name());
        return OnDevice<v1::Device>(&Mapper::Rename, std::move(request));
      }
      case 9:
        return Export();
      default: {
        v1::UnexportRequest request;
        request.set_device(Name());
        return {"unexport " + request.ShortDebugString(), [request](Client& client) {
                  v1::UnexportResponse response;
                  return Client::Call(client.iscsi(), &v1::Iscsi::Stub::Unexport, request,
                                      response);
                }};
      }
    }
  }

 private:
  std::string Name() { return "d" + std::to_string(random_.Below(kNames)); }

  // A device is never smaller than what another may map of it: a live table above a device that
  // shrank serves on, but cannot be built again after a restart, here as in the kernel.
  std::string Table() {
    const std::string length = std::to_string(random_.Between(kMappedSectors, 512));
    switch (random_.Below(4)) {
      case 0:
        return "0 " + length + " zero";
      case 1:
        return "0 " + std::to_string(kMappedSectors) + " linear " + Name() + " 0";
      case 2:
        return "0 8 error\n8 " + length + " linear mem:1M@" + Name() + " 0";
      default:
        return "0 " + length + " linear " + device_dir_ + "/disk" +
               std::to_string(random_.Below(kDisks)) + " 8";
    }
  }

  template <typename Request>
  Request WithTable(Request request) {
    request.set_table(Table());
    return request;
  }

  template <typename Response, typename Request>
  Verb OnDevice(grpc::Status (v1::DeviceMapper::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               Response*),
                Request request) {
    request.set_name(Name());
    return {Request::descriptor()->name() + " " + request.ShortDebugString(),
            [method, request](Client& client) {
              Response response;
              return Client::Call(client.mapper(), method, request, response);
            }};
  }

  // With a uuid, from which both daemons make the same identity.
  Verb Create() {
    v1::CreateRequest request;
    request.set_uuid("uuid-" + std::to_string(++created_));
    if (!random_.OneIn(4)) request.set_table(Table());
    request.set_read_only(random_.OneIn(5));
    return OnDevice<v1::Device>(&v1::DeviceMapper::Stub::Create, std::move(request));
  }

  Verb Export() {
    v1::ExportRequest request;
    request.set_device(Name());
    if (random_.OneIn(2)) request.set_iqn("iqn.2026-11.io.sectormap:shared");
    request.set_lun(random_.Below(4));
    request.set_read_only(random_.OneIn(4));
    if (random_.OneIn(2)) {
      request.mutable_chap()->set_user("user" + std::to_string(random_.Below(3)));
      request.mutable_chap()->set_secret("0123456789ab");
    }
    for (uint64_t i = random_.Below(3); i > 0; --i) {
      request.add_allowed_initiators("iqn.1993-08.org.debian:" + std::to_string(i));
    }
    return {"export " + request.ShortDebugString(), [request](Client& client) {
              v1::Export response;
              return Client::Call(client.iscsi(), &v1::Iscsi::Stub::Export, request, response);
            }};
  }

  Random& random_;
  const std::string device_dir_;
  int created_ = 0;
};

bool Unanswered(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE;
}

class KillAndRestartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(scratch_.path().string() + "/victim");
    std::filesystem::create_directories(scratch_.path().string() + "/measure");
    std::filesystem::create_directories(disks());
    for (int i = 0; i < kDisks; ++i) MakeDisk(i);
  }

  std::string disks() const { return scratch_.path().string() + "/disks"; }
  std::string DiskPath(int number) const { return disks() + "/disk" + std::to_string(number); }
  void MakeDisk(int number) {
    std::ofstream(DiskPath(number)).close();
    std::filesystem::resize_file(DiskPath(number), kFileSectors * 512);
  }

  void MustStart(testing::DaemonProcess& daemon) {
    ASSERT_TRUE(daemon.Start({"--device-root", disks()})) << daemon.Wait().errors;
  }

  TestDirectory scratch_{"/tmp"};  // short, as a socket's path has to be
  testing::DaemonProcess victim_{scratch_.path().string() + "/victim"};
  testing::DaemonProcess measure_{scratch_.path().string() + "/measure"};
};

TEST_F(KillAndRestartTest, WhatWasAcknowledgedIsThereAfterEveryKill) {
  Random random;
  VerbSource verbs(random, disks());
  ASSERT_NO_FATAL_FAILURE(MustStart(measure_));
  Client measure(measure_.Connect());
  std::optional<Verb> unanswered;
  int succeeded = 0;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    ASSERT_NO_FATAL_FAILURE(MustStart(victim_));
    Client victim(victim_.Connect());

    // What is there now, and what the verb that was cut would have made of it.
    const World before = measure.Look();
    grpc::Status cut;
    if (unanswered.has_value()) cut = unanswered->run(measure);
    const World after = measure.Look();
    const World found = victim.Look();
    ASSERT_TRUE(found == before || found == after) << "found\n"
                                                   << Print(found) << "acknowledged\n"
                                                   << Print(before) << "or\n"
                                                   << Print(after);
    if (found != after) {
      const grpc::Status again = unanswered->run(victim);
      ASSERT_EQ(again.error_code(), cut.error_code()) << again.error_message();
      ASSERT_EQ(Print(victim.Look()), Print(after));
    }
    unanswered.reset();

    uint64_t undisturbed = random.Below(15);
    const auto delay = std::chrono::microseconds(random.Below(6000));
    std::thread killer;
    while (!unanswered.has_value()) {
      if (undisturbed-- == 0) {
        killer = std::thread([this, delay] {
          std::this_thread::sleep_for(delay);
          victim_.Signal(SIGKILL);
        });
      }
      const Verb verb = verbs.Next();
      const grpc::Status answer = verb.run(victim);
      if (Unanswered(answer)) {
        unanswered = verb;
        break;
      }
      const grpc::Status wanted = verb.run(measure);
      ASSERT_EQ(answer.error_code(), wanted.error_code())
          << verb.what << ": " << answer.error_message() << " / " << wanted.error_message() << "\n"
          << Print(measure.Look());
      if (answer.ok()) ++succeeded;
    }
    killer.join();
    EXPECT_EQ(victim_.Wait().code, 128 + SIGKILL);
  }
  EXPECT_GT(succeeded, kRounds);
}

TEST_F(KillAndRestartTest, AMissingFileBreaksItsDeviceOnly) {
  ASSERT_NO_FATAL_FAILURE(MustStart(victim_));
  v1::CreateRequest create;
  v1::ExportRequest request;
  {
    Client client(victim_.Connect());
    for (int i = 0; i < 2; ++i) {
      create.set_name("d" + std::to_string(i));
      create.set_table("0 64 linear " + DiskPath(i) + " 0");
      v1::Device device;
      ASSERT_TRUE(
          Client::Call(client.mapper(), &v1::DeviceMapper::Stub::Create, create, device).ok());
      request.set_device(create.name());
      v1::Export response;
      ASSERT_TRUE(Client::Call(client.iscsi(), &v1::Iscsi::Stub::Export, request, response).ok());
    }
  }
  victim_.Kill();
  std::filesystem::remove(DiskPath(0));
  ASSERT_NO_FATAL_FAILURE(MustStart(victim_));
  Client client(victim_.Connect());
  const auto error_of = [&client](const std::string& name) {
    v1::GetRequest get;
    get.set_name(name);
    v1::Device device;
    EXPECT_TRUE(Client::Call(client.mapper(), &v1::DeviceMapper::Stub::Get, get, device).ok());
    return device.error();
  };
  EXPECT_THAT(error_of("d0"), HasSubstr(DiskPath(0)));
  EXPECT_EQ(error_of("d1"), "");
  const World world = client.Look();
  EXPECT_EQ(world.at("d0").exports.size(), 1u);
  EXPECT_EQ(world.at("d0").live, "0 64 linear " + DiskPath(0) + " 0\n");
  EXPECT_EQ(world.at("d1").exports.size(), 1u);

  MakeDisk(0);
  v1::ResumeRequest resume;
  resume.set_name("d0");
  v1::Device device;
  EXPECT_TRUE(Client::Call(client.mapper(), &v1::DeviceMapper::Stub::Resume, resume, device).ok());
  EXPECT_EQ(device.error(), "");
}

}  // namespace
}  // namespace sectormap
