// SPDX-License-Identifier: Apache-2.0
// TurnShare: how much of a reactor's turn one stream may take, so that a peer that sends without
// pause does not keep the others from theirs. What one stream receives takes time to copy and to
// write, and that time is added to every other stream's latency.
//
// Streams that all send much lose by small parts: each change of stream wakes a peer and cools the
// caches. So parts are small only while there is one that sends little in each of its turns, as a
// session does that reads, or that has one request at work.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sectormap {

// For one reactor. No thread but its own.
class TurnShare {
 public:
  // Bytes that a stream may read in the reactor's turn of that number.
  size_t BytesIn(uint64_t turn) const;

  // Bytes. A stream that has read in a turn, and sent as many, reads no more in it: its peer asks
  // again as soon as it is answered, and would be served again before those who wait. A queue of 32
  // reads of 4 KiB; less costs sends, more costs the others' latency (docs/performance.md).
  static constexpr size_t kSentBytesMax = 128 * 1024;

  // A stream has a turn, and has read `appetite` bytes in each of its last few.
  void OnTurn(uint64_t turn, size_t appetite);

 private:
  uint64_t light_until_ = 0;
};

}  // namespace sectormap
