// SPDX-License-Identifier: Apache-2.0
// ByteStream: a TCP connection, or a pipe in memory for tests. One of the three seams (with
// BlockDevice and Clock) at which tests put a fake.
//
// One reader and one writer at a time; both on the reactor that owns the stream. Results are
// io_uring's: a count, 0 at the end of the stream, or a negative errno.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string>

#include "core/async/task.h"

namespace sectormap {

class ByteStream {
 public:
  virtual ~ByteStream() = default;

  // What is there now, at least one byte. 0: the peer closed, or Shutdown() was called. -EAGAIN:
  // nothing yet, or others are to have their turn first.
  virtual int ReadNow(std::span<std::byte> buffer) = 0;

  // Until ReadNow() may give more than -EAGAIN. Nobody needs a buffer meanwhile.
  virtual Task<void> Readable() = 0;

  // Waits for what ReadNow() gives.
  Task<int> ReadSome(std::span<std::byte> buffer);

  // All of it: returns 0, or a negative errno. The pieces and the bytes they name stay until the
  // task ends; the array of pieces is consumed (its entries may be changed).
  virtual Task<int> WriteAll(std::span<iovec> pieces) = 0;

  // Ends both directions; wakes a reader and a writer. Idempotent.
  virtual void Shutdown() = 0;

  // "127.0.0.1:3260", "[::1]:3260", or a name that tests gave.
  virtual std::string local_address() const = 0;
  virtual std::string peer_address() const = 0;
};

inline Task<int> ByteStream::ReadSome(std::span<std::byte> buffer) {
  for (;;) {
    const int result = ReadNow(buffer);
    if (result != -EAGAIN) co_return result;
    co_await Readable();
  }
}

}  // namespace sectormap
