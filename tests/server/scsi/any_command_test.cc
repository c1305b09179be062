// SPDX-License-Identifier: Apache-2.0
// Every opcode with random CDBs and data: never a crash, always an answer that fits its plan; and
// nothing that was not written by the command comes back.
#include "absl/strings/str_cat.h"
#include "server/scsi/command_table.h"
#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

class AnyCommandTest : public UnitTest {
 protected:
  void SetUp() override {
    UnitTest::SetUp();
    seed_ = TestSeed();
    random_.seed(seed_);
    a_ = &Login(1, 0);
    b_ = &Login(2, 1);
  }

  // Small numbers, edges and anything.
  uint64_t Number() {
    switch (random_() % 4) {
      case 0:
        return random_() % 8;
      case 1:
        return kBlocks - 4 + random_() % 8;
      case 2:
        return ~uint64_t{0} >> (random_() % 64);
      default:
        return random_();
    }
  }

  CdbBytes RandomCdb(uint8_t opcode) {
    CdbBytes cdb{};
    cdb[0] = opcode;
    const CommandEntry* entry = FindOpcode(opcode);
    if (entry == nullptr || random_() % 4 == 0) {
      for (size_t i = 1; i < cdb.size(); ++i) cdb[i] = static_cast<uint8_t>(random_());
      return cdb;
    }
    // Mostly without reserved bits, so that handlers are reached.
    if (entry->has_service_action()) {
      const auto rows = CommandTable();
      do {
        entry = &rows[random_() % rows.size()];
      } while (entry->opcode != opcode);
    }
    for (size_t i = 1; i < cdb.size(); i += 4)
      SetField(cdb, i, std::min<size_t>(4, 16 - i), Number());
    if (random_() % 2 == 0) SetField(cdb, 2, 8, Number());
    for (size_t i = 1; i < cdb.size(); ++i) cdb[i] &= entry->usage[i];
    if (entry->has_service_action()) cdb[1] = entry->usage[1];
    return cdb;
  }

  void CheckAnswer(const Answer& answer, const CdbBytes& cdb) {
    const std::string which = absl::StrCat("opcode ", static_cast<int>(cdb[0]), " seed ", seed_);
    if (answer.status == ScsiStatus::kCheckCondition) {
      ASSERT_GT(answer.sense.length, 0) << which;
      ASSERT_NE(answer.code().key, SenseKey::kNoSense) << which;
    } else {
      ASSERT_EQ(answer.sense.length, 0) << which;
      ASSERT_TRUE(answer.good() || answer.status == ScsiStatus::kReservationConflict) << which;
    }
    if (!answer.good()) {
      ASSERT_TRUE(answer.data.empty()) << which;
    }
    const CommandPlan plan = unit_->Plan(cdb);
    ASSERT_LE(answer.data.size(), plan.bytes) << which;
  }

  uint64_t seed_ = 0;
  std::mt19937_64 random_;
  Initiator* a_ = nullptr;
  Initiator* b_ = nullptr;
};

TEST_F(AnyCommandTest, EveryOpcodeIsAnsweredWithinItsPlan) {
  for (int round = 0; round < 12; ++round) {
    for (int opcode = 0; opcode < 256; ++opcode) {
      const CdbBytes cdb = RandomCdb(static_cast<uint8_t>(opcode));
      const uint32_t planned = unit_->Plan(cdb).bytes;
      Bytes8 data;
      if (random_() % 8 != 0) data.resize(planned);
      if (random_() % 8 == 0 && planned > 0) data.resize(random_() % planned);
      const size_t filled = std::min<size_t>(data.size(), 256);
      for (size_t i = 0; i < filled; ++i) data[i] = static_cast<uint8_t>(random_() % 32);
      Initiator& who = random_() % 2 == 0 ? *a_ : *b_;
      CheckAnswer(Run(who, cdb, data), cdb);
      if (HasFatalFailure()) return;
    }
  }
}

// Parameter data is the same for every allocation length, only cut; the fixture's buffers are full
// of EEh, which would show.
TEST_F(AnyCommandTest, AllocationLengthsOnlyCut) {
  struct Case {
    CdbBytes cdb;
    size_t at, width;
  };
  const std::vector<Case> cases = {
      {Cdb({0x12}), 3, 2},          {Cdb({0x12, 1, 0x83}), 3, 2}, {Cdb({0x12, 1, 0xb0}), 3, 2},
      {Cdb({0x12, 1, 0xb1}), 3, 2}, {Cdb({0x1a, 0, 0x3f}), 4, 1}, {Cdb({0x5a, 0x10, 0x3f}), 7, 2},
      {Cdb({0x03}), 4, 1},          {Cdb({0x5e, 0}), 7, 2},       {Cdb({0x5e, 2}), 7, 2},
      {Cdb({0x5e, 3}), 7, 2},       {Cdb({0x9e, 0x10}), 10, 4},   {Cdb({0x9e, 0x12}), 10, 4},
      {Cdb({0xa3, 0x0a}), 6, 4},    {Cdb({0xa3, 0x0c}), 6, 4},    {Cdb({0xa3, 0x0d}), 6, 4},
      {Cdb({0xa0}), 6, 4}};
  for (const Case& each : cases) {
    const uint64_t most = ~uint64_t{0} >> (64 - 8 * each.width);
    CdbBytes cdb = each.cdb;
    SetField(cdb, each.at, each.width, most);
    const Answer whole = Run(*a_, cdb);
    ASSERT_TRUE(whole.good()) << static_cast<int>(cdb[0]);
    for (uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{4}, uint64_t{5},
                            uint64_t{7}, uint64_t{8}, uint64_t{11}, uint64_t{17}, uint64_t{36},
                            uint64_t{63}, uint64_t{96}, uint64_t{255}, most / 2, most - 1}) {
      if (length > most) continue;
      SetField(cdb, each.at, each.width, length);
      const Answer cut = Run(*a_, cdb);
      ASSERT_TRUE(cut.good()) << static_cast<int>(cdb[0]) << " length " << length;
      ASSERT_EQ(cut.data.size(), std::min<size_t>(whole.data.size(), length));
      // GET LBA STATUS gives as many descriptors as there is room for.
      if (cdb[0] == 0x9e && cdb[1] == 0x12) continue;
      ASSERT_TRUE(std::equal(cut.data.begin(), cut.data.end(), whole.data.begin()))
          << static_cast<int>(cdb[0]) << " length " << length;
    }
  }
}

TEST_F(AnyCommandTest, APlanNeverExceedsTheLimit) {
  for (int i = 0; i < 100000; ++i) {
    const CdbBytes cdb = RandomCdb(static_cast<uint8_t>(random_()));
    ASSERT_LE(unit_->Plan(cdb).bytes, kMaxTransferBytes) << seed_;
  }
}

}  // namespace
}  // namespace sectormap::scsi
