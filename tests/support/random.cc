// SPDX-License-Identifier: Apache-2.0
#include "tests/support/random.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sectormap {
namespace {

uint64_t Seed() {
  const char* asked = std::getenv("SECTORMAP_SEED");
  const uint64_t seed =
      asked != nullptr ? std::strtoull(asked, nullptr, 10) : std::random_device{}();
  std::printf("SECTORMAP_SEED=%" PRIu64 "\n", seed);
  return seed;
}

}  // namespace

Random::Random() : Random(Seed()) {}

void Random::Fill(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const uint64_t word = generator_();
    const size_t count = bytes.size() < sizeof word ? bytes.size() : sizeof word;
    std::memcpy(bytes.data(), &word, count);
    bytes = bytes.subspan(count);
  }
}

}  // namespace sectormap
