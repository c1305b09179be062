// SPDX-License-Identifier: Apache-2.0
// The real daemon's manners: what it says, how it ends, what it tells when it cannot start.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <filesystem>
#include <thread>

#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"
#include "sectormap/v1/operations.grpc.pb.h"
#include "tests/server/control/daemon_process.h"
#include "tests/support/test_directory.h"

namespace sectormap {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

// -1: nobody listens there.
int ConnectTo(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) return fd;
  close(fd);
  return -1;
}

bool CanConnect(const std::string& address) {
  const int fd = ConnectTo(address);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

class DaemonTest : public ::testing::Test {
 protected:
  void MustStart(const std::vector<std::string>& more = {}) {
    ASSERT_TRUE(daemon_.Start(more)) << daemon_.Wait().errors;
  }

  grpc::Status Create(const std::string& name, const std::string& table) {
    auto stub = v1::DeviceMapper::NewStub(daemon_.Connect());
    v1::CreateRequest request;
    request.set_name(name);
    request.set_table(table);
    v1::Device device;
    grpc::ClientContext context;
    return stub->Create(&context, request, &device);
  }

  std::string Second(const std::string& name) {
    const std::string directory = scratch_.path().string() + "/" + name;
    std::filesystem::create_directories(directory);
    return directory;
  }

  TestDirectory scratch_{"/tmp"};  // short, as a socket's path has to be
  testing::DaemonProcess daemon_{scratch_.path().string()};
};

TEST_F(DaemonTest, SaysWhereItListensAndThenThatItIsReady) {
  ASSERT_NO_FATAL_FAILURE(MustStart());
  EXPECT_THAT(daemon_.Said("iscsi portal "), ContainsRegex("^127\\.0\\.0\\.1:[0-9]+$"));
  EXPECT_EQ(daemon_.Said("control "), daemon_.control());
  EXPECT_THAT(daemon_.Said("metrics "), ContainsRegex("^http://127\\.0\\.0\\.1:[0-9]+/metrics$"));
  EXPECT_TRUE(CanConnect(daemon_.Said("iscsi portal ")));
}

TEST_F(DaemonTest, EndsCleanlyOnSigtermAndSigintWithAWatcherConnected) {
  for (const int signal : {SIGTERM, SIGINT}) {
    ASSERT_NO_FATAL_FAILURE(MustStart());
    auto stub = v1::DeviceMapper::NewStub(daemon_.Connect());
    grpc::ClientContext context;
    auto watch = stub->Watch(&context, v1::WatchRequest());
    watch->WaitForInitialMetadata();
    daemon_.Signal(signal);
    const testing::DaemonProcess::Exit end = daemon_.Wait();
    EXPECT_EQ(end.code, 0) << end.errors;
    v1::WatchResponse response;
    while (watch->Read(&response)) {
    }
    EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_FALSE(std::filesystem::exists(daemon_.state_dir() + "/control.sock"));
  }
}

bool HasOpen(pid_t pid, const std::string& path) {
  const std::string all = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& one : std::filesystem::directory_iterator(all)) {
    std::error_code closed_meanwhile;
    if (std::filesystem::read_symlink(one, closed_meanwhile) == path) return true;
  }
  return false;
}

// When nothing answers any more the devices still have to let go: a mirror flushes its legs.
TEST_F(DaemonTest, ASecondSigtermCutsAStopThatWaitsForADisk) {
  ASSERT_NO_FATAL_FAILURE(MustStart({"--device-root", scratch_.path().string()}));
  constexpr uint64_t kBytes = 1024 * 1024;
  const std::string first = scratch_.MakeFile("first", kBytes);
  const std::string fast = scratch_.MakeFile("fast", kBytes) + " 0 ";
  const std::string slow = scratch_.MakeFile("slow", kBytes) + " 0 ";
  const std::string log = scratch_.MakeFile("log", kBytes);
  // Devices go in the order of their names, those below others last. Reads and writes pass the
  // third one at once, a flush takes a minute.
  ASSERT_TRUE(Create("1", "0 2048 linear " + first + " 0").ok());
  ASSERT_TRUE(Create("3", "0 2048 delay " + slow + "0 " + slow + "0 " + slow + "60000").ok());
  ASSERT_TRUE(Create("2", "0 2048 mirror disk 2 " + log + " 64 2 " + fast + "3 0").ok());
  ASSERT_TRUE(HasOpen(daemon_.pid(), first));
  daemon_.Signal(SIGTERM);
  while (HasOpen(daemon_.pid(), first)) std::this_thread::yield();
  daemon_.Signal(SIGTERM);
  const testing::DaemonProcess::Exit end = daemon_.Wait();
  EXPECT_EQ(end.code, 1);
  EXPECT_THAT(end.errors, HasSubstr("cut short"));
}

TEST_F(DaemonTest, ASecondOneInTheSameStateDirectoryIsToldWhoHasIt) {
  ASSERT_NO_FATAL_FAILURE(MustStart());
  testing::DaemonProcess second(scratch_.path().string());
  EXPECT_FALSE(second.Start());
  const testing::DaemonProcess::Exit end = second.Wait();
  EXPECT_EQ(end.code, 1);
  EXPECT_THAT(end.errors, AllOf(HasSubstr("process " + std::to_string(daemon_.pid())),
                                HasSubstr("--state-dir")));
}

TEST_F(DaemonTest, AUsedPortIsNamedWithItsOption) {
  ASSERT_NO_FATAL_FAILURE(MustStart());
  const std::string address = daemon_.Said("iscsi portal ");
  for (const std::string option : {"--listen", "--metrics"}) {
    testing::DaemonProcess second(Second(option));
    option == "--listen" ? second.ListenOn(address) : second.ShowMetricsOn(address);
    EXPECT_FALSE(second.Start());
    const testing::DaemonProcess::Exit end = second.Wait();
    EXPECT_EQ(end.code, 1);
    EXPECT_THAT(end.errors, AllOf(HasSubstr(option), HasSubstr(address)));
  }
}

TEST_F(DaemonTest, BadOptionsEndWithCodeTwo) {
  EXPECT_FALSE(daemon_.Start({"--listen", "nonsense"}));
  const testing::DaemonProcess::Exit end = daemon_.Wait();
  EXPECT_EQ(end.code, 2);
  EXPECT_THAT(end.errors, HasSubstr("ADDR:PORT"));
}

TEST_F(DaemonTest, CheckConfigStartsNothing) {
  EXPECT_FALSE(daemon_.Start({"--check-config"}));
  EXPECT_EQ(daemon_.Wait().code, 0);
  EXPECT_FALSE(std::filesystem::exists(daemon_.state_dir()));
}

TEST_F(DaemonTest, CheckConfigTellsOfADeviceRootThatIsNotThere) {
  EXPECT_FALSE(daemon_.Start({"--device-root", "/nowhere", "--check-config"}));
  EXPECT_EQ(daemon_.Wait().code, 0);
  EXPECT_THAT(daemon_.Said("warning: "), HasSubstr("--device-root /nowhere: No such file"));
}

TEST_F(DaemonTest, SighupAddsAPortalAndABadFileChangesNothing) {
  const std::string config = scratch_.path().string() + "/sectormapd.toml";
  std::ofstream(config) << "listen = \"127.0.0.1:0\"\n";
  daemon_.ListenByConfig();
  ASSERT_NO_FATAL_FAILURE(MustStart({"--config", config}));
  auto stub = v1::Iscsi::NewStub(daemon_.Connect());
  const auto portals = [&stub] {
    grpc::ClientContext context;
    v1::ListPortalsResponse response;
    EXPECT_TRUE(stub->ListPortals(&context, v1::ListPortalsRequest(), &response).ok());
    return std::vector<std::string>(response.addresses().begin(), response.addresses().end());
  };
  std::ofstream(config) << "listen = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n";
  daemon_.Signal(SIGHUP);
  while (portals().size() < 2) std::this_thread::yield();
  EXPECT_THAT(portals()[1], HasSubstr("127.0.0.2:"));
  EXPECT_TRUE(CanConnect(portals()[1]));
  std::ofstream(config) << "listen = 7\n";
  daemon_.Signal(SIGHUP);
  EXPECT_EQ(portals().size(), 2u);
  daemon_.Signal(SIGTERM);
  const testing::DaemonProcess::Exit end = daemon_.Wait();
  EXPECT_EQ(end.code, 0);
  EXPECT_THAT(end.errors, HasSubstr("sectormapd.toml:1:10: listen takes a text"));
}

TEST_F(DaemonTest, SighupSaysWhichPortalStaysOpenAndHasThePort) {
  const std::string config = scratch_.path().string() + "/sectormapd.toml";
  std::ofstream(config) << "listen = \"127.0.0.1:0\"\n";
  daemon_.ListenByConfig();
  ASSERT_NO_FATAL_FAILURE(MustStart({"--config", config}));
  const std::string portal = daemon_.Said("iscsi portal ");
  const std::string everywhere = "0.0.0.0" + portal.substr(portal.rfind(':'));
  std::ofstream(config) << "listen = \"" << everywhere << "\"\n";
  daemon_.Signal(SIGHUP);
  while (daemon_.Errors().find("event=reloaded") == std::string::npos) std::this_thread::yield();
  EXPECT_THAT(
      daemon_.Errors(),
      AllOf(HasSubstr("listen=" + everywhere + " error=\"portal " + portal + " has the port"),
            HasSubstr("listen=127.0.0.1:0 result=\"stays open until the next start\""),
            Not(HasSubstr("the other server"))));
  EXPECT_TRUE(CanConnect(portal));
}

TEST_F(DaemonTest, SighupChangesTheDeviceRoots) {
  const std::string config = scratch_.path().string() + "/sectormapd.toml";
  std::ofstream(config) << "device-root = \"/nowhere\"\n";
  ASSERT_NO_FATAL_FAILURE(MustStart({"--config", config}));
  EXPECT_THAT(daemon_.Errors(), HasSubstr("--device-root /nowhere: No such file"));
  const std::string disk = scratch_.MakeFile("disk", 8192);
  const std::string table = "0 8 linear " + disk + " 0";
  EXPECT_EQ(Create("a", table).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  std::ofstream(config) << "device-root = \"" << scratch_.path().string() << "\"\n";
  daemon_.Signal(SIGHUP);
  while (daemon_.Errors().find("event=reloaded") == std::string::npos) std::this_thread::yield();
  ASSERT_TRUE(Create("a", table).ok());
  // What the daemon makes itself has to lie there too.
  v1::CreateSnapshotsRequest request;
  request.add_entries()->set_device("a");
  request.mutable_entries(0)->set_name("s");
  grpc::ClientContext context;
  v1::CreateSnapshotsResponse response;
  const grpc::Status status =
      v1::Operations::NewStub(daemon_.Connect())->CreateSnapshots(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::ofstream(config) << "device-root = \"/elsewhere\"\n";
  const size_t so_far = daemon_.Errors().size();
  daemon_.Signal(SIGHUP);
  while (daemon_.Errors().find("event=reloaded", so_far) == std::string::npos) {
    std::this_thread::yield();
  }
  EXPECT_THAT(daemon_.Errors(), HasSubstr("--device-root /elsewhere: No such file"));
}

TEST_F(DaemonTest, LogsChangesAndNeverASecret) {
  ASSERT_NO_FATAL_FAILURE(MustStart({"--log-level", "debug"}));
  ASSERT_TRUE(Create("a", "0 8 zero").ok());
  {
    v1::ReplaceRequest replace;
    replace.set_name("a");
    replace.set_table("0 16 zero");
    grpc::ClientContext context;
    v1::Device device;
    EXPECT_TRUE(
        v1::DeviceMapper::NewStub(daemon_.Connect())->Replace(&context, replace, &device).ok());
  }
  auto stub = v1::Iscsi::NewStub(daemon_.Connect());
  v1::ExportRequest request;
  request.set_device("a");
  request.mutable_chap()->set_user("alice");
  for (const std::string secret : {"the-secret-itself", "short-one"}) {
    request.mutable_chap()->set_secret(secret);
    grpc::ClientContext context;
    v1::Export response;
    EXPECT_EQ(stub->Export(&context, request, &response).ok(), secret.size() >= 12);
  }
  daemon_.Signal(SIGTERM);
  const testing::DaemonProcess::Exit end = daemon_.Wait();
  EXPECT_THAT(end.errors, AllOf(HasSubstr("event=create device=\"a\" code=OK"),
                                HasSubstr("event=replace device=\"a\" code=OK"),
                                HasSubstr("event=export device=\"a\" code=INVALID_ARGUMENT"),
                                Not(HasSubstr("the-secret-itself")), Not(HasSubstr("short-one"))));
}

TEST_F(DaemonTest, ADeviceWithManyExportsIsRefusedWithTheFirstOfThem) {
  constexpr int kExports = 120;
  ASSERT_NO_FATAL_FAILURE(MustStart());
  ASSERT_TRUE(Create("a", "0 8 zero").ok());
  auto iscsi = v1::Iscsi::NewStub(daemon_.Connect());
  for (int i = 0; i < kExports; ++i) {
    v1::ExportRequest request;
    request.set_device("a");
    request.set_iqn("iqn.2026-11.io.sectormap:" + std::string(100, 'x') + std::to_string(i));
    grpc::ClientContext context;
    v1::Export response;
    ASSERT_TRUE(iscsi->Export(&context, request, &response).ok());
  }
  auto stub = v1::DeviceMapper::NewStub(daemon_.Connect());
  v1::RemoveRequest request;
  request.set_name("a");
  grpc::ClientContext context;
  v1::RemoveResponse response;
  const grpc::Status status = stub->Remove(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr(" and " + std::to_string(kExports - 8) + " more"),
                    EndsWith("sectormap unexport a takes that away")));
}

constexpr rlim_t kFewDescriptors = 60;

void AllowFewDescriptors() {
  const rlimit few{kFewDescriptors, kFewDescriptors};
  setrlimit(RLIMIT_NOFILE, &few);
}

TEST_F(DaemonTest, ConnectionsThatTakeAllDescriptorsLeaveTheControlPlaneItsOwn) {
  daemon_.BeforeExec(AllowFewDescriptors);
  ASSERT_NO_FATAL_FAILURE(MustStart());
  std::vector<pollfd> connections;
  for (rlim_t i = 0; i < kFewDescriptors; ++i) {
    connections.push_back({ConnectTo(daemon_.Said("iscsi portal ")), POLLIN, 0});
    ASSERT_GE(connections.back().fd, 0);
  }
  const auto all_are_taken = [this] {
    const std::string taken = "/proc/" + std::to_string(daemon_.pid()) + "/fd";
    return std::distance(std::filesystem::directory_iterator(taken), {}) >= int{kFewDescriptors};
  };
  // Or one of the connections is closed again.
  while (!all_are_taken() && poll(connections.data(), connections.size(), 0) == 0) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(Create("a", "0 8 zero").ok());
  for (const pollfd& connection : connections) close(connection.fd);
  EXPECT_TRUE(Create("b", "0 8 zero").ok());
}

// As container engines do by default: Docker's seccomp profile with EPERM, podman's with ENOSYS.
template <int kError>
void ForbidIoUring() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | kError),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{4, program};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

TEST_F(DaemonTest, WithoutIoUringItSaysWhatToChange) {
  for (const auto forbid : {ForbidIoUring<EPERM>, ForbidIoUring<ENOSYS>}) {
    daemon_.BeforeExec(forbid);
    EXPECT_FALSE(daemon_.Start());
    const testing::DaemonProcess::Exit end = daemon_.Wait();
    EXPECT_EQ(end.code, 1);
    EXPECT_THAT(end.errors, AllOf(HasSubstr("io_uring"), HasSubstr("seccomp")));
  }
}

TEST_F(DaemonTest, AFullDiskRefusesTheVerbAndTheDaemonGoesOn) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1024 * 1024, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const bool started = daemon_.Start();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_TRUE(started);
  std::string rows;
  for (int i = 0; i < 100'000; ++i) rows += std::to_string(8 * i) + " 8 zero\n";
  const grpc::Status status = Create("large", rows);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("free space"));
  EXPECT_TRUE(Create("small", "0 8 zero").ok());
}

TEST_F(DaemonTest, APathOutsideTheDeviceRootsIsRefusedByName) {
  ASSERT_NO_FATAL_FAILURE(MustStart());
  std::ofstream(scratch_.path().string() + "/outside") << std::string(8192, 'x');
  const grpc::Status status = Create("a", "0 8 linear " + scratch_.path().string() + "/outside 0");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(), HasSubstr("--device-root"));
}

TEST_F(DaemonTest, TellsTheServiceManagerThatItIsReady) {
  const std::string path = scratch_.path().string() + "/notify";
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::strcpy(name.sun_path, path.c_str());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
  setenv("NOTIFY_SOCKET", path.c_str(), 1);
  const bool started = daemon_.Start();
  unsetenv("NOTIFY_SOCKET");
  ASSERT_TRUE(started);
  char text[64] = {};
  EXPECT_GT(recv(fd, text, sizeof text - 1, 0), 0);
  EXPECT_STREQ(text, "READY=1");
  close(fd);
}

}  // namespace
}  // namespace sectormap
