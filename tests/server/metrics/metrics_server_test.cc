// SPDX-License-Identifier: Apache-2.0
// The daemon's parts without the daemon: what a scrape shows of them.
#include "server/metrics/metrics_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/metrics/device_metrics.h"
#include "server/metrics/iscsi_metrics.h"
#include "server/metrics/reactor_metrics.h"
#include "targets/builtin_targets.h"
#include "tests/support/test_directory.h"

namespace sectormap::metrics {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

int Connect(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint16_t port = 0;
  std::from_chars(address.data() + colon + 1, address.data() + address.size(), port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  // As long as a Prometheus waits.
  const timeval patience{.tv_sec = 10, .tv_usec = 0};
  EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

// GET /metrics by hand; the whole answer.
std::string Scrape(const std::string& address) {
  const int fd = Connect(address);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  char part[4096];
  while (true) {
    const ssize_t got = recv(fd, part, sizeof(part), 0);
    // With a time-out the kernel does not go on by itself after a signal (signal(7)).
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    answer.append(part, static_cast<size_t>(got));
  }
  close(fd);
  return answer;
}

// One command of the largest size.
constexpr size_t kCommandMemory = scsi::kMaxTransferBytes;

class MetricsServerTest : public testing::Test {
 protected:
  MetricsServerTest() {
    targets::AddBuiltinTargets(types_);
    devices_ = std::make_unique<DeviceRegistry>(*reactors_, types_, *backings_);
  }

  void Create(const std::string& name, const std::string& table) {
    ASSERT_TRUE(devices_->Create(name, {}).ok());
    const auto spec = TableSpec::Parse(table);
    ASSERT_TRUE(spec.ok());
    const absl::Status loaded = devices_->Load(name, *spec, false);
    ASSERT_TRUE(loaded.ok()) << loaded;
    ASSERT_TRUE(devices_->Resume(name).ok());
  }

  absl::StatusOr<std::unique_ptr<MetricsServer>> TryStart(std::string_view address) {
    return MetricsServer::Start(address, {.version = "1.2.3",
                                          .started = std::chrono::system_clock::now(),
                                          .reactors = *reactors_,
                                          .devices = *devices_,
                                          .backings = *backings_,
                                          .targets = targets_,
                                          .portals = portals_,
                                          .grpc = grpc_});
  }

  std::unique_ptr<MetricsServer> Start(std::string_view address) {
    auto server = TryStart(address);
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> reactors_ = *ReactorPool::Start(2, clock_);
  TargetRegistry types_;
  std::unique_ptr<BackingOpener> backings_ = *BackingOpener::Create({});
  std::unique_ptr<DeviceRegistry> devices_;
  iscsi::TargetDirectory targets_;
  iscsi::PortalResources portals_{*reactors_, kCommandMemory};
  GrpcMetrics grpc_;
};

TEST_F(MetricsServerTest, ShowsBuildReactorsAndProcess) {
  const auto server = Start("127.0.0.1:0");
  const std::string text = Scrape(server->address());
  EXPECT_THAT(text, HasSubstr("200 OK"));
  EXPECT_THAT(text, HasSubstr("sectormap_build_info{version=\"1.2.3\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_reactor_turns_total{reactor=\"1\"} "));
  EXPECT_THAT(text, HasSubstr("sectormap_reactor_sessions{reactor=\"1\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nprocess_resident_memory_bytes "));
  EXPECT_THAT(text, HasSubstr("sectormap_logins_total{result=\"accepted\"} 0\n"));
}

TEST_F(MetricsServerTest, ConnectionsThatSayNothingKeepNoScrapeWaiting) {
  const auto server = Start("127.0.0.1:0");
  std::vector<int> silent;
  for (int i = 0; i < 4; ++i) silent.push_back(Connect(server->address()));
  EXPECT_THAT(Scrape(server->address()), HasSubstr("sectormap_build_info"));
  for (const int fd : silent) close(fd);
}

TEST_F(MetricsServerTest, ShowsADevicesStateAndTheIoThatPassedThroughIt) {
  Create("vol", "0 2048 linear mem:1M 0");
  std::vector<std::byte> data(4096);
  const auto device = devices_->Find("vol");
  EXPECT_EQ(reactors_->RunOn(1, [&] { return device->Submit(IoRequest::Write(Sector(0), data)); }),
            IoStatus::kOk);
  ASSERT_TRUE(devices_->Suspend("vol", SuspendMode::kNoFlush).ok());
  const auto server = Start("127.0.0.1:0");
  const std::string text = Scrape(server->address());
  EXPECT_THAT(text, HasSubstr("sectormap_device_size_bytes{device=\"vol\"} 1048576\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_device_suspended{device=\"vol\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_device_error{device=\"vol\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_device_requests_total{device=\"vol\",op=\"write\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_device_bytes_total{device=\"vol\",op=\"write\"} 4096\n"));
  EXPECT_THAT(text,
              HasSubstr("sectormap_backing_bytes_total{backing=\"mem:1M\",op=\"write\"} 4096\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_device_backing_info{device=\"vol\",backing=\"mem:1M\","
                              "mapped=\"false\"} 1\n"));
  ASSERT_TRUE(devices_->Resume("vol").ok());
}

TEST_F(MetricsServerTest, ShowsWhatFailed) {
  Create("bad", "0 8 error");
  std::vector<std::byte> data(512);
  const auto device = devices_->Find("bad");
  EXPECT_EQ(reactors_->RunOn(0, [&] { return device->Submit(IoRequest::Read(Sector(0), data)); }),
            IoStatus::kIoError);
  const auto server = Start("127.0.0.1:0");
  EXPECT_THAT(Scrape(server->address()),
              HasSubstr("sectormap_device_errors_total{device=\"bad\",op=\"read\"} 1\n"));
}

TEST_F(MetricsServerTest, ShowsTheMemoryThatEachReactorsCommandsHold) {
  const std::string capacity = std::to_string(kCommandMemory);
  const auto server = Start("127.0.0.1:0");
  iscsi::CommandMemory& memory = portals_.memory(1);
  iscsi::SessionShare share = memory.Join(nullptr, "iqn.2026-11.io.sectormap:host");
  std::optional<iscsi::CommandBuffer> buffer;
  const auto on_its_reactor = [this](const std::function<void()>& work) {
    reactors_->OnEach([&](Reactor& reactor) {
      if (reactor.index() == 1) work();
    });
  };
  on_its_reactor([&] { buffer = memory.TryTake(share, 8192, iscsi::DataKind::kMedium); });
  std::string text = Scrape(server->address());
  for (const char* index : {"0", "1"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("sectormap_reactor_command_memory_bytes{reactor=\"",
                                             index, "\"} ", capacity, "\n")));
  }
  EXPECT_THAT(text, HasSubstr("sectormap_reactor_command_memory_used_bytes{reactor=\"0\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("sectormap_reactor_command_memory_used_bytes{reactor=\"1\"} 8192\n"));
  on_its_reactor([&] {
    buffer.reset();
    memory.Leave(share);
  });
  text = Scrape(server->address());
  EXPECT_THAT(text, HasSubstr("sectormap_reactor_command_memory_used_bytes{reactor=\"1\"} 0\n"));
}

TEST(BackingFamiliesTest, TwoOpenFilesOfOneNameAreCountedTogether) {
  SteadyClock clock;
  const auto reactors = *ReactorPool::Start(1, clock);
  const TestDirectory directory;
  const auto backings = *BackingOpener::Create({.device_roots = {directory.path().string()}});
  std::vector<std::shared_ptr<BlockDevice>> open;
  std::vector<std::byte> data(512);
  for (int i = 0; i < 2; ++i) {
    const std::string path = directory.MakeFile("new", 4096);
    std::filesystem::rename(path, directory / "disk");
    open.push_back(*backings->Open(directory / "disk", false));
    EXPECT_EQ(
        reactors->RunOn(0, [&] { return open.back()->Submit(IoRequest::Write(Sector(0), data)); }),
        IoStatus::kOk);
  }
  ASSERT_NE(open[0], open[1]);
  Families families;
  AddBackingFamilies(*backings, families);
  for (const prometheus::MetricFamily& family : families.Take()) {
    EXPECT_EQ(family.metric.size(), size_t{kIoOpCount}) << family.name;
    if (family.name != "sectormap_backing_requests_total") continue;
    EXPECT_EQ(family.metric[static_cast<int>(IoOp::kWrite)].counter.value, 2);
  }
}

TEST_F(MetricsServerTest, ADeviceThatIsGoneShowsNothing) {
  Create("vol", "0 8 zero");
  ASSERT_TRUE(devices_->Remove("vol", {}).ok());
  const auto server = Start("127.0.0.1:0");
  EXPECT_THAT(Scrape(server->address()), Not(HasSubstr("device=\"vol\"")));
}

TEST_F(MetricsServerTest, ATargetWithoutSessionsShowsZero) {
  ASSERT_TRUE(targets_.AddTarget("iqn.2026-11.io.sectormap:t").ok());
  const auto server = Start("127.0.0.1:0");
  EXPECT_THAT(Scrape(server->address()),
              HasSubstr("sectormap_sessions{target=\"iqn.2026-11.io.sectormap:t\"} 0\n"));
}

TEST_F(MetricsServerTest, DiscoveriesAreSessionsWithoutATarget) {
  const auto server = Start("127.0.0.1:0");
  EXPECT_THAT(Scrape(server->address()), HasSubstr("sectormap_sessions{target=\"\"} 0\n"));
  targets_.BeginDiscovery();
  EXPECT_THAT(Scrape(server->address()), HasSubstr("sectormap_sessions{target=\"\"} 1\n"));
  targets_.EndDiscovery();
  EXPECT_THAT(Scrape(server->address()), HasSubstr("sectormap_sessions{target=\"\"} 0\n"));
}

TEST_F(MetricsServerTest, CommandsThatNeverCameHaveACountAndNoHistogram) {
  Create("vol", "0 8 zero");
  const std::string target = "iqn.2026-11.io.sectormap:t";
  ASSERT_TRUE(targets_.AddTarget(target).ok());
  auto lun = scsi::Lun::Create(devices_->Find("vol"), *devices_->Open("vol"), *reactors_, {});
  ASSERT_TRUE(targets_.AddLun(target, 0, *std::move(lun), false).ok());
  const auto server = Start("127.0.0.1:0");
  const std::string text = Scrape(server->address());
  EXPECT_THAT(text, HasSubstr("sectormap_commands_total{"));
  EXPECT_THAT(text, Not(HasSubstr("sectormap_command_duration_seconds_bucket{")));
  EXPECT_TRUE(targets_.RemoveTarget(target).ok());
}

TEST_F(MetricsServerTest, PortZeroTakesAFreeOneAndSaysWhich) {
  const auto server = Start("127.0.0.1:0");
  EXPECT_THAT(server->address(), testing::MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
}

TEST_F(MetricsServerTest, APortInUseIsNamedWithTheOptionToChange) {
  const auto first = Start("127.0.0.1:0");
  const absl::Status refused = TryStart(first->address()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(absl::StrCat("metrics: address ", first->address(), " is in use")),
                    HasSubstr("choose another with --metrics")));
}

TEST_F(MetricsServerTest, AnAddressThatIsNotOursIsNamedWithTheOptionToChange) {
  const absl::Status refused = TryStart("203.0.113.1:9360").status();  // RFC 5737: nobody's
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(refused.message()),
      AllOf(HasSubstr("203.0.113.1:9360 is not one of this machine's"), HasSubstr("--metrics")));
}

TEST_F(MetricsServerTest, AnIpv6AddressWorksOrIsRefusedWithTheLikelyCause) {
  const auto server = TryStart("[::1]:0");
  if (server.ok()) {
    EXPECT_THAT((*server)->address(), HasSubstr("[::1]:"));
  } else {
    EXPECT_THAT(std::string(server.status().message()),
                AllOf(HasSubstr("no IPv6"), HasSubstr("--metrics")));
  }
}

TEST_F(MetricsServerTest, AnAddressWithoutAPortIsRefused) {
  EXPECT_EQ(TryStart("localhost").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MetricsServerTest, APortIsFreeAgainWhenItsServerHasEnded) {
  const std::string address = Start("127.0.0.1:0")->address();
  EXPECT_EQ(Start(address)->address(), address);
  EXPECT_THAT(Scrape(Start(address)->address()), HasSubstr("200 OK"));
}

// civetweb left alone takes two seconds for each.
TEST_F(MetricsServerTest, AnIdleServerEndsWithoutWaitingForItsPoll) {
  constexpr int kServers = 10;
  const auto before = std::chrono::steady_clock::now();
  for (int i = 0; i < kServers; ++i) Start(i % 2 == 0 ? "127.0.0.1:0" : "0.0.0.0:0").reset();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(kServers));
}

}  // namespace
}  // namespace sectormap::metrics
