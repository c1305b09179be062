// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/crc32c.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "tests/server/iscsi/test_seed.h"

namespace sectormap::iscsi {
namespace {

using Digest = std::array<uint8_t, 4>;

Digest DigestOf(std::span<const uint8_t> bytes) {
  Crc32c crc;
  crc.Add(bytes);
  return crc.digest();
}

TEST(Crc32c, CheckValue) {
  constexpr std::string_view kCheck = "123456789";
  Crc32c crc;
  crc.Add(std::span(reinterpret_cast<const uint8_t*>(kCheck.data()), kCheck.size()));
  EXPECT_EQ(crc.value(), 0xe3069283u);
}

TEST(Crc32c, OfNothingIsZero) { EXPECT_EQ(Crc32c().value(), 0u); }

// RFC 7143 Appendix A.4's examples, in the order of the wire.
TEST(Crc32c, ExamplesOfTheRfc) {
  std::vector<uint8_t> bytes(32, 0x00);
  EXPECT_EQ(DigestOf(bytes), (Digest{0xaa, 0x36, 0x91, 0x8a}));
  bytes.assign(32, 0xff);
  EXPECT_EQ(DigestOf(bytes), (Digest{0x43, 0xab, 0xa8, 0x62}));
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  EXPECT_EQ(DigestOf(bytes), (Digest{0x4e, 0x79, 0xdd, 0x46}));
  std::iota(bytes.rbegin(), bytes.rend(), uint8_t{0});
  EXPECT_EQ(DigestOf(bytes), (Digest{0x5c, 0xdb, 0x3f, 0x11}));
  const std::vector<uint8_t> read_command = {
      0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
      0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
  EXPECT_EQ(DigestOf(read_command), (Digest{0x56, 0x3a, 0x96, 0xd9}));
}

TEST(Crc32c, BothWaysAgreeOnEveryLengthAndAlignment) {
  std::mt19937_64 random(TestSeed());
  std::vector<uint8_t> bytes(4200);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t start = 0; start < 16; ++start) {
    for (size_t length = 0; length < 4100; length += length < 300 ? 1 : 37) {
      const auto piece = std::span<const uint8_t>(bytes).subspan(start, length);
      const uint32_t state = static_cast<uint32_t>(random());
      ASSERT_EQ(crc32c_internal::UpdateIsal(state, piece),
                crc32c_internal::UpdatePortable(state, piece))
          << start << " " << length;
    }
  }
}

TEST(Crc32c, BordersOfPiecesDoNotMatter) {
  std::mt19937_64 random(TestSeed());
  std::vector<uint8_t> bytes(1000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  const Digest whole = DigestOf(bytes);
  for (int round = 0; round < 200; ++round) {
    Crc32c crc;
    for (std::span<const uint8_t> rest(bytes); !rest.empty();) {
      const size_t piece = std::min<size_t>(random() % 200, rest.size());
      crc.Add(rest.first(piece));
      rest = rest.subspan(piece);
    }
    ASSERT_EQ(crc.digest(), whole);
  }
}

TEST(Crc32c, EverySingleBitCounts) {
  std::vector<uint8_t> bytes(48, 0x5a);
  const Digest whole = DigestOf(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    ASSERT_NE(DigestOf(bytes), whole) << bit;
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
}

}  // namespace
}  // namespace sectormap::iscsi
