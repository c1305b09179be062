// SPDX-License-Identifier: Apache-2.0
#include "tests/support/memory_stream.h"

#include <algorithm>
#include <cerrno>

#include "core/base/check.h"

namespace sectormap {

MemoryStream::Pair MemoryStream::MakePair(const MemoryStreamOptions& options) {
  CHECK(options.capacity > 0 && options.read_max > 0);
  auto forth = std::make_shared<Pipe>();
  auto back = std::make_shared<Pipe>();
  std::unique_ptr<MemoryStream> first(new MemoryStream(back, forth, options.capacity,
                                                       options.read_max, options.first_address,
                                                       options.second_address));
  std::unique_ptr<MemoryStream> second(new MemoryStream(forth, back, options.capacity,
                                                        options.read_max, options.second_address,
                                                        options.first_address));
  return {std::move(first), std::move(second)};
}

MemoryStream::MemoryStream(std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out, size_t capacity,
                           size_t read_max, std::string local, std::string peer)
    : in_(std::move(in)),
      out_(std::move(out)),
      capacity_(capacity),
      read_max_(read_max),
      local_(std::move(local)),
      peer_(std::move(peer)) {}

MemoryStream::~MemoryStream() {
  CHECK(!reading_ && !writing_);
  Shutdown();
}

int MemoryStream::ReadNow(std::span<std::byte> buffer) {
  CHECK(!reading_ && !buffer.empty());
  if (shut_down_) return 0;
  if (in_->bytes.empty() && !in_->closed) return -EAGAIN;
  return TakeFrom(buffer);
}

Task<void> MemoryStream::Readable() {
  CHECK(!reading_);
  reading_ = true;
  while (in_->bytes.empty() && !in_->closed) co_await in_->readable.Wait();
  reading_ = false;
}

int MemoryStream::TakeFrom(std::span<std::byte> buffer) {
  const size_t count = std::min({buffer.size(), in_->bytes.size(), read_max_});
  std::copy_n(in_->bytes.begin(), count, buffer.begin());
  in_->bytes.erase(in_->bytes.begin(), in_->bytes.begin() + static_cast<ptrdiff_t>(count));
  in_->writable.WakeAll();
  return static_cast<int>(count);
}

Task<int> MemoryStream::WriteAll(std::span<iovec> pieces) {
  CHECK(!writing_);
  writing_ = true;
  for (const iovec& piece : pieces) {
    const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
    for (size_t written = 0; written < piece.iov_len;) {
      while (out_->bytes.size() >= capacity_ && !out_->closed) co_await out_->writable.Wait();
      if (out_->closed) {
        writing_ = false;
        co_return -EPIPE;
      }
      const size_t count = std::min(piece.iov_len - written, capacity_ - out_->bytes.size());
      out_->bytes.insert(out_->bytes.end(), bytes + written, bytes + written + count);
      written += count;
      out_->readable.WakeAll();
    }
  }
  writing_ = false;
  co_return 0;
}

void MemoryStream::Shutdown() {
  if (std::exchange(shut_down_, true)) return;
  Close(*in_);
  Close(*out_);
}

void MemoryStream::Close(Pipe& pipe) {
  pipe.closed = true;
  pipe.readable.WakeAll();
  pipe.writable.WakeAll();
}

}  // namespace sectormap
