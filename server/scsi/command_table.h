// SPDX-License-Identifier: Apache-2.0
// The one table of commands. It answers dispatch, Plan(), REPORT SUPPORTED OPERATION CODES, the
// reservation rules and the counters. A new command is one row in command_table.cc and one function
// in handlers.h.
#pragma once

#include <cstdint>
#include <span>

#include "server/scsi/command.h"

namespace sectormap::scsi {

// Sorted by opcode, then service action.
std::span<const CommandEntry> CommandTable();

// Null if there is no such command.
const CommandEntry* FindCommand(const CdbBytes& cdb);
const CommandEntry* FindCommand(uint8_t opcode, uint8_t service_action);
// The first row with this opcode, whatever its service action; null if there is none.
const CommandEntry* FindOpcode(uint8_t opcode);

// By the opcode's group (SPC-4 §4.2.5.1).
uint8_t CdbLength(uint8_t opcode);

struct BlockRange {
  uint64_t lba = 0;
  uint64_t blocks = 0;
};
// The row's address fields; zeros if it has none.
BlockRange RangeOf(const CommandEntry& entry, const CdbBytes& cdb);

// Byte of the CDB at which the row's length field begins, for the field pointer.
uint16_t LengthFieldOf(const CommandEntry& entry);

// The first byte in which a bit is set that the command does not have; 0 if there is none.
uint16_t ReservedBitSet(const CommandEntry& entry, const CdbBytes& cdb);

// The data-out bytes of VERIFY by its BYTCHK field: none, all, or one block.
inline constexpr uint8_t kByteCheckMask = 0x06;

}  // namespace sectormap::scsi
