// SPDX-License-Identifier: Apache-2.0
// Numbers in the kernel's on-disk formats, least significant byte first on every machine.
// REQUIRES for both: sizeof(T) bytes from `at` on.
#pragma once

#include <cstddef>
#include <span>

namespace sectormap {

template <typename T>
T LoadLittleEndian(std::span<const std::byte> bytes, size_t at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(std::to_integer<T>(bytes[at + i]) << (8 * i));
  }
  return value;
}

template <typename T>
void StoreLittleEndian(std::span<std::byte> bytes, size_t at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

}  // namespace sectormap
