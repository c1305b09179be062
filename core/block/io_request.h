// SPDX-License-Identifier: Apache-2.0
// IoRequest: what to do, where, with which bytes. A value; copied freely, owned by nobody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "core/base/units.h"

namespace sectormap {

enum class IoOp : uint8_t {
  kRead,
  kWrite,
  kFlush,        // everything acknowledged before is on the medium when this ends; no range
  kDiscard,      // the bytes are no longer needed; reads may return anything the device defines
  kWriteZeroes,  // reads return zeroes; the device may free the space
};
inline constexpr int kIoOpCount = 5;

struct IoRequest {
  IoOp op = IoOp::kRead;
  bool force_unit_access = false;  // a write is on the medium when it ends
  Sector first;                    // relative to the device it is submitted to
  SectorCount count;               // 0 only for kFlush
  std::span<std::byte> data;       // borrowed; Bytes(count) for kRead and kWrite, else empty

  static IoRequest Read(Sector first, std::span<std::byte> data) {
    return {IoOp::kRead, false, first, WholeSectors(ByteCount(data.size())), data};
  }
  static IoRequest Write(Sector first, std::span<std::byte> data, bool force_unit_access = false) {
    return {IoOp::kWrite, force_unit_access, first, WholeSectors(ByteCount(data.size())), data};
  }
  static IoRequest Flush() { return {IoOp::kFlush, false, Sector(), SectorCount(), {}}; }
  static IoRequest Discard(Sector first, SectorCount count) {
    return {IoOp::kDiscard, false, first, count, {}};
  }
  static IoRequest WriteZeroes(Sector first, SectorCount count) {
    return {IoOp::kWriteZeroes, false, first, count, {}};
  }

  bool has_data() const { return op == IoOp::kRead || op == IoOp::kWrite; }

  // The part [offset, offset + part) of this request, still on the same device.
  IoRequest Part(SectorCount offset, SectorCount part) const {
    IoRequest piece = *this;
    piece.first = first + offset;
    piece.count = part;
    if (has_data()) piece.data = data.subspan(Bytes(offset).value(), Bytes(part).value());
    return piece;
  }
};
static_assert(std::is_trivially_copyable_v<IoRequest>);

}  // namespace sectormap
