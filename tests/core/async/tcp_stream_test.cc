// SPDX-License-Identifier: Apache-2.0
#include "core/async/tcp_stream.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include "core/async/gate.h"
#include "core/async/next_turn.h"
#include "core/async/reactor_pool.h"
#include "tests/support/low_descriptor_limit.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

using testing::HasSubstr;

std::vector<std::byte> Pattern(size_t size, uint64_t seed) {
  std::vector<std::byte> bytes(size);
  Random(seed).Fill(bytes);
  return bytes;
}

std::span<std::byte> AsBytes(std::string& text) { return std::as_writable_bytes(std::span(text)); }

Task<int> WriteBytes(ByteStream& stream, std::span<std::byte> bytes) {
  iovec piece{bytes.data(), bytes.size()};
  co_return co_await stream.WriteAll(std::span(&piece, 1));
}

Task<int> ReadExactly(ByteStream& stream, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const int count = co_await stream.ReadSome(bytes);
    if (count <= 0) co_return count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  co_return 1;
}

struct Connected {
  std::unique_ptr<TcpStream> server;
  std::unique_ptr<TcpStream> client;
};

Task<void> AcceptInto(Listener& listener, std::unique_ptr<TcpStream>& stream, Gate& gate) {
  absl::StatusOr<std::unique_ptr<TcpStream>> accepted = co_await listener.Accept();
  EXPECT_TRUE(accepted.ok()) << accepted.status();
  if (accepted.ok()) stream = *std::move(accepted);
  gate.Leave();
}

Task<Connected> ConnectTo(Listener& listener) {
  Connected ends;
  Gate gate;
  CHECK(gate.TryEnter());
  Detach(AcceptInto(listener, ends.server, gate));
  absl::StatusOr<std::unique_ptr<TcpStream>> client =
      co_await TcpStream::Connect(listener.address());
  EXPECT_TRUE(client.ok()) << client.status();
  if (client.ok()) ends.client = *std::move(client);
  gate.Close();
  co_await gate.Drained();
  co_return ends;
}

// What a reactor that looks for events does is asked of all tests, too.
struct Where {
  const char* listen;
  nanoseconds poll_window;
};

class TcpStreamTest : public testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(2, clock_, GetParam().poll_window);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    auto listener = Listener::Bind(GetParam().listen, "--listen");
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  std::unique_ptr<Listener> listener_;
};

constexpr nanoseconds kNever(0);
constexpr nanoseconds kLooksLong = std::chrono::milliseconds(1);

INSTANTIATE_TEST_SUITE_P(V4, TcpStreamTest, testing::Values(Where{"127.0.0.1:0", kNever}));
INSTANTIATE_TEST_SUITE_P(V6, TcpStreamTest, testing::Values(Where{"[::1]:0", kNever}));
INSTANTIATE_TEST_SUITE_P(Polls, TcpStreamTest, testing::Values(Where{"127.0.0.1:0", kLooksLong}));

Task<void> CheckAddresses(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  EXPECT_EQ(ends.server->local_address(), listener.address());
  EXPECT_EQ(ends.client->peer_address(), listener.address());
  EXPECT_EQ(ends.server->peer_address(), ends.client->local_address());
}

TEST_P(TcpStreamTest, BothEndsKnowTheirAddresses) {
  const std::string wanted = GetParam().listen;
  EXPECT_THAT(listener_->address(), testing::StartsWith(wanted.substr(0, wanted.size() - 1)));
  EXPECT_NE(listener_->address(), wanted);
  pool_->RunOn(0, CheckAddresses(*listener_));
}

// A connection to 127.0.0.1 from `from`, made without our classes. Both ends are the caller's.
struct PlainEnds {
  int server = -1;
  int client = -1;
};

PlainEnds ConnectFrom(const char* from) {
  const auto loopback = [](const char* host) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    CHECK(inet_pton(AF_INET, host, &address.sin_addr) == 1);
    return address;
  };
  sockaddr_in to = loopback("127.0.0.1");
  const sockaddr_in source = loopback(from);
  socklen_t length = sizeof to;
  const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(bind(listening, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  CHECK(listen(listening, 1) == 0);
  CHECK(getsockname(listening, reinterpret_cast<sockaddr*>(&to), &length) == 0);
  PlainEnds ends;
  ends.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(bind(ends.client, reinterpret_cast<const sockaddr*>(&source), sizeof source) == 0);
  CHECK(connect(ends.client, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  ends.server = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
  close(listening);
  return ends;
}

std::string CongestionControl(int fd) {
  std::array<char, 16> name{};  // TCP_CA_NAME_MAX
  socklen_t length = name.size();
  CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &length) == 0);
  return name.data();
}

TEST(TcpStreamPacingTest, IsOffBetweenEndsWithOneAddress) {
  const PlainEnds ends = ConnectFrom("127.0.0.1");
  const TcpStream server(ends.server);
  const TcpStream client(ends.client);
  EXPECT_EQ(CongestionControl(ends.server), "reno");
  EXPECT_EQ(CongestionControl(ends.client), "reno");
}

TEST(TcpStreamPacingTest, IsTheSystemsChoiceBetweenTwoAddresses) {
  const PlainEnds ends = ConnectFrom("127.0.0.2");
  const std::string before = CongestionControl(ends.server);
  const TcpStream server(ends.server);
  const TcpStream client(ends.client);
  EXPECT_EQ(CongestionControl(ends.server), before);
}

Task<void> WriteThenLeave(ByteStream& stream, std::span<std::byte> bytes, Gate& gate) {
  EXPECT_EQ(co_await WriteBytes(stream, bytes), 0);
  gate.Leave();
}

Task<void> CheckMegabytes(Listener& listener) {
  // More than any socket buffer holds, so the writer must wait for the ring.
  constexpr size_t kBytes = size_t{64} << 20;
  Connected ends = co_await ConnectTo(listener);
  std::vector<std::byte> sent = Pattern(kBytes, 1);
  std::vector<std::byte> received(kBytes);
  Gate gate;
  CHECK(gate.TryEnter());
  Detach(WriteThenLeave(*ends.server, sent, gate));
  EXPECT_EQ(co_await ReadExactly(*ends.client, received), 1);
  gate.Close();
  co_await gate.Drained();
  EXPECT_TRUE(sent == received);
}

TEST_P(TcpStreamTest, MoreThanTheSocketHoldsArrivesWhole) {
  pool_->RunOn(0, CheckMegabytes(*listener_));
}

Task<void> CheckManyPieces(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  // Above IOV_MAX, with empty pieces among them.
  std::vector<std::byte> sent = Pattern(9000, 2);
  std::vector<iovec> pieces;
  for (size_t place = 0; place < sent.size(); place += 3) {
    pieces.push_back({sent.data() + place, 3});
    if (place % 5 == 0) pieces.push_back({nullptr, 0});
  }
  EXPECT_EQ(co_await ends.client->WriteAll(pieces), 0);
  std::vector<std::byte> received(sent.size());
  EXPECT_EQ(co_await ReadExactly(*ends.server, received), 1);
  EXPECT_TRUE(sent == received);
}

TEST_P(TcpStreamTest, MorePiecesThanOneCallTakesArriveInOrder) {
  pool_->RunOn(0, CheckManyPieces(*listener_));
}

Task<void> WriteOneByOne(ByteStream& stream, std::span<std::byte> bytes, Gate& gate) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(co_await WriteBytes(stream, bytes.subspan(i, 1)), 0);
    if (i % 16 == 0) co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
  }
  gate.Leave();
}

Task<void> CheckSingleBytes(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::vector<std::byte> sent = Pattern(500, 3);
  std::vector<std::byte> received(sent.size());
  Gate gate;
  CHECK(gate.TryEnter());
  Detach(WriteOneByOne(*ends.server, sent, gate));
  EXPECT_EQ(co_await ReadExactly(*ends.client, received), 1);
  gate.Close();
  co_await gate.Drained();
  EXPECT_TRUE(sent == received);
}

TEST_P(TcpStreamTest, OneByteSegmentsArriveInOrder) {
  pool_->RunOn(0, CheckSingleBytes(*listener_));
}

Task<void> ReadInto(ByteStream& stream, int& result, Gate& gate) {
  std::byte byte;
  result = co_await stream.ReadSome(std::span(&byte, 1));
  gate.Leave();
}

Task<void> CheckShutdownWakesReader(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  Gate gate;
  int mine = 99;
  int theirs = 99;
  CHECK(gate.TryEnter() && gate.TryEnter());
  Detach(ReadInto(*ends.server, mine, gate));
  Detach(ReadInto(*ends.client, theirs, gate));
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(1));
  EXPECT_EQ(gate.count(), 2u);
  ends.server->Shutdown();
  ends.server->Shutdown();
  gate.Close();
  co_await gate.Drained();
  EXPECT_EQ(mine, 0);
  EXPECT_EQ(theirs, 0);
}

TEST_P(TcpStreamTest, ShutdownWakesTheReadersOfBothEnds) {
  pool_->RunOn(0, CheckShutdownWakesReader(*listener_));
}

Task<void> WriteInto(ByteStream& stream, std::span<std::byte> bytes, int& result, Gate& gate) {
  result = co_await WriteBytes(stream, bytes);
  gate.Leave();
}

Task<void> CheckShutdownWakesWriter(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::vector<std::byte> much(size_t{64} << 20);
  Gate gate;
  int result = 99;
  CHECK(gate.TryEnter());
  Detach(WriteInto(*ends.server, much, result, gate));
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(1));
  EXPECT_EQ(gate.count(), 1u);
  ends.server->Shutdown();
  gate.Close();
  co_await gate.Drained();
  EXPECT_TRUE(result == -EPIPE || result == -ECONNRESET) << result;
}

TEST_P(TcpStreamTest, ShutdownWakesAWriterThatWaits) {
  pool_->RunOn(0, CheckShutdownWakesWriter(*listener_));
}

Task<void> CheckNothingAfterShutdown(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::string text = "left over";
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(1));
  ends.server->Shutdown();
  std::byte byte;
  EXPECT_EQ(co_await ends.server->ReadSome(std::span(&byte, 1)), 0);
  EXPECT_LT(co_await WriteBytes(*ends.server, AsBytes(text)), 0);
}

TEST_P(TcpStreamTest, AfterShutdownNothingIsReadOrWritten) {
  pool_->RunOn(0, CheckNothingAfterShutdown(*listener_));
}

Task<void> CheckDataBeforeEnd(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::string text = "last words";
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  ends.client->Shutdown();
  std::string heard(text.size(), ' ');
  EXPECT_EQ(co_await ReadExactly(*ends.server, AsBytes(heard)), 1);
  EXPECT_EQ(heard, text);
  std::byte byte;
  EXPECT_EQ(co_await ends.server->ReadSome(std::span(&byte, 1)), 0);
}

TEST_P(TcpStreamTest, WhatThePeerSentBeforeItClosedIsRead) {
  pool_->RunOn(0, CheckDataBeforeEnd(*listener_));
}

// A peer that never pauses: without a bound, reading from it would never let the timer run.
Task<void> Flood(ByteStream& stream, const bool& stop, Gate& gate) {
  std::vector<std::byte> bytes(size_t{1} << 16);
  while (!stop) {
    if (co_await WriteBytes(stream, bytes) != 0) break;
  }
  stream.Shutdown();
  gate.Leave();
}

Task<void> Drink(ByteStream& stream, bool& stop, Gate& gate) {
  std::byte buffer[48];
  Reactor::Current().CallAfter(std::chrono::milliseconds(5), [&stop] { stop = true; });
  while (co_await stream.ReadSome(buffer) > 0) {
  }
  gate.Leave();
}

Task<void> CheckFairness(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  bool stop = false;
  Gate gate;
  CHECK(gate.TryEnter() && gate.TryEnter());
  Detach(Flood(*ends.client, stop, gate));
  Detach(Drink(*ends.server, stop, gate));
  gate.Close();
  co_await gate.Drained();
  EXPECT_TRUE(stop);
}

TEST_P(TcpStreamTest, APeerThatNeverPausesDoesNotStarveTheReactor) {
  pool_->RunOn(0, CheckFairness(*listener_));
}

// Answers each byte.
Task<void> Echo(ByteStream& stream) {
  std::byte byte;
  while (co_await stream.ReadSome(std::span(&byte, 1)) > 0) {
    EXPECT_EQ(co_await WriteBytes(stream, std::span(&byte, 1)), 0);
  }
}

constexpr int kQuestions = 3000;

Task<void> Ask(ByteStream& stream, int& answers) {
  std::byte byte{};
  while (answers < kQuestions) {
    EXPECT_EQ(co_await WriteBytes(stream, std::span(&byte, 1)), 0);
    if (co_await stream.ReadSome(std::span(&byte, 1)) <= 0) break;
    ++answers;
  }
  stream.Shutdown();
}

Task<void> RunInside(Task<void> task, Gate& gate) {
  co_await task;
  gate.Leave();
}

// The peers have a reactor of their own, so that their bytes come while this one looks for events.
Task<void> CheckTwoPeers(Listener& listener, Reactor& peers) {
  constexpr int kStreams = 2;
  Reactor& own = Reactor::Current();
  std::array<Connected, kStreams> ends;
  std::array<int, kStreams> answers{};
  Gate gate;
  for (Connected& pair : ends) {
    pair = co_await ConnectTo(listener);
    CHECK(gate.TryEnter());
    Detach(RunInside(Echo(*pair.server), gate));
  }
  co_await peers.Switch();
  Gate asking;
  for (int i = 0; i < kStreams; ++i) {
    CHECK(asking.TryEnter());
    Detach(RunInside(Ask(*ends[i].client, answers[i]), asking));
  }
  while (std::ranges::max(answers) < kQuestions) co_await NextTurn();
  EXPECT_GT(std::ranges::min(answers), kQuestions / 100) << "one has waited for the other";
  asking.Close();
  co_await asking.Drained();
  for (int count : answers) EXPECT_EQ(count, kQuestions);
  co_await own.Switch();
  gate.Close();
  co_await gate.Drained();
}

TEST_P(TcpStreamTest, TwoPeersThatAskAllTheTimeBothHaveTheirAnswers) {
  pool_->RunOn(0, CheckTwoPeers(*listener_, (*pool_)[1]));
}

// As much as can be had in this turn, in several reads.
size_t DrinkATurn(ByteStream& stream, std::span<std::byte> buffer) {
  size_t bytes = 0;
  for (int count = 0; (count = stream.ReadNow(buffer)) > 0;) bytes += static_cast<size_t>(count);
  return bytes;
}

Task<void> CheckShareOfATurn(Listener& listener) {
  // Three times what a stream may read in its first turn, and less than a socket holds unread.
  constexpr size_t kBytes = 96 * 1024;
  Connected ends = co_await ConnectTo(listener);
  std::vector<std::byte> sent = Pattern(kBytes, 4);
  EXPECT_EQ(co_await WriteBytes(*ends.client, sent), 0);
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(20));
  std::vector<std::byte> buffer(8 * 1024);
  Reactor& reactor = Reactor::Current();
  size_t received = 0;
  for (;;) {
    const uint64_t turn = reactor.turns();
    const size_t bytes = DrinkATurn(*ends.server, buffer);
    EXPECT_EQ(bytes, std::min(reactor.share().BytesIn(turn), kBytes - received));
    received += bytes;
    if (received == kBytes) break;
    co_await ends.server->Readable();
    EXPECT_NE(reactor.turns(), turn);
  }
}

TEST_P(TcpStreamTest, ReadsItsShareOfATurnAndTheRestInTheNext) {
  pool_->RunOn(0, CheckShareOfATurn(*listener_));
}

Task<void> CheckSentShareOfATurn(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::string text = "asks again";
  std::vector<std::byte> buffer(text.size());
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(20));
  std::vector<std::byte> answer = Pattern(TurnShare::kSentBytesMax / 2, 5);
  EXPECT_EQ(co_await WriteBytes(*ends.server, answer), 0);
  const uint64_t turn = Reactor::Current().turns();
  EXPECT_GT(ends.server->ReadNow(buffer), 0);
  EXPECT_EQ(co_await WriteBytes(*ends.server, answer), 0);
  EXPECT_EQ(ends.server->ReadNow(buffer), -EAGAIN);
  EXPECT_EQ(Reactor::Current().turns(), turn) << "what is sent goes to the socket at once";
  co_await ends.server->Readable();
  EXPECT_NE(Reactor::Current().turns(), turn);
  EXPECT_GT(ends.server->ReadNow(buffer), 0);
}

Task<void> CheckFewBytes(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::string text = "one question";
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(20));
  std::vector<std::byte> buffer(100);
  EXPECT_EQ(ends.server->ReadNow(buffer), static_cast<int>(text.size()));
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  EXPECT_EQ(ends.server->ReadNow(buffer), -EAGAIN) << "before it could be answered";
  co_await ends.server->Readable();
  EXPECT_EQ(ends.server->ReadNow(buffer), static_cast<int>(text.size()));
}

TEST_P(TcpStreamTest, WhatHasTakenAllThatWasThereIsDoneBeforeTheNextRead) {
  pool_->RunOn(0, CheckFewBytes(*listener_));
}

// Answers to what it asked before leave in every turn, before it has had its own.
Task<void> CheckSentBeforeReading(Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  std::string text = "asks again";
  std::vector<std::byte> buffer(text.size());
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(20));
  std::vector<std::byte> answer = Pattern(TurnShare::kSentBytesMax, 6);
  const uint64_t turn = Reactor::Current().turns();
  EXPECT_EQ(co_await WriteBytes(*ends.server, answer), 0);
  EXPECT_EQ(Reactor::Current().turns(), turn) << "what is sent goes to the socket at once";
  EXPECT_GT(ends.server->ReadNow(buffer), 0);
}

TEST_P(TcpStreamTest, WhoHasSentAndReadNothingYetReads) {
  pool_->RunOn(0, CheckSentBeforeReading(*listener_));
}

TEST_P(TcpStreamTest, WhoHasSentItsShareOfATurnReadsInTheNext) {
  pool_->RunOn(0, CheckSentShareOfATurn(*listener_));
}

Task<void> CloseLater(Listener& listener) {
  co_await Reactor::Current().Sleep(std::chrono::milliseconds(1));
  listener.Close();
}

Task<absl::Status> AcceptWhileClosing(Listener& listener) {
  Detach(CloseLater(listener));
  absl::StatusOr<std::unique_ptr<TcpStream>> stream = co_await listener.Accept();
  co_return stream.status();
}

TEST_P(TcpStreamTest, CloseWakesAcceptAndLetsThePortGo) {
  EXPECT_TRUE(absl::IsCancelled(pool_->RunOn(0, AcceptWhileClosing(*listener_))));
  EXPECT_TRUE(Listener::Bind(listener_->address(), "--listen").ok());
}

Task<void> CheckHandedOver(ReactorPool& pool, Listener& listener) {
  Connected ends = co_await ConnectTo(listener);
  co_await pool[1].Switch();
  std::string text = "from the other side";
  std::string heard(text.size(), ' ');
  EXPECT_EQ(co_await WriteBytes(*ends.client, AsBytes(text)), 0);
  EXPECT_EQ(co_await ReadExactly(*ends.server, AsBytes(heard)), 1);
  EXPECT_EQ(heard, text);
}

Task<void> CheckReserve(Listener& listener) {
  absl::StatusOr<std::unique_ptr<TcpStream>> client =
      co_await TcpStream::Connect(listener.address());
  CHECK(client.ok());
  {
    const LowDescriptorLimit limit;
    const absl::StatusOr<std::unique_ptr<TcpStream>> refused = co_await listener.Accept();
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
  }
  std::byte end;
  EXPECT_LE(co_await (*client)->ReadSome(std::span(&end, 1)), 0);
  co_await ConnectTo(listener);
}

TEST_P(TcpStreamTest, AcceptLeavesTheReservedDescriptorsAlone) {
  pool_->RunOn(0, CheckReserve(*listener_));
}

TEST_P(TcpStreamTest, AnAcceptedStreamWorksOnAnotherReactor) {
  pool_->RunOn(0, CheckHandedOver(*pool_, *listener_));
}

TEST_P(TcpStreamTest, AnAddressInUseSaysWhatToDo) {
  const absl::Status status = Listener::Bind(listener_->address(), "--listen").status();
  EXPECT_TRUE(absl::IsAlreadyExists(status));
  EXPECT_EQ(std::string(status.message()),
            "address " + listener_->address() +
                " is in use: stop the other server or choose another with --listen");
}

TEST(ListenerTest, AnAddressOfAnotherMachineSaysSo) {
  const absl::Status status = Listener::Bind("192.0.2.1:0", "--metrics").status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("not one of this machine's"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--metrics"));
}

class ListenerAddressTest : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Wrong, ListenerAddressTest,
                         testing::Values("", "127.0.0.1", "127.0.0.1:", ":3260", "::1:3260",
                                         "[::1]", "[]:1", "[127.0.0.1]:1", "127.0.0.1:65536",
                                         "127.0.0.1:-1", "127.0.0.1:x", "localhost:3260",
                                         "127.0.0.1:3260 ", "127.1:3260"));

TEST_P(ListenerAddressTest, IsRefusedWithAnExample) {
  const absl::Status status = Listener::Bind(GetParam(), "--listen").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:3260 or [::1]:3260"));
}

Task<absl::Status> ConnectStatus(std::string address) {
  absl::StatusOr<std::unique_ptr<TcpStream>> stream = co_await TcpStream::Connect(address);
  co_return stream.status();
}

TEST_P(TcpStreamTest, ConnectingToNobodyFailsWithTheAddress) {
  pool_->RunOn(0, CloseLater(*listener_));
  const absl::Status status = pool_->RunOn(0, ConnectStatus(listener_->address()));
  EXPECT_THAT(std::string(status.message()), HasSubstr(listener_->address()));
}

}  // namespace
}  // namespace sectormap
