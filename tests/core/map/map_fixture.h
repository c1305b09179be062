// SPDX-License-Identifier: Apache-2.0
// What the tests of core/map share: reactors, memory disks by path, and disks that misbehave.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/async/reactor_pool.h"
#include "core/async/wait_queue.h"
#include "core/block/memory_device.h"
#include "core/map/device_registry.h"
#include "targets/builtin_targets.h"

namespace sectormap {

// A memory disk that counts what reaches it, and can be told to fail or to hold requests back.
class TestDisk final : public BlockDevice {
 public:
  explicit TestDisk(SectorCount size, BlockLimits limits = {})
      : memory_(*MemoryDevice::Create(size)), size_(size), limits_(memory_->limits()) {
    limits_.logical_block_bytes = limits.logical_block_bytes;
    limits_.physical_block_bytes = limits.physical_block_bytes;
  }

  SectorCount size() const override { return SectorCount(size_.value()); }
  BlockLimits limits() const override { return limits_; }
  Task<IoStatus> Submit(IoRequest request) override {
    {
      absl::MutexLock lock(&mutex_);
      seen_.push_back(request);
    }
    if (suspends_.load()) return Suspending(request);
    return Now(request);
  }

  Loan Lend(Sector first, SectorCount count) override {
    ++lent_;
    return memory_->Lend(first, count);
  }
  int lent() const { return lent_; }
  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override {
    return memory_->WriteAtOnce(first, bytes);
  }

  // Every request goes through a timer, so that it really suspends.
  void SuspendEveryRequest() { suspends_ = true; }
  // From now on a request stays inside until Release().
  void Hold() {
    released_ = false;
    suspends_ = true;
  }
  void Release() { released_ = true; }
  // Requests of this kind fail.
  void Fail(IoOp op, IoStatus status) {
    fail_op_ = op;
    fail_ = status;
  }

  std::vector<IoRequest> seen() const {
    absl::MutexLock lock(&mutex_);
    return seen_;
  }
  int CountOf(IoOp op) const {
    int count = 0;
    for (const IoRequest& request : seen()) count += request.op == op;
    return count;
  }
  void Forget() {
    absl::MutexLock lock(&mutex_);
    seen_.clear();
  }
  BlockLimits& mutable_limits() { return limits_; }
  std::span<std::byte> bytes() { return memory_->bytes(); }

 private:
  Task<IoStatus> Now(IoRequest request) {
    const IoStatus failure = fail_.load();
    if (failure != IoStatus::kOk && fail_op_.load() == request.op) return failure;
    return memory_->Submit(request);
  }
  Task<IoStatus> Suspending(IoRequest request) {
    do {
      co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
    } while (!released_.load());
    co_return co_await Now(request);
  }

  const std::unique_ptr<MemoryDevice> memory_;
  const SectorCount size_;
  BlockLimits limits_;
  std::atomic<bool> suspends_{false};
  std::atomic<bool> released_{true};
  std::atomic<IoOp> fail_op_{IoOp::kRead};
  std::atomic<IoStatus> fail_{IoStatus::kOk};
  std::atomic<int> lent_{0};
  mutable absl::Mutex mutex_;
  std::vector<IoRequest> seen_;
};

// Disks by path. A path that is not there is NotFound, one that was removed too.
class TestBackings final : public BackingSource {
 public:
  std::shared_ptr<TestDisk> Add(const std::string& path, SectorCount size,
                                BlockLimits limits = {}) {
    auto disk = std::make_shared<TestDisk>(size, limits);
    absl::MutexLock lock(&mutex_);
    disks_[path] = disk;
    return disk;
  }
  void Remove(const std::string& path) {
    absl::MutexLock lock(&mutex_);
    disks_.erase(path);
  }
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name,
                                                    bool read_only) override {
    absl::MutexLock lock(&mutex_);
    const auto found = disks_.find(std::string(name));
    if (found == disks_.end()) {
      return absl::NotFoundError(std::string(name) + ": No such file or directory");
    }
    opened_read_only_[std::string(name)] = read_only;
    return found->second;
  }
  bool opened_read_only(const std::string& path) {
    absl::MutexLock lock(&mutex_);
    return opened_read_only_[path];
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<TestDisk>> disks_;
  std::map<std::string, bool> opened_read_only_;
};

class MapFixture : public testing::Test {
 protected:
  static constexpr SectorCount kDiskSize{16384};

  void SetUp() override {
    targets::AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(2, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, backings_);
    a_ = backings_.Add("/dev/a", kDiskSize);
    b_ = backings_.Add("/dev/b", kDiskSize);
  }

  DeviceRegistry& registry() { return *registry_; }

  absl::Status Load(std::string_view name, std::string_view text, bool read_only = false) {
    absl::StatusOr<TableSpec> spec = TableSpec::Parse(text);
    if (!spec.ok()) return spec.status();
    return registry_->Load(name, *spec, read_only);
  }

  // A device that serves `text`.
  std::shared_ptr<MappedDevice> Make(std::string_view name, std::string_view text,
                                     bool read_only = false) {
    EXPECT_TRUE(registry_->Create(name, {}).ok());
    EXPECT_EQ(Load(name, text, read_only), absl::OkStatus());
    EXPECT_EQ(registry_->Resume(name), absl::OkStatus());
    return registry_->Find(name);
  }

  DeviceInfo InfoOf(std::string_view name) {
    auto info = registry().Info(name);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? *info : DeviceInfo();
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const DeviceInfo& info : registry().List()) names.push_back(info.name);
    return names;
  }
  // The reaper works on its own thread.
  void WaitUntilGone(std::string_view name) {
    while (registry().Info(name).ok()) std::this_thread::yield();
  }

  IoStatus Run(BlockDevice& device, IoRequest request, int reactor = 0) {
    return reactors_->RunOn(reactor, SubmitOnReactor(device, request));
  }
  // Submit is to be called on the reactor.
  static Task<IoStatus> SubmitOnReactor(BlockDevice& device, IoRequest request) {
    co_return co_await device.Submit(request);
  }

  Extent ExtentAt(BlockDevice& device, Sector first) {
    return reactors_->RunOn(0, device.ExtentAt(first));
  }

  // Writes `count` sectors of the byte `value`.
  IoStatus Fill(BlockDevice& device, uint64_t first, uint64_t count, int value) {
    std::vector<std::byte> data(Bytes(SectorCount(count)).value(), std::byte(value));
    return Run(device, IoRequest::Write(Sector(first), data));
  }
  // The first byte of a sector; -1 if the read fails.
  int ByteAt(BlockDevice& device, uint64_t sector) {
    std::vector<std::byte> data(kSectorBytes);
    if (Run(device, IoRequest::Read(Sector(sector), data)) != IoStatus::kOk) return -1;
    return static_cast<int>(data[0]);
  }

  // A request under way on a reactor, from a thread that must not wait for it.
  class Pending {
   public:
    Pending(ReactorPool& reactors, int reactor, BlockDevice& device, IoRequest request) {
      reactors[reactor].Post([this, &device, request] { Detach(Track(device, request)); });
    }
    IoStatus Wait() {
      done_.WaitForNotification();
      return status_;
    }
    bool done() const { return done_.HasBeenNotified(); }

   private:
    Task<void> Track(BlockDevice& device, IoRequest request) {
      status_ = co_await device.Submit(request);
      done_.Notify();
    }
    IoStatus status_ = IoStatus::kOk;
    absl::Notification done_;
  };

  // Everything posted so far has run on every reactor, and what that made ready.
  void Settle() {
    for (int i = 0; i < 3; ++i) reactors_->OnEach([](Reactor&) {});
  }

  static std::string Message(const absl::Status& status) { return std::string(status.message()); }

  SteadyClock clock_;
  TargetRegistry types_;
  TestBackings backings_;
  std::shared_ptr<TestDisk> a_, b_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<DeviceRegistry> registry_;
};

}  // namespace sectormap
