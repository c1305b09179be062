// SPDX-License-Identifier: Apache-2.0
#include "tests/support/memory_stream.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

#include "core/async/gate.h"
#include "core/async/reactor_pool.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

class MemoryStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
};

Task<void> Write(ByteStream& stream, std::span<std::byte> bytes, int& result, Gate& gate) {
  iovec pieces[] = {{bytes.data(), bytes.size() / 2},
                    {bytes.data() + bytes.size() / 2, bytes.size() - bytes.size() / 2}};
  result = co_await stream.WriteAll(pieces);
  gate.Leave();
}

Task<void> CheckTransfer(size_t capacity, size_t read_max) {
  auto [first, second] = MemoryStream::MakePair({.capacity = capacity, .read_max = read_max});
  std::vector<std::byte> sent(1000);
  Random(7).Fill(sent);
  Gate gate;
  int result = 99;
  CHECK(gate.TryEnter());
  Detach(Write(*first, sent, result, gate));
  EXPECT_LE(first->unread(), capacity);
  std::vector<std::byte> received;
  while (received.size() < sent.size()) {
    std::byte buffer[64];
    const int count = co_await second->ReadSome(buffer);
    EXPECT_LE(static_cast<size_t>(count), read_max);
    if (count <= 0) break;
    received.insert(received.end(), buffer, buffer + count);
  }
  gate.Close();
  co_await gate.Drained();
  EXPECT_EQ(result, 0);
  EXPECT_TRUE(sent == received);
}

TEST_F(MemoryStreamTest, BytesArriveInOrderHoweverSmallThePieces) {
  pool_->RunOn(0, CheckTransfer(size_t{1} << 20, SIZE_MAX));
  pool_->RunOn(0, CheckTransfer(1, 1));
  pool_->RunOn(0, CheckTransfer(7, 3));
}

Task<void> Read(ByteStream& stream, int& result, Gate& gate) {
  std::byte byte;
  result = co_await stream.ReadSome(std::span(&byte, 1));
  gate.Leave();
}

Task<void> CheckShutdown() {
  auto [first, second] = MemoryStream::MakePair({.capacity = 10});
  std::vector<std::byte> much(1000);
  Gate gate;
  int mine = 99;
  int writer = 99;
  CHECK(gate.TryEnter() && gate.TryEnter());
  Detach(Read(*first, mine, gate));
  Detach(Write(*first, much, writer, gate));
  first->Shutdown();
  gate.Close();
  co_await gate.Drained();
  EXPECT_EQ(mine, 0);
  EXPECT_EQ(writer, -EPIPE);
  // What was sent before is still read by the peer, then the end.
  std::byte buffer[64];
  EXPECT_EQ(co_await second->ReadSome(buffer), 10);
  EXPECT_EQ(co_await second->ReadSome(buffer), 0);
  iovec piece{buffer, 1};
  EXPECT_EQ(co_await second->WriteAll(std::span(&piece, 1)), -EPIPE);
}

TEST_F(MemoryStreamTest, ShutdownWakesBothDirections) { pool_->RunOn(0, CheckShutdown()); }

}  // namespace
}  // namespace sectormap
