// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "server/scsi/command_table.h"
#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

class PrimaryCommandsTest : public UnitTest {
 protected:
  void SetUp() override {
    UnitTest::SetUp();
    a_ = &Login(1);
  }
  Answer Do(const CdbBytes& cdb, const Bytes8& data = {}) { return Run(*a_, cdb, data); }
  Answer Vpd(int page, int length = 255) { return Do(Cdb({0x12, 1, page, length >> 8, length})); }
  Initiator* a_ = nullptr;
};

TEST_F(PrimaryCommandsTest, StandardInquiryClaimsWhatIsThere) {
  const Answer answer = Do(Cdb({0x12, 0, 0, 0, 255}));
  ASSERT_EQ(answer.data.size(), 96u);
  EXPECT_EQ(answer.data[0], 0);
  EXPECT_EQ(answer.data[2], 6);
  EXPECT_EQ(answer.data[3] & 0x0f, 2);
  EXPECT_EQ(answer.data[4], 91);
  EXPECT_EQ(answer.data[7], 0x02);
  EXPECT_EQ(answer.Text(8, 8), "SECTRMAP");
  EXPECT_EQ(answer.Text(16, 16), "LOGICAL VOLUME  ");
  EXPECT_EQ(answer.Text(32, 4), "0001");
  std::set<uint64_t> versions;
  for (size_t at = 58; at < 74; at += 2) versions.insert(answer.Number(at, 2));
  EXPECT_TRUE(versions.contains(0x04c0));  // SBC-3
  EXPECT_TRUE(versions.contains(0x0460));  // SPC-4
}

TEST_F(PrimaryCommandsTest, InquiryIsCutToItsAllocationLength) {
  const Answer whole = Do(Cdb({0x12, 0, 0, 0xff, 0xff}));
  for (int length = 0; length < 256; ++length) {
    const Answer answer = Do(Cdb({0x12, 0, 0, 0, length}));
    ASSERT_TRUE(answer.good());
    ASSERT_EQ(answer.data.size(), std::min<size_t>(length, 96));
    EXPECT_TRUE(std::equal(answer.data.begin(), answer.data.end(), whole.data.begin()));
  }
}

TEST_F(PrimaryCommandsTest, InquiryOfAPageWithoutEvpdIsRefused) {
  EXPECT_FAILS(Do(Cdb({0x12, 0, 1, 0, 255})), kInvalidFieldInCdb);
  EXPECT_FAILS(Vpd(0x84), kInvalidFieldInCdb);
}

TEST_F(PrimaryCommandsTest, EveryListedVpdPageIsThereAndTheListIsSorted) {
  const Answer list = Vpd(0);
  ASSERT_EQ(list.data[3] + 4u, list.data.size());
  for (size_t i = 4; i < list.data.size(); ++i) {
    if (i > 4) {
      EXPECT_LT(list.data[i - 1], list.data[i]);
    }
    const Answer page = Vpd(list.data[i]);
    ASSERT_TRUE(page.good());
    EXPECT_EQ(page.data[1], list.data[i]);
    EXPECT_EQ(page.Number(2, 2) + 4, page.data.size());
  }
}

TEST_F(PrimaryCommandsTest, IdentifiersComeFromTheDeviceIdentityAlone) {
  const Answer serial = Vpd(0x80);
  const Answer ids = Vpd(0x83);
  EXPECT_EQ(serial.data.size(), 4u + 32);
  ASSERT_GE(ids.data.size(), 24u);
  EXPECT_EQ(ids.data[4], 0x01);
  EXPECT_EQ(ids.data[5], 0x03);  // NAA, of the unit
  EXPECT_EQ(ids.data[7], 16);
  EXPECT_EQ(ids.data[8] >> 4, 6);
  initiators_.clear();
  MakeUnit({});
  a_ = &Login(7);
  EXPECT_EQ(Vpd(0x80).data, serial.data);
  EXPECT_EQ(Vpd(0x83).data, ids.data);
  EXPECT_NE(MakeUnitIdentity("another device").naa, MakeUnitIdentity("a device").naa);
}

TEST_F(PrimaryCommandsTest, DesignatorsFillTheirPageAndNameThePort) {
  const Answer ids = Vpd(0x83);
  std::set<int> types;
  size_t at = 4;
  while (at + 4 <= ids.data.size()) {
    types.insert(ids.data[at + 1] & 0x0f);
    if ((ids.data[at + 1] & 0x0f) == 8) {
      EXPECT_EQ(ids.data[at], 0x53);
      EXPECT_EQ(ids.data[at + 3] % 4, 0);
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(&ids.data[at + 4])),
                "iqn.2026-11.io.sectormap:disk,t,0x0001");
    }
    at += 4 + ids.data[at + 3];
  }
  EXPECT_EQ(at, ids.data.size());
  EXPECT_EQ(types, (std::set<int>{1, 3, 4, 5, 8}));
}

TEST_F(PrimaryCommandsTest, BlockLimitsAreThoseThatAreKept) {
  const Answer page = Vpd(0xb0);
  ASSERT_EQ(page.data.size(), 64u);
  EXPECT_EQ(page.data[4] & 1, 1);
  EXPECT_EQ(page.data[5], 255);
  EXPECT_EQ(page.Number(8, 4), kMaxTransferBytes / kTestBlockBytes);
  EXPECT_EQ(page.Number(20, 4), 1024u * 1024);
  EXPECT_EQ(page.Number(24, 4), 256u);
  EXPECT_EQ(page.Number(36, 8), 65535u);
  EXPECT_EQ(Vpd(0xb2).data[5], 0xe4);
}

TEST_F(PrimaryCommandsTest, WithoutDiscardNothingOfItIsClaimed) {
  BlockLimits limits = disk_->limits();
  limits.can_discard = false;
  disk_->set_limits(limits);
  initiators_.clear();
  MakeUnit({});
  a_ = &Login(1);
  EXPECT_EQ(Vpd(0xb0).Number(20, 4), 0u);
  EXPECT_EQ(Vpd(0xb2).data[5], 0);
  EXPECT_EQ(Do(Cdb16(0x9e, 0x10, 0, 32)).data[14], 0);
  EXPECT_FAILS(Do(Cdb10(0x42, 0, 0, 24), Bytes8(24)), kInvalidOpcode);
  EXPECT_FAILS(Do(Cdb10(0x41, 0x08, 0, 1), Fill(1, 0)), kInvalidFieldInCdb);
  EXPECT_EQ(Do(Cdb({0xa3, 0x0c, 0x01, 0x42, 0, 0, 0, 0, 0, 255})).data[1] & 7, 1);
}

TEST_F(PrimaryCommandsTest, RequestSenseTellsAndClearsTheAttention) {
  unit_->TellLunsChanged(*a_->nexus, std::make_shared<LunListChange>());
  const Answer fixed = Do(Cdb({0x03, 0, 0, 0, 252}));
  ASSERT_EQ(fixed.data.size(), 18u);
  EXPECT_EQ(fixed.data[2], 0x06);
  EXPECT_EQ(fixed.data[12], 0x3f);
  EXPECT_EQ(fixed.data[13], 0x0e);
  const Answer none = Do(Cdb({0x03, 1, 0, 0, 252}));
  ASSERT_EQ(none.data.size(), 8u);
  EXPECT_EQ(none.data[0], 0x72);
  EXPECT_EQ(none.data[1], 0);
  EXPECT_GOOD(Do(Cdb({0x00})));
}

TEST_F(PrimaryCommandsTest, ModeSenseHasEveryPageAndItsLength) {
  const Answer six = Do(Cdb({0x1a, 0, 0x3f, 0, 255}));
  ASSERT_TRUE(six.good()) << six;
  EXPECT_EQ(six.data[0] + 1u, six.data.size());
  EXPECT_EQ(six.data[2], 0x10);  // DPOFUA, not write protected
  EXPECT_EQ(six.data[3], 8);
  EXPECT_EQ(six.Number(4, 4), kBlocks);
  EXPECT_EQ(six.Number(9, 3), kTestBlockBytes);
  std::vector<int> pages;
  size_t at = 12;
  for (; at < six.data.size(); at += 2 + six.data[at + 1]) pages.push_back(six.data[at]);
  EXPECT_EQ(at, six.data.size());
  EXPECT_EQ(pages, (std::vector<int>{0x01, 0x08, 0x0a, 0x1c}));
  const Answer ten = Do(Cdb({0x5a, 0x18, 0x3f, 0, 0, 0, 0, 0, 255}));
  EXPECT_EQ(ten.Number(0, 2) + 2, ten.data.size());
  EXPECT_EQ(ten.Number(6, 2), 0u);  // DBD
  const Answer wide = Do(Cdb({0x5a, 0x10, 0x08, 0, 0, 0, 0, 0, 255}));
  EXPECT_EQ(wide.data[4], 1);
  EXPECT_EQ(wide.Number(8, 8), kBlocks);
  EXPECT_EQ(Do(Cdb({0x1a, 0, 0x3f, 0, 4})).data.size(), 4u);
}

TEST_F(PrimaryCommandsTest, ModeSenseRefusesSavedAndUnknownPages) {
  EXPECT_FAILS(Do(Cdb({0x1a, 0, 0xff, 0, 255})), kSavingNotSupported);
  EXPECT_FAILS(Do(Cdb({0x1a, 0, 0x02, 0, 255})), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb({0x1a, 0, 0x0a, 1, 255})), kInvalidFieldInCdb);
  EXPECT_GOOD(Do(Cdb({0x1a, 0, 0x3f, 0xff, 255})));
}

// The next table may have a cache, and an initiator that saw none would never flush it.
TEST_F(PrimaryCommandsTest, AWriteCacheIsAlwaysTold) {
  EXPECT_EQ(Do(Cdb({0x1a, 8, 0x08, 0, 255})).data[6], 0x04);
  EXPECT_EQ(Do(Cdb({0x1a, 8, 0x88, 0, 255})).data[6], 0x04);  // default
  EXPECT_EQ(Do(Cdb({0x1a, 8, 0x48, 0, 255})).data[6], 0);     // cannot be changed
}

// The Control page as it is, for MODE SELECT(6) without a block descriptor.
class ModeSelectTest : public PrimaryCommandsTest {
 protected:
  Bytes8 ControlList() {
    Bytes8 list = Do(Cdb({0x1a, 8, 0x0a, 0, 255})).data;
    list[0] = 0;
    return list;
  }
  static CdbBytes Select(size_t length) {
    return Cdb({0x15, 0x10, 0, 0, static_cast<int>(length)});
  }
};

TEST_F(ModeSelectTest, SoftwareWriteProtectStopsWritesOfAllAndTellsTheOthers) {
  Initiator& b = Login(2);
  EXPECT_EQ(Do(Cdb({0x1a, 8, 0x4a, 0, 255})).data[4 + 4] & 0x08, 0x08);
  Bytes8 list = ControlList();
  list[4 + 4] |= 0x08;
  EXPECT_GOOD(Do(Select(list.size()), list));
  EXPECT_GOOD(Do(Cdb({0x00})));
  EXPECT_FAILS(Run(b, Cdb({0x00})), kModeParametersChanged);
  EXPECT_FAILS(Do(Cdb10(0x2a, 0, 0, 1), Fill(1, 1)), kWriteProtected);
  EXPECT_FAILS(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 1)), kWriteProtected);
  EXPECT_GOOD(Do(Cdb10(0x28, 0, 0, 1)));
  EXPECT_EQ(Do(Cdb({0x1a, 8, 0x0a, 0, 255})).data[2] & 0x80, 0x80);
  list[4 + 4] &= 0xf7;
  EXPECT_GOOD(Do(Select(list.size()), list));
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 1), Fill(1, 1)));
}

TEST_F(ModeSelectTest, DescriptorSenseChangesTheFormat) {
  Bytes8 list = ControlList();
  list[4 + 2] |= 0x04;
  EXPECT_GOOD(Do(Select(list.size()), list));
  const Answer answer = Do(Cdb10(0x28, 0xe0, 0, 1));
  EXPECT_TRUE(answer.FailedWith(kInvalidFieldInCdb)) << answer;
  EXPECT_EQ(answer.sense.bytes[0], 0x72);
  EXPECT_EQ(answer.sense.length, 16);
}

TEST_F(ModeSelectTest, WhatCannotBeChangedIsRefusedWhole) {
  Bytes8 list = ControlList();
  list[4 + 4] |= 0x08;
  list[4 + 3] ^= 0x10;
  EXPECT_FAILS(Do(Select(list.size()), list), kInvalidFieldInParameterList);
  EXPECT_GOOD(Do(Cdb10(0x2a, 0, 0, 1), Fill(1, 1)));
}

TEST_F(ModeSelectTest, LyingLengthsAreRefused) {
  const Bytes8 list = ControlList();
  EXPECT_GOOD(Do(Select(0)));
  for (size_t length = 1; length < 4; ++length) {
    EXPECT_FAILS(Do(Select(length), list), kParameterListLengthError);
  }
  EXPECT_FAILS(Do(Select(list.size()), Bytes8(list.begin(), list.end() - 1)),
               kParameterListLengthError);
  EXPECT_FAILS(Do(Select(list.size() - 1), list), kParameterListLengthError);
  Bytes8 page = list;
  page[5] = 9;
  EXPECT_EQ(Do(Select(page.size()), page).status, ScsiStatus::kCheckCondition);
  Bytes8 descriptor = list;
  descriptor[3] = 0xff;
  EXPECT_FAILS(Do(Select(descriptor.size()), descriptor), kInvalidFieldInParameterList);
  EXPECT_FAILS(Do(Cdb({0x15, 0x11, 0, 0, 16}), list), kInvalidFieldInCdb);
}

TEST_F(ModeSelectTest, ABlockDescriptorMaySayOnlyWhatIsSo) {
  Bytes8 list = Do(Cdb({0x1a, 0, 0x0a, 0, 255})).data;
  list[0] = 0;
  EXPECT_GOOD(Do(Select(list.size()), list));
  list[10] = 0x10;  // 4096-byte blocks
  EXPECT_FAILS(Do(Select(list.size()), list), kInvalidFieldInParameterList);
}

TEST_F(PrimaryCommandsTest, SupportedOpcodesListsTheTable) {
  const Answer plain = Do(Cdb({0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff}));
  ASSERT_TRUE(plain.good());
  EXPECT_EQ(plain.Number(0, 4), 8 * CommandTable().size());
  EXPECT_EQ(plain.data.size(), 4 + 8 * CommandTable().size());
  const Answer timed = Do(Cdb({0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff}));
  EXPECT_EQ(timed.data.size(), 4 + 20 * CommandTable().size());
  for (size_t at = 4; at < timed.data.size(); at += 20) {
    EXPECT_EQ(timed.data[at + 5] & 0x02, 0x02);
    EXPECT_EQ(timed.Number(at + 8, 2), 10u);
  }
}

TEST_F(PrimaryCommandsTest, OneOpcodeIsReportedAsAsked) {
  for (const CommandEntry& entry : CommandTable()) {
    const int action = entry.has_service_action() ? entry.service_action : 0;
    const auto ask = [&](int options) {
      return Do(Cdb({0xa3, 0x0c, options, entry.opcode, 0, action, 0, 0, 0xff, 0xff}));
    };
    const Answer by_opcode = ask(1);
    const Answer by_action = ask(2);
    const Answer either = ask(3);
    EXPECT_TRUE(
        (entry.has_service_action() ? by_opcode : by_action).FailedWith(kInvalidFieldInCdb));
    for (const Answer& answer : {entry.has_service_action() ? by_action : by_opcode, either}) {
      ASSERT_TRUE(answer.good()) << entry.name;
      EXPECT_EQ(answer.data[1] & 7, 3);
      EXPECT_EQ(answer.Number(2, 2), CdbLength(entry.opcode));
      EXPECT_EQ(answer.data[4], entry.opcode);
      EXPECT_EQ(answer.data.size(), 4u + CdbLength(entry.opcode));
    }
  }
  EXPECT_EQ(Do(Cdb({0xa3, 0x0c, 1, 0xc0, 0, 0, 0, 0, 0, 255})).data[1] & 7, 1);
  EXPECT_EQ(Do(Cdb({0xa3, 0x0c, 2, 0x9e, 0, 0x11, 0, 0, 0, 255})).data[1] & 7, 1);
  EXPECT_FAILS(Do(Cdb({0xa3, 0x0c, 4, 0x12, 0, 0, 0, 0, 0, 255})), kInvalidFieldInCdb);
}

TEST_F(PrimaryCommandsTest, UnknownCommandsAndServiceActionsAreToldApart) {
  EXPECT_FAILS(Do(Cdb({0xc0})), kInvalidOpcode);
  EXPECT_FAILS(Do(Cdb({0x1e})), kInvalidOpcode);
  EXPECT_FAILS(Do(Cdb({0x9e, 0x11})), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb({0x5e, 0x04})), kInvalidFieldInCdb);
}

TEST_F(PrimaryCommandsTest, PortGroupsAndTaskManagementAreReported) {
  const Answer groups = Do(Cdb({0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255}));
  ASSERT_EQ(groups.data.size(), 16u);
  EXPECT_EQ(groups.Number(0, 4), 12u);
  EXPECT_EQ(groups.data[11], 1);
  EXPECT_EQ(Do(Cdb({0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4})).data[0], 0xd8);
  EXPECT_EQ(Do(Cdb({0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 16})).data.size(), 16u);
}

TEST_F(PrimaryCommandsTest, StopFlushesAndStartIsGood) {
  EXPECT_GOOD(Do(Cdb({0x1b, 0, 0, 0, 1})));
  EXPECT_EQ(disk_->submitted[static_cast<int>(IoOp::kFlush)], 0);
  EXPECT_GOOD(Do(Cdb({0x1b, 0, 0, 0, 0})));
  EXPECT_EQ(disk_->submitted[static_cast<int>(IoOp::kFlush)], 1);
}

TEST_F(PrimaryCommandsTest, WhatAStartStopUnitMayNotAskIsPointedAt) {
  struct Case {
    const char* what;
    CdbBytes cdb;
    int byte;
  };
  for (const Case& c : {Case{"LOEJ", Cdb({0x1b, 0, 0, 0, 2}), 4},
                        Case{"POWER CONDITION", Cdb({0x1b, 0, 0, 0, 0x10}), 4},
                        Case{"POWER CONDITION MODIFIER", Cdb({0x1b, 0, 0, 1, 1}), 3}}) {
    SCOPED_TRACE(c.what);
    const Answer answer = Do(c.cdb);
    EXPECT_TRUE(answer.FailedWith(kInvalidFieldInCdb)) << answer;
    EXPECT_EQ(answer.sense.bytes[15], 0xc0);
    EXPECT_EQ(answer.sense.bytes[17], c.byte);
  }
}

TEST_F(PrimaryCommandsTest, TheDefaultSelfTestIsTheOnlyOne) {
  EXPECT_GOOD(Do(Cdb({0x1d, 0x04})));
  EXPECT_FAILS(Do(Cdb({0x1d, 0x00})), kInvalidFieldInCdb);
  EXPECT_FAILS(Do(Cdb({0x1d, 0x24})), kInvalidFieldInCdb);           // SELF-TEST CODE
  EXPECT_FAILS(Do(Cdb({0x1d, 0x10, 0, 0, 8})), kInvalidFieldInCdb);  // a diagnostic page
  EXPECT_FAILS(Do(Cdb({0x1d, 0x04, 0, 0, 8})), kInvalidFieldInCdb);
}

TEST_F(PrimaryCommandsTest, ReportLunsOfAUnitNamesItself) {
  const Answer answer = Do(Cdb({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64}));
  ASSERT_EQ(answer.data.size(), 16u);
  EXPECT_EQ(answer.Number(0, 4), 8u);
}

// --- Without a logical unit ---

Answer WithoutLun(const CdbBytes& cdb, const std::vector<uint64_t>& luns) {
  const CommandPlan plan = PlanWithoutLun(cdb);
  std::vector<std::byte> buffer(plan.bytes, std::byte{0xee});
  const ScsiResult result = ExecuteWithoutLun(cdb, luns, buffer);
  Answer answer{result.status, result.sense, {}};
  const auto* bytes = reinterpret_cast<const uint8_t*>(buffer.data());
  answer.data.assign(bytes, bytes + result.data_in_bytes);
  return answer;
}

TEST(WithoutLunTest, InquirySaysThatNothingCanBeHere) {
  const Answer answer = WithoutLun(Cdb({0x12, 0, 0, 0, 255}), {0});
  ASSERT_EQ(answer.data.size(), 36u);
  EXPECT_EQ(answer.data[0], 0x7f);
  EXPECT_TRUE(WithoutLun(Cdb({0x12, 1, 0x83, 0, 255}), {0}).FailedWith(kInvalidFieldInCdb));
}

TEST(WithoutLunTest, ReportLunsListsTheTargets) {
  EXPECT_TRUE(IsReportLuns(Cdb({0xa0})));
  CdbBytes cdb = Cdb({0xa0});
  SetField(cdb, 6, 4, 0xffffffff);
  const Answer answer = WithoutLun(cdb, {0, 5, 300});
  ASSERT_EQ(answer.data.size(), 32u);
  EXPECT_EQ(answer.Number(0, 4), 24u);
  EXPECT_EQ(answer.Number(8 + 8, 2), 5u);
  EXPECT_EQ(answer.Number(8 + 16, 2), 0x4000u | 300);
  SetField(cdb, 6, 4, 16);
  EXPECT_EQ(WithoutLun(cdb, {0, 5, 300}).data.size(), 16u);
  EXPECT_EQ(WithoutLun(cdb, {0, 5, 300}).Number(0, 4), 24u);
  cdb[2] = 1;
  EXPECT_EQ(WithoutLun(cdb, {0, 5}).Number(0, 4), 0u);
}

TEST(WithoutLunTest, WhatIsRefusedIsPointedAt) {
  struct Case {
    const char* what;
    CdbBytes cdb;
    int byte;
  };
  for (const Case& c :
       {Case{"INQUIRY: EVPD", Cdb({0x12, 1, 0x83, 0, 255}), 1},
        Case{"INQUIRY: PAGE CODE", Cdb({0x12, 0, 0x83, 0, 255}), 2},
        Case{"REPORT LUNS: SELECT REPORT", Cdb({0xa0, 0, 3}), 2},
        Case{"REPORT LUNS: byte 1", Cdb({0xa0, 0x20}), 1},
        Case{"REPORT LUNS: byte 3", Cdb({0xa0, 0, 0, 1}), 3},
        Case{"REPORT LUNS: NACA", Cdb({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0x04}), 11}}) {
    SCOPED_TRACE(c.what);
    const Answer answer = WithoutLun(c.cdb, {0, 5});
    EXPECT_TRUE(answer.FailedWith(kInvalidFieldInCdb)) << answer;
    EXPECT_EQ(answer.sense.bytes[15], 0xc0);
    EXPECT_EQ(answer.sense.bytes[17], c.byte);
  }
}

TEST(WithoutLunTest, OtherCommandsAreNotSupported) {
  EXPECT_TRUE(WithoutLun(Cdb({0x00}), {}).FailedWith(kLunNotSupported));
  EXPECT_TRUE(WithoutLun(Cdb({0x28}), {}).FailedWith(kLunNotSupported));
  const Answer sense = WithoutLun(Cdb({0x03, 0, 0, 0, 18}), {});
  ASSERT_EQ(sense.data.size(), 18u);
  EXPECT_EQ(sense.data[12], 0x25);
}

}  // namespace
}  // namespace sectormap::scsi
