// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/log_image.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/base/little_endian.h"
#include "core/base/rounding.h"

namespace sectormap::targets {
namespace {

constexpr uint32_t kMagic = 0x4D695272;  // MIRROR_MAGIC
constexpr uint32_t kVersion = 2;         // MIRROR_DISK_VERSION
constexpr uint32_t kOldVersion = 1;      // the same layout on a little-endian machine
constexpr size_t kHeaderBytes = 16;

}  // namespace

ByteCount LogImage::SizeFor(uint64_t regions, uint32_t block_bytes) {
  return ByteCount(RoundUp(kBitsAt + RoundUp(regions, 32) / 8, block_bytes));
}

LogImage::LogImage(uint64_t regions, uint32_t block_bytes)
    : regions_(regions), bytes_(SizeFor(regions, block_bytes).value()) {
  StoreLittleEndian(std::span(bytes_), 0, kMagic);
  StoreLittleEndian(std::span(bytes_), 4, kVersion);
  StoreLittleEndian(std::span(bytes_), 8, regions);
}

LogImage::Found LogImage::Read(std::span<const std::byte> disk) {
  CHECK(disk.size() == bytes_.size());
  SetAll(false);
  if (LoadLittleEndian<uint32_t>(disk, 0) != kMagic) {
    const auto header = disk.first(kHeaderBytes);
    const bool zero = std::ranges::all_of(header, [](std::byte b) { return b == std::byte{0}; });
    return zero ? Found::kNothing : Found::kGarbage;
  }
  const auto version = LoadLittleEndian<uint32_t>(disk, 4);
  if (version != kVersion && version != kOldVersion) return Found::kVersion;
  const auto known = LoadLittleEndian<uint64_t>(disk, 8);
  if (known > regions_) return Found::kTooMany;
  const uint64_t whole = known / 8;
  std::ranges::copy(disk.subspan(kBitsAt, whole), bytes_.begin() + kBitsAt);
  for (uint64_t region = whole * 8; region < known; ++region) {
    if ((disk[ByteOf(region)] & BitOf(region)) != std::byte{0}) SetClean(region);
  }
  return Found::kLog;
}

void LogImage::SetAll(bool clean) {
  std::fill(bytes_.begin() + kBitsAt, bytes_.end(), std::byte{0});
  if (!clean) return;
  const auto whole = static_cast<ptrdiff_t>(regions_ / 8);
  std::fill_n(bytes_.begin() + kBitsAt, whole, std::byte{0xff});
  for (uint64_t region = regions_ / 8 * 8; region < regions_; ++region) SetClean(region);
}

}  // namespace sectormap::targets
