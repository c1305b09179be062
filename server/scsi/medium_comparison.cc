// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/medium_comparison.h"

#include <algorithm>
#include <cstring>

namespace sectormap::scsi {
namespace {

// Runs over `length` bytes in pieces of scratch size.
size_t PieceAt(uint64_t offset, uint64_t length) {
  return static_cast<size_t>(std::min<uint64_t>(kScratchBytes, length - offset));
}

std::optional<size_t> FirstDifference(std::span<const std::byte> a, std::span<const std::byte> b) {
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return std::nullopt;
  return std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
}

// `offset` is that of `piece` in the whole; blocks divide scratch, so pieces begin with a block.
std::optional<size_t> DifferenceFrom(const Expected& expected, uint64_t offset,
                                     std::span<const std::byte> piece) {
  if (expected.bytes.empty()) return std::nullopt;
  if (!expected.repeats) {
    return FirstDifference(piece, expected.bytes.subspan(offset, piece.size()));
  }
  const size_t block = expected.bytes.size();
  for (size_t at = 0; at < piece.size(); at += block) {
    if (const auto found = FirstDifference(piece.subspan(at, block), expected.bytes)) {
      return at + *found;
    }
  }
  return std::nullopt;
}

}  // namespace

Task<Comparison> CompareMedium(BlockDevice& disk, SectorRange range, Expected expected,
                               const Scratch& scratch) {
  const uint64_t length = Bytes(range.count).value();
  for (uint64_t offset = 0; offset < length;) {
    const std::span<std::byte> piece = scratch.bytes().first(PieceAt(offset, length));
    const Sector at = range.first + WholeSectors(ByteCount(offset));
    const IoStatus status = co_await disk.Submit(IoRequest::Read(at, piece));
    if (status != IoStatus::kOk) co_return Comparison{status, {}};
    if (const auto found = DifferenceFrom(expected, offset, piece)) {
      co_return Comparison{IoStatus::kOk, offset + *found};
    }
    offset += piece.size();
  }
  co_return Comparison{};
}

Task<IoStatus> OrMediumInto(BlockDevice& disk, SectorRange range, std::span<std::byte> data,
                            const Scratch& scratch) {
  for (uint64_t offset = 0; offset < data.size();) {
    const std::span<std::byte> piece = scratch.bytes().first(PieceAt(offset, data.size()));
    const Sector at = range.first + WholeSectors(ByteCount(offset));
    const IoStatus status = co_await disk.Submit(IoRequest::Read(at, piece));
    if (status != IoStatus::kOk) co_return status;
    for (size_t i = 0; i < piece.size(); ++i) data[offset + i] |= piece[i];
    offset += piece.size();
  }
  co_return IoStatus::kOk;
}

bool IsZero(std::span<const std::byte> bytes) {
  return bytes.empty() || (bytes[0] == std::byte{0} &&
                           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace sectormap::scsi
