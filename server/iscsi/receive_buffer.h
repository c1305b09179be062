// SPDX-License-Identifier: Apache-2.0
// ReceiveBuffer: where a connection's bytes are received. Buffers that nobody holds are kept by
// their thread, the last one on top: connections that take turns on a reactor receive into the same
// memory, which is in the processor's caches, however many they are.
#pragma once

#include <cstddef>
#include <memory>

namespace sectormap::iscsi {

// What one receive asks for, in bytes: a queue of 63 writes of 4 KiB with their headers.
inline constexpr size_t kReceiveBufferBytes = 256 * 1024;

// Holds kReceiveBufferBytes, or nothing. For its connection's reactor.
class ReceiveBuffer {
 public:
  ReceiveBuffer() = default;
  ReceiveBuffer(const ReceiveBuffer&) = delete;
  ReceiveBuffer& operator=(const ReceiveBuffer&) = delete;
  ~ReceiveBuffer() { GiveBack(); }

  // REQUIRES: it holds nothing.
  void Take();
  void GiveBack();

  std::byte* data() const { return bytes_.get(); }
  explicit operator bool() const { return bytes_ != nullptr; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace sectormap::iscsi
