// SPDX-License-Identifier: Apache-2.0
// Big-endian fields of CDBs and parameter lists (SPC-4 §4.3), and the writer that all parameter
// data goes through.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "server/scsi/scsi_command.h"

namespace sectormap::scsi {

// A number of 1 to 8 bytes at `offset`. REQUIRES: it lies inside `bytes`; callers check lengths.
template <typename Byte>
constexpr uint64_t BigEndian(std::span<const Byte> bytes, size_t offset, size_t width) {
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) value = value << 8 | static_cast<uint8_t>(bytes[offset + i]);
  return value;
}
inline uint16_t Be16(std::span<const std::byte> bytes, size_t offset) {
  return static_cast<uint16_t>(BigEndian(bytes, offset, 2));
}
inline uint32_t Be32(std::span<const std::byte> bytes, size_t offset) {
  return static_cast<uint32_t>(BigEndian(bytes, offset, 4));
}
inline uint64_t Be64(std::span<const std::byte> bytes, size_t offset) {
  return BigEndian(bytes, offset, 8);
}

// Writes parameter data into the command's buffer. What does not fit is counted and dropped, as an
// ALLOCATION LENGTH wants it (SPC-4 §4.3.5.6): nothing is ever allocated from a length the
// initiator gave, and every byte that is returned was written here.
class ParameterWriter {
 public:
  explicit ParameterWriter(std::span<std::byte> out) : out_(out) {}

  // Bytes put so far, also those that did not fit.
  size_t size() const { return size_; }
  // What the initiator gets.
  uint32_t returned() const { return static_cast<uint32_t>(std::min(size_, out_.size())); }
  // False if more would only be counted.
  bool has_room() const { return size_ < out_.size(); }

  void Put8(uint64_t value) { Store(size_++, static_cast<uint8_t>(value)); }
  void Put16(uint64_t value) { PutNumber(value, 2); }
  void Put24(uint64_t value) { PutNumber(value, 3); }
  void Put32(uint64_t value) { PutNumber(value, 4); }
  void Put64(uint64_t value) { PutNumber(value, 8); }
  void PutZeros(size_t count) {
    for (size_t i = 0; i < count; ++i) Put8(0);
  }
  void PutBytes(std::span<const uint8_t> bytes) {
    for (uint8_t byte : bytes) Put8(byte);
  }
  // Exactly `width` characters: cut, or filled up.
  void PutText(std::string_view text, size_t width, char fill = ' ') {
    for (size_t i = 0; i < width; ++i) {
      Put8(static_cast<uint8_t>(i < text.size() ? text[i] : fill));
    }
  }
  void PadTo(size_t size) {
    while (size_ < size) Put8(0);
  }

  // Length fields are known last. REQUIRES: those bytes have been put.
  void Patch8(size_t offset, uint64_t value) { Store(offset, static_cast<uint8_t>(value)); }
  void Patch16(size_t offset, uint64_t value) { PatchNumber(offset, value, 2); }
  void Patch32(size_t offset, uint64_t value) { PatchNumber(offset, value, 4); }

 private:
  void Store(size_t offset, uint8_t value) {
    if (offset < out_.size()) out_[offset] = static_cast<std::byte>(value);
  }
  void PutNumber(uint64_t value, size_t width) {
    PatchNumber(size_, value, width);
    size_ += width;
  }
  void PatchNumber(size_t offset, uint64_t value, size_t width) {
    for (size_t i = 0; i < width; ++i) {
      Store(offset + i, static_cast<uint8_t>(value >> (8 * (width - 1 - i))));
    }
  }

  std::span<std::byte> out_;
  size_t size_ = 0;
};

// GOOD, with what has been put.
inline ScsiResult DataIn(const ParameterWriter& out) {
  return {ScsiStatus::kGood, {}, out.returned()};
}

}  // namespace sectormap::scsi
