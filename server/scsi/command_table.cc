// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/command_table.h"

#include <algorithm>
#include <array>

#include "server/scsi/handlers.h"

namespace sectormap::scsi {
namespace {

using Cdb = CdbBytes;
constexpr DataDirection kNoData = DataDirection::kNone;
constexpr DataDirection kIn = DataDirection::kIn;
constexpr DataDirection kOut = DataDirection::kOut;
constexpr uint8_t kNoSa = kNoServiceAction;

uint64_t Field(const Cdb& cdb, size_t at, size_t width) {
  return BigEndian(std::span<const uint8_t>(cdb), at, width);
}

// --- How many bytes a command moves ---

uint64_t Nothing(const CommandEntry&, const Cdb&, uint32_t) { return 0; }
uint64_t EightBytes(const CommandEntry&, const Cdb&, uint32_t) { return 8; }
uint64_t AllBlocks(const CommandEntry& entry, const Cdb& cdb, uint32_t block_bytes) {
  return RangeOf(entry, cdb).blocks * block_bytes;
}
uint64_t TwiceAllBlocks(const CommandEntry& entry, const Cdb& cdb, uint32_t block_bytes) {
  return 2 * AllBlocks(entry, cdb, block_bytes);
}
uint64_t OneBlock(const CommandEntry&, const Cdb&, uint32_t block_bytes) { return block_bytes; }
// NDOB, "no data-out buffer" (SBC-3 §5.43).
uint64_t OneBlockUnlessNdob(const CommandEntry&, const Cdb& cdb, uint32_t block_bytes) {
  return (cdb[1] & 0x01) != 0 ? 0 : block_bytes;
}
uint64_t ByByteCheck(const CommandEntry& entry, const Cdb& cdb, uint32_t block_bytes) {
  switch ((cdb[1] & kByteCheckMask) >> 1) {
    case 1:
      return AllBlocks(entry, cdb, block_bytes);
    case 3:
      return RangeOf(entry, cdb).blocks == 0 ? 0 : block_bytes;
    default:
      return 0;
  }
}
template <size_t kAt, size_t kWidth>
uint64_t LengthAt(const CommandEntry&, const Cdb& cdb, uint32_t) {
  return Field(cdb, kAt, kWidth);
}

// --- The rows ---
//
// In `usage` the first byte is the opcode and the low five bits of the second are the service
// action, if there is one. RDPROTECT, WRPROTECT and VRPROTECT are not among the bits: there is no
// protection information. NACA is not either: there is no ACA.
constexpr auto kTable = std::to_array<CommandEntry>({
    {0x00,
     kNoSa,
     "TEST UNIT READY",
     TestUnitReady,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kStatus,
     kNeedsMedium,
     {0x00}},
    {0x03,
     kNoSa,
     "REQUEST SENSE",
     RequestSense,
     kIn,
     LengthAt<4, 1>,
     Address::kNone,
     Access::kAlways,
     kDespiteAttention,
     {0x03, 0x01, 0, 0, 0xff}},
    {0x08,
     kNoSa,
     "READ(6)",
     Read,
     kIn,
     AllBlocks,
     Address::k6,
     Access::kRead,
     kNeedsMedium,
     {0x08, 0x1f, 0xff, 0xff, 0xff}},
    {0x0a,
     kNoSa,
     "WRITE(6)",
     Write,
     kOut,
     AllBlocks,
     Address::k6,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0x0a, 0x1f, 0xff, 0xff, 0xff}},
    {0x12,
     kNoSa,
     "INQUIRY",
     Inquiry,
     kIn,
     LengthAt<3, 2>,
     Address::kNone,
     Access::kAlways,
     kDespiteAttention,
     {0x12, 0x01, 0xff, 0xff, 0xff}},
    {0x15,
     kNoSa,
     "MODE SELECT(6)",
     ModeSelect,
     kOut,
     LengthAt<4, 1>,
     Address::kNone,
     Access::kWrite,
     kPlain,
     {0x15, 0x11, 0, 0, 0xff}},
    {0x16,
     kNoSa,
     "RESERVE(6)",
     Reserve,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x16}},
    {0x17,
     kNoSa,
     "RELEASE(6)",
     Release,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x17}},
    {0x1a,
     kNoSa,
     "MODE SENSE(6)",
     ModeSense,
     kIn,
     LengthAt<4, 1>,
     Address::kNone,
     Access::kRead,
     kPlain,
     {0x1a, 0x08, 0xff, 0xff, 0xff}},
    {0x1b,
     kNoSa,
     "START STOP UNIT",
     StartStopUnit,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x1b, 0x01, 0, 0x0f, 0xf7}},
    {0x1d,
     kNoSa,
     "SEND DIAGNOSTIC",
     SendDiagnostic,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kWrite,
     kNeedsMedium,
     {0x1d, 0x04}},
    {0x25,
     kNoSa,
     "READ CAPACITY(10)",
     ReadCapacity10,
     kIn,
     EightBytes,
     Address::kNone,
     Access::kAlways,
     kNeedsMedium,
     {0x25}},
    {0x28,
     kNoSa,
     "READ(10)",
     Read,
     kIn,
     AllBlocks,
     Address::k10,
     Access::kRead,
     kNeedsMedium,
     {0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x2a,
     kNoSa,
     "WRITE(10)",
     Write,
     kOut,
     AllBlocks,
     Address::k10,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x2e,
     kNoSa,
     "WRITE AND VERIFY(10)",
     WriteAndVerify,
     kOut,
     AllBlocks,
     Address::k10,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x2f,
     kNoSa,
     "VERIFY(10)",
     Verify,
     kOut,
     ByByteCheck,
     Address::k10,
     Access::kRead,
     kNeedsMedium,
     {0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x34,
     kNoSa,
     "PRE-FETCH(10)",
     PreFetch,
     kNoData,
     Nothing,
     Address::k10,
     Access::kRead,
     kNeedsMedium,
     {0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x35,
     kNoSa,
     "SYNCHRONIZE CACHE(10)",
     SynchronizeCache,
     kNoData,
     Nothing,
     Address::k10,
     Access::kWrite,
     kNeedsMedium,
     {0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x41,
     kNoSa,
     "WRITE SAME(10)",
     WriteSame,
     kOut,
     OneBlock,
     Address::k10,
     Access::kWrite,
     kNeedsMedium | kModifies | kExactLength,
     {0x41, 0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}},
    {0x42,
     kNoSa,
     "UNMAP",
     Unmap,
     kOut,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kWrite,
     kNeedsMedium | kModifies | kNeedsDiscard,
     {0x42, 0x01, 0, 0, 0, 0, 0x3f, 0xff, 0xff}},
    {0x55,
     kNoSa,
     "MODE SELECT(10)",
     ModeSelect,
     kOut,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kWrite,
     kPlain,
     {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x56,
     kNoSa,
     "RESERVE(10)",
     Reserve,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x56}},
    {0x57,
     kNoSa,
     "RELEASE(10)",
     Release,
     kNoData,
     Nothing,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x57}},
    {0x5a,
     kNoSa,
     "MODE SENSE(10)",
     ModeSense,
     kIn,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kRead,
     kPlain,
     {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff}},
    {0x5e,
     0x00,
     "PERSISTENT RESERVE IN, READ KEYS",
     PersistentReserveIn,
     kIn,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kStatus,
     kPlain,
     {0x5e, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e,
     0x01,
     "PERSISTENT RESERVE IN, READ RESERVATION",
     PersistentReserveIn,
     kIn,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kStatus,
     kPlain,
     {0x5e, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e,
     0x02,
     "PERSISTENT RESERVE IN, REPORT CAPABILITIES",
     PersistentReserveIn,
     kIn,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kStatus,
     kPlain,
     {0x5e, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5e,
     0x03,
     "PERSISTENT RESERVE IN, READ FULL STATUS",
     PersistentReserveIn,
     kIn,
     LengthAt<7, 2>,
     Address::kNone,
     Access::kStatus,
     kPlain,
     {0x5e, 0x03, 0, 0, 0, 0, 0, 0xff, 0xff}},
    {0x5f,
     0x00,
     "PERSISTENT RESERVE OUT, REGISTER",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x00, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f,
     0x01,
     "PERSISTENT RESERVE OUT, RESERVE",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x01, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f,
     0x02,
     "PERSISTENT RESERVE OUT, RELEASE",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x02, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f,
     0x03,
     "PERSISTENT RESERVE OUT, CLEAR",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x03, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f,
     0x04,
     "PERSISTENT RESERVE OUT, PREEMPT",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x04, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f,
     0x05,
     "PERSISTENT RESERVE OUT, PREEMPT AND ABORT",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x05, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x5f,
     0x06,
     "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
     PersistentReserveOut,
     kOut,
     LengthAt<5, 4>,
     Address::kNone,
     Access::kSelfJudged,
     kPlain,
     {0x5f, 0x06, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x88,
     kNoSa,
     "READ(16)",
     Read,
     kIn,
     AllBlocks,
     Address::k16,
     Access::kRead,
     kNeedsMedium,
     {0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x89,
     kNoSa,
     "COMPARE AND WRITE",
     CompareAndWrite,
     kOut,
     TwiceAllBlocks,
     Address::kCompareAndWrite,
     Access::kWrite,
     kNeedsMedium | kModifies | kExactLength,
     {0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x3f}},
    {0x8a,
     kNoSa,
     "WRITE(16)",
     Write,
     kOut,
     AllBlocks,
     Address::k16,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x8b,
     kNoSa,
     "ORWRITE(16)",
     OrWrite,
     kOut,
     AllBlocks,
     Address::k16,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0x8b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x8e,
     kNoSa,
     "WRITE AND VERIFY(16)",
     WriteAndVerify,
     kOut,
     AllBlocks,
     Address::k16,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x8f,
     kNoSa,
     "VERIFY(16)",
     Verify,
     kOut,
     ByByteCheck,
     Address::k16,
     Access::kRead,
     kNeedsMedium,
     {0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x90,
     kNoSa,
     "PRE-FETCH(16)",
     PreFetch,
     kNoData,
     Nothing,
     Address::k16,
     Access::kRead,
     kNeedsMedium,
     {0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x91,
     kNoSa,
     "SYNCHRONIZE CACHE(16)",
     SynchronizeCache,
     kNoData,
     Nothing,
     Address::k16,
     Access::kWrite,
     kNeedsMedium,
     {0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x93,
     kNoSa,
     "WRITE SAME(16)",
     WriteSame,
     kOut,
     OneBlockUnlessNdob,
     Address::k16,
     Access::kWrite,
     kNeedsMedium | kModifies | kExactLength,
     {0x93, 0x19, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0x9e,
     0x10,
     "READ CAPACITY(16)",
     ReadCapacity16,
     kIn,
     LengthAt<10, 4>,
     Address::kNone,
     Access::kAlways,
     kNeedsMedium,
     {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0x9e,
     0x12,
     "GET LBA STATUS",
     GetLbaStatus,
     kIn,
     LengthAt<10, 4>,
     Address::kNone,
     Access::kRead,
     kNeedsMedium,
     {0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
    {0xa0,
     kNoSa,
     "REPORT LUNS",
     ReportLuns,
     kIn,
     LengthAt<6, 4>,
     Address::kNone,
     Access::kAlways,
     kDespiteAttention,
     {0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0xa3,
     0x0a,
     "REPORT TARGET PORT GROUPS",
     ReportTargetPortGroups,
     kIn,
     LengthAt<6, 4>,
     Address::kNone,
     Access::kStatus,
     kPlain,
     {0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0xa3,
     0x0c,
     "REPORT SUPPORTED OPERATION CODES",
     ReportSupportedOpcodes,
     kIn,
     LengthAt<6, 4>,
     Address::kNone,
     Access::kRead,
     kPlain,
     {0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
    {0xa3,
     0x0d,
     "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
     ReportSupportedTaskManagement,
     kIn,
     LengthAt<6, 4>,
     Address::kNone,
     Access::kRead,
     kPlain,
     {0xa3, 0x0d, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {0xa8,
     kNoSa,
     "READ(12)",
     Read,
     kIn,
     AllBlocks,
     Address::k12,
     Access::kRead,
     kNeedsMedium,
     {0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0xaa,
     kNoSa,
     "WRITE(12)",
     Write,
     kOut,
     AllBlocks,
     Address::k12,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0xae,
     kNoSa,
     "WRITE AND VERIFY(12)",
     WriteAndVerify,
     kOut,
     AllBlocks,
     Address::k12,
     Access::kWrite,
     kNeedsMedium | kModifies,
     {0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
    {0xaf,
     kNoSa,
     "VERIFY(12)",
     Verify,
     kOut,
     ByByteCheck,
     Address::k12,
     Access::kRead,
     kNeedsMedium,
     {0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}},
});

constexpr bool IsSorted() {
  for (size_t i = 1; i < kTable.size(); ++i) {
    const int before = kTable[i - 1].opcode << 8 | kTable[i - 1].service_action;
    if (before >= (kTable[i].opcode << 8 | kTable[i].service_action)) return false;
  }
  return true;
}
static_assert(IsSorted());

constexpr uint8_t kAbsent = 0xff;
static_assert(kTable.size() < kAbsent);

// For each opcode, its first row.
constexpr auto kFirstRow = [] {
  std::array<uint8_t, 256> rows{};
  rows.fill(kAbsent);
  for (size_t i = kTable.size(); i-- > 0;) rows[kTable[i].opcode] = static_cast<uint8_t>(i);
  return rows;
}();

}  // namespace

std::span<const CommandEntry> CommandTable() { return kTable; }

const CommandEntry* FindOpcode(uint8_t opcode) {
  const uint8_t row = kFirstRow[opcode];
  return row == kAbsent ? nullptr : &kTable[row];
}

const CommandEntry* FindCommand(uint8_t opcode, uint8_t service_action) {
  const uint8_t row = kFirstRow[opcode];
  if (row == kAbsent) return nullptr;
  for (size_t i = row; i < kTable.size() && kTable[i].opcode == opcode; ++i) {
    if (kTable[i].service_action == service_action) return &kTable[i];
  }
  return nullptr;
}

const CommandEntry* FindCommand(const CdbBytes& cdb) {
  const CommandEntry* first = FindOpcode(cdb[0]);
  if (first == nullptr || !first->has_service_action()) return first;
  return FindCommand(cdb[0], cdb[1] & 0x1f);
}

uint8_t CdbLength(uint8_t opcode) {
  switch (opcode >> 5) {
    case 0:
      return 6;
    case 1:
    case 2:
      return 10;
    case 4:
      return 16;
    default:
      return 12;
  }
}

BlockRange RangeOf(const CommandEntry& entry, const CdbBytes& cdb) {
  switch (entry.address) {
    case Address::kNone:
      return {};
    case Address::k6:
      // SBC-3 §5.7: a length of zero means 256 blocks.
      return {Field(cdb, 1, 3) & 0x1fffff, cdb[4] == 0 ? 256u : cdb[4]};
    case Address::k10:
      return {Field(cdb, 2, 4), Field(cdb, 7, 2)};
    case Address::k12:
      return {Field(cdb, 2, 4), Field(cdb, 6, 4)};
    case Address::k16:
      return {Field(cdb, 2, 8), Field(cdb, 10, 4)};
    case Address::kCompareAndWrite:
      return {Field(cdb, 2, 8), cdb[13]};
  }
  return {};
}

uint16_t LengthFieldOf(const CommandEntry& entry) {
  switch (entry.address) {
    case Address::kNone:
      return 0;
    case Address::k6:
      return 4;
    case Address::k10:
      return 7;
    case Address::k12:
      return 6;
    case Address::k16:
      return 10;
    case Address::kCompareAndWrite:
      return 13;
  }
  return 0;
}

uint16_t ReservedBitSet(const CommandEntry& entry, const CdbBytes& cdb) {
  const uint8_t length = CdbLength(entry.opcode);
  for (uint8_t i = 1; i < length; ++i) {
    uint8_t known = entry.usage[i];
    if (i == 1 && entry.has_service_action()) known |= 0x1f;
    if ((cdb[i] & ~known) != 0) return i;
  }
  return 0;
}

}  // namespace sectormap::scsi
