// SPDX-License-Identifier: Apache-2.0
// Commands that write, free or describe many blocks at once (SBC-3 §4.7, §5.28, §5.42).
#include <algorithm>
#include <cstring>
#include <vector>

#include "server/scsi/handlers.h"
#include "server/scsi/logical_unit.h"
#include "server/scsi/medium_comparison.h"

namespace sectormap::scsi {
namespace {

ScsiResult Busy() { return {ScsiStatus::kBusy, {}, 0}; }

// --- WRITE SAME ---

constexpr uint8_t kAnchorBit = 0x10, kUnmapBit = 0x08, kNoDataOutBit = 0x01;

// One block again and again, by writes of scratch size.
Task<IoStatus> WriteRepeated(BlockDevice& disk, SectorRange range, std::span<const std::byte> block,
                             const Scratch& scratch) {
  for (size_t at = 0; at < kScratchBytes; at += block.size()) {
    std::memcpy(scratch.bytes().data() + at, block.data(), block.size());
  }
  const uint64_t length = Bytes(range.count).value();
  for (uint64_t offset = 0; offset < length;) {
    const size_t piece = static_cast<size_t>(std::min<uint64_t>(kScratchBytes, length - offset));
    const Sector at = range.first + WholeSectors(ByteCount(offset));
    const IoStatus status =
        co_await disk.Submit(IoRequest::Write(at, scratch.bytes().first(piece)));
    if (status != IoStatus::kOk) co_return status;
    offset += piece;
  }
  co_return IoStatus::kOk;
}

enum class Cheaper : uint8_t { kNone, kDiscard, kWriteZeroes };

bool DiscardGivesZeros(const BlockLimits& limits) {
  return limits.can_discard && limits.discard_zeroes;
}

// How zeros can come to the medium without moving bytes.
Cheaper CheaperWay(const BlockLimits& limits, bool is_zero, bool may_unmap) {
  if (!is_zero) return Cheaper::kNone;
  if (may_unmap && DiscardGivesZeros(limits)) return Cheaper::kDiscard;
  return limits.can_write_zeroes ? Cheaper::kWriteZeroes : Cheaper::kNone;
}

Task<ScsiResult> FillRange(Command command, std::span<const std::byte> block, Cheaper way) {
  const SectorRange range = command.unit->SectorsOf(command.lba, command.blocks);
  BlockDevice& disk = command.unit->disk();
  RangeLock& lock = command.unit->range_lock();
  const bool go_on = co_await lock.WaitUntilFree(range, *command.abort);
  if (!go_on) co_return command.EndAborted();
  RangeLock::InFlight in_flight(lock, range, *command.abort);
  if (way != Cheaper::kNone) {
    const IoRequest request = way == Cheaper::kDiscard
                                  ? IoRequest::Discard(range.first, range.count)
                                  : IoRequest::WriteZeroes(range.first, range.count);
    const IoStatus status = co_await disk.Submit(request);
    // A table may have been swapped for one that cannot, or that frees blocks without zeroing them.
    const bool is_done = way != Cheaper::kDiscard || DiscardGivesZeros(disk.limits());
    if (is_done && status != IoStatus::kNotSupported) {
      co_return command.End(status, IoOp::kWriteZeroes);
    }
  }
  const Scratch scratch;
  if (!scratch) co_return Busy();
  const std::vector<std::byte> zeros(block.empty() ? command.unit->block_bytes() : 0);
  const IoStatus status = co_await WriteRepeated(
      disk, range, block.empty() ? std::span<const std::byte>(zeros) : block, scratch);
  co_return command.End(status, IoOp::kWrite);
}

}  // namespace

Task<ScsiResult> WriteSame(Command command) {
  constexpr uint8_t kWriteSame16 = 0x93;
  const bool may_unmap = command.Bits(1, kUnmapBit) != 0;
  const bool no_data = command.cdb[0] == kWriteSame16 && command.Bits(1, kNoDataOutBit) != 0;
  const uint16_t length_field = command.cdb[0] == kWriteSame16 ? 10 : 7;
  if (command.Bits(1, kAnchorBit) != 0) return command.RefuseField(1);
  // Without LBPWS a device server refuses the UNMAP bit (SBC-3 §5.42).
  if (may_unmap && !command.unit->characteristics().write_same_unmaps) {
    return command.RefuseField(1);
  }
  // WSNZ, and MAXIMUM WRITE SAME LENGTH of VPD page B0h.
  if (command.blocks == 0 || command.blocks > kMaxWriteSameBlocks) {
    return command.RefuseField(length_field);
  }
  const std::span<const std::byte> block = command.buffer;
  const Cheaper way = CheaperWay(command.unit->limits(), no_data || IsZero(block), may_unmap);
  return FillRange(command, block, way);
}

// --- UNMAP ---

namespace {

constexpr size_t kUnmapHeaderBytes = 8;
constexpr size_t kUnmapDescriptorBytes = 16;

struct UnmapRange {
  uint64_t lba;
  uint64_t blocks;
};
UnmapRange UnmapRangeAt(std::span<const std::byte> list, size_t index) {
  const size_t at = kUnmapHeaderBytes + index * kUnmapDescriptorBytes;
  return {Be64(list, at), Be32(list, at + 8)};
}

// All descriptors, before any of them is done.
std::optional<ScsiResult> RefuseUnmap(const Command& command, std::span<const std::byte> list,
                                      size_t count) {
  if (count > kMaxUnmapDescriptors) return command.RefuseParameter(2);
  const uint64_t capacity = command.unit->capacity_blocks();
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) {
    const UnmapRange range = UnmapRangeAt(list, i);
    if (range.blocks > capacity || range.lba > capacity - range.blocks) {
      return command.Fail(kLbaOutOfRange);
    }
    total += range.blocks;
  }
  if (total > kMaxUnmapBlocks) return command.RefuseParameter(kUnmapHeaderBytes + 8);
  return std::nullopt;
}

Task<ScsiResult> DiscardRanges(Command command, std::span<const std::byte> list, size_t count) {
  RangeLock& lock = command.unit->range_lock();
  for (size_t i = 0; i < count; ++i) {
    const UnmapRange wanted = UnmapRangeAt(list, i);
    if (wanted.blocks == 0) continue;
    const SectorRange range = command.unit->SectorsOf(wanted.lba, wanted.blocks);
    const bool go_on = co_await lock.WaitUntilFree(range, *command.abort);
    if (!go_on) co_return command.EndAborted();
    RangeLock::InFlight in_flight(lock, range, *command.abort);
    const IoStatus status =
        co_await command.unit->disk().Submit(IoRequest::Discard(range.first, range.count));
    // A table that cannot discard leaves the blocks mapped, as a device server may (SBC-3 §4.7.3):
    // initiators that hear of a refusal discard no more, ever.
    if (status != IoStatus::kOk && status != IoStatus::kNotSupported) {
      co_return command.End(status, IoOp::kDiscard);
    }
  }
  co_return ScsiResult{};
}

}  // namespace

Task<ScsiResult> Unmap(Command command) {
  if (command.Bits(1, 0x01) != 0) return command.RefuseField(1);  // ANCHOR
  const size_t length = command.Field16(7);
  if (length == 0) return ScsiResult{};
  if (length < kUnmapHeaderBytes || command.buffer.size() < length) {
    return command.Fail(kParameterListLengthError);
  }
  const std::span<const std::byte> list = command.buffer.first(length);
  const size_t data_length = Be16(list, 0);
  const size_t descriptors_length = Be16(list, 2);
  // Both count what follows them; neither may speak of bytes that are not there.
  if (data_length + 2 > length) return command.RefuseParameter(0);
  if (descriptors_length + kUnmapHeaderBytes > data_length + 2) return command.RefuseParameter(2);
  // SBC-3 §5.28.2: a part of a descriptor at the end is not looked at.
  const size_t count = descriptors_length / kUnmapDescriptorBytes;
  if (std::optional<ScsiResult> refused = RefuseUnmap(command, list, count)) {
    return *std::move(refused);
  }
  return DiscardRanges(command, list, count);
}

// --- GET LBA STATUS ---

namespace {

constexpr uint32_t kLbaStatusHeaderBytes = 8;
constexpr uint32_t kLbaStatusDescriptorBytes = 16;
// So many descriptors in one answer, and so many looks at the device for it: enough for any caller
// to get on, few enough to be quick.
constexpr uint32_t kMaxLbaStatusDescriptors = 64;
constexpr uint32_t kMaxExtentLooks = 1024;

struct BlockRun {
  uint64_t blocks = 0;
  bool mapped = true;
};

// The run of equal blocks at `lba`, in whole blocks: one with any mapped sector is mapped.
BlockRun RunOf(const Extent& extent, const LogicalUnit& unit) {
  const uint64_t sectors_per_block = unit.block_bytes() / kSectorBytes;
  const uint64_t whole = extent.count.value() / sectors_per_block;
  if (whole == 0) return {1, true};
  return {whole, extent.mapped};
}

Task<ScsiResult> DescribeBlocks(Command command, uint64_t lba, uint64_t capacity) {
  constexpr uint8_t kMapped = 0, kDeallocated = 1;
  const LogicalUnit& unit = *command.unit;
  ParameterWriter out(command.buffer);
  out.Put32(0);
  out.Put32(0);
  uint32_t descriptors = 0;
  uint32_t looks = 0;
  while (lba < capacity && out.has_room() && descriptors < kMaxLbaStatusDescriptors) {
    BlockRun run;
    // Neighbouring extents of one kind are one run.
    while (lba + run.blocks < capacity && looks < kMaxExtentLooks) {
      ++looks;
      const Extent extent =
          co_await unit.disk().ExtentAt(unit.SectorsOf(lba + run.blocks, 0).first);
      if (extent.status != IoStatus::kOk) co_return command.End(extent.status, IoOp::kRead);
      const BlockRun next = RunOf(extent, unit);
      if (run.blocks != 0 && next.mapped != run.mapped) break;
      run = {run.blocks + next.blocks, next.mapped};
    }
    if (run.blocks == 0) break;
    const uint64_t told = std::min<uint64_t>({run.blocks, capacity - lba, UINT32_MAX});
    out.Put64(lba);
    out.Put32(told);
    out.Put8(run.mapped ? kMapped : kDeallocated);
    out.PutZeros(3);
    ++descriptors;
    lba += told;
  }
  out.Patch32(0, 4 + descriptors * kLbaStatusDescriptorBytes);
  co_return DataIn(out);
}
static_assert(kLbaStatusHeaderBytes + kMaxLbaStatusDescriptors * kLbaStatusDescriptorBytes <=
              kMaxParameterDataBytes);

}  // namespace

Task<ScsiResult> GetLbaStatus(Command command) {
  const uint64_t lba = command.Field(2, 8);
  const uint64_t capacity = command.unit->capacity_blocks();
  if (lba >= capacity) return command.Fail(kLbaOutOfRange);
  return DescribeBlocks(command, lba, capacity);
}

}  // namespace sectormap::scsi
