// SPDX-License-Identifier: Apache-2.0
// Random: the generator of random tests. Takes its seed from the environment variable
// SECTORMAP_SEED, or makes one up, and prints it, so that a failure can be run again:
//   SECTORMAP_SEED=1234 build/dev/some_test --gtest_filter=Some.Test
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace sectormap {

class Random {
 public:
  Random();
  explicit Random(uint64_t seed) : seed_(seed), generator_(seed) {}

  uint64_t seed() const { return seed_; }

  // Evenly from [0, end). REQUIRES: end > 0.
  uint64_t Below(uint64_t end) { return generator_() % end; }
  // Evenly from [first, last].
  uint64_t Between(uint64_t first, uint64_t last) { return first + Below(last - first + 1); }
  bool OneIn(uint64_t count) { return Below(count) == 0; }
  void Fill(std::span<std::byte> bytes);

  // For <algorithm>: a UniformRandomBitGenerator.
  std::mt19937_64& generator() { return generator_; }

 private:
  const uint64_t seed_;
  std::mt19937_64 generator_;
};

}  // namespace sectormap
