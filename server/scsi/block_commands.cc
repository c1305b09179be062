// SPDX-License-Identifier: Apache-2.0
// Commands of a direct access block device (SBC-3 §5): reading, writing, verifying.
#include <algorithm>

#include "server/scsi/command_table.h"
#include "server/scsi/handlers.h"
#include "server/scsi/logical_unit.h"
#include "server/scsi/medium_comparison.h"
#include "server/scsi/vpd_pages.h"

namespace sectormap::scsi {
namespace {

constexpr uint8_t kFuaBit = 0x08;
constexpr uint8_t kWrite6 = 0x0a;

ScsiResult Busy() { return {ScsiStatus::kBusy, {}, 0}; }

// SBC-3 §5.2, §5.32: INFORMATION is the offset of the first difference.
ScsiResult Miscompare(const Command& command, uint64_t offset) {
  return command.Fail(kMiscompareDuringVerify, {.information = offset, .field_pointer = {}});
}

// The data that the initiator sent for a write. The transfer may be shorter than the CDB says (RFC
// 7143 §11.4.5.1, overflow): whole blocks are written; a part of a block cannot be, and then
// nothing is.
struct WriteData {
  std::span<std::byte> bytes;
  bool is_whole;
};
WriteData WriteDataOf(const Command& command) {
  const size_t wanted = command.blocks * command.unit->block_bytes();
  const std::span<std::byte> bytes = command.buffer.first(std::min(wanted, command.buffer.size()));
  return {bytes, bytes.size() % command.unit->block_bytes() == 0};
}

bool AsksForUnitAccess(const Command& command) {
  return command.cdb[0] != kWrite6 && command.Bits(1, kFuaBit) != 0;
}

SectorRange RangeOfData(const Command& command, std::span<const std::byte> data) {
  return {command.unit->SectorsOf(command.lba, 0).first, WholeSectors(ByteCount(data.size()))};
}

Task<ScsiResult> FinishRead(Command command, Task<IoStatus> io) {
  const IoStatus status = co_await io;
  ScsiResult result = command.End(status, IoOp::kRead);
  if (status == IoStatus::kOk) {
    result.data_in_bytes = static_cast<uint32_t>(command.blocks * command.unit->block_bytes());
  }
  co_return result;
}

// Nothing runs on this reactor between Write() and here, so no hold can have come.
Task<ScsiResult> FinishWrite(Command command, SectorRange range, Task<IoStatus> io) {
  RangeLock::InFlight in_flight(command.unit->range_lock(), range, *command.abort);
  const IoStatus status = co_await io;
  co_return command.End(status, IoOp::kWrite);
}

Task<ScsiResult> WriteAfterHold(Command command, SectorRange range, IoRequest request) {
  RangeLock& lock = command.unit->range_lock();
  const bool go_on = co_await lock.WaitUntilFree(range, *command.abort);
  if (!go_on) co_return command.EndAborted();
  RangeLock::InFlight in_flight(lock, range, *command.abort);
  const IoStatus status = co_await command.unit->disk().Submit(request);
  co_return command.End(status, IoOp::kWrite);
}

}  // namespace

// FUA asks for the medium's bytes. A cache below never holds bytes that are older than the
// medium's, and the kernel's own dm reads through it as well.
Task<ScsiResult> Read(Command command) {
  if (command.blocks == 0) return ScsiResult{};
  const size_t bytes = command.blocks * command.unit->block_bytes();
  const SectorRange range = command.unit->SectorsOf(command.lba, command.blocks);
  Task<IoStatus> io =
      command.unit->disk().Submit(IoRequest::Read(range.first, command.buffer.first(bytes)));
  if (!io.immediate()) return FinishRead(command, std::move(io));
  const IoStatus status = io.await_resume();
  ScsiResult result = command.End(status, IoOp::kRead);
  if (status == IoStatus::kOk) result.data_in_bytes = static_cast<uint32_t>(bytes);
  return result;
}

Task<ScsiResult> Write(Command command) {
  const WriteData data = WriteDataOf(command);
  if (!data.is_whole) return command.Fail(kInvalidFieldInInformationUnit);
  if (data.bytes.empty()) return ScsiResult{};
  const SectorRange range = RangeOfData(command, data.bytes);
  const IoRequest request = IoRequest::Write(range.first, data.bytes, AsksForUnitAccess(command));
  if (command.unit->range_lock().MustWait(range)) return WriteAfterHold(command, range, request);
  Task<IoStatus> io = command.unit->disk().Submit(request);
  if (!io.immediate()) return FinishWrite(command, range, std::move(io));
  return command.End(io.await_resume(), IoOp::kWrite);
}

bool TryWrite(const Command& command) {
  const WriteData data = WriteDataOf(command);
  if (!data.is_whole || data.bytes.empty() || AsksForUnitAccess(command)) return false;
  const SectorRange range = RangeOfData(command, data.bytes);
  return !command.unit->range_lock().MustWait(range) &&
         command.unit->disk().WriteAtOnce(range.first, data.bytes);
}

Task<ScsiResult> ReadCapacity10(Command command) {
  const uint64_t last = command.unit->capacity_blocks() - 1;
  ParameterWriter out(command.buffer);
  out.Put32(std::min<uint64_t>(last, UINT32_MAX));
  out.Put32(command.unit->block_bytes());
  return DataIn(out);
}

Task<ScsiResult> ReadCapacity16(Command command) {
  constexpr uint16_t kManaged = 0x8000, kReadsZeros = 0x4000;
  constexpr size_t kBytes = 32;
  const Characteristics about = command.unit->characteristics();
  ParameterWriter out(command.buffer);
  out.Put64(command.unit->capacity_blocks() - 1);
  out.Put32(command.unit->block_bytes());
  out.Put8(0);
  out.Put8(PhysicalBlockExponent(*command.unit));
  out.Put16((about.unmaps ? kManaged : 0) | (about.reads_zeros ? kReadsZeros : 0) |
            LowestAlignedLba(*command.unit));
  out.PadTo(kBytes);
  return DataIn(out);
}

namespace {

Task<ScsiResult> FlushAll(Command command) {
  const IoStatus status = co_await command.unit->disk().Submit(IoRequest::Flush());
  co_return command.End(status, IoOp::kFlush);
}

}  // namespace

// The whole device is flushed, whatever the range. With IMMED the status could come earlier; it
// comes when it is true, so that no error is lost.
Task<ScsiResult> SynchronizeCache(Command command) { return FlushAll(command); }

// There is no cache of ours to fill. GOOD says "not all of it is cached" (SBC-3 §5.12).
Task<ScsiResult> PreFetch(Command) { return ScsiResult{}; }

namespace {

Task<ScsiResult> VerifyMedium(Command command, Expected expected) {
  const Scratch scratch;
  if (!scratch) co_return Busy();
  const SectorRange range = command.unit->SectorsOf(command.lba, command.blocks);
  const Comparison found = co_await CompareMedium(command.unit->disk(), range, expected, scratch);
  if (found.status != IoStatus::kOk) co_return command.End(found.status, IoOp::kRead);
  if (found.mismatch) co_return Miscompare(command, *found.mismatch);
  co_return ScsiResult{};
}

}  // namespace

// SBC-3 §5.32: BYTCHK 00b reads, 01b compares all, 11b compares every block with the one sent.
Task<ScsiResult> Verify(Command command) {
  const uint8_t check = command.Bits(1, kByteCheckMask) >> 1;
  if (check == 2) return command.RefuseField(1);
  const size_t all_bytes = command.blocks * command.unit->block_bytes();
  if (all_bytes > kMaxTransferBytes) return command.RefuseField(LengthFieldOf(*command.entry));
  if (command.blocks == 0) return ScsiResult{};
  if (check == 0) return VerifyMedium(command, {});
  const size_t wanted = check == 1 ? all_bytes : command.unit->block_bytes();
  if (command.buffer.size() < wanted) return command.Fail(kInvalidFieldInInformationUnit);
  return VerifyMedium(command, {command.buffer.first(wanted), check == 3});
}

namespace {

Task<ScsiResult> WriteThenVerify(Command command, std::span<std::byte> data, bool compares) {
  const Scratch scratch;
  if (!scratch) co_return Busy();
  const SectorRange range = RangeOfData(command, data);
  RangeLock& lock = command.unit->range_lock();
  const bool go_on = co_await lock.WaitUntilFree(range, *command.abort);
  if (!go_on) co_return command.EndAborted();
  RangeLock::InFlight in_flight(lock, range, *command.abort);
  // SBC-3 §5.46: the medium is verified, so the bytes have to be on it.
  const IoStatus written =
      co_await command.unit->disk().Submit(IoRequest::Write(range.first, data, true));
  if (written != IoStatus::kOk) co_return command.End(written, IoOp::kWrite);
  const Expected expected{compares ? data : std::span<std::byte>(), false};
  const Comparison found = co_await CompareMedium(command.unit->disk(), range, expected, scratch);
  if (found.status != IoStatus::kOk) co_return command.End(found.status, IoOp::kRead);
  if (found.mismatch) co_return Miscompare(command, *found.mismatch);
  co_return ScsiResult{};
}

}  // namespace

Task<ScsiResult> WriteAndVerify(Command command) {
  const WriteData data = WriteDataOf(command);
  if (!data.is_whole) return command.Fail(kInvalidFieldInInformationUnit);
  if (data.bytes.empty()) return ScsiResult{};
  return WriteThenVerify(command, data.bytes, command.Bits(1, 0x02) != 0);
}

namespace {

Task<ScsiResult> CompareThenWrite(Command command, std::span<std::byte> expected,
                                  std::span<std::byte> data) {
  const Scratch scratch;
  if (!scratch) co_return Busy();
  const SectorRange range = command.unit->SectorsOf(command.lba, command.blocks);
  BlockDevice& disk = command.unit->disk();
  const RangeLock::Exclusive held = co_await command.unit->range_lock().Acquire(range);
  if (command.abort->raised()) co_return command.EndAborted();
  const Comparison found = co_await CompareMedium(disk, range, {expected, false}, scratch);
  if (found.status != IoStatus::kOk) co_return command.End(found.status, IoOp::kRead);
  if (found.mismatch) co_return Miscompare(command, *found.mismatch);
  const bool fua = command.Bits(1, kFuaBit) != 0;
  const IoStatus written = co_await disk.Submit(IoRequest::Write(range.first, data, fua));
  co_return command.End(written, IoOp::kWrite);
}

Task<ScsiResult> OrThenWrite(Command command, std::span<std::byte> data) {
  const Scratch scratch;
  if (!scratch) co_return Busy();
  const SectorRange range = RangeOfData(command, data);
  BlockDevice& disk = command.unit->disk();
  const RangeLock::Exclusive held = co_await command.unit->range_lock().Acquire(range);
  if (command.abort->raised()) co_return command.EndAborted();
  const IoStatus read = co_await OrMediumInto(disk, range, data, scratch);
  if (read != IoStatus::kOk) co_return command.End(read, IoOp::kRead);
  const bool fua = command.Bits(1, kFuaBit) != 0;
  const IoStatus written = co_await disk.Submit(IoRequest::Write(range.first, data, fua));
  co_return command.End(written, IoOp::kWrite);
}

}  // namespace

// SBC-3 §5.2: the first half of the data is compared, the second written. The dispatcher has seen
// that both halves are there. The standard lets a count of zero succeed. It is refused here: the
// field is one byte, so zero is what an initiator sends that asked for 256 blocks, and it must not
// hear that a compare succeeded which never was (libiscsi's suite asks for exactly this).
Task<ScsiResult> CompareAndWrite(Command command) {
  if (command.blocks == 0)
    return command.Fail(kInvalidFieldInCdb, {.information = {}, .field_pointer = 13});
  const size_t half = command.buffer.size() / 2;
  return CompareThenWrite(command, command.buffer.first(half), command.buffer.subspan(half));
}

Task<ScsiResult> OrWrite(Command command) {
  const WriteData data = WriteDataOf(command);
  if (!data.is_whole) return command.Fail(kInvalidFieldInInformationUnit);
  if (data.bytes.empty()) return ScsiResult{};
  return OrThenWrite(command, data.bytes);
}

}  // namespace sectormap::scsi
