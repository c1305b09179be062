// SPDX-License-Identifier: Apache-2.0
// LogImage: the bytes of a mirror's dirty log, in the kernel's format (drivers/md/dm-log.c,
// docs/formats.md). Little-endian:
//
//   0     u32  magic, the bytes "rRiM"
//   4     u32  version: 2; 1 is read too
//   8     u64  regions
//   16    zeroes
//   1024  a bit for each region, 1 = clean and in sync; rounded up to 32 bits, the rest 0
//
// filled up with zeroes to the log device's logical block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/units.h"

namespace sectormap::targets {

class LogImage {
 public:
  // What a device may turn out to hold.
  enum class Found {
    kLog,      // a log for as many regions, or fewer: the mirror has grown
    kNothing,  // zeroes where a log begins
    kGarbage,  // something else
    kVersion,  // a log of a version that nobody knows
    kTooMany,  // a log for more regions: of another mirror, or of other regions
  };

  static ByteCount SizeFor(uint64_t regions, uint32_t block_bytes);

  // All regions dirty. `block_bytes` is the log device's logical block, a multiple of 512.
  LogImage(uint64_t regions, uint32_t block_bytes);

  ByteCount size() const { return ByteCount(bytes_.size()); }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Takes over the bits of kLog; of anything else, and for regions that a log does not know, none.
  // REQUIRES: disk.size() == size().
  Found Read(std::span<const std::byte> disk);
  void SetAll(bool clean);

  bool clean(uint64_t region) const {
    return (bytes_[ByteOf(region)] & BitOf(region)) != std::byte{0};
  }
  void SetClean(uint64_t region) { bytes_[ByteOf(region)] |= BitOf(region); }
  void SetDirty(uint64_t region) { bytes_[ByteOf(region)] &= ~BitOf(region); }

  // Where a region's bit is.
  static size_t ByteOf(uint64_t region) { return kBitsAt + region / 8; }

 private:
  static constexpr size_t kBitsAt = 1024;
  static std::byte BitOf(uint64_t region) { return std::byte{1} << (region % 8); }

  const uint64_t regions_;
  std::vector<std::byte> bytes_;
};

}  // namespace sectormap::targets
