// SPDX-License-Identifier: Apache-2.0
#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

class BlockCommandsTest : public UnitTest {
 protected:
  void SetUp() override {
    UnitTest::SetUp();
    a_ = &Login(1);
  }
  Answer Do(const CdbBytes& cdb, const Bytes8& data = {}) { return Run(*a_, cdb, data); }
  Initiator* a_ = nullptr;
};

TEST_F(BlockCommandsTest, EveryReadGivesWhatEveryWriteWrote) {
  EXPECT_GOOD(Do(Cdb({0x0a, 0, 0, 1, 2}), Fill(2, 0x11)));
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 3, 2), Fill(2, 0x22)));
  EXPECT_GOOD(Do(Cdb12(0xaa, 0, 5, 2), Fill(2, 0x33)));
  EXPECT_GOOD(Do(Cdb16(0x8a, 0, 7, 2), Fill(2, 0x44)));
  for (const CdbBytes& cdb : {Cdb({0x08, 0, 0, 0, 9}), Cdb10(0x28, 0, 0, 9), Cdb12(0xa8, 0, 0, 9),
                              Cdb16(0x88, 0, 0, 9)}) {
    const Answer answer = Do(cdb);
    ASSERT_TRUE(answer.good()) << answer;
    ASSERT_EQ(answer.data.size(), 9 * kTestBlockBytes);
    for (size_t block = 0; block < 9; ++block) {
      EXPECT_EQ(answer.data[block * kTestBlockBytes], ((block + 1) / 2) * 0x11) << block;
    }
  }
}

TEST_F(BlockCommandsTest, ReadsInPlaceGiveTheSameBytes) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 3, 2), Fill(2, 0x22)));
  disk_->lends = true;
  for (const CdbBytes& cdb : {Cdb({0x08, 0, 0, 3, 2}), Cdb10(0x28, 0, 3, 2), Cdb12(0xa8, 0, 3, 2),
                              Cdb16(0x88, 0, 3, 2)}) {
    EXPECT_EQ(Do(cdb).data, Fill(2, 0x22));
  }
  EXPECT_EQ(in_place_, 4);
  EXPECT_TRUE(Do(Cdb10(0x28, 0, 3, 0)).data.empty());
  EXPECT_EQ(in_place_, 5);
  EXPECT_EQ(disk_->submitted[static_cast<int>(IoOp::kRead)], 0);
}

TEST_F(BlockCommandsTest, ReadsInPlaceAreRefusedAsAllOthers) {
  disk_->lends = true;
  EXPECT_FAILS(Do(Cdb10(0x28, 0, kBlocks, 1)), kLbaOutOfRange);
  EXPECT_FAILS(Do(Cdb10(0x28, 0x01, 0, 1)), kInvalidFieldInCdb);
  Initiator& b = Login(2, 1, /*read_only=*/false, /*keep_attention=*/true);
  EXPECT_FAILS(Run(b, Cdb10(0x28, 0, 0, 1)), kPowerOn);
  EXPECT_GOOD(Run(b, Cdb10(0x28, 0, 0, 1)));
  EXPECT_GOOD(Do(Cdb({0x16})));
  EXPECT_CONFLICT(Run(b, Cdb10(0x28, 0, 0, 1)));
}

TEST_F(BlockCommandsTest, OnlyReadsAreInPlace) {
  disk_->lends = true;
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 3, 1), Fill(1, 0x22)));
  EXPECT_GOOD(Do(Cdb10(0x25, 0, 0, 0)));
  EXPECT_GOOD(Do(Cdb({0x12, 0, 0, 0, 36})));
  EXPECT_GOOD(Do(Cdb10(0x2f, 0, 3, 1)));
  EXPECT_EQ(in_place_, 0);
}

TEST_F(BlockCommandsTest, WritesAtOnceLeaveTheSameBytes) {
  disk_->writes_at_once = true;
  uint8_t value = 0x11;
  for (const CdbBytes& cdb : {Cdb({0x0a, 0, 0, 3, 2}), Cdb10(0x2a, 0, 3, 2), Cdb12(0xaa, 0, 3, 2),
                              Cdb16(0x8a, 0, 3, 2)}) {
    EXPECT_GOOD(Do(cdb, Fill(2, ++value)));
    EXPECT_EQ(Do(Cdb10(0x28, 0, 3, 2)).data, Fill(2, value));
    EXPECT_EQ(ByteOnDisk(2), 0);
    EXPECT_EQ(ByteOnDisk(5), 0);
  }
  EXPECT_EQ(in_place_, 4);
  EXPECT_EQ(disk_->submitted[static_cast<int>(IoOp::kWrite)], 0);
}

TEST_F(BlockCommandsTest, WritesAtOnceAreRefusedAsAllOthers) {
  disk_->writes_at_once = true;
  EXPECT_FAILS(Do(Cdb10(0x2a, 0, kBlocks, 1), Fill(1, 1)), kLbaOutOfRange);
  EXPECT_FAILS(Do(Cdb10(0x2a, 0x01, 0, 1), Fill(1, 1)), kInvalidFieldInCdb);
  Initiator& b = Login(2, 1, /*read_only=*/false, /*keep_attention=*/true);
  EXPECT_FAILS(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 1)), kPowerOn);
  EXPECT_GOOD(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 2)));
  EXPECT_GOOD(Do(Cdb({0x16})));
  EXPECT_CONFLICT(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 3)));
  Initiator& reader = Login(3, 0, /*read_only=*/true);
  EXPECT_GOOD(Do(Cdb({0x17})));
  EXPECT_FAILS(Run(reader, Cdb10(0x2a, 0, 0, 1), Fill(1, 4)), kWriteProtected);
  EXPECT_EQ(ByteOnDisk(0), 2);
}

// The medium is asked for by FUA, a part of a block cannot be written, the others do more than
// write.
TEST_F(BlockCommandsTest, OnlyPlainWritesAreAtOnce) {
  disk_->writes_at_once = true;
  EXPECT_GOOD(Do(Cdb10(0x2a, 0x08, 3, 1), Fill(1, 1)));
  EXPECT_EQ(disk_->fua_writes, 1);
  EXPECT_FAILS(Do(Cdb10(0x2a, 0, 3, 2), Bytes8(700, 1)), kInvalidFieldInInformationUnit);
  EXPECT_GOOD(Do(Cdb10(0x2e, 0, 3, 1), Fill(1, 1)));
  EXPECT_GOOD(Do(CompareAndWriteCdb(3, 1), Fill(2, 1)));
  EXPECT_EQ(in_place_, 0);
}

TEST_F(BlockCommandsTest, SixByteLengthZeroIs256Blocks) {
  EXPECT_EQ(Do(Cdb({0x08, 0, 0, 0, 0})).data.size(), 256 * kTestBlockBytes);
}

TEST_F(BlockCommandsTest, WorksTheSameWhenTheDiskSuspends) {
  disk_->suspends = true;
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 3, 2), Fill(2, 0x22)));
  const Answer answer = Do(Cdb10(0x28, 0, 3, 2));
  ASSERT_EQ(answer.data.size(), 2 * kTestBlockBytes);
  EXPECT_EQ(answer.data[1023], 0x22);
}

TEST_F(BlockCommandsTest, RangesPastTheEndAreRefused) {
  for (int opcode : {0x28, 0x2a, 0x2e, 0x34, 0x35}) {
    EXPECT_FAILS(Do(Cdb10(opcode, 0, kBlocks, 1), Fill(1, 0)), kLbaOutOfRange);
    EXPECT_FAILS(Do(Cdb10(opcode, 0, kBlocks - 1, 2), Fill(2, 0)), kLbaOutOfRange);
    EXPECT_FAILS(Do(Cdb10(opcode, 0, kBlocks + 1, 0)), kLbaOutOfRange);
    EXPECT_FAILS(Do(Cdb10(opcode, 0, UINT32_MAX, 1), Fill(1, 0)), kLbaOutOfRange);
  }
  for (int opcode : {0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93}) {
    EXPECT_FAILS(Do(Cdb16(opcode, 0, kBlocks, 1), Fill(1, 0)), kLbaOutOfRange);
    EXPECT_FAILS(Do(Cdb16(opcode, 0, UINT64_MAX, 1), Fill(1, 0)), kLbaOutOfRange);
    EXPECT_FAILS(Do(Cdb16(opcode, 0, UINT64_MAX, UINT32_MAX)), kLbaOutOfRange);
    EXPECT_FAILS(Do(Cdb16(opcode, 0, uint64_t{1} << 63, 0)), kLbaOutOfRange);
  }
  EXPECT_FAILS(Do(CompareAndWriteCdb(kBlocks, 1), Fill(2, 0)), kLbaOutOfRange);
  EXPECT_FAILS(Do(Cdb16(0x9e, 0x12, kBlocks, 24)), kLbaOutOfRange);
}

TEST_F(BlockCommandsTest, NoBlocksAtTheEndIsGood) {
  EXPECT_GOOD(Do(Cdb10(0x28, 0, kBlocks, 0)));
  EXPECT_GOOD(Do(Cdb16(0x8a, 0, kBlocks, 0)));
  EXPECT_GOOD(Do(Cdb16(0x8b, 0, 0, 0)));
  // What an initiator sends that asked for 256 blocks in a field of one byte.
  EXPECT_FAILS(Do(CompareAndWriteCdb(0, 0)), kInvalidFieldInCdb);
}

TEST_F(BlockCommandsTest, TransfersAboveTheLimitAreRefusedAndPlanNothing) {
  disk_ = std::make_unique<BendableDisk>(SectorCount(1 << 20));
  initiators_.clear();
  MakeUnit({});
  a_ = &Login(1);
  const uint32_t most = kMaxTransferBytes / kTestBlockBytes;
  EXPECT_GOOD(Do(Cdb16(0x88, 0, 0, most)));
  EXPECT_EQ(unit_->Plan(Cdb16(0x88, 0, 0, most + 1)).bytes, 0u);
  EXPECT_FAILS(Do(Cdb16(0x88, 0, 0, most + 1)), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb16(0x8a, 0, 0, most + 1)), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb16(0x8f, 0, 0, most + 1)), kInvalidFieldInCdb);
}

TEST_F(BlockCommandsTest, ProtectionAndReservedBitsAreRefusedAndPointedAt) {
  for (int protect = 1; protect < 8; ++protect) {
    for (int opcode : {0x28, 0x2a, 0x2e, 0x2f, 0x41}) {
      const Answer answer = Do(Cdb10(opcode, protect << 5, 0, 1), Fill(1, 0));
      EXPECT_TRUE(answer.FailedWith(kInvalidFieldInCdb)) << answer;
      EXPECT_EQ(answer.sense.bytes[15], 0xc0);
      EXPECT_EQ(answer.sense.bytes[17], 1);
    }
  }
  CdbBytes naca = Cdb10(0x28, 0, 0, 1);
  naca[9] = 0x04;
  EXPECT_FAILS(Do(naca), kInvalidFieldInCdb);
}

TEST_F(BlockCommandsTest, DpoAndFuaAreTakenAndFuaReachesTheDisk) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0x18, 0, 1), Fill(1, 1)));
  EXPECT_EQ(disk_->fua_writes, 1);
  EXPECT_GOOD(Do(Cdb10(0x2a, 0x10, 0, 1), Fill(1, 1)));
  EXPECT_EQ(disk_->fua_writes, 1);
  EXPECT_GOOD(Do(Cdb10(0x28, 0x18, 0, 1)));
  EXPECT_GOOD(Do(CompareAndWriteCdb(0, 1, 0x08), Fill(2, 1)));
  EXPECT_EQ(disk_->fua_writes, 2);
}

TEST_F(BlockCommandsTest, ShortWriteDataWritesWholeBlocksOnly) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 2), Fill(2, 'a')));
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 1)));
  EXPECT_EQ(ByteOnDisk(0), 'a');
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 2), Fill(1, 'b')));
  EXPECT_EQ(ByteOnDisk(0), 'b');
  EXPECT_EQ(ByteOnDisk(1), 'a');
  EXPECT_FAILS(Do(Cdb10(0x2a, 0, 0, 1), Bytes8(200, 'c')), kInvalidFieldInInformationUnit);
  EXPECT_EQ(ByteOnDisk(0), 'b');
  EXPECT_GOOD(Do(Cdb10(0x2e, 0x02, 0, 2), Fill(1, 'd')));
  EXPECT_EQ(ByteOnDisk(0), 'd');
  EXPECT_EQ(ByteOnDisk(1), 'a');
}

TEST_F(BlockCommandsTest, CapacityIsTold) {
  const Answer ten = Do(Cdb({0x25}));
  ASSERT_EQ(ten.data.size(), 8u);
  EXPECT_EQ(ten.Number(0, 4), kBlocks - 1);
  EXPECT_EQ(ten.Number(4, 4), kTestBlockBytes);
  const Answer sixteen = Do(Cdb16(0x9e, 0x10, 0, 32));
  ASSERT_EQ(sixteen.data.size(), 32u);
  EXPECT_EQ(sixteen.Number(0, 8), kBlocks - 1);
  EXPECT_EQ(sixteen.Number(8, 4), kTestBlockBytes);
  EXPECT_EQ(sixteen.data[14], 0xc0);  // LBPME, LBPRZ
  for (uint32_t length = 0; length < 32; ++length) {
    EXPECT_EQ(Do(Cdb16(0x9e, 0x10, 0, length)).data.size(), length);
  }
}

TEST_F(BlockCommandsTest, PhysicalBlocksAreTold) {
  BlockLimits limits = disk_->limits();
  limits.physical_block_bytes = 4096;
  disk_->set_limits(limits);
  unit_->OnLimitsChanged();
  EXPECT_FAILS(Do(Cdb({0x00})), kInquiryDataChanged);
  EXPECT_EQ(Do(Cdb16(0x9e, 0x10, 0, 32)).data[13], 3);
}

// SBC-3 §5.16.2, §6.6.3: of a table that begins in the midst of a block, and of none.
TEST_F(BlockCommandsTest, WhereBlocksOfTheMediumBeginIsTold) {
  BlockLimits limits = disk_->limits();
  limits.physical_block_bytes = limits.discard_granularity_bytes = 4096;
  const auto with = [&](uint32_t physical, uint32_t discard) {
    limits.physical_alignment_bytes = physical;
    limits.discard_alignment_bytes = discard;
    disk_->set_limits(limits);
    unit_->OnLimitsChanged();
    EXPECT_FAILS(Do(Cdb({0x00})), kInquiryDataChanged);
  };
  const auto lowest = [&] { return Do(Cdb16(0x9e, 0x10, 0, 32)).Number(14, 2); };
  const auto granule = [&] { return Do(Cdb({0x12, 1, 0xb0, 0, 255})).Number(32, 4); };
  with(0, 0);
  EXPECT_EQ(lowest(), 0xc000u);
  EXPECT_EQ(granule(), 0x80000000u);
  with(512, 3584);
  EXPECT_EQ(lowest(), 0xc001u);
  EXPECT_EQ(granule(), 0x80000007u);
  with(kNotAligned, kNotAligned);
  EXPECT_EQ(lowest(), 0xc000u);
  EXPECT_EQ(granule(), 0u);
  with(0x4000 * kTestBlockBytes, 256);  // more than fits; no whole block
  EXPECT_EQ(lowest(), 0xc000u);
  EXPECT_EQ(granule(), 0u);
}

// What is written by one block size holds addresses of that size.
TEST_F(BlockCommandsTest, BlocksStayWhenTheMediumHasOthers) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 8, 1), Fill(1, 0x77)));
  BlockLimits limits = disk_->limits();
  limits.logical_block_bytes = 4096;
  limits.physical_block_bytes = 4096;
  disk_->set_limits(limits);
  initiators_.clear();
  MakeUnit({.block_bytes = kTestBlockBytes});
  a_ = &Login(1);
  const Answer capacity = Do(Cdb16(0x9e, 0x10, 0, 32));
  EXPECT_EQ(capacity.Number(0, 8), kBlocks - 1);
  EXPECT_EQ(capacity.Number(8, 4), kTestBlockBytes);
  EXPECT_EQ(capacity.data[13], 3);  // so that initiators align to the medium
  EXPECT_EQ(Do(Cdb10(0x28, 0, 8, 1)).data, Fill(1, 0x77));
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 9, 1), Fill(1, 0x78)));
  EXPECT_EQ(ByteOnDisk(9), 0x78);
  EXPECT_EQ(ByteOnDisk(10), 0);

  limits.logical_block_bytes = kTestBlockBytes;
  limits.physical_block_bytes = kTestBlockBytes;
  disk_->set_limits(limits);
  initiators_.clear();
  MakeUnit({.block_bytes = 4096});
  a_ = &Login(1);
  EXPECT_EQ(Do(Cdb({0x25})).Number(4, 4), 4096u);
  EXPECT_EQ(Do(Cdb16(0x9e, 0x10, 0, 32)).data[13], 0);
  EXPECT_EQ(Do(Cdb10(0x28, 0, 1, 1)).data[512], 0x78);
}

TEST_F(BlockCommandsTest, FourKilobyteBlocksAreAddressedAsSuch) {
  BlockLimits limits = disk_->limits();
  limits.logical_block_bytes = 4096;
  limits.physical_block_bytes = 4096;
  disk_->set_limits(limits);
  initiators_.clear();
  MakeUnit({.block_bytes = 4096});
  a_ = &Login(1);
  EXPECT_EQ(Do(Cdb({0x25})).Number(0, 4), kBlocks / 8 - 1);
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 1, 1), Bytes8(4096, 0x77)));
  EXPECT_EQ(ByteOnDisk(7), 0);
  EXPECT_EQ(ByteOnDisk(8), 0x77);
  EXPECT_EQ(ByteOnDisk(15), 0x77);
  EXPECT_FAILS(Do(Cdb10(0x28, 0, kBlocks / 8, 1)), kLbaOutOfRange);
}

TEST_F(BlockCommandsTest, VerifyComparesAsByteCheckSays) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 200), Fill(200, 'v')));
  EXPECT_GOOD(Do(Cdb10(0x2f, 0x02, 0, 200), Fill(200, 'v')));
  EXPECT_GOOD(Do(Cdb12(0xaf, 0x02, 0, 200), Fill(200, 'v')));
  EXPECT_GOOD(Do(Cdb16(0x8f, 0x06, 0, 200), Fill(1, 'v')));
  Bytes8 wrong = Fill(200, 'v');
  wrong[150 * kTestBlockBytes + 7] = 'w';
  const Answer answer = Do(Cdb10(0x2f, 0x02, 0, 200), wrong);
  EXPECT_TRUE(answer.FailedWith(kMiscompareDuringVerify)) << answer;
  EXPECT_EQ(answer.sense.bytes[0], 0xf0);
  EXPECT_EQ(BigEndian(std::span<const uint8_t>(answer.sense.bytes), 3, 4),
            150 * kTestBlockBytes + 7);
  EXPECT_GOOD(Do(Cdb10(0x2f, 0x00, 0, 200), wrong));
  EXPECT_FAILS(Do(Cdb10(0x2f, 0x06, 0, 200), Fill(1, 'w')), kMiscompareDuringVerify);
  EXPECT_FAILS(Do(Cdb10(0x2f, 0x04, 0, 1), Fill(1, 'v')), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb10(0x2f, 0x02, 0, 2), Fill(1, 'v')), kInvalidFieldInInformationUnit);
}

TEST_F(BlockCommandsTest, WriteAndVerifyReachesTheMedium) {
  for (const CdbBytes& cdb :
       {Cdb10(0x2e, 0x02, 0, 3), Cdb12(0xae, 0, 0, 3), Cdb16(0x8e, 0x12, 0, 3)}) {
    EXPECT_GOOD(Do(cdb, Fill(3, cdb[0])));
    EXPECT_EQ(ByteOnDisk(2, 511), cdb[0]);
  }
  EXPECT_EQ(disk_->fua_writes, 3);
}

TEST_F(BlockCommandsTest, OrWriteOrsOverTheWholeTransfer) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 10, 256), Fill(256, 0xa0)));
  EXPECT_GOOD(Do(Cdb16(0x8b, 0, 10, 256), Fill(256, 0x05)));
  for (uint64_t block : {10, 137, 138, 265}) EXPECT_EQ(ByteOnDisk(block, 511), 0xa5) << block;
  EXPECT_EQ(ByteOnDisk(266), 0);
}

TEST_F(BlockCommandsTest, CompareAndWriteWritesOnlyWhatMatches) {
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 255), Fill(255, 'A')));
  Bytes8 data = Fill(255, 'A');
  const Bytes8 second = Fill(255, 'B');
  data.insert(data.end(), second.begin(), second.end());
  data[254 * kTestBlockBytes + 500] = 'C';
  const Answer answer = Do(CompareAndWriteCdb(0, 255), data);
  EXPECT_TRUE(answer.FailedWith(kMiscompareDuringVerify)) << answer;
  EXPECT_EQ(BigEndian(std::span<const uint8_t>(answer.sense.bytes), 3, 4),
            254 * kTestBlockBytes + 500);
  EXPECT_EQ(ByteOnDisk(0), 'A');
  data[254 * kTestBlockBytes + 500] = 'A';
  EXPECT_GOOD(Do(CompareAndWriteCdb(0, 255), data));
  EXPECT_EQ(ByteOnDisk(0), 'B');
  EXPECT_EQ(ByteOnDisk(254, 511), 'B');
  EXPECT_EQ(ByteOnDisk(255), 0);
}

TEST_F(BlockCommandsTest, CompareAndWriteRefusesDataOfAnotherLength) {
  EXPECT_TRUE(unit_->Plan(CompareAndWriteCdb(0, 1)).exact);
  EXPECT_FAILS(Do(CompareAndWriteCdb(0, 1), Fill(4, 0)), kInvalidFieldInInformationUnit);
  EXPECT_FAILS(Do(CompareAndWriteCdb(0, 3), Fill(4, 0)), kInvalidFieldInInformationUnit);
}

TEST_F(BlockCommandsTest, SynchronizeCacheFlushesOnce) {
  EXPECT_GOOD(Do(Cdb10(0x35, 0, 0, 0)));
  EXPECT_GOOD(Do(Cdb16(0x91, 0x02, 5, 7)));
  EXPECT_EQ(disk_->submitted[static_cast<int>(IoOp::kFlush)], 2);
}

TEST_F(BlockCommandsTest, PreFetchIsGoodAndDoesNothing) {
  EXPECT_GOOD(Do(Cdb10(0x34, 0x02, 0, 0)));
  CdbBytes group = Cdb16(0x90, 0, 0, 1);
  group[14] = 3;
  EXPECT_GOOD(Do(group));
}

TEST_F(BlockCommandsTest, IoErrorsBecomeTheirSense) {
  const auto read = [&] { return Do(Cdb10(0x28, 0, 0, 1)); };
  const auto write = [&] { return Do(Cdb10(0x2a, 0, 0, 1), Fill(1, 1)); };
  disk_->status = IoStatus::kIoError;
  EXPECT_FAILS(read(), kUnrecoveredReadError);
  EXPECT_FAILS(write(), kWriteError);
  EXPECT_FAILS(Do(CompareAndWriteCdb(0, 1), Fill(2, 1)), kUnrecoveredReadError);
  disk_->status = IoStatus::kNoSpace;
  EXPECT_FAILS(write(), kSpaceAllocationFailed);
  disk_->status = IoStatus::kReadOnly;
  EXPECT_FAILS(write(), kWriteProtected);
  disk_->status = IoStatus::kUnavailable;
  EXPECT_FAILS(read(), kManualInterventionRequired);
  EXPECT_FAILS(Do(Cdb10(0x35, 0, 0, 0)), kManualInterventionRequired);
  disk_->status = IoStatus::kOk;
  EXPECT_GOOD(read());
}

TEST_F(BlockCommandsTest, WithoutATableTheUnitIsNotReady) {
  disk_->set_size(SectorCount(0));
  for (const CdbBytes& cdb : {Cdb({0x00}), Cdb10(0x28, 0, 0, 1), Cdb10(0x28, 0, 0, 0), Cdb({0x25}),
                              Cdb16(0x9e, 0x10, 0, 32), Cdb16(0x9e, 0x12, 0, 24)}) {
    EXPECT_FAILS(Do(cdb), kManualInterventionRequired);
  }
  EXPECT_GOOD(Do(Cdb({0x12, 0, 0, 0, 96})));
  EXPECT_GOOD(Do(Cdb({0x1a, 0, 0x3f, 0, 255})));
}

TEST_F(BlockCommandsTest, WriteProtectionStopsEveryCommandThatModifies) {
  Initiator& reader = Login(2, 0, true);
  const std::vector<CdbBytes> modifying = {
      Cdb({0x0a, 0, 0, 0, 1}),  Cdb10(0x2a, 0, 0, 1), Cdb12(0xaa, 0, 0, 1),    Cdb16(0x8a, 0, 0, 1),
      Cdb10(0x2e, 0, 0, 1),     Cdb12(0xae, 0, 0, 1), Cdb16(0x8e, 0, 0, 1),    Cdb16(0x8b, 0, 0, 1),
      CompareAndWriteCdb(0, 1), Cdb10(0x41, 0, 0, 1), Cdb10(0x41, 0x08, 0, 1), Cdb16(0x93, 0, 0, 1),
      Cdb16(0x93, 0x08, 0, 1),  Cdb10(0x42, 0, 0, 24)};
  for (const CdbBytes& cdb : modifying) {
    EXPECT_FAILS(Run(reader, cdb, Fill(1, 1)), kWriteProtected);
  }
  EXPECT_GOOD(Run(reader, Cdb10(0x28, 0, 0, 1)));
  EXPECT_EQ(Run(reader, Cdb({0x1a, 0, 0x3f, 0, 255})).data[2] & 0x80, 0x80);
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 1), Fill(1, 1)));
  // The device turns read-only under a nexus that could write.
  disk_read_only_ = true;
  unit_->OnReadOnlyChanged();
  EXPECT_FAILS(Do(Cdb({0x00})), kModeParametersChanged);
  EXPECT_FAILS(Do(Cdb10(0x2a, 0, 0, 1), Fill(1, 1)), kWriteProtected);
}

}  // namespace
}  // namespace sectormap::scsi
