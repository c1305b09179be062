// SPDX-License-Identifier: Apache-2.0
// What a mirror costs over its legs: mapped devices over disks of memory, one reactor, one request
// at a time (argument: KiB). `linear` is the plain device. A write to two legs copies its bytes
// twice; `legs` does just that, as two linear devices would.
#include <benchmark/benchmark.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/block/memory_device.h"
#include "core/map/mapped_device.h"
#include "targets/builtin_targets.h"

namespace sectormap {
namespace {

constexpr uint64_t kLength = 1 << 17;  // sectors: 64 MiB
constexpr int kBatch = 1000;           // requests for each trip to the reactor

class Disks final : public DeviceResolver {
 public:
  Disks() {
    for (const char* name : {"a", "b", "log"}) {
      devices_[name] = *MemoryDevice::Create(SectorCount(kLength));
    }
  }
  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode) override {
    return DeviceRef{devices_.at(std::string(name)), std::string(name), false};
  }

 private:
  std::map<std::string, std::shared_ptr<BlockDevice>> devices_;
};

class Bed {
 public:
  explicit Bed(const std::string& words) {
    targets::AddBuiltinTargets(types_);
    reactors_ = *ReactorPool::Start(1, clock_);
    device_ =
        std::make_unique<MappedDevice>("m", "", "00000000000000000000000000000001", *reactors_);
    const auto spec = TableSpec::Parse("0 " + std::to_string(kLength) + " " + words);
    auto table = MappingTable::Build(*spec, false, types_, disks_, *device_);
    CHECK(table.ok());
    device_->Load(*std::move(table));
    CHECK(device_->Resume().ok());
  }
  ~Bed() { device_->Retire(); }

  void Run(IoOp op, size_t bytes, int times) {
    reactors_->RunOn(0, [&] { return Batch(*device_, op, bytes, times); });
  }

 private:
  static Task<IoStatus> Batch(BlockDevice& device, IoOp op, size_t bytes, int times) {
    std::vector<std::byte> data(bytes);
    const uint64_t sectors = bytes / kSectorBytes;
    // Within 4 MiB of each disk: when one stands for two, within 8.
    const uint64_t places = 8192 * static_cast<uint64_t>(times) / sectors;
    for (int i = 0; i < kBatch * times; ++i) {
      IoRequest request =
          IoRequest::Read(Sector(static_cast<uint64_t>(i) % places * sectors), data);
      request.op = op;
      const IoStatus status = co_await device.Submit(request);
      CHECK(status == IoStatus::kOk);
    }
    co_return IoStatus::kOk;
  }

  SteadyClock clock_;
  TargetRegistry types_;
  Disks disks_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<MappedDevice> device_;
};

void Measure(benchmark::State& state, const std::string& words, IoOp op, int devices = 1) {
  const size_t bytes = static_cast<size_t>(state.range(0)) * 1024;
  Bed bed(words);
  bed.Run(op, bytes, 1);
  for (auto _ : state) bed.Run(op, bytes, devices);
  state.SetItemsProcessed(state.iterations() * kBatch);
  state.SetBytesProcessed(state.iterations() * kBatch * static_cast<int64_t>(bytes));
}

void LinearRead(benchmark::State& state) { Measure(state, "linear a 0", IoOp::kRead); }
void MirrorRead(benchmark::State& state) {
  Measure(state, "mirror core 2 1024 nosync 2 a 0 b 0", IoOp::kRead);
}
void LinearWrite(benchmark::State& state) { Measure(state, "linear a 0", IoOp::kWrite); }
void LegsWrite(benchmark::State& state) { Measure(state, "linear a 0", IoOp::kWrite, 2); }
void MirrorWrite(benchmark::State& state) {
  Measure(state, "mirror core 2 1024 nosync 2 a 0 b 0", IoOp::kWrite);
}
void LoggedMirrorWrite(benchmark::State& state) {
  Measure(state, "mirror disk 3 log 1024 nosync 2 a 0 b 0", IoOp::kWrite);
}

BENCHMARK(LinearRead)->Arg(4)->Arg(64)->UseRealTime();
BENCHMARK(MirrorRead)->Arg(4)->Arg(64)->UseRealTime();
BENCHMARK(LinearWrite)->Arg(4)->Arg(64)->UseRealTime();
BENCHMARK(LegsWrite)->Arg(4)->Arg(64)->UseRealTime();
BENCHMARK(MirrorWrite)->Arg(4)->Arg(64)->UseRealTime();
BENCHMARK(LoggedMirrorWrite)->Arg(4)->Arg(64)->UseRealTime();

}  // namespace
}  // namespace sectormap

BENCHMARK_MAIN();
