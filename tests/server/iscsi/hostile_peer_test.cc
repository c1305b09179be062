// SPDX-License-Identifier: Apache-2.0
// Peers that do not keep the protocol: whatever they send, the target neither crashes nor hangs nor
// keeps anything of theirs (the fixture waits for every connection's end and counts the memory).
#include "tests/server/iscsi/iscsi_fixture.h"

namespace sectormap::iscsi {
namespace {

using Command = FakeInitiator::Command;

// How much of a run this long is: the same seed gives the same run.
constexpr int kMutatedSessions = 60;
constexpr int kPdusPerSession = 60;
constexpr int kCutSessions = 200;

// Ends after a number of bytes have been sent through it.
class CutStream final : public ByteStream {
 public:
  CutStream(std::unique_ptr<ByteStream> lower, size_t bytes)
      : lower_(std::move(lower)), left_(bytes) {}
  int ReadNow(std::span<std::byte> buffer) override { return lower_->ReadNow(buffer); }
  Task<void> Readable() override { return lower_->Readable(); }
  Task<int> WriteAll(std::span<iovec> pieces) override {
    for (iovec& piece : pieces) {
      piece.iov_len = std::min(piece.iov_len, left_);
      left_ -= piece.iov_len;
    }
    int error = co_await lower_->WriteAll(pieces);
    if (left_ == 0) lower_->Shutdown();
    co_return left_ == 0 ? -EPIPE : error;
  }
  void Shutdown() override { lower_->Shutdown(); }
  std::string local_address() const override { return lower_->local_address(); }
  std::string peer_address() const override { return lower_->peer_address(); }

 private:
  const std::unique_ptr<ByteStream> lower_;
  size_t left_;
};

class HostilePeerTest : public IscsiTest {
 public:
  static Task<void> FirstPdu(HostilePeerTest& test, uint8_t opcode_byte) {
    FakeInitiator& peer = test.Connect();
    BasicHeader header;
    header.opcode_byte = opcode_byte;
    header.flags = kFinalBit;
    co_await peer.Send(header);
    // At most a Login Response that refuses; then the end.
    std::optional<FakeInitiator::Pdu> answer = co_await peer.Receive();
    if (answer) {
      EXPECT_EQ(answer->header.opcode(), Opcode::kLoginResponse);
      EXPECT_NE(HeaderAs<LoginResponseHeader>(answer->header).status(), LoginStatus::kSuccess);
      answer = co_await peer.Receive();
    }
    EXPECT_FALSE(answer.has_value());
  }
  static Task<void> EveryFirstPdu(HostilePeerTest& test) {
    for (int opcode = 0; opcode <= kOpcodeMask; ++opcode) {
      SCOPED_TRACE(opcode);
      co_await FirstPdu(test, static_cast<uint8_t>(opcode));
      co_await FirstPdu(test, static_cast<uint8_t>(opcode | kImmediateBit));
    }
    co_await AllEnded(test);
  }

  // In full feature phase an opcode that no initiator may send is rejected with its header.
  static Task<void> EveryForeignOpcode(HostilePeerTest& test) {
    FakeInitiator* peer = co_await Session(test);
    for (int opcode = 0; opcode <= kOpcodeMask; ++opcode) {
      if (opcode <= 0x06) continue;
      SCOPED_TRACE(opcode);
      BasicHeader header;
      header.opcode_byte = static_cast<uint8_t>(opcode);
      header.initiator_task_tag = 0x1234;
      co_await peer->Send(header, std::vector<std::byte>(100, std::byte{1}));
      const auto reject = co_await peer->ReceiveKind(Opcode::kReject);
      EXPECT_TRUE(reject.has_value());
      if (!reject) co_return;
      EXPECT_EQ(reject->data.size(), kHeaderBytes);
    }
    const bool alive = co_await peer->Ping();
    EXPECT_TRUE(alive);
  }

  static Task<void> TooLong(HostilePeerTest& test) {
    FakeInitiator* peer = co_await Session(test);
    NopOutHeader header;
    header.opcode_byte |= kImmediateBit;
    header.initiator_task_tag = 7;
    header.data_segment_length = kOurMaxRecvDataSegmentBytes + 1;
    co_await peer->SendBytes(std::as_bytes(header.bytes()));
    const auto reject = co_await peer->ReceiveKind(Opcode::kReject);
    EXPECT_TRUE(reject.has_value());
    const auto end = co_await peer->Receive();
    EXPECT_FALSE(end.has_value());
    co_await AllEnded(test);
    EXPECT_EQ(test.directory_.totals().drops[static_cast<int>(DropReason::kProtocolError)], 1u);
  }

  // Asks for ever and never reads the answers: the target stops reading instead of remembering.
  static Task<void> NeverReads(HostilePeerTest& test) {
    FakeInitiator* peer = co_await Session(test, {}, {.capacity = 65536});
    Detach(PingForEver(*peer));
    for (int i = 0; i < 200; ++i) co_await Reactor::Current().Sleep(nanoseconds(1));
    peer->Shutdown();
    co_await AllEnded(test);
  }
  static Task<void> PingForEver(FakeInitiator& peer) {
    const std::vector<std::byte> data(65536);
    bool sent = true;
    while (sent) {
      NopOutHeader header;
      header.opcode_byte |= kImmediateBit;
      header.initiator_task_tag = peer.NextTag();
      sent = co_await peer.Send(header, data);
    }
  }

  static Command RegisterKey(std::span<const std::byte> parameters) {
    Command command;
    command.cdb = {0x5f, 0x00, 0, 0, 0, 0, 0, 0, static_cast<uint8_t>(parameters.size())};
    command.direction = scsi::DataDirection::kOut;
    command.expected = static_cast<uint32_t>(parameters.size());
    command.data = parameters;
    return command;
  }

  // Writes are asked for their data, and it never comes: others of the same unit have their room,
  // whatever the number of sessions that the initiator has.
  static Task<void> NeverSendsData(HostilePeerTest& test, uint64_t sessions) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    const std::vector<std::byte> data(1 << 20, std::byte{1});
    for (uint64_t session = 1; session <= sessions; ++session) {
      options.isid = 0x800000000000 + session;
      FakeInitiator* stalled = co_await Session(test, options);
      stalled->hold_requests = true;
      for (int i = 0; i < 16; ++i) co_await stalled->Start(FakeInitiator::Write10(0, data));
      co_await stalled->Ping();
      if (session == 1) EXPECT_FALSE(stalled->held_requests.empty());
    }
    InitiatorOptions others;
    others.name = "iqn.2026-11.test:other";
    FakeInitiator* other = co_await Session(test, others);
    const std::vector<std::byte> parameters(24);
    const FakeInitiator::Outcome fence = co_await other->Run(RegisterKey(parameters));
    EXPECT_TRUE(fence.good());
    const FakeInitiator::Outcome write = co_await other->Run(FakeInitiator::Write10(0, data));
    EXPECT_TRUE(write.good());
  }

  // Answers that wait behind one that is not read hold nothing any more when a reset ends them.
  static Task<void> NeverReadsData(HostilePeerTest& test) {
    InitiatorOptions options;
    options.data_digest = true;  // or a read would need no memory
    FakeInitiator* stalled = co_await Session(test, options, {.capacity = 1500});
    for (int i = 0; i < 4; ++i) co_await stalled->Start(FakeInitiator::Read10(0, 2048));
    while (test.memory_.used() < 4 << 20) co_await Yield();
    InitiatorOptions others;
    others.isid = 0x800000000002;
    FakeInitiator* other = co_await Session(test, others);
    const auto result = co_await other->Manage(TaskManagementFunction::kLogicalUnitReset, 0);
    EXPECT_EQ(result, TaskManagementResult::kFunctionComplete);
    EXPECT_EQ(test.memory_.used(), 1u << 20) << "more than what is being sent";
  }

  static BasicHeader RandomHeader(Random& random, FakeInitiator& peer) {
    static constexpr uint8_t kOpcodes[] = {0x00, 0x01, 0x01, 0x01, 0x01, 0x02,
                                           0x04, 0x05, 0x05, 0x06, 0x10, 0x03};
    BasicHeader header;
    random.Fill(std::as_writable_bytes(std::span(&header, 1)));
    header.opcode_byte = kOpcodes[random.Below(std::size(kOpcodes))];
    // Rarely a logout: it would end the fun.
    if (header.opcode() == Opcode::kLogoutRequest && !random.OneIn(20)) header.opcode_byte = 0x01;
    if (random.OneIn(2)) header.opcode_byte |= kImmediateBit;
    header.lun = EncodeLun(random.Below(3));
    header.initiator_task_tag = static_cast<uint32_t>(random.Below(16));
    if (header.opcode() != Opcode::kScsiCommand) return header;
    auto command = HeaderAs<ScsiCommandHeader>(header);
    const auto blocks = static_cast<uint16_t>(random.Below(300));
    command.cdb = FakeInitiator::Read10(static_cast<uint32_t>(random.Below(40000)), blocks).cdb;
    if (random.OneIn(2)) command.cdb[0] = 0x2a;
    if (random.OneIn(4)) random.Fill(std::as_writable_bytes(std::span(command.cdb)));
    if (!random.OneIn(4)) command.expected_data_transfer_length = blocks * 512u;
    command.cmd_sn = peer.cmd_sn() + static_cast<uint32_t>(random.Below(3));
    if (random.OneIn(2)) command.cmd_sn = peer.cmd_sn()++;
    return HeaderAs<BasicHeader>(command);
  }

  static Task<void> Drain(FakeInitiator& peer, int& draining, WaitQueue& done) {
    std::optional<FakeInitiator::Pdu> pdu = co_await peer.Receive();
    while (pdu) {
      // What the target asks for is sometimes given, sometimes wrong.
      pdu = co_await peer.Receive();
    }
    --draining;
    done.WakeAll();
  }

  static Task<void> Mutations(HostilePeerTest& test) {
    Random random;
    int draining = 0;
    WaitQueue done;
    for (int s = 0; s < kMutatedSessions; ++s) {
      InitiatorOptions options;
      options.header_digest = random.OneIn(3);
      options.data_digest = random.OneIn(3);
      options.isid = 0x800000000000 + random.Below(4);
      options.initial_r2t = random.OneIn(2);
      FakeInitiator& peer = test.Connect();
      const std::optional<LoginStatus> status = co_await peer.Login(options);
      EXPECT_EQ(status, LoginStatus::kSuccess);
      ++draining;
      Detach(Drain(peer, draining, done));
      bool open = true;
      for (int i = 0; open && i < kPdusPerSession; ++i) {
        const BasicHeader header = RandomHeader(random, peer);
        const size_t bytes = random.OneIn(3) ? random.Below(70000) : random.Below(2000);
        std::vector<std::byte> ahs(random.OneIn(10) ? 4 * random.Below(8) : 0);
        random.Fill(ahs);
        open = co_await peer.Send(header, std::vector<std::byte>(bytes, std::byte{3}), ahs);
      }
      // The last PDU lies about its length.
      if (open && random.OneIn(2)) {
        BasicHeader header = RandomHeader(random, peer);
        header.data_segment_length = static_cast<uint32_t>(random.Below(1 << 24));
        co_await peer.SendBytes(std::as_bytes(header.bytes()));
      }
      if (random.OneIn(2)) peer.Shutdown();
    }
    for (auto& peer : test.initiators_) peer->Shutdown();
    while (draining != 0) co_await done.Wait();
    co_await AllEnded(test);
    test.initiators_.clear();
  }

  // The network fails at any byte of a session with writes, reads and task management.
  static Task<void> Cuts(HostilePeerTest& test) {
    Random random;
    const std::vector<std::byte> data(65536, std::byte{4});
    for (int i = 0; i < kCutSessions; ++i) {
      MemoryStreamOptions stream;
      stream.read_max = random.OneIn(2) ? SIZE_MAX : 1 + random.Below(4000);
      auto [ours, theirs] = MemoryStream::MakePair(stream);
      ++test.serving_;
      Detach(ServeOne(test, std::move(ours)));
      FakeInitiator peer(std::make_unique<CutStream>(std::move(theirs), 1 + random.Below(300000)));
      InitiatorOptions options;
      options.max_burst_bytes = options.first_burst_bytes = 16384;
      options.data_digest = random.OneIn(2);
      options.initial_r2t = random.OneIn(2);
      const std::optional<LoginStatus> status = co_await peer.Login(options);
      if (status == LoginStatus::kSuccess) {
        for (int k = 0; k < 4; ++k) {
          co_await peer.Start(FakeInitiator::Write10(0, data));
          co_await peer.Start(FakeInitiator::Read10(0, 128));
        }
        const uint32_t tag = co_await peer.Start(FakeInitiator::Write10(0, data));
        if (random.OneIn(2)) {
          // An aborted command never answers.
          co_await peer.Manage(TaskManagementFunction::kAbortTask, 0, tag);
          co_await peer.Ping();
        } else {
          co_await peer.Finish(tag);
        }
      }
      peer.Shutdown();
      co_await AllEnded(test);
    }
    EXPECT_TRUE(test.directory_.sessions().empty());
  }
};

TEST_F(HostilePeerTest, NothingButALoginMayComeFirst) { pool_->RunOn(0, EveryFirstPdu(*this)); }
TEST_F(HostilePeerTest, ForeignOpcodesAreRejectedWithTheirHeader) {
  pool_->RunOn(0, EveryForeignOpcode(*this));
}
TEST_F(HostilePeerTest, ASegmentAboveWhatWeDeclaredEndsTheConnection) {
  pool_->RunOn(0, TooLong(*this));
}
TEST_F(HostilePeerTest, WhoNeverReadsIsNotReadEither) { pool_->RunOn(0, NeverReads(*this)); }
TEST_F(HostilePeerTest, WhoSendsNoDataLeavesRoomForOthers) {
  pool_->RunOn(0, NeverSendsData(*this, 1));
}
TEST_F(HostilePeerTest, WhoSendsNoDataInManySessionsLeavesRoomForOthers) {
  pool_->RunOn(0, NeverSendsData(*this, 8));
}
TEST_F(HostilePeerTest, AResetGivesBackWhatIsNotBeingSent) {
  pool_->RunOn(0, NeverReadsData(*this));
}
TEST_F(HostilePeerTest, MutatedPdusAreSurvived) { pool_->RunOn(0, Mutations(*this)); }
TEST_F(HostilePeerTest, AConnectionThatIsCutAnywhereLeavesNothing) { pool_->RunOn(0, Cuts(*this)); }

}  // namespace
}  // namespace sectormap::iscsi
