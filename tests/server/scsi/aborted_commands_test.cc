// SPDX-License-Identifier: Apache-2.0
// Commands that were aborted while the device has them, and those that come after them.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "tests/server/scsi/unit_fixture.h"
#include "tests/support/slow_device.h"

namespace sectormap::scsi {
namespace {

constexpr uint64_t kLba = 100;
constexpr uint8_t kBlocks = 8;

// All commands that modify the medium, over the same blocks.
struct Modifying {
  std::string name;
  CdbBytes cdb;
  Bytes8 data;
  bool is_exclusive = false;  // it holds its range, aborted or not

  bool unmaps() const { return cdb[0] == 0x42; }
};

Bytes8 Filled(size_t blocks, uint8_t value) { return Bytes8(blocks * kTestBlockBytes, value); }

Bytes8 UnmapList(std::initializer_list<uint64_t> lbas) {
  Bytes8 list(8 + 16 * lbas.size());
  list[1] = static_cast<uint8_t>(list.size() - 2);
  list[3] = static_cast<uint8_t>(list.size() - 8);
  size_t at = 8;
  for (const uint64_t lba : lbas) {
    list[at + 7] = static_cast<uint8_t>(lba);
    list[at + 11] = kBlocks;
    at += 16;
  }
  return list;
}

CdbBytes UnmapCdb(const Bytes8& list) {
  return Cdb10(0x42, 0, 0, static_cast<uint16_t>(list.size()));
}

std::vector<Modifying> AllModifying(uint8_t value) {
  const Bytes8 data = Filled(kBlocks, value);
  const Bytes8 unmap_list = UnmapList({kLba});
  // What is compared first: a medium that nobody has written.
  Bytes8 compare_and_write = Filled(kBlocks, 0);
  compare_and_write.insert(compare_and_write.end(), data.begin(), data.end());
  return {{"WRITE", Cdb10(0x2a, 0, kLba, kBlocks), data},
          {"WRITE with FUA", Cdb10(0x2a, 0x08, kLba, kBlocks), data},
          {"WRITE AND VERIFY", Cdb10(0x2e, 0, kLba, kBlocks), data},
          {"WRITE SAME", Cdb10(0x41, 0, kLba, kBlocks), Filled(1, value)},
          {"WRITE SAME of zeros", Cdb10(0x41, 0, kLba, kBlocks), Filled(1, 0)},
          {"UNMAP", UnmapCdb(unmap_list), unmap_list},
          {"COMPARE AND WRITE", CompareAndWriteCdb(kLba, kBlocks), compare_and_write, true},
          {"ORWRITE", Cdb16(0x8b, 0, kLba, kBlocks), data, true}};
}

// A command at work, as a transport keeps it.
struct Running {
  AbortSignal abort;
  std::vector<std::byte> buffer;
  ScsiResult result;
  std::atomic<bool> ended{false};
};

class AbortedCommandsTest : public testing::Test {
 protected:
  void SetUp() override {
    pool_ = *ReactorPool::Start(2, clock_);
    disk_ = *MemoryDevice::Create(SectorCount(4096));
    slow_ = std::make_unique<SlowDevice>(disk_);
    UnitBacking backing;
    backing.device = slow_.get();
    backing.identity = "slow";
    unit_ = *LogicalUnit::Create(std::move(backing), *pool_, {});
    for (int reactor : {0, 1}) {
      nexuses_[reactor] = pool_->RunOn(reactor, AttachOne(*unit_, reactor));
      (void)unit_->TakeAttention(*nexuses_[reactor]);
    }
  }
  void TearDown() override {
    slow_->Release();
    for (auto& command : commands_) Await(*command);
    for (LunNexusPtr& nexus : nexuses_) nexus.reset();
    unit_.reset();
    Settle();
  }

  static Task<LunNexusPtr> AttachOne(LogicalUnit& unit, int number) {
    NexusIdentity identity;
    identity.initiator_port = "i" + std::to_string(number);
    identity.target_port = "t";
    co_return unit.Attach(identity, 0, false, nullptr);
  }

  Running& Start(int reactor, const CdbBytes& cdb, const Bytes8& data) {
    commands_.push_back(std::make_unique<Running>());
    Running& command = *commands_.back();
    const auto bytes = std::as_bytes(std::span(data));
    command.buffer.assign(bytes.begin(), bytes.end());
    (*pool_)[reactor].Spawn(Run(*unit_, *nexuses_[reactor], cdb, command));
    return command;
  }
  Running& Start(int reactor, const Modifying& what) { return Start(reactor, what.cdb, what.data); }

  static Task<void> Run(LogicalUnit& unit, LunNexus& nexus, CdbBytes cdb, Running& command) {
    command.result = co_await unit.Execute(nexus, cdb, command.buffer, command.abort);
    command.ended = true;
  }

  void Abort(int reactor, Running& command) { pool_->RunOn(reactor, Raise(command)); }
  static Task<void> Raise(Running& command) {
    command.abort.Raise();
    co_return;
  }

  static void Await(const Running& command) {
    while (!command.ended) std::this_thread::yield();
  }
  // Whatever can go on has gone on: an exclusive command takes three steps between reactors.
  void Settle() {
    for (int i = 0; i < 8; ++i) pool_->OnEach([](Reactor&) {});
  }

  uint8_t ByteAt(uint64_t block) {
    return static_cast<uint8_t>(disk_->bytes()[block * kTestBlockBytes]);
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  std::shared_ptr<MemoryDevice> disk_;
  std::unique_ptr<SlowDevice> slow_;
  std::shared_ptr<LogicalUnit> unit_;
  std::array<LunNexusPtr, 2> nexuses_;
  std::vector<std::unique_ptr<Running>> commands_;
};

TEST_F(AbortedCommandsTest, WhatIsWrittenAfterAnAbortedCommandStays) {
  const Modifying next = {"WRITE", Cdb10(0x2a, 0, kLba, kBlocks), Filled(kBlocks, 'N')};
  for (const Modifying& old : AllModifying('O')) {
    for (const int reactor : {0, 1}) {
      SCOPED_TRACE(old.name + " and a WRITE on reactor " + std::to_string(reactor));
      std::ranges::fill(disk_->bytes(), std::byte{0});
      slow_->Hold();
      Running& aborted = Start(0, old);
      slow_->WaitUntilHeld(1);
      Abort(0, aborted);
      Running& later = Start(reactor, next);
      Settle();
      EXPECT_EQ(slow_->held(), 1u);
      slow_->Release();
      Await(aborted);
      Await(later);
      EXPECT_EQ(later.result.status, ScsiStatus::kGood);
      EXPECT_EQ(ByteAt(kLba), 'N');
      EXPECT_EQ(ByteAt(kLba + kBlocks - 1), 'N');
    }
  }
}

TEST_F(AbortedCommandsTest, NoCommandThatModifiesPassesAnAbortedOne) {
  const Modifying old = {"WRITE", Cdb10(0x2a, 0, kLba, kBlocks), Filled(kBlocks, 0)};
  for (const Modifying& next : AllModifying('N')) {
    SCOPED_TRACE(next.name);
    std::ranges::fill(disk_->bytes(), std::byte{0});
    slow_->Hold();
    Running& aborted = Start(0, old);
    slow_->WaitUntilHeld(1);
    Abort(0, aborted);
    Running& later = Start(1, next);
    Settle();
    EXPECT_EQ(slow_->held(), 1u);
    slow_->Release();
    Await(later);
    EXPECT_EQ(later.result.status, ScsiStatus::kGood);
  }
}

TEST_F(AbortedCommandsTest, WhatIsElsewhereOrOnlyReadsPasses) {
  Running& aborted = Start(0, Cdb10(0x2a, 0, kLba, kBlocks), Filled(kBlocks, 'O'));
  slow_->WaitUntilHeld(1);
  Abort(0, aborted);
  Start(1, Cdb10(0x2a, 0, kLba + kBlocks, kBlocks), Filled(kBlocks, 'N'));
  slow_->WaitUntilHeld(2);
  Start(1, Cdb10(0x28, 0, kLba, kBlocks), Filled(kBlocks, 0));
  slow_->WaitUntilHeld(3);
  // The device copies what it reads and writes without a lock: not both at once.
  EXPECT_TRUE(slow_->ReleaseOne());
  Await(aborted);
}

TEST_F(AbortedCommandsTest, WhatWaitsAndIsAbortedTooIsNotDone) {
  const Modifying old = {"WRITE", Cdb10(0x2a, 0, kLba, kBlocks), Filled(kBlocks, 'O')};
  for (const Modifying& next : AllModifying('N')) {
    SCOPED_TRACE(next.name);
    std::ranges::fill(disk_->bytes(), std::byte{0});
    slow_->Hold();
    Running& first = Start(0, old);
    slow_->WaitUntilHeld(1);
    Abort(0, first);
    Running& second = Start(1, next);
    Settle();
    Abort(1, second);
    // Task management waits for it, and must not have to wait for the device.
    if (!next.is_exclusive) Await(second);
    slow_->Release();
    Await(second);
    Await(first);
    EXPECT_EQ(second.result.status, ScsiStatus::kTaskAborted);
    EXPECT_EQ(ByteAt(kLba), 'O');
  }
}

TEST_F(AbortedCommandsTest, AnUnmapThatIsAbortedGoesNoFurther) {
  std::ranges::fill(disk_->bytes(), std::byte{'D'});
  const Bytes8 list = UnmapList({kLba, kLba + kBlocks});
  Running& unmap = Start(0, UnmapCdb(list), list);
  slow_->WaitUntilHeld(1);
  Abort(0, unmap);
  slow_->Release();
  Await(unmap);
  EXPECT_EQ(ByteAt(kLba), 0);
  EXPECT_EQ(ByteAt(kLba + kBlocks), 'D');
}

// Several at once, of which some are equal: each holds until it has ended itself.
TEST_F(AbortedCommandsTest, TheLastOfSeveralAbortedCommandsHolds) {
  for (int i = 0; i < 3; ++i) {
    Start(0, Cdb10(0x2a, 0, kLba, kBlocks), Filled(kBlocks, 'O'));
  }
  slow_->WaitUntilHeld(3);
  for (auto& command : commands_) Abort(0, *command);
  Running& later = Start(1, Cdb10(0x2a, 0, kLba, kBlocks), Filled(kBlocks, 'N'));
  for (size_t left = 3; left != 0; --left) {
    Settle();
    EXPECT_EQ(slow_->held(), left);
    EXPECT_TRUE(slow_->ReleaseOne());
  }
  slow_->WaitUntilHeld(1);
  EXPECT_FALSE(later.ended);
  slow_->Release();
  Await(later);
  EXPECT_EQ(ByteAt(kLba), 'N');
}

}  // namespace
}  // namespace sectormap::scsi
