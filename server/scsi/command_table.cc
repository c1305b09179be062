// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/command_table.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "server/scsi/command_counters.h"
#include "server/scsi/handlers.h"

namespace sectormap::scsi {
namespace {

using Cdb = CdbBytes;
constexpr DataDirection kNoData = DataDirection::kNone;
constexpr DataDirection kIn = DataDirection::kIn;
constexpr DataDirection kOut = DataDirection::kOut;

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
  return BigEndian(std::span<const uint8_t>(cdb), kAt, kWidth);
}

// --- The rows ---
//
// RDPROTECT, WRPROTECT and VRPROTECT are not among the bits of `usage`: there is no protection
// information. NACA is not either: there is no ACA.

// `usage` begins after the opcode; zeros at its end need not be said.
constexpr CommandEntry Row(uint8_t opcode, std::string_view name, Task<ScsiResult> (*run)(Command),
                           DataDirection direction,
                           uint64_t (*bytes)(const CommandEntry&, const Cdb&, uint32_t),
                           Address address, Access access, int flags,
                           std::initializer_list<uint8_t> usage) {
  CommandEntry row{.opcode = opcode,
                   .service_action = kNoServiceAction,
                   .name = name,
                   .run = run,
                   .direction = direction,
                   .bytes = bytes,
                   .address = address,
                   .access = access,
                   .flags = static_cast<uint8_t>(flags),
                   .usage = {opcode}};
  std::copy(usage.begin(), usage.end(), row.usage.begin() + 1);
  return row;
}

// A row of an opcode that has several: the low five bits of the byte after the opcode tell which.
constexpr CommandEntry Action(uint8_t service_action, CommandEntry row) {
  row.service_action = service_action;
  row.usage[1] |= service_action;
  return row;
}

constexpr auto kTable = std::to_array<CommandEntry>({
    Row(0x00, "TEST UNIT READY", TestUnitReady, kNoData, Nothing, Address::kNone, Access::kStatus,
        kNeedsMedium, {}),
    Row(0x03, "REQUEST SENSE", RequestSense, kIn, LengthAt<4, 1>, Address::kNone, Access::kAlways,
        kDespiteAttention, {0x01, 0, 0, 0xff}),
    Row(0x08, "READ(6)", Read, kIn, AllBlocks, Address::k6, Access::kRead, kNeedsMedium,
        {0x1f, 0xff, 0xff, 0xff}),
    Row(0x0a, "WRITE(6)", Write, kOut, AllBlocks, Address::k6, Access::kWrite,
        kNeedsMedium | kModifies, {0x1f, 0xff, 0xff, 0xff}),
    Row(0x12, "INQUIRY", Inquiry, kIn, LengthAt<3, 2>, Address::kNone, Access::kAlways,
        kDespiteAttention, {0x01, 0xff, 0xff, 0xff}),
    Row(0x15, "MODE SELECT(6)", ModeSelect, kOut, LengthAt<4, 1>, Address::kNone, Access::kWrite,
        kPlain, {0x11, 0, 0, 0xff}),
    Row(0x16, "RESERVE(6)", Reserve, kNoData, Nothing, Address::kNone, Access::kSelfJudged, kPlain,
        {}),
    Row(0x17, "RELEASE(6)", Release, kNoData, Nothing, Address::kNone, Access::kSelfJudged, kPlain,
        {}),
    Row(0x1a, "MODE SENSE(6)", ModeSense, kIn, LengthAt<4, 1>, Address::kNone, Access::kRead,
        kPlain, {0x08, 0xff, 0xff, 0xff}),
    Row(0x1b, "START STOP UNIT", StartStopUnit, kNoData, Nothing, Address::kNone,
        Access::kSelfJudged, kPlain, {0x01, 0, 0x0f, 0xf7}),
    Row(0x1d, "SEND DIAGNOSTIC", SendDiagnostic, kNoData, Nothing, Address::kNone, Access::kWrite,
        kNeedsMedium, {0x04}),
    Row(0x25, "READ CAPACITY(10)", ReadCapacity10, kIn, EightBytes, Address::kNone, Access::kAlways,
        kNeedsMedium, {}),
    Row(0x28, "READ(10)", Read, kIn, AllBlocks, Address::k10, Access::kRead, kNeedsMedium,
        {0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x2a, "WRITE(10)", Write, kOut, AllBlocks, Address::k10, Access::kWrite,
        kNeedsMedium | kModifies, {0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x2e, "WRITE AND VERIFY(10)", WriteAndVerify, kOut, AllBlocks, Address::k10, Access::kWrite,
        kNeedsMedium | kModifies, {0x12, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x2f, "VERIFY(10)", Verify, kOut, ByByteCheck, Address::k10, Access::kRead, kNeedsMedium,
        {0x16, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x34, "PRE-FETCH(10)", PreFetch, kNoData, Nothing, Address::k10, Access::kRead,
        kNeedsMedium, {0x02, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x35, "SYNCHRONIZE CACHE(10)", SynchronizeCache, kNoData, Nothing, Address::k10,
        Access::kWrite, kNeedsMedium, {0x02, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x41, "WRITE SAME(10)", WriteSame, kOut, OneBlock, Address::k10, Access::kWrite,
        kNeedsMedium | kModifies | kExactLength, {0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff}),
    Row(0x42, "UNMAP", Unmap, kOut, LengthAt<7, 2>, Address::kNone, Access::kWrite,
        kNeedsMedium | kModifies | kNeedsDiscard, {0x01, 0, 0, 0, 0, 0x3f, 0xff, 0xff}),
    Row(0x55, "MODE SELECT(10)", ModeSelect, kOut, LengthAt<7, 2>, Address::kNone, Access::kWrite,
        kPlain, {0x11, 0, 0, 0, 0, 0, 0xff, 0xff}),
    Row(0x56, "RESERVE(10)", Reserve, kNoData, Nothing, Address::kNone, Access::kSelfJudged, kPlain,
        {}),
    Row(0x57, "RELEASE(10)", Release, kNoData, Nothing, Address::kNone, Access::kSelfJudged, kPlain,
        {}),
    Row(0x5a, "MODE SENSE(10)", ModeSense, kIn, LengthAt<7, 2>, Address::kNone, Access::kRead,
        kPlain, {0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff}),
    Action(0x00,
           Row(0x5e, "PERSISTENT RESERVE IN, READ KEYS", PersistentReserveIn, kIn, LengthAt<7, 2>,
               Address::kNone, Access::kStatus, kPlain, {0, 0, 0, 0, 0, 0, 0xff, 0xff})),
    Action(0x01, Row(0x5e, "PERSISTENT RESERVE IN, READ RESERVATION", PersistentReserveIn, kIn,
                     LengthAt<7, 2>, Address::kNone, Access::kStatus, kPlain,
                     {0, 0, 0, 0, 0, 0, 0xff, 0xff})),
    Action(0x02, Row(0x5e, "PERSISTENT RESERVE IN, REPORT CAPABILITIES", PersistentReserveIn, kIn,
                     LengthAt<7, 2>, Address::kNone, Access::kStatus, kPlain,
                     {0, 0, 0, 0, 0, 0, 0xff, 0xff})),
    Action(0x03, Row(0x5e, "PERSISTENT RESERVE IN, READ FULL STATUS", PersistentReserveIn, kIn,
                     LengthAt<7, 2>, Address::kNone, Access::kStatus, kPlain,
                     {0, 0, 0, 0, 0, 0, 0xff, 0xff})),
    Action(0x00, Row(0x5f, "PERSISTENT RESERVE OUT, REGISTER", PersistentReserveOut, kOut,
                     LengthAt<5, 4>, Address::kNone, Access::kSelfJudged, kPlain,
                     {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x01, Row(0x5f, "PERSISTENT RESERVE OUT, RESERVE", PersistentReserveOut, kOut,
                     LengthAt<5, 4>, Address::kNone, Access::kSelfJudged, kPlain,
                     {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x02, Row(0x5f, "PERSISTENT RESERVE OUT, RELEASE", PersistentReserveOut, kOut,
                     LengthAt<5, 4>, Address::kNone, Access::kSelfJudged, kPlain,
                     {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x03, Row(0x5f, "PERSISTENT RESERVE OUT, CLEAR", PersistentReserveOut, kOut,
                     LengthAt<5, 4>, Address::kNone, Access::kSelfJudged, kPlain,
                     {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x04, Row(0x5f, "PERSISTENT RESERVE OUT, PREEMPT", PersistentReserveOut, kOut,
                     LengthAt<5, 4>, Address::kNone, Access::kSelfJudged, kPlain,
                     {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x05, Row(0x5f, "PERSISTENT RESERVE OUT, PREEMPT AND ABORT", PersistentReserveOut, kOut,
                     LengthAt<5, 4>, Address::kNone, Access::kSelfJudged, kPlain,
                     {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x06, Row(0x5f, "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
                     PersistentReserveOut, kOut, LengthAt<5, 4>, Address::kNone,
                     Access::kSelfJudged, kPlain, {0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Row(0x88, "READ(16)", Read, kIn, AllBlocks, Address::k16, Access::kRead, kNeedsMedium,
        {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x89, "COMPARE AND WRITE", CompareAndWrite, kOut, TwiceAllBlocks, Address::kCompareAndWrite,
        Access::kWrite, kNeedsMedium | kModifies | kExactLength,
        {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x3f}),
    Row(0x8a, "WRITE(16)", Write, kOut, AllBlocks, Address::k16, Access::kWrite,
        kNeedsMedium | kModifies,
        {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x8b, "ORWRITE(16)", OrWrite, kOut, AllBlocks, Address::k16, Access::kWrite,
        kNeedsMedium | kModifies,
        {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x8e, "WRITE AND VERIFY(16)", WriteAndVerify, kOut, AllBlocks, Address::k16, Access::kWrite,
        kNeedsMedium | kModifies,
        {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x8f, "VERIFY(16)", Verify, kOut, ByByteCheck, Address::k16, Access::kRead, kNeedsMedium,
        {0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x90, "PRE-FETCH(16)", PreFetch, kNoData, Nothing, Address::k16, Access::kRead,
        kNeedsMedium,
        {0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x91, "SYNCHRONIZE CACHE(16)", SynchronizeCache, kNoData, Nothing, Address::k16,
        Access::kWrite, kNeedsMedium,
        {0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0x93, "WRITE SAME(16)", WriteSame, kOut, OneBlockUnlessNdob, Address::k16, Access::kWrite,
        kNeedsMedium | kModifies | kExactLength,
        {0x19, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Action(0x10,
           Row(0x9e, "READ CAPACITY(16)", ReadCapacity16, kIn, LengthAt<10, 4>, Address::kNone,
               Access::kAlways, kNeedsMedium, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x12, Row(0x9e, "GET LBA STATUS", GetLbaStatus, kIn, LengthAt<10, 4>, Address::kNone,
                     Access::kRead, kNeedsMedium,
                     {0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})),
    Row(0xa0, "REPORT LUNS", ReportLuns, kIn, LengthAt<6, 4>, Address::kNone, Access::kAlways,
        kDespiteAttention, {0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}),
    Action(0x0a, Row(0xa3, "REPORT TARGET PORT GROUPS", ReportTargetPortGroups, kIn, LengthAt<6, 4>,
                     Address::kNone, Access::kStatus, kPlain,
                     {0xe0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Action(0x0c, Row(0xa3, "REPORT SUPPORTED OPERATION CODES", ReportSupportedOpcodes, kIn,
                     LengthAt<6, 4>, Address::kNone, Access::kRead, kPlain,
                     {0, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})),
    Action(0x0d, Row(0xa3, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
                     ReportSupportedTaskManagement, kIn, LengthAt<6, 4>, Address::kNone,
                     Access::kRead, kPlain, {0, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})),
    Row(0xa8, "READ(12)", Read, kIn, AllBlocks, Address::k12, Access::kRead, kNeedsMedium,
        {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0xaa, "WRITE(12)", Write, kOut, AllBlocks, Address::k12, Access::kWrite,
        kNeedsMedium | kModifies, {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0xae, "WRITE AND VERIFY(12)", WriteAndVerify, kOut, AllBlocks, Address::k12, Access::kWrite,
        kNeedsMedium | kModifies, {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
    Row(0xaf, "VERIFY(12)", Verify, kOut, ByByteCheck, Address::k12, Access::kRead, kNeedsMedium,
        {0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f}),
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

constexpr OpClass ClassOf(const CommandEntry& entry) {
  if (entry.run == Read) return OpClass::kRead;
  if (entry.run == Write || entry.run == WriteAndVerify || entry.run == OrWrite) {
    return OpClass::kWrite;
  }
  if (entry.run == Unmap) return OpClass::kUnmap;
  if (entry.run == WriteSame) return OpClass::kWriteSame;
  if (entry.run == CompareAndWrite) return OpClass::kCompareWrite;
  if (entry.run == SynchronizeCache) return OpClass::kFlush;
  return OpClass::kOther;
}

// For each opcode, its class: every command is counted, by no more than one load.
constexpr auto kClasses = [] {
  std::array<OpClass, 256> classes{};
  classes.fill(OpClass::kOther);
  for (const CommandEntry& entry : kTable) classes[entry.opcode] = ClassOf(entry);
  return classes;
}();

}  // namespace

std::span<const CommandEntry> CommandTable() { return kTable; }

OpClass ClassOf(const CdbBytes& cdb) { return kClasses[cdb[0]]; }

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

}  // namespace sectormap::scsi
