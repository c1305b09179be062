// SPDX-License-Identifier: Apache-2.0
// CRC32C: the header and data digests of RFC 7143 §13.1 (Castagnoli polynomial, reflected, as in
// RFC 3385). Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace sectormap::iscsi {

// A digest that is taken over several pieces: header and AHS, or data and its padding. Their order
// matters, their borders do not.
class Crc32c {
 public:
  void Add(std::span<const uint8_t> bytes);
  void Add(std::span<const std::byte> bytes) {
    Add({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  }
  uint32_t value() const { return ~state_; }
  // As on the wire: least significant byte first (§13.1's examples).
  std::array<uint8_t, 4> digest() const;

 private:
  uint32_t state_ = 0xffff'ffff;
};

// The two ways, for tests and the benchmark: `state` is the register before and after, not
// inverted. Crc32c takes the fastest that the processor has.
namespace crc32c_internal {
uint32_t UpdateIsal(uint32_t state, std::span<const uint8_t> bytes);
uint32_t UpdatePortable(uint32_t state, std::span<const uint8_t> bytes);
}  // namespace crc32c_internal

}  // namespace sectormap::iscsi
