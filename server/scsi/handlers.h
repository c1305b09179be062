// SPDX-License-Identifier: Apache-2.0
// The functions that the rows of the command table name. Each may count on what the dispatcher has
// checked: no reserved bit is set, the address is inside the medium, the transfer is not too long,
// reservations and write protection allow it.
#pragma once

#include "server/scsi/command.h"

namespace sectormap::scsi {

// primary_commands.cc (SPC-4)
Task<ScsiResult> TestUnitReady(Command command);
Task<ScsiResult> RequestSense(Command command);
Task<ScsiResult> Inquiry(Command command);
Task<ScsiResult> ReportLuns(Command command);
Task<ScsiResult> StartStopUnit(Command command);
Task<ScsiResult> SendDiagnostic(Command command);
Task<ScsiResult> ReportSupportedOpcodes(Command command);
Task<ScsiResult> ReportSupportedTaskManagement(Command command);
Task<ScsiResult> ReportTargetPortGroups(Command command);

// mode_pages.cc
Task<ScsiResult> ModeSense(Command command);
Task<ScsiResult> ModeSelect(Command command);

// reservation_commands.cc
Task<ScsiResult> Reserve(Command command);
Task<ScsiResult> Release(Command command);
Task<ScsiResult> PersistentReserveIn(Command command);
Task<ScsiResult> PersistentReserveOut(Command command);

// block_commands.cc (SBC-3)
Task<ScsiResult> Read(Command command);
Task<ScsiResult> Write(Command command);
// The same in the call; false: not so, Write() it.
bool TryWrite(const Command& command);
Task<ScsiResult> ReadCapacity10(Command command);
Task<ScsiResult> ReadCapacity16(Command command);
Task<ScsiResult> SynchronizeCache(Command command);
Task<ScsiResult> PreFetch(Command command);
Task<ScsiResult> Verify(Command command);
Task<ScsiResult> WriteAndVerify(Command command);
Task<ScsiResult> CompareAndWrite(Command command);
Task<ScsiResult> OrWrite(Command command);

// provisioning_commands.cc (SBC-3 §4.7)
Task<ScsiResult> WriteSame(Command command);
Task<ScsiResult> Unmap(Command command);
Task<ScsiResult> GetLbaStatus(Command command);

}  // namespace sectormap::scsi
