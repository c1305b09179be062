// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/connection.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/server/iscsi/iscsi_fixture.h"

namespace sectormap::iscsi {
namespace {

using Outcome = FakeInitiator::Outcome;
using Command = FakeInitiator::Command;
using Pdu = FakeInitiator::Pdu;
using scsi::ScsiStatus;

std::vector<std::byte> RandomBytes(Random& random, size_t bytes) {
  std::vector<std::byte> data(bytes);
  random.Fill(data);
  return data;
}

class ConnectionTest : public IscsiTest {
 public:
  static Task<void> LoginToLogout(ConnectionTest& test) {
    FakeInitiator* initiator = co_await Session(test);
    EXPECT_EQ(test.directory_.sessions().size(), 1u);
    Random random;
    const std::vector<std::byte> data = RandomBytes(random, 8192);
    const Outcome written = co_await initiator->Run(FakeInitiator::Write10(16, data));
    EXPECT_TRUE(written.good());
    const Outcome read = co_await initiator->Run(FakeInitiator::Read10(16, 16));
    EXPECT_TRUE(read.good());
    EXPECT_EQ(read.data, data);
    EXPECT_EQ(read.data_pdus, 1);
    const bool out = co_await initiator->Logout();
    EXPECT_TRUE(out);
    co_await AllEnded(test);
    EXPECT_TRUE(test.directory_.sessions().empty());
    const IscsiTotals totals = test.directory_.totals();
    EXPECT_EQ(totals.drops[static_cast<int>(DropReason::kLogout)], 1u);
    EXPECT_EQ(totals.logins[static_cast<int>(LoginOutcome::kAccepted)], 1u);
  }

  // Writes and reads of many sizes at random places, against a shadow of the disk.
  static Task<void> Shadow(ConnectionTest& test, InitiatorOptions options,
                           MemoryStreamOptions stream, std::vector<uint32_t> block_counts) {
    Random random;
    FakeInitiator* initiator = co_await Session(test, std::move(options), std::move(stream));
    std::vector<std::byte> shadow(kTestDiskBytes);
    for (const uint32_t blocks : block_counts) {
      const uint64_t lba = random.Below(kTestDiskBytes / 512 - blocks);
      const std::span<std::byte> place = std::span(shadow).subspan(lba * 512, blocks * 512);
      random.Fill(place);
      const Outcome written =
          co_await initiator->Run(FakeInitiator::Write10(static_cast<uint32_t>(lba), place));
      EXPECT_TRUE(written.good()) << blocks;
      EXPECT_FALSE(written.overflow || written.underflow);
      const uint64_t first = lba < 3 ? 0 : lba - 3;
      const auto count =
          static_cast<uint16_t>(std::min<uint64_t>(blocks + 5, kTestDiskBytes / 512 - first));
      const Outcome read =
          co_await initiator->Run(FakeInitiator::Read10(static_cast<uint32_t>(first), count));
      EXPECT_TRUE(read.good()) << blocks;
      const bool equal =
          std::ranges::equal(read.data, std::span(shadow).subspan(first * 512, count * 512));
      EXPECT_TRUE(equal) << blocks << " blocks at " << lba;
    }
    EXPECT_TRUE(std::ranges::equal(test.disk_->bytes(), shadow));
    const bool out = co_await initiator->Logout();
    EXPECT_TRUE(out);
  }

  // Many commands at once, mixed.
  static Task<void> ManyAtOnce(ConnectionTest& test) {
    Random random;
    FakeInitiator* initiator = co_await Session(test);
    constexpr uint32_t kCommands = 100;
    std::vector<std::vector<std::byte>> data;
    std::vector<uint32_t> tags;
    for (uint32_t i = 0; i < kCommands; ++i) {
      data.push_back(RandomBytes(random, 512 * random.Between(1, 64)));
      const uint32_t tag = co_await initiator->Start(FakeInitiator::Write10(i * 64, data.back()));
      tags.push_back(tag);
    }
    for (const uint32_t tag : tags) {
      const Outcome outcome = co_await initiator->Finish(tag);
      EXPECT_TRUE(outcome.good());
    }
    tags.clear();
    for (uint32_t i = 0; i < kCommands; ++i) {
      const auto blocks = static_cast<uint16_t>(data[i].size() / 512);
      const uint32_t tag = co_await initiator->Start(FakeInitiator::Read10(i * 64, blocks));
      tags.push_back(tag);
    }
    std::reverse(tags.begin(), tags.end());
    std::reverse(data.begin(), data.end());
    for (uint32_t i = 0; i < kCommands; ++i) {
      const Outcome outcome = co_await initiator->Finish(tags[i]);
      EXPECT_TRUE(outcome.good());
      EXPECT_EQ(outcome.data, data[i]);
    }
  }

  static Task<void> Residuals(ConnectionTest& test) {
    FakeInitiator* initiator = co_await Session(test);
    const std::vector<std::byte> data(16384, std::byte{0x5a});
    struct Case {
      uint16_t blocks;
      uint32_t expected;
      bool overflow, underflow;
      uint32_t residual;
    };
    const std::vector<Case> cases = {
        {1, 0, true, false, 512},   {1, 512, false, false, 0},     {1, 1024, false, true, 512},
        {2, 512, true, false, 512}, {1, 10000, false, true, 9488}, {1, 200, true, false, 312},
    };
    for (const Case& c : cases) {
      SCOPED_TRACE(testing::Message() << c.blocks << " blocks, EDTL " << c.expected);
      Command read = FakeInitiator::Read10(0, c.blocks);
      read.expected = c.expected;
      const Outcome got = co_await initiator->Run(read);
      EXPECT_TRUE(got.good());
      EXPECT_EQ(got.overflow, c.overflow);
      EXPECT_EQ(got.underflow, c.underflow);
      EXPECT_EQ(got.residual, c.residual);
      EXPECT_EQ(got.data.size(), std::min<size_t>(c.blocks * 512u, c.expected));
      Command write = FakeInitiator::Write10(0, std::span(data).first(c.blocks * 512u));
      write.data = data;
      write.expected = c.expected;
      const Outcome put = co_await initiator->Run(write);
      EXPECT_TRUE(put.answered);
      EXPECT_EQ(put.overflow, c.overflow);
      EXPECT_EQ(put.underflow, c.underflow);
      EXPECT_EQ(put.residual, c.residual);
    }
  }

  static Task<void> CommandNumbers(ConnectionTest& test) {
    FakeInitiator* initiator = co_await Session(test);
    uint32_t& cmd_sn = initiator->cmd_sn();
    // Above the window and below it: ignored, whatever it asks.
    const uint32_t next = cmd_sn;
    cmd_sn = initiator->max_cmd_sn() + 1;
    const uint32_t high = co_await initiator->Start(FakeInitiator::TestUnitReady());
    cmd_sn = next - 1;
    const uint32_t low = co_await initiator->Start(FakeInitiator::TestUnitReady());
    cmd_sn = next;
    // A gap: the later one waits for the earlier.
    cmd_sn = next + 1;
    const uint32_t second = co_await initiator->Start(FakeInitiator::TestUnitReady());
    // The same number twice: the second of them never was.
    cmd_sn = next + 1;
    const uint32_t twice = co_await initiator->Start(FakeInitiator::TestUnitReady());
    bool alive = co_await initiator->Ping();
    EXPECT_TRUE(alive);
    EXPECT_EQ(initiator->exp_cmd_sn(), next);
    cmd_sn = next;
    const uint32_t first = co_await initiator->Start(FakeInitiator::TestUnitReady());
    cmd_sn = next + 2;
    Outcome outcome = co_await initiator->Finish(first);
    EXPECT_TRUE(outcome.good());
    outcome = co_await initiator->Finish(second);
    EXPECT_TRUE(outcome.good());
    outcome = co_await initiator->Run(FakeInitiator::TestUnitReady());
    EXPECT_TRUE(outcome.good());
    EXPECT_EQ(initiator->exp_cmd_sn(), next + 3);
    EXPECT_EQ(initiator->max_cmd_sn(), next + 3 + kCommandWindow - 1);
    for (const uint32_t tag : {high, low, twice}) EXPECT_EQ(initiator->Answered(tag), false);
  }

  static Task<void> WrapAround(ConnectionTest& test) {
    InitiatorOptions options;
    options.first_cmd_sn = 0xffff'fffe;
    FakeInitiator* initiator = co_await Session(test, options);
    for (int i = 0; i < 10; ++i) {
      const Outcome outcome = co_await initiator->Run(FakeInitiator::TestUnitReady());
      EXPECT_TRUE(outcome.good());
    }
    EXPECT_EQ(initiator->exp_cmd_sn(), 9u);
  }

  static Task<void> Pings(ConnectionTest& test) {
    Random random;
    FakeInitiator* initiator = co_await Session(test);
    for (const size_t bytes : {0, 1, 3, 4, 5, 4096, 262144}) {
      const bool came_back = co_await initiator->Ping(RandomBytes(random, bytes));
      EXPECT_TRUE(came_back) << bytes;
    }
  }

  static Task<void> Discovery(ConnectionTest& test) {
    test.portals_.Add("192.0.2.8:3260");
    FakeInitiator& initiator = test.Connect({.first_address = "192.0.2.7:3260"});
    InitiatorOptions options;
    options.target = "";
    const std::optional<LoginStatus> status = co_await initiator.Login(options);
    EXPECT_EQ(status, LoginStatus::kSuccess);
    TextRequestHeader request;
    request.opcode_byte |= kImmediateBit;
    request.flags = kFinalBit;
    request.initiator_task_tag = initiator.NextTag();
    request.cmd_sn = initiator.cmd_sn();
    const std::string text("SendTargets=All\0", 16);
    co_await initiator.Send(request, std::as_bytes(std::span(text)));
    const std::optional<Pdu> answer = co_await initiator.ReceiveKind(Opcode::kTextResponse);
    EXPECT_TRUE(answer.has_value());
    if (!answer) co_return;
    const std::string got(reinterpret_cast<const char*>(answer->data.data()), answer->data.size());
    EXPECT_THAT(got, testing::HasSubstr(std::string("TargetName=") + kTestTarget));
    EXPECT_THAT(got, testing::HasSubstr("TargetAddress=192.0.2.7:3260,1"));
    EXPECT_THAT(got, testing::HasSubstr("TargetAddress=192.0.2.8:3260,1"));
    EXPECT_EQ(test.directory_.discoveries(), 1);
    // There are no commands in a discovery session.
    co_await initiator.Start(FakeInitiator::TestUnitReady());
    const std::optional<Pdu> reject = co_await initiator.ReceiveKind(Opcode::kReject);
    EXPECT_TRUE(reject.has_value());
    const bool out = co_await initiator.Logout();
    EXPECT_TRUE(out);
    co_await AllEnded(test);
    EXPECT_EQ(test.directory_.discoveries(), 0);
  }

  static Task<void> BadDigests(ConnectionTest& test) {
    InitiatorOptions options;
    options.header_digest = options.data_digest = true;
    FakeInitiator* initiator = co_await Session(test, options);
    const std::vector<std::byte> data(1024, std::byte{7});
    initiator->spoil_data_digest = true;
    const Outcome outcome = co_await initiator->Run(FakeInitiator::Write10(0, data));
    initiator->spoil_data_digest = false;
    EXPECT_EQ(outcome.status, ScsiStatus::kCheckCondition);
    EXPECT_EQ(outcome.sense_code(), 0x0b4705u);
    const std::optional<Pdu> reject = co_await initiator->ReceiveKind(Opcode::kReject);
    EXPECT_TRUE(reject.has_value());
    if (reject) {
      EXPECT_EQ(HeaderAs<RejectHeader>(reject->header).reason, RejectReason::kDataDigestError);
      EXPECT_EQ(reject->data.size(), kHeaderBytes);
    }
    EXPECT_EQ(test.disk_->bytes()[0], std::byte{0});
    const Outcome again = co_await initiator->Run(FakeInitiator::Write10(0, data));
    EXPECT_TRUE(again.good());
    initiator->spoil_header_digest = true;
    co_await initiator->Start(FakeInitiator::TestUnitReady());
    const std::optional<Pdu> end = co_await initiator->Receive();
    EXPECT_FALSE(end.has_value());
    co_await AllEnded(test);
    EXPECT_EQ(test.directory_.totals().data_digest_errors, 1u);
    EXPECT_EQ(test.directory_.totals().header_digest_errors, 1u);
  }

  // Data-Out that is wrong in one way each: the command fails, the session goes on, and no byte
  // lands where it should not.
  static Task<void> WrongDataOut(ConnectionTest& test) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    FakeInitiator* initiator = co_await Session(test, options);
    const std::vector<std::byte> data(8192, std::byte{0xee});
    struct Case {
      const char* what;
      std::function<void(DataOutHeader&)> change;
      size_t bytes;
      uint32_t sense;
    };
    const std::vector<Case> cases = {
        {"DataSN 27", [](DataOutHeader& h) { h.data_sn = 27; }, 8192, 0x0b4705},
        {"DataSN -1", [](DataOutHeader& h) { h.data_sn = 0xffffffff; }, 8192, 0x0b4705},
        {"BufferOffset past the end", [](DataOutHeader& h) { h.buffer_offset = 0x7fffffff; }, 8192,
         0x0b0c0d},
        {"BufferOffset 512", [](DataOutHeader& h) { h.buffer_offset = 512; }, 7680, 0x0b0c0d},
        {"too little", [](DataOutHeader&) {}, 4096, 0x0b0c0d},
        {"too much", [](DataOutHeader&) {}, 16384, 0x0b0c0d},
        {"another tag", [](DataOutHeader& h) { h.target_transfer_tag = 0x4711; }, 8192, 0x0b0c0d},
        {"unsolicited", [](DataOutHeader& h) { h.target_transfer_tag = kReservedTag; }, 8192,
         0x0b0c0c},
    };
    const std::vector<std::byte> more(16384, std::byte{0xee});
    for (const Case& c : cases) {
      SCOPED_TRACE(c.what);
      initiator->hold_requests = true;
      initiator->held_requests.clear();
      const uint32_t tag = co_await initiator->Start(FakeInitiator::Write10(0, data));
      while (initiator->held_requests.empty()) co_await initiator->Step();
      const ReadyToTransferHeader r2t = initiator->held_requests.front();
      DataOutHeader header;
      header.flags = kFinalBit;
      header.lun = r2t.lun;
      header.initiator_task_tag = tag;
      header.target_transfer_tag = r2t.target_transfer_tag;
      c.change(header);
      co_await initiator->Send(header, std::span(more).first(c.bytes));
      const Outcome outcome = co_await initiator->Finish(tag);
      EXPECT_EQ(outcome.status, ScsiStatus::kCheckCondition);
      EXPECT_EQ(outcome.sense_code(), c.sense);
      initiator->hold_requests = false;
      const bool alive = co_await initiator->Ping();
      EXPECT_TRUE(alive);
    }
    const auto zero = [](std::byte b) { return b == std::byte{0}; };
    EXPECT_TRUE(std::ranges::all_of(test.disk_->bytes(), zero));
    // A Data-Out for nobody is dropped.
    DataOutHeader stray;
    stray.flags = kFinalBit;
    stray.initiator_task_tag = 0x12345678;
    co_await initiator->Send(stray, data);
    const bool alive = co_await initiator->Ping();
    EXPECT_TRUE(alive);
  }

  static Task<void> UnexpectedData(ConnectionTest& test) {
    InitiatorOptions options;
    options.immediate_data = false;
    options.initial_r2t = true;
    FakeInitiator* initiator = co_await Session(test, options);
    const std::vector<std::byte> data(512, std::byte{1});
    ScsiCommandHeader header;
    header.flags = kFinalBit | ScsiCommandHeader::kWriteBit;
    header.initiator_task_tag = initiator->NextTag();
    header.expected_data_transfer_length = 512;
    header.cmd_sn = initiator->cmd_sn()++;
    header.cdb = FakeInitiator::Write10(0, data).cdb;
    initiator->Expect(header.initiator_task_tag);
    co_await initiator->Send(header, data);
    const Outcome outcome = co_await initiator->Finish(header.initiator_task_tag);
    EXPECT_EQ(outcome.sense_code(), 0x0b0c0cu);
  }

  static Task<void> DescriptorSense(ConnectionTest& test) {
    InitiatorOptions options;
    options.immediate_data = false;
    options.initial_r2t = true;
    FakeInitiator* initiator = co_await Session(test, options);
    std::vector<std::byte> control(16);
    for (const auto& [at, value] :
         {std::pair{4, 0x0a}, {5, 10}, {6, 0x04}, {7, 0x10}, {12, 0xff}, {13, 0xff}}) {
      control[at] = static_cast<std::byte>(value);
    }
    Command select = FakeInitiator::Write10(0, control);
    select.cdb = {0x15, 0x10, 0, 0, 16};
    select.expected = 16;
    Outcome outcome = co_await initiator->Run(select);
    EXPECT_TRUE(outcome.good());

    const std::vector<std::byte> data(512, std::byte{1});
    ScsiCommandHeader header;
    header.flags = kFinalBit | ScsiCommandHeader::kWriteBit;
    header.initiator_task_tag = initiator->NextTag();
    header.expected_data_transfer_length = 512;
    header.cmd_sn = initiator->cmd_sn()++;
    header.cdb = FakeInitiator::Write10(0, data).cdb;
    initiator->Expect(header.initiator_task_tag);
    co_await initiator->Send(header, data);
    outcome = co_await initiator->Finish(header.initiator_task_tag);
    EXPECT_EQ(outcome.sense_code(), 0x0b0c0cu);
    EXPECT_TRUE(outcome.has_descriptor_sense());

    header.flags |= ScsiCommandHeader::kReadBit;
    header.initiator_task_tag = initiator->NextTag();
    header.cmd_sn = initiator->cmd_sn()++;
    initiator->Expect(header.initiator_task_tag);
    co_await initiator->Send(header);
    outcome = co_await initiator->Finish(header.initiator_task_tag);
    EXPECT_EQ(outcome.sense_code(), 0x050e03u);
    EXPECT_TRUE(outcome.has_descriptor_sense());
  }

  // A command that is refused before its data has come: its status leaves while the reader is in
  // the middle of a Data-Out, and more would follow.
  static Task<void> AnsweredInTheMiddleOfData(ConnectionTest& test) {
    FakeInitiator* initiator = co_await Session(test);
    const std::vector<std::byte> data(4096, std::byte{1});
    ScsiCommandHeader command;
    command.flags = ScsiCommandHeader::kReadBit | ScsiCommandHeader::kWriteBit;
    command.initiator_task_tag = initiator->NextTag();
    command.expected_data_transfer_length = 16384;
    command.cmd_sn = initiator->cmd_sn()++;
    command.cdb = FakeInitiator::Write10(0, data).cdb;
    DataOutHeader part;
    part.initiator_task_tag = command.initiator_task_tag;
    part.target_transfer_tag = kReservedTag;
    part.data_segment_length = static_cast<uint32_t>(data.size());
    // In one piece, so that the reader has begun with the data when the status leaves.
    std::vector<std::byte> bytes;
    const auto add = [&bytes](std::span<const std::byte> more) {
      bytes.insert(bytes.end(), more.begin(), more.end());
    };
    add(std::as_bytes(command.bytes()));
    add(std::as_bytes(part.bytes()));
    add(std::span(data).first(100));
    initiator->Expect(command.initiator_task_tag);
    co_await initiator->SendBytes(bytes);
    const Outcome outcome = co_await initiator->Finish(command.initiator_task_tag);
    EXPECT_EQ(outcome.status, ScsiStatus::kCheckCondition);
    co_await initiator->SendBytes(std::span(data).subspan(100));
    const bool alive = co_await initiator->Ping();
    EXPECT_TRUE(alive);
    initiator->Shutdown();
    co_await AllEnded(test);  // or the test hangs here
    EXPECT_TRUE(test.directory_.sessions().empty());
  }

  // A write whose data comes while the unit gets a medium, and with it blocks: nothing was planned
  // for the data, so it must not count as written.
  static Task<void> BlocksBecomeKnownWhileDataComes(ConnectionTest& test) {
    auto has_medium = std::make_shared<std::atomic<bool>>(false);
    scsi::UnitBacking backing;
    backing.device = test.disk_.get();
    backing.identity = "late";
    backing.has_medium = [has_medium] { return has_medium->load(); };
    auto unit = *scsi::LogicalUnit::Create(std::move(backing), *test.pool_, {.block_bytes = 0});
    EXPECT_TRUE(test.directory_.AddLun(kTestTarget, 1, std::move(unit), false).ok());
    FakeInitiator* initiator = co_await Session(test);
    for (const uint32_t sense : {0x062900u, 0x020403u}) {
      const Outcome ready = co_await initiator->Run(FakeInitiator::TestUnitReady(1));
      EXPECT_EQ(ready.sense_code(), sense);
    }
    const std::vector<std::byte> data(512, std::byte{1});
    const Command write = FakeInitiator::Write10(0, data, 1);
    ScsiCommandHeader header;
    header.flags = ScsiCommandHeader::kWriteBit;
    header.lun = EncodeLun(1);
    header.initiator_task_tag = initiator->NextTag();
    header.expected_data_transfer_length = 512;
    header.cmd_sn = initiator->cmd_sn()++;
    header.cdb = write.cdb;
    initiator->Expect(header.initiator_task_tag);
    co_await initiator->Send(header);
    *has_medium = true;
    for (const uint32_t sense : {0x062800u, 0u}) {
      const Outcome ready = co_await initiator->Run(FakeInitiator::TestUnitReady(1));
      EXPECT_EQ(ready.sense_code(), sense);
    }
    DataOutHeader part;
    part.flags = kFinalBit;
    part.lun = header.lun;
    part.initiator_task_tag = header.initiator_task_tag;
    part.target_transfer_tag = kReservedTag;
    co_await initiator->Send(part, data);
    const Outcome outcome = co_await initiator->Finish(header.initiator_task_tag);
    EXPECT_EQ(outcome.status, ScsiStatus::kBusy);
    const Outcome again = co_await initiator->Run(write);
    EXPECT_TRUE(again.good());
    EXPECT_EQ(test.disk_->bytes()[0], std::byte{1});
  }

  static Task<void> MemoryRunsOut(ConnectionTest& test) {
    InitiatorOptions options;
    options.first_burst_bytes = options.max_burst_bytes = 262144;
    options.data_digest = true;  // or a read would need no memory
    FakeInitiator* initiator = co_await Session(test, options);
    SessionShare share = test.memory_.Join(nullptr, "iqn.2026-11.io.sectormap:other");
    std::vector<CommandBuffer> taken;
    while (std::optional<CommandBuffer> buffer =
               test.memory_.TryTake(share, 1 << 20, DataKind::kMedium)) {
      taken.push_back(*std::move(buffer));
      share.used = share.initiator->used = share.unit->used = 0;
    }
    // What has all come and can be written at once needs none.
    const std::vector<std::byte> little(4096, std::byte{8});
    const Outcome written = co_await initiator->Run(FakeInitiator::Write10(64, little));
    EXPECT_TRUE(written.good());
    EXPECT_TRUE(
        std::ranges::equal(test.disk_->bytes().subspan(64 * kSectorBytes, little.size()), little));
    // Data that is on its way cannot wait for memory.
    const std::vector<std::byte> data(262144, std::byte{9});
    const Outcome full = co_await initiator->Run(FakeInitiator::Write10(0, data));
    EXPECT_EQ(full.status, ScsiStatus::kTaskSetFull);
    // Once what was told is used up, one command at a time is let in.
    const auto places = [&] { return initiator->max_cmd_sn() - initiator->exp_cmd_sn() + 1; };
    while (places() > 1) {
      const Outcome ready = co_await initiator->Run(FakeInitiator::TestUnitReady());
      EXPECT_TRUE(ready.good());
    }
    co_await initiator->Run(FakeInitiator::TestUnitReady());
    EXPECT_EQ(places(), 1u);
    // A read can; NOP, task management and what is immediate go past it.
    const uint32_t read = co_await initiator->Start(FakeInitiator::Read10(0, 8));
    Command immediate = FakeInitiator::TestUnitReady();
    immediate.immediate = true;
    const Outcome ready = co_await initiator->Run(immediate);
    EXPECT_TRUE(ready.good());
    const bool alive = co_await initiator->Ping();
    EXPECT_TRUE(alive);
    EXPECT_FALSE(initiator->Answered(read));
    for (CommandBuffer& buffer : taken) {
      const size_t held = BufferPool::HeldBytes(buffer.bytes().size());
      share.used += held;
      share.initiator->used += held;
      share.unit->used += held;
    }
    taken.clear();
    test.memory_.Leave(share);
    const Outcome outcome = co_await initiator->Finish(read);
    EXPECT_TRUE(outcome.good());
    for (uint32_t i = 0; places() < kCommandWindow && i < kCommandWindow; ++i) {
      co_await initiator->Run(FakeInitiator::TestUnitReady());
    }
    EXPECT_EQ(places(), kCommandWindow) << "there is room again";
  }

  // Nobody gives memory back: who waits for it ends all the same.
  static Task<void> EndWhileMemoryIsAwaited(ConnectionTest& test) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    options.data_digest = true;  // or a read would need no memory
    FakeInitiator* initiator = co_await Session(test, options);
    const std::shared_ptr<scsi::Lun> unit = test.directory_.luns(kTestTarget).front().lun;
    std::vector<std::unique_ptr<SessionShare>> others;
    std::vector<CommandBuffer> taken;
    for (bool any = true; any;) {
      const std::string name = absl::StrCat("iqn.2026-11.io.sectormap:other", others.size());
      others.push_back(std::make_unique<SessionShare>(test.memory_.Join(unit.get(), name)));
      any = false;
      while (std::optional<CommandBuffer> buffer =
                 test.memory_.TryTake(*others.back(), 1 << 20, DataKind::kMedium)) {
        taken.push_back(*std::move(buffer));
        any = true;
      }
    }
    const std::vector<std::byte> data(1 << 20);
    const uint32_t read = co_await initiator->Start(FakeInitiator::Read10(0, 2048));
    const uint32_t write = co_await initiator->Start(FakeInitiator::Write10(0, data));
    co_await initiator->Ping();
    EXPECT_FALSE(initiator->Answered(read) || initiator->Answered(write));
    initiator->Shutdown();
    for (int i = 0; i < 10; ++i) co_await Yield();
    EXPECT_EQ(test.serving_, 0);
    taken.clear();
    for (const auto& share : others) test.memory_.Leave(*share);
  }

  // A peer that is slow to read what it asked for takes no memory of ours for what a device lends,
  // and gets what is there when it leaves. A digest is of bytes that stand still: it has a copy.
  static Task<void> Lent(ConnectionTest& test, bool digest) {
    const std::span<std::byte> disk = test.disk_->bytes();
    std::ranges::fill(disk, std::byte{1});
    InitiatorOptions options;
    options.data_digest = digest;
    FakeInitiator& initiator = test.Connect({.capacity = 1500});
    const std::optional<LoginStatus> status = co_await initiator.Login(options);
    EXPECT_EQ(status, LoginStatus::kSuccess);
    co_await initiator.Run(FakeInitiator::TestUnitReady());
    const uint32_t tag = co_await initiator.Start(FakeInitiator::Read10(0, 512));
    for (int i = 0; i < 10; ++i) co_await Yield();
    EXPECT_FALSE(initiator.Answered(tag));
    EXPECT_EQ(test.memory_.used() != 0, digest);
    std::ranges::fill(disk, std::byte{2});
    const Outcome outcome = co_await initiator.Finish(tag);
    EXPECT_TRUE(outcome.good());
    EXPECT_EQ(outcome.data.size(), 512 * kSectorBytes);
    EXPECT_EQ(outcome.data.front(), std::byte{1});
    EXPECT_EQ(outcome.data.back(), digest ? std::byte{1} : std::byte{2});
    EXPECT_THAT(initiator.violations(), testing::IsEmpty());
  }

  // An R2T that has left wakes the write while the answer to it is half there (its tag is guessed:
  // the R2T waits in a stream that holds half of it). The write waits for the rest.
  static Task<void> HalfOfTheLastDataOut(ConnectionTest& test) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    FakeInitiator& initiator = test.Connect({.capacity = 24});
    const std::optional<LoginStatus> status = co_await initiator.Login(options);
    EXPECT_EQ(status, LoginStatus::kSuccess);
    co_await initiator.Run(FakeInitiator::TestUnitReady());
    initiator.hold_requests = true;
    const std::vector<std::byte> data(8192, std::byte{0xee});
    const uint32_t tag = co_await initiator.Start(FakeInitiator::Write10(0, data));
    for (int i = 0; i < 10; ++i) co_await Yield();
    DataOutHeader header;
    header.flags = kFinalBit;
    header.initiator_task_tag = tag;
    header.target_transfer_tag = 1;
    header.data_segment_length = static_cast<uint32_t>(data.size());
    co_await initiator.SendBytes(std::as_bytes(header.bytes()));
    co_await initiator.SendBytes(std::span(data).first(4096));
    for (int i = 0; i < 10; ++i) co_await Yield();
    EXPECT_TRUE(initiator.held_requests.empty());
    while (initiator.held_requests.empty()) co_await initiator.Step();
    EXPECT_EQ(initiator.held_requests.front().target_transfer_tag, 1u);
    for (int i = 0; i < 10; ++i) co_await Yield();
    EXPECT_EQ(test.disk_->bytes()[0], std::byte{0}) << "half of it was written";
    co_await initiator.SendBytes(std::span(data).subspan(4096));
    const Outcome outcome = co_await initiator.Finish(tag);
    EXPECT_TRUE(outcome.good());
    EXPECT_TRUE(std::ranges::equal(test.disk_->bytes().first(data.size()), data));
  }

  // What was written needs no memory of ours while the peer is slow to read the answer.
  static Task<void> WrittenAndUnread(ConnectionTest& test) {
    FakeInitiator& initiator = test.Connect({.capacity = 1500});
    const std::optional<LoginStatus> status = co_await initiator.Login({});
    EXPECT_EQ(status, LoginStatus::kSuccess);
    co_await initiator.Run(FakeInitiator::TestUnitReady());
    // Fills the stream, so that the write's answer stays behind it.
    const uint32_t read = co_await initiator.Start(FakeInitiator::Read10(0, 512));
    const std::vector<std::byte> data(4096, std::byte{7});
    const uint32_t write = co_await initiator.Start(FakeInitiator::Write10(1000, data));
    for (int i = 0; i < 100 && test.disk_->bytes()[1000 * kSectorBytes] != data[0]; ++i) {
      co_await Yield();
    }
    EXPECT_EQ(test.disk_->bytes()[1000 * kSectorBytes], data[0]);
    EXPECT_FALSE(initiator.Answered(write));
    EXPECT_EQ(test.memory_.used(), 0u);
    const Outcome read_outcome = co_await initiator.Finish(read);
    const Outcome write_outcome = co_await initiator.Finish(write);
    EXPECT_TRUE(read_outcome.good() && write_outcome.good());
  }

  static Task<void> ImmediateBound(ConnectionTest& test, SlowDevice& slow) {
    slow.Release();
    FakeInitiator* initiator = co_await Session(test);
    const Outcome attention = co_await initiator->Run(FakeInitiator::TestUnitReady(1));
    EXPECT_EQ(attention.sense_code(), 0x062900u);
    slow.Hold();
    std::vector<uint32_t> tags;
    for (uint32_t i = 0; i < kMaxImmediateCommands; ++i) {
      Command command = FakeInitiator::Read10(0, 1, 1);
      command.immediate = true;
      const uint32_t tag = co_await initiator->Start(command);
      tags.push_back(tag);
    }
    Command command = FakeInitiator::Read10(0, 1, 1);
    command.immediate = true;
    co_await initiator->Start(command);
    const std::optional<Pdu> reject = co_await initiator->ReceiveKind(Opcode::kReject);
    EXPECT_TRUE(reject.has_value());
    if (reject) {
      EXPECT_EQ(HeaderAs<RejectHeader>(reject->header).reason,
                RejectReason::kTooManyImmediateCommands);
    }
    slow.Release();
    for (const uint32_t tag : tags) {
      const Outcome outcome = co_await initiator->Finish(tag);
      EXPECT_TRUE(outcome.good());
    }
  }

  static Task<void> WindowCloses(ConnectionTest& test, SlowDevice& slow) {
    slow.Release();
    FakeInitiator* initiator = co_await Session(test);
    co_await initiator->Run(FakeInitiator::TestUnitReady(1));
    slow.Hold();
    std::vector<uint32_t> tags;
    while (!SerialLess(initiator->max_cmd_sn(), initiator->cmd_sn())) {
      const uint32_t tag = co_await initiator->Start(FakeInitiator::Read10(0, 1, 1));
      tags.push_back(tag);
    }
    EXPECT_EQ(tags.size(), kCommandWindow);
    const bool alive = co_await initiator->Ping();
    EXPECT_TRUE(alive);
    EXPECT_EQ(initiator->max_cmd_sn(), initiator->exp_cmd_sn() - 1);
    slow.Release();
    for (const uint32_t tag : tags) {
      const Outcome outcome = co_await initiator->Finish(tag);
      EXPECT_TRUE(outcome.good());
    }
    const bool still = co_await initiator->Ping();
    EXPECT_TRUE(still);
    EXPECT_EQ(initiator->max_cmd_sn(), initiator->exp_cmd_sn() + kCommandWindow - 1);
  }

  static Task<void> LunsComeAndGo(ConnectionTest& test, std::shared_ptr<scsi::Lun> second) {
    FakeInitiator* initiator = co_await Session(test);
    Outcome outcome = co_await initiator->Run(FakeInitiator::TestUnitReady(5));
    EXPECT_EQ(outcome.sense_code(), 0x052500u);
    EXPECT_TRUE(test.directory_.AddLun(kTestTarget, 5, std::move(second), false).ok());
    outcome = co_await initiator->Run(FakeInitiator::TestUnitReady(0));
    EXPECT_EQ(outcome.sense_code(), 0x063f0eu);
    outcome = co_await initiator->Run(FakeInitiator::TestUnitReady(5));
    EXPECT_EQ(outcome.sense_code(), 0x062900u);
    outcome = co_await initiator->Run(FakeInitiator::TestUnitReady(5));
    EXPECT_TRUE(outcome.good());
  }

  static Command ReportLuns(uint8_t select_report) {
    Command command;
    command.cdb = {0xa0, 0, select_report, 0, 0, 0, 0, 0, 0, 64};
    command.direction = scsi::DataDirection::kIn;
    command.expected = 64;
    return command;
  }
  static Task<void> LunsChangeIsToldOnce(ConnectionTest& test, std::shared_ptr<scsi::Lun> second,
                                         std::shared_ptr<scsi::Lun> third) {
    FakeInitiator* one = co_await Session(test);
    InitiatorOptions options;
    options.isid = 0x800000000002;
    FakeInitiator* other = co_await Session(test, options);
    EXPECT_TRUE(test.directory_.AddLun(kTestTarget, 5, std::move(second), false).ok());
    Outcome outcome = co_await one->Run(ReportLuns(0));
    EXPECT_EQ(outcome.data.size(), 24u);
    outcome = co_await one->Run(FakeInitiator::TestUnitReady(0));
    EXPECT_TRUE(outcome.good());
    outcome = co_await one->Run(FakeInitiator::TestUnitReady(5));
    EXPECT_EQ(outcome.sense_code(), 0x062900u);

    EXPECT_TRUE(test.directory_.AddLun(kTestTarget, 6, std::move(third), false).ok());
    outcome = co_await one->Run(ReportLuns(0x77));
    EXPECT_EQ(outcome.sense_code(), 0x052400u);
    outcome = co_await one->Run(FakeInitiator::TestUnitReady(5));
    EXPECT_EQ(outcome.sense_code(), 0x063f0eu);
    outcome = co_await one->Run(FakeInitiator::TestUnitReady(0));
    EXPECT_TRUE(outcome.good());
    outcome = co_await other->Run(FakeInitiator::TestUnitReady(0));
    EXPECT_EQ(outcome.sense_code(), 0x063f0eu);
  }

  // On LUN 5: a write whose data came to the half, reads whose answers are not taken, a command
  // whose turn does not come.
  static Task<void> Stall(ConnectionTest& test) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    options.data_digest = true;  // or the device would lend what is read
    FakeInitiator* initiator = co_await Session(test, options, {.capacity = 1500});
    co_await initiator->Run(FakeInitiator::TestUnitReady(5));
    initiator->hold_requests = true;
    const std::vector<std::byte> data(4096, std::byte{1});
    const uint32_t write = co_await initiator->Start(FakeInitiator::Write10(0, data, 5));
    while (initiator->held_requests.empty()) co_await initiator->Step();
    for (int i = 0; i < 4; ++i) co_await initiator->Start(FakeInitiator::Read10(0, 256, 5));
    ++initiator->cmd_sn();
    co_await initiator->Start(FakeInitiator::TestUnitReady(5));
    DataOutHeader header;
    header.flags = kFinalBit;
    header.initiator_task_tag = write;
    header.target_transfer_tag = initiator->held_requests.front().target_transfer_tag;
    header.data_segment_length = static_cast<uint32_t>(data.size());
    co_await initiator->SendBytes(std::as_bytes(header.bytes()));
    co_await initiator->SendBytes(std::span(data).first(1000));
    for (int i = 0; i < 10; ++i) co_await Yield();
    EXPECT_GE(test.memory_.used(), 4u * 256 * kSectorBytes);
  }

  static Task<void> LunIsGone(ConnectionTest& test) {
    FakeInitiator* initiator = test.initiators_.back().get();
    const Outcome outcome = co_await initiator->Run(FakeInitiator::TestUnitReady(5));
    EXPECT_EQ(outcome.sense_code(), 0x052500u);
  }
};

TEST_F(ConnectionTest, ASessionGoesFromLoginToLogout) { pool_->RunOn(0, LoginToLogout(*this)); }

struct TransferCase {
  const char* name;
  InitiatorOptions options;
};
class TransferTest : public ConnectionTest, public testing::WithParamInterface<TransferCase> {};

// RFC 7143 §13: the smallest that may be agreed on, and what the field uses.
const TransferCase kTransferCases[] = {
    {"Defaults", {}},
    {"Digests", {.header_digest = true, .data_digest = true}},
    {"OnlyRequested", {.initial_r2t = true, .immediate_data = false}},
    {"OnlyImmediate", {.initial_r2t = true, .immediate_data = true}},
    {"OnlyUnsolicited", {.initial_r2t = false, .immediate_data = false}},
    {"TinySegments", {.max_recv_segment_bytes = 512, .send_segment_bytes = 512}},
    {"OddSegments",
     {.header_digest = true,
      .data_digest = true,
      .max_recv_segment_bytes = 1001,
      .send_segment_bytes = 999}},
    {"TinyBursts",
     {.max_recv_segment_bytes = 65536, .max_burst_bytes = 1024, .first_burst_bytes = 512}},
    {"OddBursts",
     {.data_digest = true,
      .max_recv_segment_bytes = 777,
      .max_burst_bytes = 5001,
      .first_burst_bytes = 1234,
      .send_segment_bytes = 801}},
    {"ManyRequests",
     {.initial_r2t = true,
      .immediate_data = false,
      .max_burst_bytes = 4096,
      .first_burst_bytes = 4096,
      .max_outstanding_r2t = 8}},
    {"OpenIscsi",
     {.max_recv_segment_bytes = 262144, .max_burst_bytes = 16776192, .first_burst_bytes = 262144}},
};

TEST_P(TransferTest, EveryByteArrives) {
  pool_->RunOn(0, Shadow(*this, GetParam().options, {},
                         {1, 2, 7, 8, 15, 16, 17, 64, 128, 129, 512, 2048, 8187}));
}

TEST_P(TransferTest, EveryByteArrivesOneByOne) {
  pool_->RunOn(0, Shadow(*this, GetParam().options, {.read_max = 1}, {1, 3, 16}));
}

TEST_P(TransferTest, EveryByteArrivesThroughANarrowPipe) {
  pool_->RunOn(
      0, Shadow(*this, GetParam().options, {.capacity = 1500, .read_max = 1460}, {1, 9, 64, 300}));
}

INSTANTIATE_TEST_SUITE_P(Agreements, TransferTest, testing::ValuesIn(kTransferCases),
                         [](const auto& info) { return info.param.name; });

TEST_F(ConnectionTest, ManyCommandsAreAtWorkAtOnce) { pool_->RunOn(0, ManyAtOnce(*this)); }
TEST_F(ConnectionTest, ResidualsAreToldOnEveryCommand) { pool_->RunOn(0, Residuals(*this)); }
TEST_F(ConnectionTest, CommandsCountByTheirNumbers) { pool_->RunOn(0, CommandNumbers(*this)); }
TEST_F(ConnectionTest, CommandNumbersWrapAround) { pool_->RunOn(0, WrapAround(*this)); }
TEST_F(ConnectionTest, APingComesBackAsItWas) { pool_->RunOn(0, Pings(*this)); }
TEST_F(ConnectionTest, ADiscoverySessionListsTargetsAndRunsNothing) {
  pool_->RunOn(0, Discovery(*this));
}
TEST_F(ConnectionTest, ADigestErrorCostsACommandOrTheConnection) {
  pool_->RunOn(0, BadDigests(*this));
}
TEST_F(ConnectionTest, WrongDataOutFailsItsCommandOnly) { pool_->RunOn(0, WrongDataOut(*this)); }
TEST_F(ConnectionTest, ImmediateDataThatWasNotAgreedFailsTheCommand) {
  pool_->RunOn(0, UnexpectedData(*this));
}
TEST_F(ConnectionTest, WhatTheTargetRefusesItTellsInTheFormatOfTheUnit) {
  pool_->RunOn(0, DescriptorSense(*this));
}
TEST_F(ConnectionTest, WithoutMemoryDataOnItsWayIsRefusedAndTheRestWaits) {
  pool_->RunOn(0, MemoryRunsOut(*this));
}

TEST_F(ConnectionTest, WhoWaitsForMemoryEndsWithItsConnection) {
  pool_->RunOn(0, EndWhileMemoryIsAwaited(*this));
}
TEST_F(ConnectionTest, WhatADeviceLendsTakesNoMemory) { pool_->RunOn(0, Lent(*this, false)); }
TEST_F(ConnectionTest, WhatHasADigestIsCopied) { pool_->RunOn(0, Lent(*this, true)); }
TEST_F(ConnectionTest, AWriteWaitsForAllBytesOfItsLastDataOut) {
  pool_->RunOn(0, HalfOfTheLastDataOut(*this));
}
TEST_F(ConnectionTest, ACommandAnsweredInTheMiddleOfItsDataEnds) {
  pool_->RunOn(0, AnsweredInTheMiddleOfData(*this));
}
TEST_F(ConnectionTest, WhatIsWrittenNeedsNoMemory) { pool_->RunOn(0, WrittenAndUnread(*this)); }

class SlowUnitTest : public ConnectionTest {
 protected:
  SlowDevice* const slow_ = AddSlowUnit(1);
};

TEST_F(SlowUnitTest, ImmediateCommandsAreBounded) {
  pool_->RunOn(0, ImmediateBound(*this, *slow_));
}
TEST_F(SlowUnitTest, TheWindowClosesWhenFullAndOpensAgain) {
  pool_->RunOn(0, WindowCloses(*this, *slow_));
}

TEST_F(ConnectionTest, AWriteThatWasPlannedWithoutBlocksIsSentAgain) {
  pool_->RunOn(0, BlocksBecomeKnownWhileDataComes(*this));
}
TEST_F(ConnectionTest, ALunThatIsTakenAwayIsLetGoWhateverItsPeersDo) {
  auto device = *MemoryDevice::Create(SectorCount(256));
  std::shared_ptr<scsi::Lun> unit = UnitOver(*device, "other");
  const std::weak_ptr<scsi::Lun> watched = unit;
  EXPECT_TRUE(directory_.AddLun(kTestTarget, 5, std::move(unit), false).ok());
  pool_->RunOn(0, Stall(*this));
  EXPECT_TRUE(directory_.RemoveLun(kTestTarget, 5).ok());
  EXPECT_TRUE(watched.expired());
}
TEST_F(ConnectionTest, SessionsSeeLunsComeAndGo) {
  auto other = *MemoryDevice::Create(SectorCount(64));
  pool_->RunOn(0, LunsComeAndGo(*this, UnitOver(*other, "other")));
  EXPECT_TRUE(directory_.RemoveLun(kTestTarget, 5).ok());
  pool_->RunOn(0, LunIsGone(*this));
}
TEST_F(ConnectionTest, ASessionHearsOnceThatLunsChangedOnWhateverUnit) {
  auto other = *MemoryDevice::Create(SectorCount(64));
  pool_->RunOn(0,
               LunsChangeIsToldOnce(*this, UnitOver(*other, "other"), UnitOver(*other, "third")));
}

}  // namespace
}  // namespace sectormap::iscsi
