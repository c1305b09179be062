// SPDX-License-Identifier: Apache-2.0
// MemoryStream: two ByteStreams joined in memory, for tests without sockets. Both ends live on one
// reactor.
#pragma once

#include <climits>
#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "core/async/byte_stream.h"
#include "core/async/wait_queue.h"

namespace sectormap {

struct MemoryStreamOptions {
  // Bytes that one direction holds before its writer waits.
  size_t capacity = size_t{1} << 20;
  // The most that one read gives: 1 cuts every PDU at every byte.
  size_t read_max = SIZE_MAX;
  std::string first_address = "first:1";
  std::string second_address = "second:2";
};

class MemoryStream final : public ByteStream {
 public:
  using Pair = std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>>;
  static Pair MakePair(const MemoryStreamOptions& options = {});
  // REQUIRES: nobody reads or writes here. The other end may go first or last.
  ~MemoryStream() override;

  int ReadNow(std::span<std::byte> buffer) override;
  Task<void> Readable() override;
  Task<int> WriteAll(std::span<iovec> pieces) override;
  void Shutdown() override;
  std::string local_address() const override { return local_; }
  std::string peer_address() const override { return peer_; }

  // Bytes that this end has written and the other has not read.
  size_t unread() const { return out_->bytes.size(); }

 private:
  struct Pipe {
    std::deque<std::byte> bytes;
    bool closed = false;
    WaitQueue readable;
    WaitQueue writable;
  };

  MemoryStream(std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out, size_t capacity,
               size_t read_max, std::string local, std::string peer);

  int TakeFrom(std::span<std::byte> buffer);
  static void Close(Pipe& pipe);

  const std::shared_ptr<Pipe> in_;
  const std::shared_ptr<Pipe> out_;
  const size_t capacity_;
  const size_t read_max_;
  const std::string local_;
  const std::string peer_;
  bool shut_down_ = false;
  bool reading_ = false;
  bool writing_ = false;
};

}  // namespace sectormap
