// SPDX-License-Identifier: Apache-2.0
// Command: one command on its way through the unit, and CommandEntry: the row of the command table
// that says how it is dispatched, planned, reported and refused.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/async/task.h"
#include "server/scsi/abort_signal.h"
#include "server/scsi/cdb.h"
#include "server/scsi/scsi_command.h"
#include "server/scsi/sense.h"

namespace sectormap::scsi {

class LogicalUnit;
class LunNexus;
struct CommandEntry;

// Passed by value: a handler that suspends keeps it in its frame. The buffer is borrowed.
struct Command {
  LogicalUnit* unit;
  LunNexus* nexus;
  const CommandEntry* entry;
  CdbBytes cdb;
  std::span<std::byte> buffer;
  uint64_t lba;  // if the row has an address
  uint64_t blocks;
  AbortSignal* abort;  // null on the ways that end in the call

  uint8_t Bits(size_t byte, uint8_t mask) const { return cdb[byte] & mask; }
  uint16_t Field16(size_t at) const { return static_cast<uint16_t>(Field(at, 2)); }
  uint32_t Field32(size_t at) const { return static_cast<uint32_t>(Field(at, 4)); }
  uint64_t Field(size_t at, size_t width) const {
    return BigEndian(std::span<const uint8_t>(cdb), at, width);
  }

  ScsiResult Fail(SenseCode code, SenseDetail detail = {}) const;
  // INVALID FIELD IN CDB, pointing at the first byte of the field.
  ScsiResult RefuseField(uint16_t byte) const;
  // INVALID FIELD IN PARAMETER LIST, pointing at a byte of the list.
  ScsiResult RefuseParameter(size_t byte) const;
  // It was aborted before it did anything: for whoever does not hear it.
  ScsiResult EndAborted() const { return {ScsiStatus::kTaskAborted, {}, 0}; }
  // What an I/O of the command ended with.
  ScsiResult End(IoStatus status, IoOp op) const;
};

// Where a CDB has its LOGICAL BLOCK ADDRESS and its length in blocks.
enum class Address : uint8_t { kNone, k6, k10, k12, k16, kCompareAndWrite };

// How a reservation held by another nexus stops the command (SPC-4 §5.13.4, SBC-3 §4.17).
enum class Access : uint8_t {
  kAlways,      // never in conflict
  kSelfJudged,  // the command itself knows: PERSISTENT RESERVE OUT, RESERVE, START STOP UNIT
  kStatus,      // only with RESERVE(6)
  kRead,        // also with exclusive access
  kWrite,       // also with write exclusive
};

enum CommandFlags : uint8_t {
  kPlain = 0,
  kDespiteAttention = 1,  // runs while a unit attention waits
  kNeedsMedium = 2,       // NOT READY while the device has no medium
  kModifies = 4,          // refused if write protected
  kNeedsDiscard = 8,      // exists only on units that offer it (Characteristics::unmaps)
  kExactLength = 16,      // data-out of another length than planned is refused, never cut
};

inline constexpr uint8_t kNoServiceAction = 0xff;

struct CommandEntry {
  uint8_t opcode;
  uint8_t service_action;
  std::string_view name;
  Task<ScsiResult> (*run)(Command command);
  DataDirection direction;
  // Bytes that the command moves if nothing goes wrong, before any limit.
  uint64_t (*bytes)(const CommandEntry& entry, const CdbBytes& cdb, uint32_t block_bytes);
  Address address;
  Access access;
  uint8_t flags;
  // SPC-4 §6.35.3: a bit is set if the unit looks at it. Other bits that are set are refused.
  CdbBytes usage;

  bool has_service_action() const { return service_action != kNoServiceAction; }
  bool is_set(CommandFlags flag) const { return (flags & flag) != 0; }
};

}  // namespace sectormap::scsi
