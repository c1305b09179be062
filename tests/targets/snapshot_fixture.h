// SPDX-License-Identifier: Apache-2.0
// What the tests of the snapshot family share: mapped devices over disks of any kind.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/async/reactor_pool.h"
#include "core/base/text.h"
#include "core/block/memory_device.h"
#include "core/map/device_registry.h"
#include "targets/builtin_targets.h"
#include "tests/support/golden.h"

namespace sectormap::targets {

// Disks by path.
class PathDisks final : public BackingSource {
 public:
  void Add(const std::string& path, std::shared_ptr<BlockDevice> disk) { disks_[path] = disk; }
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name, bool) override {
    const auto found = disks_.find(std::string(name));
    if (found == disks_.end()) return absl::NotFoundError("no such disk");
    return found->second;
  }

 private:
  std::map<std::string, std::shared_ptr<BlockDevice>> disks_;
};

// In memory; tells of each Put before it ends.
class MemoryNotes final : public TargetNotes {
 public:
  // Notes are put once more when a fixture ends, and finds the store still dead.
  explicit MemoryNotes(std::function<void()> on_first_put = nullptr)
      : on_first_put_(std::move(on_first_put)) {}
  bool Has(const std::string& note) const override { return all().contains(note); }
  Task<void> Put(std::string note) override {
    if (on_first_put_) std::exchange(on_first_put_, nullptr)();
    absl::MutexLock lock(&mutex_);
    notes_.insert(std::move(note));
    co_return;
  }
  Task<void> Remove(std::string note) override {
    absl::MutexLock lock(&mutex_);
    notes_.erase(note);
    co_return;
  }
  std::set<std::string> all() const {
    absl::MutexLock lock(&mutex_);
    return notes_;
  }

 private:
  std::function<void()> on_first_put_;
  mutable absl::Mutex mutex_;
  std::set<std::string> notes_ ABSL_GUARDED_BY(mutex_);
};

// One machine: reactors, disks, mapped devices.
class SnapshotHost {
 public:
  explicit SnapshotHost(int reactors = 2) : owned_reactors_(StartPool(reactors, clock_)) {
    Start(*owned_reactors_);
  }
  // On somebody else's reactors, which outlive it.
  explicit SnapshotHost(ReactorPool& reactors) { Start(reactors); }

  void Start(ReactorPool& reactors) {
    AddBuiltinTargets(types_);
    reactors_ = &reactors;
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, disks_);
  }
  // The last made goes first: it may stand on the others.
  ~SnapshotHost() {
    while (!made_.empty()) {
      const std::string name = made_.back();
      made_.pop_back();
      if (registry_->Info(name).ok()) EXPECT_EQ(registry_->Remove(name, {}), absl::OkStatus());
    }
  }

  std::shared_ptr<MemoryDevice> AddMemory(const std::string& path, uint64_t sectors) {
    std::shared_ptr<MemoryDevice> disk = *MemoryDevice::Create(SectorCount(sectors));
    disks_.Add(path, disk);
    return disk;
  }
  std::shared_ptr<MemoryDevice> AddMemory(const std::string& path,
                                          const std::vector<std::byte>& bytes) {
    std::shared_ptr<MemoryDevice> disk = AddMemory(path, bytes.size() / kSectorBytes);
    std::ranges::copy(bytes, disk->bytes().begin());
    return disk;
  }
  void Add(const std::string& path, std::shared_ptr<BlockDevice> disk) {
    disks_.Add(path, std::move(disk));
  }

  absl::Status Load(std::string_view name, std::string_view table) {
    absl::StatusOr<TableSpec> spec = TableSpec::Parse(table);
    if (!spec.ok()) return spec.status();
    return registry_->Load(name, *spec, false);
  }
  absl::Status TryMake(const std::string& name, std::string_view table) {
    absl::Status status = registry_->Create(name, {});
    if (status.ok()) status = Load(name, table);
    if (status.ok()) status = registry_->Resume(name);
    if (status.ok()) {
      made_.push_back(name);
    } else {
      static_cast<void>(registry_->Remove(name, {}));
    }
    return status;
  }
  void Make(const std::string& name, std::string_view table) {
    ASSERT_EQ(TryMake(name, table), absl::OkStatus());
  }
  void Reload(std::string_view name, std::string_view table) {
    ASSERT_EQ(Load(name, table), absl::OkStatus());
    ASSERT_EQ(registry_->Resume(name), absl::OkStatus());
  }
  void Suspend(std::string_view name) {
    ASSERT_EQ(registry_->Suspend(name, SuspendMode::kFlush), absl::OkStatus());
  }
  void Resume(std::string_view name) { ASSERT_EQ(registry_->Resume(name), absl::OkStatus()); }
  void Remove(std::string_view name) { ASSERT_EQ(registry_->Remove(name, {}), absl::OkStatus()); }

  // The words after the start and the length.
  std::string Table(std::string_view name) {
    return Words(registry_->Table(name, TableSlot::kLive));
  }
  std::string Status(std::string_view name) {
    return Words(registry_->Status(name, TableSlot::kLive));
  }
  absl::StatusOr<std::string> Message(std::string_view name, std::string_view text) {
    return registry_->Message(name, Sector(0), text);
  }

  IoStatus Submit(std::string_view name, IoRequest request, int reactor = 0) {
    const std::shared_ptr<MappedDevice> device = registry_->Find(name);
    CHECK(device != nullptr);
    return Submit(*device, request, reactor);
  }
  IoStatus Submit(BlockDevice& device, IoRequest request, int reactor = 0) {
    return reactors_->RunOn(reactor, [&] { return device.Submit(request); });
  }
  IoStatus Write(std::string_view name, uint64_t first, const std::vector<std::byte>& bytes,
                 bool force_unit_access = false) {
    std::vector<std::byte> copy = bytes;
    return Submit(name, IoRequest::Write(Sector(first), copy, force_unit_access));
  }
  // As a session offers it; false: the device does not take it.
  bool WriteAtOnce(std::string_view name, uint64_t first, const std::vector<std::byte>& bytes) {
    return reactors_->RunOn(
        0, [](BlockDevice& device, Sector at, std::span<const std::byte> data) -> Task<bool> {
          co_return device.WriteAtOnce(at, data);
        }(*registry_->Find(name), Sector(first), bytes));
  }
  IoStatus WritePattern(std::string_view name, std::string_view tag, uint64_t first,
                        uint64_t count) {
    return Write(name, first, Pattern(tag, Sector(first), SectorCount(count)));
  }
  // Empty if it fails.
  std::vector<std::byte> Read(std::string_view name, uint64_t first, uint64_t count) {
    std::vector<std::byte> bytes(count * kSectorBytes);
    if (Submit(name, IoRequest::Read(Sector(first), bytes)) != IoStatus::kOk) bytes.clear();
    return bytes;
  }
  std::vector<std::byte> ReadAll(std::string_view name) {
    return Read(name, 0, registry_->Find(name)->size().value());
  }

  // A request under way, from a thread that must not wait for it.
  class UnderWay {
   public:
    UnderWay(SnapshotHost& host, std::string_view name, IoRequest request, int reactor = 0)
        : device_(host.registry().Find(name)) {
      host.reactors()[reactor].Post([this, request] { Detach(Track(request)); });
    }
    IoStatus Wait() {
      done_.WaitForNotification();
      return status_;
    }
    bool done() const { return done_.HasBeenNotified(); }

   private:
    Task<void> Track(IoRequest request) {
      status_ = co_await device_->Submit(request);
      done_.Notify();
    }
    const std::shared_ptr<MappedDevice> device_;
    IoStatus status_ = IoStatus::kOk;
    absl::Notification done_;
  };

  // Everything posted so far has run, and what that made ready.
  void Settle() {
    for (int i = 0; i < 8; ++i) reactors_->OnEach([](Reactor&) {});
  }

  DeviceRegistry& registry() { return *registry_; }
  ReactorPool& reactors() { return *reactors_; }

 private:
  static std::string Words(const absl::StatusOr<std::string>& line) {
    if (!line.ok()) return std::string(line.status().message());
    std::string text = *line;
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    size_t start = 0;
    for (int word = 0; word < 2; ++word) start = text.find(' ', start) + 1;
    return text.substr(start);
  }

  static std::unique_ptr<ReactorPool> StartPool(int count, const Clock& clock) {
    auto pool = ReactorPool::Start(count, clock);
    CHECK(pool.ok());
    return *std::move(pool);
  }

  SteadyClock clock_;
  TargetRegistry types_;
  PathDisks disks_;
  std::unique_ptr<ReactorPool> owned_reactors_;
  ReactorPool* reactors_ = nullptr;
  std::unique_ptr<DeviceRegistry> registry_;
  std::vector<std::string> made_;
};

class SnapshotFixture : public testing::Test {
 protected:
  SnapshotHost host_;
};

}  // namespace sectormap::targets
