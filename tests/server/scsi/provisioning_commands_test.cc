// SPDX-License-Identifier: Apache-2.0
#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

class ProvisioningTest : public UnitTest {
 protected:
  void SetUp() override {
    UnitTest::SetUp();
    a_ = &Login(1);
  }
  Answer Do(const CdbBytes& cdb, const Bytes8& data = {}) { return Run(*a_, cdb, data); }
  int Submitted(IoOp op) { return disk_->submitted[static_cast<int>(op)]; }
  Initiator* a_ = nullptr;

  struct Range {
    uint64_t lba;
    uint32_t blocks;
  };
  static Bytes8 UnmapList(const std::vector<Range>& ranges) {
    Bytes8 list(8 + 16 * ranges.size());
    const auto put = [&](size_t at, size_t width, uint64_t value) {
      for (size_t i = 0; i < width; ++i)
        list[at + i] = static_cast<uint8_t>(value >> (8 * (width - 1 - i)));
    };
    put(0, 2, list.size() - 2);
    put(2, 2, list.size() - 8);
    for (size_t i = 0; i < ranges.size(); ++i) {
      put(8 + 16 * i, 8, ranges[i].lba);
      put(16 + 16 * i, 4, ranges[i].blocks);
    }
    return list;
  }
  Answer Unmap(const Bytes8& list) {
    return Do(Cdb10(0x42, 0, 0, static_cast<uint16_t>(list.size())), list);
  }
};

TEST_F(ProvisioningTest, WriteSameRepeatsItsBlock) {
  Bytes8 block = Fill(1, 0x5a);
  block[511] = 0xa5;
  EXPECT_GOOD(Do(Cdb10(0x41, 0, 100, 300), block));
  for (uint64_t at : {100, 228, 399}) {
    EXPECT_EQ(ByteOnDisk(at), 0x5a) << at;
    EXPECT_EQ(ByteOnDisk(at, 511), 0xa5) << at;
  }
  EXPECT_EQ(ByteOnDisk(99), 0);
  EXPECT_EQ(ByteOnDisk(400), 0);
}

TEST_F(ProvisioningTest, ZerosTakeTheCheapestWay) {
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 1000), Fill(1, 0x11)));
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 100), Fill(1, 0)));
  EXPECT_EQ(Submitted(IoOp::kWriteZeroes), 1);
  EXPECT_GOOD(Do(Cdb16(0x93, 0x08, 100, 100), Fill(1, 0)));
  EXPECT_EQ(Submitted(IoOp::kDiscard), 1);
  EXPECT_GOOD(Do(Cdb16(0x93, 0x01, 200, 100)));  // NDOB
  EXPECT_EQ(Submitted(IoOp::kWriteZeroes), 2);
  EXPECT_GOOD(Do(Cdb16(0x93, 0x09, 300, 100)));
  EXPECT_EQ(Submitted(IoOp::kDiscard), 2);
  for (uint64_t at : {0, 150, 250, 399}) EXPECT_EQ(ByteOnDisk(at), 0) << at;
  EXPECT_EQ(ByteOnDisk(400), 0x11);
}

TEST_F(ProvisioningTest, WriteSameWithUnmapKeepsItsDataIfThatIsNotZero) {
  EXPECT_GOOD(Do(Cdb10(0x41, 0x08, 3, 5), Fill(1, 0xa6)));
  EXPECT_EQ(ByteOnDisk(7), 0xa6);
  EXPECT_EQ(Submitted(IoOp::kDiscard), 0);
}

TEST_F(ProvisioningTest, ZerosAreWrittenWhereTheTableCannot) {
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 1000), Fill(1, 0x11)));
  disk_->write_zeroes_status = IoStatus::kNotSupported;
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 300), Fill(1, 0)));
  EXPECT_GOOD(Do(Cdb16(0x93, 1, 300, 300)));
  EXPECT_EQ(ByteOnDisk(599, 511), 0);
  EXPECT_EQ(ByteOnDisk(600), 0x11);
}

TEST_F(ProvisioningTest, WriteSameRefusesWhatItDoesNotDo) {
  EXPECT_FAILS(Do(Cdb10(0x41, 0x10, 0, 1), Fill(1, 0)), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb10(0x41, 0x18, 0, 1), Fill(1, 0)), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb10(0x41, 0, 0, 0), Fill(1, 0)), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb10(0x41, 0x08, 0, 1), Bytes8(256)), kInvalidFieldInInformationUnit);
  EXPECT_FAILS(Do(Cdb16(0x93, 0x08, 0, 1), Fill(2, 0)), kInvalidFieldInInformationUnit);
  disk_ = std::make_unique<BendableDisk>(SectorCount(1 << 20));
  initiators_.clear();
  MakeUnit({});
  a_ = &Login(1);
  EXPECT_FAILS(Do(Cdb16(0x93, 0, 0, 65536), Fill(1, 0)), kInvalidFieldInCdb);
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 65535), Fill(1, 0)));
}

TEST_F(ProvisioningTest, UnmapFreesEveryRange) {
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 1000), Fill(1, 0x11)));
  EXPECT_GOOD(Unmap(UnmapList({{1, 2}, {10, 0}, {20, 5}})));
  EXPECT_EQ(Submitted(IoOp::kDiscard), 2);
  for (uint64_t at : {1, 2, 20, 24}) EXPECT_EQ(ByteOnDisk(at), 0) << at;
  for (uint64_t at : {0, 3, 10, 19, 25}) EXPECT_EQ(ByteOnDisk(at), 0x11) << at;
}

TEST_F(ProvisioningTest, UnmapOfNothingIsGood) {
  EXPECT_GOOD(Unmap({}));
  EXPECT_GOOD(Unmap(UnmapList({})));
  EXPECT_GOOD(Unmap(UnmapList({{kBlocks, 0}})));
}

TEST_F(ProvisioningTest, ABadRangeStopsTheWholeUnmap) {
  EXPECT_FAILS(Unmap(UnmapList({{1, 2}, {kBlocks, 1}})), kLbaOutOfRange);
  EXPECT_FAILS(Unmap(UnmapList({{1, 2}, {UINT64_MAX, UINT32_MAX}})), kLbaOutOfRange);
  EXPECT_FAILS(Unmap(UnmapList({{kBlocks + 1, 0}})), kLbaOutOfRange);
  EXPECT_FAILS(Unmap(UnmapList(std::vector<Range>(257, {0, 1}))), kInvalidFieldInParameterList);
  EXPECT_FAILS(Unmap(UnmapList(std::vector<Range>(256, {0, 4096 + 1}))), kLbaOutOfRange);
  EXPECT_EQ(Submitted(IoOp::kDiscard), 0);
}

// A table may come back: an initiator that was refused would not discard any more then.
TEST_F(ProvisioningTest, WhatWasOfferedOnceIsAcceptedFromThenOn) {
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 1000), Fill(1, 0x11)));
  const BlockLimits before = disk_->limits();
  BlockLimits limits = before;
  limits.can_discard = limits.discard_zeroes = limits.can_write_zeroes = false;
  limits.discard_granularity_bytes = 0;
  disk_->set_limits(limits);
  unit_->OnLimitsChanged();
  EXPECT_FAILS(Do(Cdb({0x00})), kInquiryDataChanged);
  EXPECT_EQ(Do(Cdb16(0x9e, 0x10, 0, 32)).data[14], 0x80);                   // LBPME, no LBPRZ
  EXPECT_EQ(Do(Cdb({0x12, 1, 0xb2, 0, 255})).data[5], 0xe0);                // likewise
  EXPECT_EQ(Do(Cdb({0x12, 1, 0xb0, 0, 255})).Number(20, 4), 1024u * 1024);  // UNMAP LBA COUNT
  EXPECT_EQ(Do(Cdb({0xa3, 0x0c, 0x01, 0x42, 0, 0, 0, 0, 0, 255})).data[1] & 7, 3);
  EXPECT_GOOD(Unmap(UnmapList({{1, 2}, {20, 5}})));
  EXPECT_EQ(ByteOnDisk(1), 0x11);
  EXPECT_GOOD(Do(Cdb16(0x93, 0x08, 10, 10), Fill(1, 0)));
  EXPECT_EQ(ByteOnDisk(9), 0x11);
  EXPECT_EQ(ByteOnDisk(10), 0);
  EXPECT_EQ(ByteOnDisk(19, 511), 0);
  EXPECT_EQ(ByteOnDisk(20), 0x11);

  disk_->set_limits(before);
  unit_->OnLimitsChanged();
  EXPECT_FAILS(Do(Cdb({0x00})), kInquiryDataChanged);
  EXPECT_EQ(Do(Cdb16(0x9e, 0x10, 0, 32)).data[14], 0xc0);
  EXPECT_GOOD(Unmap(UnmapList({{1, 2}})));
  EXPECT_EQ(ByteOnDisk(1), 0);
}

// The table is swapped while a WRITE SAME is on its way.
TEST_F(ProvisioningTest, ADiscardThatDidNotZeroIsFollowedByZeros) {
  EXPECT_GOOD(Do(Cdb16(0x93, 0, 0, 1000), Fill(1, 0x11)));
  disk_->discard_only_frees = true;
  EXPECT_GOOD(Do(Cdb16(0x93, 0x08, 10, 10), Fill(1, 0)));
  EXPECT_EQ(Submitted(IoOp::kDiscard), 1);
  EXPECT_EQ(ByteOnDisk(10), 0);
  EXPECT_EQ(ByteOnDisk(19, 511), 0);
}

TEST_F(ProvisioningTest, UnmapDoesNotBelieveItsLengths) {
  const Bytes8 good = UnmapList({{0, 1}});
  for (uint16_t length = 1; length < 8; ++length) {
    EXPECT_FAILS(Do(Cdb10(0x42, 0, 0, length), good), kParameterListLengthError);
  }
  EXPECT_FAILS(Do(Cdb10(0x42, 0, 0, 25), good), kParameterListLengthError);
  Bytes8 lying = good;
  lying[1] = 0xff;
  EXPECT_FAILS(Unmap(lying), kInvalidFieldInParameterList);
  lying = good;
  lying[3] = 32;
  EXPECT_FAILS(Unmap(lying), kInvalidFieldInParameterList);
  lying[2] = 0xff;
  EXPECT_FAILS(Unmap(lying), kInvalidFieldInParameterList);
  Bytes8 partial = good;
  partial[3] = 15;
  EXPECT_GOOD(Unmap(partial));
  EXPECT_EQ(Submitted(IoOp::kDiscard), 0);
}

TEST_F(ProvisioningTest, LbaStatusBeginsAtTheBlockAsked) {
  disk_->extent = 100;
  const Answer answer = Do(Cdb16(0x9e, 0x12, 130, 0xffff));
  ASSERT_TRUE(answer.good()) << answer;
  EXPECT_EQ(answer.Number(0, 4), answer.data.size() - 4);
  EXPECT_EQ(answer.Number(8, 8), 130u);
  EXPECT_EQ(answer.Number(16, 4), 70u);
  EXPECT_EQ(answer.data[20], 1);
  EXPECT_EQ(answer.Number(24, 8), 200u);
  EXPECT_EQ(answer.Number(32, 4), 100u);
  EXPECT_EQ(answer.data[36], 0);
  uint64_t next = 130;
  for (size_t at = 8; at < answer.data.size(); at += 16) {
    EXPECT_EQ(answer.Number(at, 8), next);
    next += answer.Number(at + 8, 4);
  }
  EXPECT_EQ(next, kBlocks);
  const Answer one = Do(Cdb16(0x9e, 0x12, 130, 24));
  EXPECT_EQ(one.data.size(), 24u);
  EXPECT_EQ(one.Number(0, 4), 20u);
  EXPECT_GOOD(Do(Cdb16(0x9e, 0x12, kBlocks - 1, 24)));
}

TEST_F(ProvisioningTest, ABlockWithAMappedSectorIsMapped) {
  BlockLimits limits = disk_->limits();
  limits.logical_block_bytes = limits.physical_block_bytes = 4096;
  disk_->set_limits(limits);
  disk_->extent = 12;  // sectors 12-23 are free: of blocks of 8 only 16-23
  initiators_.clear();
  MakeUnit({.block_bytes = 4096});
  a_ = &Login(1);
  const Answer answer = Do(Cdb16(0x9e, 0x12, 0, 56));
  EXPECT_EQ(answer.Number(16, 4), 2u);
  EXPECT_EQ(answer.data[20], 0);
  EXPECT_EQ(answer.Number(24, 8), 2u);
  EXPECT_EQ(answer.data[36], 1);
}

}  // namespace
}  // namespace sectormap::scsi
