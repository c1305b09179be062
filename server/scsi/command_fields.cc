// SPDX-License-Identifier: Apache-2.0
// What a CDB says where its row tells to look.
#include "server/scsi/command_table.h"

namespace sectormap::scsi {
namespace {

uint64_t Field(const CdbBytes& cdb, size_t at, size_t width) {
  return BigEndian(std::span<const uint8_t>(cdb), at, width);
}

}  // namespace

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
