// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/portal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "core/async/tcp_stream.h"
#include "core/base/check.h"
#include "core/block/memory_device.h"
#include "server/scsi/logical_unit.h"
#include "tests/support/captured_log.h"
#include "tests/support/fake_initiator.h"
#include "tests/support/random.h"

namespace sectormap::iscsi {
namespace {

constexpr char kTarget[] = "iqn.2026-11.io.sectormap:disk";
constexpr int kSessions = 8;
constexpr uint32_t kBlocksPerSession = 4096;

class PortalTest : public testing::Test {
 protected:
  PortalTest() {
    pool_ = *ReactorPool::Start(2, clock_);
    clients_ = *ReactorPool::Start(1, clock_);
    disk_ = *MemoryDevice::Create(SectorCount(kSessions * kBlocksPerSession));
    scsi::UnitBacking backing;
    backing.device = disk_.get();
    backing.identity = "disk";
    CHECK(directory_.AddTarget(kTarget).ok());
    CHECK(directory_
              .AddLun(kTarget, 0, *scsi::LogicalUnit::Create(std::move(backing), *pool_, {}), false)
              .ok());
  }
  ~PortalTest() override {
    CHECK(directory_.targets().empty() || directory_.RemoveTarget(kTarget).ok());
  }

  std::unique_ptr<Portal> Listen(const std::string& address) {
    auto portal = Portal::Listen(address, *pool_, directory_);
    CHECK(portal.ok());
    return *std::move(portal);
  }

  static Task<std::unique_ptr<FakeInitiator>> Open(std::string address) {
    auto stream = co_await TcpStream::Connect(std::move(address));
    CHECK(stream.ok());
    co_return std::make_unique<FakeInitiator>(*std::move(stream));
  }

  static Task<std::unique_ptr<FakeInitiator>> Connect(std::string address, int number) {
    std::unique_ptr<FakeInitiator> initiator = co_await Open(std::move(address));
    InitiatorOptions options;
    options.isid = 0x800000000000 + static_cast<uint64_t>(number);
    options.header_digest = options.data_digest = number % 2 == 1;
    const std::optional<LoginStatus> status = co_await initiator->Login(options);
    EXPECT_EQ(status, LoginStatus::kSuccess);
    co_await initiator->Run(FakeInitiator::TestUnitReady());
    co_return initiator;
  }

  // One session's writes and reads in its own part of the disk.
  static Task<void> Work(std::string address, int number, uint64_t seed) {
    Random random(seed + static_cast<uint64_t>(number));
    std::unique_ptr<FakeInitiator> initiator = co_await Connect(std::move(address), number);
    const auto base = static_cast<uint32_t>(number) * kBlocksPerSession;
    for (int i = 0; i < 100; ++i) {
      std::vector<std::byte> data(512 * random.Between(1, 600));
      random.Fill(data);
      const auto blocks = static_cast<uint16_t>(data.size() / 512);
      const auto lba = base + static_cast<uint32_t>(random.Below(kBlocksPerSession - blocks));
      const FakeInitiator::Outcome written =
          co_await initiator->Run(FakeInitiator::Write10(lba, data));
      EXPECT_TRUE(written.good());
      const FakeInitiator::Outcome read =
          co_await initiator->Run(FakeInitiator::Read10(lba, blocks));
      EXPECT_TRUE(read.good());
      EXPECT_EQ(read.data, data);
    }
    EXPECT_THAT(initiator->violations(), testing::IsEmpty());
    const bool out = co_await initiator->Logout();
    EXPECT_TRUE(out);
  }

  // Waits for the target's wish, obeys or not.
  static Task<void> UntilAsked(std::string address, bool obeys, std::atomic<int>& ready,
                               std::atomic<int>& asked) {
    std::unique_ptr<FakeInitiator> initiator = co_await Connect(std::move(address), obeys);
    ++ready;
    const auto message = co_await initiator->ReceiveKind(Opcode::kAsyncMessage);
    EXPECT_TRUE(message.has_value());
    if (!message) co_return;
    EXPECT_EQ(HeaderAs<AsyncMessageHeader>(message->header).async_event,
              AsyncEvent::kLogoutRequest);
    ++asked;
    if (obeys) {
      const bool out = co_await initiator->Logout();
      EXPECT_TRUE(out);
    } else {
      const auto end = co_await initiator->Receive();
      EXPECT_FALSE(end.has_value());
    }
  }

  SteadyClock clock_;
  TargetDirectory directory_;
  std::unique_ptr<MemoryDevice> disk_;
  std::unique_ptr<ReactorPool> pool_;
  std::unique_ptr<ReactorPool> clients_;
};

TEST_F(PortalTest, EightSessionsOverTwoReactorsKeepTheirData) {
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  const uint64_t seed = Random().seed();
  std::vector<std::thread> threads;
  for (int i = 0; i < kSessions; ++i) {
    threads.emplace_back([&, i] { clients_->RunOn(0, Work(portal->address(), i, seed)); });
  }
  for (std::thread& thread : threads) thread.join();
  portal->Stop();
  EXPECT_TRUE(directory_.sessions().empty());
}

TEST_F(PortalTest, SessionsAreSpreadOverTheReactors) {
  std::unique_ptr<Portal> portal = Listen("[::1]:0");
  std::vector<std::unique_ptr<FakeInitiator>> initiators;
  for (int i = 0; i < 4; ++i) {
    initiators.push_back(clients_->RunOn(0, Connect(portal->address(), i)));
  }
  int on_first = 0;
  for (const SessionInfo& info : directory_.sessions()) on_first += info.reactor == 0;
  EXPECT_EQ(on_first, 2);
  EXPECT_EQ(directory_.sessions()[0].local_address, portal->address());
  clients_->OnEach([&](Reactor&) { initiators.clear(); });
  portal->Stop();
}

TEST_F(PortalTest, StopAsksForLogoutAndThenCloses) {
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  std::atomic<int> ready = 0;
  std::atomic<int> asked = 0;
  std::vector<std::thread> threads;
  for (const bool obeys : {false, true}) {
    threads.emplace_back(
        [&, obeys] { clients_->RunOn(0, UntilAsked(portal->address(), obeys, ready, asked)); });
  }
  while (ready != 2) std::this_thread::yield();
  portal->Stop();
  portal->Stop();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(asked, 2);
  EXPECT_TRUE(directory_.sessions().empty());
}

TEST_F(PortalTest, ATargetThatGoesTakesItsSessionsAlong) {
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  std::atomic<int> ready = 0;
  std::atomic<int> asked = 0;
  std::thread client(
      [&] { clients_->RunOn(0, UntilAsked(portal->address(), false, ready, asked)); });
  while (ready != 1) std::this_thread::yield();
  EXPECT_TRUE(directory_.RemoveTarget(kTarget).ok());
  client.join();
  EXPECT_TRUE(directory_.sessions().empty());
  portal->Stop();
}

TEST_F(PortalTest, AColdResetIsAnsweredBeforeItsSessionEnds) {
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  clients_->RunOn(0, [](std::string address) -> Task<void> {
    std::unique_ptr<FakeInitiator> initiator = co_await Connect(std::move(address), 0);
    const std::optional<TaskManagementResult> result =
        co_await initiator->Manage(TaskManagementFunction::kTargetColdReset, 0);
    EXPECT_EQ(result, TaskManagementResult::kFunctionComplete);
    const auto end = co_await initiator->Receive();
    EXPECT_FALSE(end.has_value());
  }(portal->address()));
  portal->Stop();
}

TEST_F(PortalTest, AnAddressInUseIsNamed) {
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  const auto second = Portal::Listen(portal->address(), *pool_, directory_);
  EXPECT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr("--listen"));
  portal->Stop();
}

// Connections that never log in: some are closed at once, and the others do not keep a real
// initiator from logging in for ever.
TEST_F(PortalTest, ConnectionsThatDoNotLogInAreBounded) {
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  std::vector<std::unique_ptr<TcpStream>> idle;
  clients_->RunOn(0, [](std::string address, auto& streams) -> Task<void> {
    for (int i = 0; i < kMaxConnectionsInLoginPerPeer + 20; ++i) {
      auto stream = co_await TcpStream::Connect(address);
      if (stream.ok()) streams.push_back(*std::move(stream));
    }
    // The last one came too late: it is closed.
    std::array<std::byte, 1> byte;
    const int got = co_await streams.back()->ReadSome(byte);
    EXPECT_LE(got, 0);
  }(portal->address(), idle));
  const int refused = static_cast<int>(DropReason::kTooManyLogins);
  EXPECT_EQ(directory_.totals().drops[refused], 20u);
  clients_->OnEach([&](Reactor&) { idle.clear(); });
  // Their places become free as they end.
  std::unique_ptr<FakeInitiator> initiator =
      clients_->RunOn(0, [](std::string address) -> Task<std::unique_ptr<FakeInitiator>> {
        while (true) {
          auto stream = co_await TcpStream::Connect(address);
          CHECK(stream.ok());
          auto candidate = std::make_unique<FakeInitiator>(*std::move(stream));
          const std::optional<LoginStatus> status = co_await candidate->Login({});
          if (status == LoginStatus::kSuccess) co_return candidate;
        }
      }(portal->address()));
  clients_->OnEach([&](Reactor&) { initiator.reset(); });
  portal->Stop();
}

// Nobody proves anything in a discovery session: the same bound, until one of them ends.
TEST_F(PortalTest, DiscoverySessionsAreBounded) {
  CapturedLog log;
  std::unique_ptr<Portal> portal = Listen("127.0.0.1:0");
  std::vector<std::unique_ptr<FakeInitiator>> initiators;
  const auto discover = [&] {
    initiators.push_back(clients_->RunOn(0, Open(portal->address())));
    return clients_->RunOn(0, initiators.back()->Login({.target = ""}));
  };
  for (int i = 0; i < kMaxConnectionsInLoginPerPeer; ++i) {
    EXPECT_EQ(discover(), LoginStatus::kSuccess);
  }
  EXPECT_EQ(discover(), std::nullopt);
  const int refused = static_cast<int>(DropReason::kTooManyLogins);
  EXPECT_EQ(directory_.totals().drops[refused], 1u);
  EXPECT_TRUE(clients_->RunOn(0, initiators.front()->Logout()));
  while (discover() != LoginStatus::kSuccess) {
  }
  clients_->OnEach([&](Reactor&) { initiators.clear(); });
  portal->Stop();
  EXPECT_THAT(log.Take(), testing::HasSubstr("level=warning event=connection peer=127.0.0.1:"));
}

}  // namespace
}  // namespace sectormap::iscsi
