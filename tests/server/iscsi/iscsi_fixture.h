// SPDX-License-Identifier: Apache-2.0
// What the tests of iSCSI connections share: a target with units over memory, connections without
// sockets, and initiators at their other ends. Everything runs on reactor 0.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/async/wait_queue.h"
#include "core/block/memory_device.h"
#include "server/iscsi/connection.h"
#include "server/scsi/logical_unit.h"
#include "tests/support/fake_initiator.h"
#include "tests/support/manual_clock.h"
#include "tests/support/memory_stream.h"
#include "tests/support/random.h"
#include "tests/support/slow_device.h"

namespace sectormap::iscsi {

inline constexpr char kTestTarget[] = "iqn.2026-11.io.sectormap:disk";
inline constexpr uint64_t kTestDiskBytes = 16 * 1024 * 1024;

class IscsiTest : public testing::Test {
 public:
  enum class Time { kReal, kManual };
  explicit IscsiTest(Time time = Time::kReal, size_t memory_bytes = 16 * 1024 * 1024)
      : memory_(memory_bytes) {
    const Clock& clock = time == Time::kReal ? static_cast<const Clock&>(steady_clock_) : clock_;
    pool_ = *ReactorPool::Start(1, clock);
    CHECK(directory_.AddTarget(kTestTarget).ok());
    disk_ = *MemoryDevice::Create(WholeSectors(ByteCount(kTestDiskBytes)));
    CHECK(directory_.AddLun(kTestTarget, 0, UnitOver(*disk_, "disk"), false).ok());
  }
  ~IscsiTest() override {
    for (auto& device : slow_devices_) device->Release();
    // Every connection ends, or the test hangs here.
    pool_->RunOn(0, EndAll(*this));
    CHECK(directory_.luns(kTestTarget).empty() || directory_.RemoveTarget(kTestTarget).ok());
    EXPECT_EQ(memory_.used(), 0u);
  }

  std::shared_ptr<scsi::Lun> UnitOver(BlockDevice& device, const std::string& identity) {
    scsi::UnitBacking backing;
    backing.device = &device;
    backing.identity = identity;
    return *scsi::LogicalUnit::Create(std::move(backing), *pool_, {});
  }

  // A unit that keeps its requests while the test wants it to; it lets them pass at first.
  SlowDevice* AddSlowUnit(uint64_t number) {
    slow_devices_.push_back(std::make_unique<SlowDevice>(*MemoryDevice::Create(SectorCount(2048))));
    SlowDevice& device = *slow_devices_.back();
    device.Release();
    CHECK(directory_.AddLun(kTestTarget, number, UnitOver(device, "slow"), false).ok());
    return &device;
  }

  // co_await Yield(): lets everything else of the reactor run once, whatever the clock says.
  struct Yield {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) { Reactor::Current().Ready(handle); }
    void await_resume() const noexcept {}
  };

  // On reactor 0: a new connection and its initiator, which has not logged in.
  FakeInitiator& Connect(MemoryStreamOptions options = {}) {
    auto [ours, theirs] = MemoryStream::MakePair(options);
    ++serving_;
    Detach(ServeOne(*this, std::move(ours)));
    initiators_.push_back(std::make_unique<FakeInitiator>(std::move(theirs)));
    return *initiators_.back();
  }

  // Logged in, past the first unit attention of LUN 0.
  static Task<FakeInitiator*> Session(IscsiTest& test, InitiatorOptions options = {},
                                      MemoryStreamOptions stream = {}) {
    FakeInitiator& initiator = test.Connect(std::move(stream));
    const std::optional<LoginStatus> status = co_await initiator.Login(std::move(options));
    EXPECT_EQ(status, LoginStatus::kSuccess);
    FakeInitiator::Outcome attention = co_await initiator.Run(FakeInitiator::TestUnitReady());
    EXPECT_EQ(attention.sense_code(), 0x062900u);
    co_return &initiator;
  }

  static Task<void> ServeOne(IscsiTest& test, std::unique_ptr<ByteStream> stream) {
    Connection::Context context{.reactor = Reactor::Current(),
                                .directory = test.directory_,
                                .memory = test.memory_,
                                .portals = test.portals_,
                                .log = test.log_,
                                .on_login_end = [] {}};
    std::function<void(std::shared_ptr<ConnectionHandle>)> on_start =
        [&test](std::shared_ptr<ConnectionHandle> handle) {
          test.last_handle_ = std::move(handle);
        };
    co_await Connection::Serve(std::move(context), std::move(stream), std::move(on_start));
    --test.serving_;
    test.ended_.WakeAll();
  }

  static Task<void> AllEnded(IscsiTest& test) {
    while (test.serving_ != 0) co_await test.ended_.Wait();
  }
  static Task<void> EndAll(IscsiTest& test) {
    for (auto& initiator : test.initiators_) initiator->Shutdown();
    co_await AllEnded(test);
    for (auto& initiator : test.initiators_) {
      EXPECT_THAT(initiator->violations(), testing::IsEmpty());
    }
    test.initiators_.clear();
    test.last_handle_.reset();
  }

  SteadyClock steady_clock_;
  ManualClock clock_;
  TargetDirectory directory_;
  CommandMemory memory_;
  PortalAddresses portals_;
  SessionLog log_;
  std::unique_ptr<MemoryDevice> disk_;
  std::vector<std::unique_ptr<SlowDevice>> slow_devices_;
  std::unique_ptr<ReactorPool> pool_;

  // Reactor 0's.
  std::vector<std::unique_ptr<FakeInitiator>> initiators_;
  std::shared_ptr<ConnectionHandle> last_handle_;
  int serving_ = 0;
  WaitQueue ended_;
};

}  // namespace sectormap::iscsi
