// SPDX-License-Identifier: Apache-2.0
// The three units of the data path, which never mix by accident. A Sector is a place, a SectorCount
// a distance, a ByteCount a size in bytes. This is the only file in which 512 is written.
#pragma once

#include <compare>
#include <cstdint>
#include <ostream>

namespace sectormap {

// The device mapper's sector, whatever the block size of the medium below or the LUN above.
inline constexpr uint64_t kSectorBytes = 512;
inline constexpr int kSectorShift = 9;
static_assert(uint64_t{1} << kSectorShift == kSectorBytes);

class SectorCount {
 public:
  constexpr SectorCount() = default;
  constexpr explicit SectorCount(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr auto operator<=>(const SectorCount&) const = default;
  constexpr SectorCount& operator+=(SectorCount other) { return value_ += other.value_, *this; }
  constexpr SectorCount& operator-=(SectorCount other) { return value_ -= other.value_, *this; }
  friend constexpr SectorCount operator+(SectorCount a, SectorCount b) { return a += b; }
  friend constexpr SectorCount operator-(SectorCount a, SectorCount b) { return a -= b; }

 private:
  uint64_t value_ = 0;
};

class Sector {
 public:
  constexpr Sector() = default;
  constexpr explicit Sector(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr auto operator<=>(const Sector&) const = default;
  constexpr Sector& operator+=(SectorCount distance) { return value_ += distance.value(), *this; }
  friend constexpr Sector operator+(Sector place, SectorCount distance) {
    return place += distance;
  }
  friend constexpr Sector operator-(Sector place, SectorCount distance) {
    return Sector(place.value_ - distance.value());
  }
  friend constexpr SectorCount operator-(Sector a, Sector b) {
    return SectorCount(a.value_ - b.value_);
  }
  // The distance from sector 0.
  constexpr SectorCount offset() const { return SectorCount(value_); }

 private:
  uint64_t value_ = 0;
};

class ByteCount {
 public:
  constexpr ByteCount() = default;
  constexpr explicit ByteCount(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr auto operator<=>(const ByteCount&) const = default;

 private:
  uint64_t value_ = 0;
};

// The only ways across.
constexpr ByteCount Bytes(SectorCount count) { return ByteCount(count.value() << kSectorShift); }
constexpr ByteCount ByteOffset(Sector place) { return ByteCount(place.value() << kSectorShift); }
constexpr SectorCount WholeSectors(ByteCount bytes) {
  return SectorCount(bytes.value() >> kSectorShift);
}

// A device holds at most 2^63-1 bytes, as in the kernel (drivers/md/dm-table.c).
inline constexpr SectorCount kMaxDeviceSectors{(uint64_t{1} << (63 - kSectorShift)) - 1};

// True if [first, first + count) lies inside [0, size); never wraps.
constexpr bool RangeFits(Sector first, SectorCount count, SectorCount size) {
  return count <= size && first.offset() <= size - count;
}

inline std::ostream& operator<<(std::ostream& out, SectorCount count) {
  return out << count.value();
}
inline std::ostream& operator<<(std::ostream& out, Sector place) { return out << place.value(); }
inline std::ostream& operator<<(std::ostream& out, ByteCount bytes) { return out << bytes.value(); }

}  // namespace sectormap
