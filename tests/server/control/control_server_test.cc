// SPDX-License-Identifier: Apache-2.0
#include "server/control/control_server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "tests/server/control/control_fixture.h"

namespace sectormap::control {
namespace {

using ::testing::HasSubstr;

// grpc.health.v1.Health/Check by hand, as Debian has no C++ stubs for it: field 1 of the request is
// the service's name, field 1 of the answer its status (1: SERVING, 2: NOT_SERVING).
int Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string request("\x0a", 1);
  request += static_cast<char>(service.size());
  request += service;
  grpc::Slice slice(request);
  grpc::ByteBuffer sent(&slice, 1);
  grpc::ByteBuffer received;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", sent, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&received, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return -status.error_code();
  std::vector<grpc::Slice> slices;
  received.Dump(&slices).ok();
  std::string bytes;
  for (const grpc::Slice& part : slices) {
    bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return bytes.size() == 2 && bytes[0] == 8 ? bytes[1] : 0;
}

class ControlServerTest : public ControlFixture {};

TEST_F(ControlServerTest, HealthIsPerServiceAndSaysNotServingWhileDraining) {
  EXPECT_EQ(Health(channel_, ""), 1);
  EXPECT_EQ(Health(channel_, "sectormap.v1.DeviceMapper"), 1);
  EXPECT_EQ(Health(channel_, "sectormap.v1.Iscsi"), 1);
  EXPECT_EQ(Health(channel_, "sectormap.v1.Operations"), 1);
  EXPECT_EQ(Health(channel_, "nothing"), -grpc::StatusCode::NOT_FOUND);
  control_->Drain();
  EXPECT_EQ(Health(channel_, "sectormap.v1.DeviceMapper"), 2);
  EXPECT_TRUE(Create("still-answered").ok());
}

TEST_F(ControlServerTest, AStopLetsCallsEndThatRunAndWaitsForNoIdleConnection) {
  grpc::ClientContext context;
  const auto watch = mapper_->Watch(&context, v1::WatchRequest());
  watch->WaitForInitialMetadata();
  std::thread ending([this] { feed_->Close(); });
  std::thread stopping([this] { control_->Stop(std::chrono::hours(1)); });
  v1::WatchResponse response;
  while (watch->Read(&response)) {
  }
  EXPECT_THAT(watch->Finish().error_message(), HasSubstr("sectormapd is stopping"));
  ending.join();
  stopping.join();
}

class ListenTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ControlServer>> Listen(const std::string& uri) {
    auto address = ParseControlAddress(uri);
    if (!address.ok()) return address.status();
    ControlServer::Parts parts;
    parts.addresses = {*address};
    return ControlServer::Start(std::move(parts));
  }

  std::string path() const { return scratch_ / "control.sock"; }

  // A socket that nobody answers.
  void LeaveSocket() {
    const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strcpy(name.sun_path, path().c_str());
    ASSERT_EQ(bind(dead, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    close(dead);
  }

  TestDirectory scratch_{"/tmp"};  // short, as a socket's path has to be
};

TEST_F(ListenTest, TheSocketIsForItsOwnerOnly) {
  auto server = Listen("unix:" + path());
  ASSERT_TRUE(server.ok()) << server.status();
  struct stat info {};
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ((*server)->addresses(), std::vector<std::string>{"unix:" + path()});
  (*server)->Stop(std::chrono::seconds(0));
}

TEST_F(ListenTest, ASocketsPathMayHoldWhatMeansSomethingInAUri) {
  const std::string name = scratch_ / "a b#1?2%41+\xc3\xa9.sock";
  auto server = Listen("unix:" + name);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(access(name.c_str(), F_OK), 0);
  EXPECT_EQ((*server)->addresses(), std::vector<std::string>{"unix:" + name});
  (*server)->Stop(std::chrono::seconds(0));
  EXPECT_NE(access(name.c_str(), F_OK), 0);
}

TEST_F(ListenTest, ASocketThatNobodyAnswersIsTakenOver) {
  LeaveSocket();
  auto server = Listen("unix:" + path());
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->Stop(std::chrono::seconds(0));
}

TEST_F(ListenTest, ASocketThatCannotBeTakenAwaySaysThatItsDirectoryIsClosedToUs) {
  LeaveSocket();
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0555), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Root may write anywhere.
    if (getuid() == 0 && (chown(path().c_str(), 65534, 65534) != 0 || setuid(65534) != 0)) _exit(9);
    const absl::Status refused = PrepareToListen(*ParseControlAddress("unix:" + path()));
    if (refused.code() != absl::StatusCode::kPermissionDenied) _exit(1);
    const std::string message(refused.message());
    _exit(message.find("make its directory writable") == std::string::npos ? 2 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0700), 0);
}

TEST_F(ListenTest, ASocketThatAnswersIsLeftAlone) {
  auto first = Listen("unix:" + path());
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = Listen("unix:" + path());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another process listens"));
  (*first)->Stop(std::chrono::seconds(0));
}

TEST_F(ListenTest, AFileInTheWayIsLeftAlone) {
  std::ofstream(path()) << "precious";
  EXPECT_EQ(Listen("unix:" + path()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(access(path().c_str(), F_OK), 0);
}

TEST_F(ListenTest, AFreeTcpPortIsToldAndAUsedOneRefused) {
  auto first = Listen("tcp:127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = (*first)->addresses()[0];
  EXPECT_THAT(address, HasSubstr("tcp:127.0.0.1:"));
  auto second = Listen(address);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  (*first)->Stop(std::chrono::seconds(0));
}

TEST(ControlAddressTest, KnowsUnixPathsAndLoopback) {
  EXPECT_EQ(ParseControlAddress("unix:/a/b")->ToGrpc(), "unix:/a/b");
  EXPECT_EQ(ParseControlAddress("unix:///a/b")->ToGrpc(), "unix:/a/b");
  EXPECT_EQ(ParseControlAddress("unix:/a#%")->ToGrpc(), "unix:/a%23%25");
  EXPECT_EQ(ParseControlAddress("unix:/a#%")->ToText(0), "unix:/a#%");
  EXPECT_EQ(ParseControlAddress("tcp:127.0.0.1:70")->ToGrpc(), "127.0.0.1:70");
  EXPECT_EQ(ParseControlAddress("tcp:localhost:70")->ToGrpc(), "127.0.0.1:70");
  EXPECT_EQ(ParseControlAddress("tcp:[::1]:70")->ToGrpc(), "[::1]:70");
  EXPECT_EQ(ParseControlAddress("tcp:[::1]:0")->ToText(99), "tcp:[::1]:99");
}

TEST(ControlAddressTest, RefusesWhatOthersCouldReachOrNobodyCouldBind) {
  const auto refusal = [](const std::string& text) {
    const auto address = ParseControlAddress(text);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    return std::string(address.status().message());
  };
  EXPECT_THAT(refusal("tcp:0.0.0.0:70"), HasSubstr("loopback only"));
  EXPECT_THAT(refusal("tcp:[::]:70"), HasSubstr("loopback only"));
  EXPECT_THAT(refusal("tcp:192.0.2.1:70"), HasSubstr("ssh -L"));
  EXPECT_THAT(refusal("tcp:127.0.0.1"), HasSubstr("port"));
  EXPECT_THAT(refusal("tcp:127.0.0.1:65536"), HasSubstr("port"));
  EXPECT_THAT(refusal("unix:relative"), HasSubstr("absolute"));
  EXPECT_THAT(refusal("unix:/" + std::string(107, 'x')), HasSubstr("at most 107"));
  EXPECT_THAT(refusal("http://x"), HasSubstr("unix:PATH or tcp:ADDR:PORT"));
}

}  // namespace
}  // namespace sectormap::control
