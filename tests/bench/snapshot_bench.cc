// SPDX-License-Identifier: Apache-2.0
// What snapshots cost, in process, over disks of memory: 4 KiB requests at random places, 32 at a
// time on one reactor. `plain` is a linear row. First writes copy a chunk each; rewrites and reads
// find it copied.
#include <benchmark/benchmark.h>

#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/async/gate.h"
#include "core/base/check.h"
#include "core/block/memory_device.h"
#include "core/map/device_registry.h"
#include "targets/builtin_targets.h"

namespace sectormap::targets {
namespace {

constexpr uint64_t kSectors = 1 << 17;  // 64 MiB
constexpr uint64_t kRequest = 8;
constexpr int kDepth = 32;

class Disks final : public BackingSource {
 public:
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name, bool) override {
    std::shared_ptr<BlockDevice>& disk = disks_[std::string(name)];
    if (disk == nullptr) disk = *MemoryDevice::Create(SectorCount(4 * kSectors));
    return disk;
  }

 private:
  std::map<std::string, std::shared_ptr<BlockDevice>> disks_;
};

class Machine {
 public:
  Machine() {
    AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(1, clock_);
    CHECK(pool.ok());
    reactors_ = *std::move(pool);
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, disks_);
  }
  ~Machine() {
    bool removed = true;
    while (removed) {
      removed = false;
      for (const DeviceInfo& info : registry_->List()) {
        removed = registry_->Remove(info.name, {}).ok() || removed;
      }
    }
  }

  void Make(const std::string& name, const std::string& words) {
    CHECK(registry_->Create(name, {}).ok());
    CHECK(registry_->Load(name, *TableSpec::Parse(absl::StrCat("0 ", kSectors, " ", words)), false)
              .ok());
    CHECK(registry_->Resume(name).ok());
  }
  void MakeOrigin(int snapshots, bool chained) {
    Make("o", "snapshot-origin /o");
    for (int i = 0; i < snapshots; ++i) {
      const std::string origin = chained && i > 0 ? absl::StrCat("s", i - 1) : "/o";
      Make(absl::StrCat("s", i), absl::StrCat("snapshot ", origin, " /c", i, " P 8"));
    }
  }

  // One request at each place.
  void Run(const std::string& name, IoOp op, const std::vector<uint64_t>& places) {
    const std::shared_ptr<MappedDevice> device = registry_->Find(name);
    size_t next = 0;
    reactors_->RunOn(0, RunLanes(*device, op, places, next));
  }
  BlockDevice& Device(const std::string& name) { return *registry_->Find(name); }

 private:
  static Task<void> RunLane(BlockDevice& device, IoOp op, const std::vector<uint64_t>& places,
                            size_t& next, Gate& gate) {
    std::vector<std::byte> bytes(kRequest * kSectorBytes);
    while (next < places.size()) {
      const Sector first(places[next++] * kRequest);
      const IoStatus status = co_await device.Submit(
          op == IoOp::kRead ? IoRequest::Read(first, bytes) : IoRequest::Write(first, bytes));
      CHECK(status == IoStatus::kOk);
    }
    gate.Leave();
  }
  static Task<void> RunLanes(BlockDevice& device, IoOp op, const std::vector<uint64_t>& places,
                             size_t& next) {
    Gate gate;
    for (int i = 0; i < kDepth; ++i) {
      CHECK(gate.TryEnter());
      Detach(RunLane(device, op, places, next, gate));
    }
    gate.Close();
    co_await gate.Drained();
  }

  SteadyClock clock_;
  TargetRegistry types_;
  Disks disks_;
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<DeviceRegistry> registry_;
};

std::vector<uint64_t> Places() {
  std::vector<uint64_t> places(kSectors / kRequest);
  std::iota(places.begin(), places.end(), uint64_t{0});
  std::ranges::shuffle(places, std::mt19937_64(1));
  return places;
}

void CountRequests(benchmark::State& state, size_t requests) {
  state.SetItemsProcessed(static_cast<int64_t>(static_cast<size_t>(state.iterations()) * requests));
}

void BM_Plain(benchmark::State& state, IoOp op) {
  const std::vector<uint64_t> places = Places();
  Machine machine;
  machine.Make("o", "linear /o 0");
  machine.Run("o", IoOp::kWrite, places);
  for (auto _ : state) machine.Run("o", op, places);
  CountRequests(state, places.size());
}

// Arguments: snapshots, whether they are a chain.
void BM_FirstWrite(benchmark::State& state) {
  const std::vector<uint64_t> places = Places();
  for (auto _ : state) {
    state.PauseTiming();
    {
      Machine machine;
      machine.MakeOrigin(static_cast<int>(state.range(0)), state.range(1) != 0);
      machine.Run("o", IoOp::kRead, places);
      state.ResumeTiming();
      machine.Run("o", IoOp::kWrite, places);
      state.PauseTiming();
    }
    state.ResumeTiming();
  }
  CountRequests(state, places.size());
}

void BM_Again(benchmark::State& state, const std::string& device, IoOp op) {
  const std::vector<uint64_t> places = Places();
  Machine machine;
  machine.MakeOrigin(static_cast<int>(state.range(0)), state.range(1) != 0);
  machine.Run("o", IoOp::kWrite, places);
  for (auto _ : state) machine.Run(device, op, places);
  CountRequests(state, places.size());
}

// Of a snapshot that still shares everything with its origin.
void BM_SharedRead(benchmark::State& state) {
  const std::vector<uint64_t> places = Places();
  Machine machine;
  machine.MakeOrigin(static_cast<int>(state.range(0)), state.range(1) != 0);
  const std::string oldest = absl::StrCat("s", state.range(0) - 1);
  for (auto _ : state) machine.Run(oldest, IoOp::kRead, places);
  CountRequests(state, places.size());
}

void Counts(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"snapshots", "chain"})->UseRealTime();
  bench->Args({1, 0})->Args({4, 0})->Args({16, 0})->Args({4, 1})->Args({16, 1});
}

BENCHMARK_CAPTURE(BM_Plain, write, IoOp::kWrite)->UseRealTime();
BENCHMARK_CAPTURE(BM_Plain, read, IoOp::kRead)->UseRealTime();
BENCHMARK(BM_FirstWrite)->Apply(Counts);
BENCHMARK_CAPTURE(BM_Again, rewrite_origin, "o", IoOp::kWrite)->Apply(Counts);
BENCHMARK_CAPTURE(BM_Again, read_origin, "o", IoOp::kRead)->Apply(Counts);
BENCHMARK_CAPTURE(BM_Again, read_snapshot, "s0", IoOp::kRead)->Apply(Counts);
BENCHMARK_CAPTURE(BM_Again, rewrite_snapshot, "s0", IoOp::kWrite)->Apply(Counts);
BENCHMARK(BM_SharedRead)->Apply(Counts);

}  // namespace
}  // namespace sectormap::targets

BENCHMARK_MAIN();
