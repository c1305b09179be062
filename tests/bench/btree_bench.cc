// SPDX-License-Identifier: Apache-2.0
// The B-tree index against std::upper_bound on the same row ends and against absl::btree_map, on
// uniformly random sectors. docs/performance.md holds figures; the ratios are what counts.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <vector>

#include "absl/container/btree_map.h"
#include "core/map/btree_index.h"

namespace sectormap {
namespace {

constexpr size_t kQueries = 1 << 16;

struct Input {
  std::vector<uint64_t> ends;
  std::vector<uint64_t> queries;
};

Input MakeInput(size_t rows) {
  std::mt19937_64 random(rows);
  Input input;
  uint64_t end = 0;
  for (size_t i = 0; i < rows; ++i) input.ends.push_back(end += 1 + random() % 2048);
  for (size_t i = 0; i < kQueries; ++i) input.queries.push_back(random() % end);
  return input;
}

template <typename Find>
void Run(benchmark::State& state, const Input& input, Find find) {
  size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(find(input.queries[next]));
    next = (next + 1) % kQueries;
  }
  state.SetItemsProcessed(state.iterations());
}

void BM_Btree(benchmark::State& state, SimdLevel level) {
  const Input input = MakeInput(static_cast<size_t>(state.range(0)));
  const BtreeIndex index(input.ends, level);
  Run(state, input, [&](uint64_t sector) { return index.Find(Sector(sector)); });
}

void BM_UpperBound(benchmark::State& state) {
  const Input input = MakeInput(static_cast<size_t>(state.range(0)));
  Run(state, input, [&](uint64_t sector) {
    return std::upper_bound(input.ends.begin(), input.ends.end(), sector) - input.ends.begin();
  });
}

void BM_AbslBtreeMap(benchmark::State& state) {
  const Input input = MakeInput(static_cast<size_t>(state.range(0)));
  absl::btree_map<uint64_t, size_t> map;
  for (size_t i = 0; i < input.ends.size(); ++i) map.emplace_hint(map.end(), input.ends[i], i);
  Run(state, input, [&](uint64_t sector) { return map.upper_bound(sector)->second; });
}

#define SECTORMAP_SIZES Arg(8)->Arg(1000)->Arg(100'000)->Arg(1'000'000)
BENCHMARK_CAPTURE(BM_Btree, best, BestSimdLevel())->SECTORMAP_SIZES;
BENCHMARK_CAPTURE(BM_Btree, portable, SimdLevel::kPortable)->SECTORMAP_SIZES;
#if defined(SECTORMAP_SIMD_X86)
BENCHMARK_CAPTURE(BM_Btree, avx2, SimdLevel::kAvx2)->SECTORMAP_SIZES;  // needs AVX2
#endif
BENCHMARK(BM_UpperBound)->SECTORMAP_SIZES;
BENCHMARK(BM_AbslBtreeMap)->SECTORMAP_SIZES;

}  // namespace
}  // namespace sectormap

BENCHMARK_MAIN();
