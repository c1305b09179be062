// SPDX-License-Identifier: Apache-2.0
// What the mirror's tests share: a mapped device over disks that fail, wait and tell on request.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/async/next_turn.h"
#include "core/async/reactor_pool.h"
#include "core/block/memory_device.h"
#include "core/map/mapped_device.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {

// A disk of memory that writes down what it is asked, and fails what it is told to. Any reactor;
// the controls from any thread.
class LegDisk final : public BlockDevice {
 public:
  explicit LegDisk(SectorCount size) : memory_(*MemoryDevice::Create(size)) {}

  struct Fault {
    IoOp op = IoOp::kWrite;
    Sector first{0};  // requests that touch [first, end); a flush touches all
    Sector end{~uint64_t{0}};
    uint64_t times = ~uint64_t{0};
    IoStatus status = IoStatus::kIoError;
  };
  void Fail(const Fault& fault) {
    absl::MutexLock lock(&mutex_);
    faults_.push_back(fault);
  }
  void FailAll() {
    for (IoOp op : {IoOp::kRead, IoOp::kWrite, IoOp::kFlush, IoOp::kDiscard, IoOp::kWriteZeroes}) {
      Fail({.op = op});
    }
  }
  void Heal() {
    absl::MutexLock lock(&mutex_);
    faults_.clear();
  }
  // Requests of this kind wait, and those that wait may be let go.
  void Hold(IoOp op) {
    absl::MutexLock lock(&mutex_);
    held_op_ = op;
  }
  void Release() {
    absl::MutexLock lock(&mutex_);
    held_op_.reset();
  }
  int holding() const { return holding_.load(); }
  // Every request takes a turn of the reactor, so that it really suspends.
  void SuspendEveryRequest() { suspends_ = true; }

  struct Seen {
    IoOp op;
    Sector first;
    SectorCount count;
    bool force_unit_access;
  };
  std::vector<Seen> TakeSeen() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(seen_, {});
  }
  int CountOf(IoOp op) const {
    absl::MutexLock lock(&mutex_);
    int count = 0;
    for (const Seen& seen : seen_) count += seen.op == op;
    return count;
  }

  SectorCount size() const override { return memory_->size(); }
  BlockLimits limits() const override { return memory_->limits(); }
  Task<IoStatus> Submit(IoRequest request) override {
    {
      absl::MutexLock lock(&mutex_);
      seen_.push_back({request.op, request.first, request.count, request.force_unit_access});
    }
    if (suspends_.load() || IsHeld(request.op)) return Later(request);
    return Now(request);
  }

  std::span<std::byte> bytes() { return memory_->bytes(); }
  int At(uint64_t sector) { return static_cast<int>(bytes()[sector * kSectorBytes]); }

 private:
  bool IsHeld(IoOp op) const {
    absl::MutexLock lock(&mutex_);
    return held_op_ == op;
  }
  Task<IoStatus> Later(IoRequest request) {
    ++holding_;
    do {
      co_await NextTurn();  // whatever the clock says
    } while (IsHeld(request.op));
    --holding_;
    co_return co_await Now(request);
  }
  Task<IoStatus> Now(const IoRequest& request) {
    absl::MutexLock lock(&mutex_);
    for (Fault& fault : faults_) {
      const bool touches =
          request.op == IoOp::kFlush ||
          (request.first < fault.end && fault.first < request.first + request.count);
      if (fault.op != request.op || !touches || fault.times == 0) continue;
      --fault.times;
      return fault.status;
    }
    return memory_->Submit(request);
  }

  const std::unique_ptr<MemoryDevice> memory_;
  std::atomic<bool> suspends_{false};
  std::atomic<int> holding_{0};
  mutable absl::Mutex mutex_;  // over the bytes too: two reactors may write to one sector
  std::optional<IoOp> held_op_;
  std::vector<Fault> faults_;
  std::vector<Seen> seen_;
};

class MirrorFixture : public testing::Test, public DeviceResolver {
 protected:
  static constexpr uint64_t kLength = 16384;  // sectors
  static constexpr uint64_t kRegion = 1024;
  static constexpr uint64_t kRegions = kLength / kRegion;

  void SetUp() override {
    AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(2, clock());
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    for (const char* name : {"a", "b", "c"}) AddDisk(name, SectorCount(kLength));
    AddDisk("log", SectorCount(128));
    MakeDevice();
  }
  void TearDown() override { Discard(); }

  virtual const Clock& clock() { return steady_; }

  void AddDisk(const std::string& name, SectorCount size) {
    disks_[name] = std::make_shared<LegDisk>(size);
  }
  LegDisk& disk(const std::string& name) { return *disks_.at(name); }

  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode) override {
    const auto found = disks_.find(std::string(name));
    if (found == disks_.end()) return absl::NotFoundError("no such device");
    return DeviceRef{found->second, found->first, false};
  }

  void MakeDevice() {
    device_ =
        std::make_shared<MappedDevice>("m", "", "00000000000000000000000000000001", *reactors_);
  }
  // As at an orderly end of the daemon.
  void Discard() {
    if (device_ != nullptr) device_->Retire();
    device_.reset();
  }

  absl::Status Load(std::string_view text, bool read_only = false) {
    absl::StatusOr<TableSpec> spec = TableSpec::Parse(text);
    if (!spec.ok()) return spec.status();
    auto table = MappingTable::Build(*spec, read_only, types_, *this, *device_);
    if (!table.ok()) return table.status();
    device_->Load(*std::move(table));
    return absl::OkStatus();
  }
  // A live table of one mirror; `words` come after the type.
  void Use(std::string_view words, SuspendMode mode = SuspendMode::kFlush, bool read_only = false) {
    ASSERT_EQ(Load("0 16384 mirror " + std::string(words), read_only), absl::OkStatus());
    ASSERT_EQ(device_->Resume(mode), absl::OkStatus());
  }
  std::string Refusal(std::string_view text) { return std::string(Load(text).message()); }

  // The row without start, length and type.
  std::string Table() { return Words(device_->table(TableSlot::kLive)->TableText()); }
  std::string Status() { return Words(device_->table(TableSlot::kLive)->StatusText()); }
  void WaitForStatus(std::string_view wanted) {
    std::string found;
    for (int i = 0; i < 100'000; ++i) {
      found = Status();
      if (found == wanted) return;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    FAIL() << "status stays '" << found << "', wanted '" << wanted << "'";
  }
  void WaitUntil(const std::function<bool()>& holds) {
    for (int i = 0; i < 100'000; ++i) {
      if (holds()) return;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    FAIL() << "it never happens";
  }
  uint32_t events() { return device_->info().event_number; }

  IoStatus Run(IoRequest request, int reactor = 0) {
    return reactors_->RunOn(reactor, [&] { return device_->Submit(request); });
  }
  // Writes `count` sectors of the byte `value`.
  IoStatus Fill(uint64_t first, uint64_t count, int value, bool fua = false, int reactor = 0) {
    std::vector<std::byte> data(count * kSectorBytes, static_cast<std::byte>(value));
    return Run(IoRequest::Write(Sector(first), data, fua), reactor);
  }
  // The first byte of a sector; -1 if the read fails.
  int At(uint64_t sector) {
    std::vector<std::byte> data(kSectorBytes);
    if (Run(IoRequest::Read(Sector(sector), data)) != IoStatus::kOk) return -1;
    return static_cast<int>(data[0]);
  }

  // A request under way on a reactor.
  class Pending {
   public:
    Pending(ReactorPool& reactors, int reactor, std::shared_ptr<BlockDevice> device,
            IoRequest request, std::vector<std::byte> data = {})
        : data_(std::move(data)), device_(std::move(device)) {
      if (!data_.empty()) request.data = data_;
      reactors[reactor].Post([this, request] { Detach(Track(request)); });
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
    std::vector<std::byte> data_;
    std::shared_ptr<BlockDevice> device_;
    IoStatus status_ = IoStatus::kOk;
    absl::Notification done_;
  };
  Pending& StartFill(uint64_t first, uint64_t count, int value, int reactor = 0) {
    std::vector<std::byte> data(count * kSectorBytes, static_cast<std::byte>(value));
    const IoRequest request{IoOp::kWrite, false, Sector(first), SectorCount(count), {}};
    return pendings_.emplace_back(*reactors_, reactor, device_, request, std::move(data));
  }
  Pending& StartFlush() {
    return pendings_.emplace_back(*reactors_, 0, device_, IoRequest::Flush());
  }

  // Everything posted so far has run, and what that made ready.
  void Settle() {
    for (int i = 0; i < 5; ++i) reactors_->OnEach([](Reactor&) {});
  }

  // The first four bytes of the log's bits: a golden log of 16 regions has two of them.
  uint32_t LogBits() {
    uint32_t bits = 0;
    for (int i = 3; i >= 0; --i) {
      bits =
          bits << 8 | std::to_integer<uint32_t>(disk("log").bytes()[1024 + static_cast<size_t>(i)]);
    }
    return bits;
  }

  bool Same(const std::string& one, const std::string& other) {
    return std::ranges::equal(disk(one).bytes(), disk(other).bytes());
  }

  SteadyClock steady_;
  TargetRegistry types_;
  std::map<std::string, std::shared_ptr<LegDisk>> disks_;
  std::unique_ptr<ReactorPool> reactors_;
  std::shared_ptr<MappedDevice> device_;

 private:
  static std::string Words(const std::string& text) {
    constexpr std::string_view kType = " mirror ";
    const size_t type = text.find(kType);
    if (type == std::string::npos) return text;
    const size_t begin = type + kType.size();
    return text.substr(begin, text.find('\n') - begin);
  }

  std::list<Pending> pendings_;
};

}  // namespace sectormap::targets
