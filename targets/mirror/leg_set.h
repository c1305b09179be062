// SPDX-License-Identifier: Apache-2.0
// LegSet: some of a mirror's legs, by their place in the table. A value of two bytes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace sectormap::targets {

// drivers/md/dm-raid1.c: MAX_NR_MIRRORS, one source and the eight destinations of kcopyd.
inline constexpr size_t kLegsMax = 9;

class LegSet {
 public:
  constexpr LegSet() = default;
  constexpr explicit LegSet(uint16_t bits) : bits_(bits) {}
  static constexpr LegSet Only(size_t leg) { return LegSet(static_cast<uint16_t>(1u << leg)); }
  static constexpr LegSet FirstOf(size_t count) {
    return LegSet(static_cast<uint16_t>((1u << count) - 1));
  }

  constexpr uint16_t bits() const { return bits_; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr size_t size() const { return static_cast<size_t>(std::popcount(bits_)); }
  constexpr bool Contains(size_t leg) const { return (bits_ >> leg & 1u) != 0; }
  // REQUIRES: not empty.
  constexpr size_t first() const { return static_cast<size_t>(std::countr_zero(bits_)); }

  constexpr bool operator==(const LegSet&) const = default;
  friend constexpr LegSet operator|(LegSet a, LegSet b) {
    return LegSet(static_cast<uint16_t>(a.bits_ | b.bits_));
  }
  friend constexpr LegSet operator&(LegSet a, LegSet b) {
    return LegSet(static_cast<uint16_t>(a.bits_ & b.bits_));
  }
  // Those of `a` that are not in `b`.
  friend constexpr LegSet operator-(LegSet a, LegSet b) {
    return LegSet(static_cast<uint16_t>(a.bits_ & ~b.bits_));
  }

  // for (size_t leg : set): in the order of the table.
  class Iterator {
   public:
    constexpr explicit Iterator(uint16_t left) : left_(left) {}
    constexpr size_t operator*() const { return static_cast<size_t>(std::countr_zero(left_)); }
    constexpr Iterator& operator++() {
      left_ = static_cast<uint16_t>(left_ & (left_ - 1));
      return *this;
    }
    constexpr bool operator!=(const Iterator& other) const { return left_ != other.left_; }

   private:
    uint16_t left_;
  };
  constexpr Iterator begin() const { return Iterator(bits_); }
  constexpr Iterator end() const { return Iterator(0); }

 private:
  uint16_t bits_ = 0;
};

}  // namespace sectormap::targets
