// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/persistent_store.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "core/async/next_turn.h"
#include "core/base/check.h"
#include "core/base/little_endian.h"
#include "core/base/text.h"
#include "core/block/aligned_bytes.h"
#include "targets/snapshot/waiter_list.h"

namespace sectormap::targets {
namespace {

constexpr uint32_t kMagic = 0x70416e53;  // "SnAp" in little-endian
constexpr uint32_t kVersion = 1;
constexpr size_t kEntryBytes = 16;

// Areas are read in pieces of this; others have their turn on the reactor after each.
constexpr size_t kReadBytes = 64 << 10;

// Less than a page would make a disk read before it writes.
constexpr uint64_t kBlockBytes = 4096;

void StoreEntry(std::span<std::byte> bytes, size_t offset, uint64_t old_chunk, uint64_t new_chunk) {
  StoreLittleEndian(bytes, offset, old_chunk);
  StoreLittleEndian(bytes, offset + sizeof(uint64_t), new_chunk);
}

// Places in the header.
constexpr size_t kMagicPlace = 0;
constexpr size_t kValidPlace = 4;
constexpr size_t kVersionPlace = 8;
constexpr size_t kChunkSizePlace = 12;

// Of a store that is not new.
absl::Status CheckHeader(std::span<const std::byte> header, const BlockLimits& origin,
                         const BlockLimits& cow) {
  if (LoadLittleEndian<uint32_t>(header, kMagicPlace) != kMagic) {
    return absl::DataLossError(
        "Invalid or corrupt snapshot: the first four bytes are neither zero (a new store) nor "
        "\"SnAp\"");
  }
  const uint64_t chunk = LoadLittleEndian<uint32_t>(header, kChunkSizePlace);
  const absl::Status legal = CheckChunkSize(chunk, origin, cow);
  if (!legal.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("invalid on-disk chunk size ", chunk, ": ", legal.message()));
  }
  const auto version = LoadLittleEndian<uint32_t>(header, kVersionPlace);
  if (version != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("unable to handle snapshot disk version ", version));
  }
  return absl::OkStatus();
}

absl::Status CannotRead(std::string_view what, IoStatus status) {
  return absl::UnavailableError(
      absl::StrCat(Absl(what), " could not be read (", Absl(ToString(status)), ")"));
}

absl::Status CannotWrite(IoStatus status) {
  return absl::UnavailableError(
      absl::StrCat("a new store could not be written (", Absl(ToString(status)), ")"));
}

}  // namespace

absl::Status CheckChunkSize(uint64_t chunk_sectors, const BlockLimits& origin,
                            const BlockLimits& cow) {
  if (!std::has_single_bit(chunk_sectors)) {
    return absl::InvalidArgumentError("Chunk size is not a power of 2");
  }
  for (const BlockLimits* limits : {&cow, &origin}) {
    if (chunk_sectors % std::max<uint64_t>(limits->logical_block_bytes / kSectorBytes, 1) != 0) {
      return absl::InvalidArgumentError("Chunk size is not a multiple of device blocksize");
    }
  }
  if (chunk_sectors > kChunkSectorsMax) {
    return absl::InvalidArgumentError("Chunk size is too high");
  }
  return absl::OkStatus();
}

PersistentStore::PersistentStore(std::shared_ptr<BlockDevice> cow, uint64_t chunk_sectors)
    : cow_(std::move(cow)),
      chunk_(chunk_sectors),
      entries_(Bytes(SectorCount(chunk_sectors)).value() / kEntryBytes),
      block_bytes_(std::min(Bytes(SectorCount(chunk_sectors)).value(), kBlockBytes)),
      block_(block_bytes_) {}

uint64_t PersistentStore::cow_chunks() const {
  return std::min(cow_->size().value() / chunk_, kChunksMax);
}

Sector PersistentStore::EntrySector(uint64_t index) const {
  const uint64_t byte = index % entries_ * kEntryBytes;
  return ChunkPlace(AreaChunk(index / entries_)) + WholeSectors(ByteCount(byte));
}

// --- Opening ---

// Checks entries as they come and puts them into the table.
class PersistentStore::Reader {
 public:
  Reader(PersistentStore& store, SectorCount origin_size)
      : store_(store),
        origin_chunks_(
            std::min((origin_size.value() + store.chunk_ - 1) / store.chunk_, kChunksMax)),
        cow_chunks_(store.cow_chunks()) {}

  absl::Status Add(uint64_t old_chunk, uint64_t new_chunk) {
    if (old_chunk >= origin_chunks_) {
      return Damage(old_chunk, new_chunk, "the origin has no such chunk");
    }
    if (new_chunk >= cow_chunks_) {
      return Damage(old_chunk, new_chunk, "the store has no such chunk");
    }
    if (store_.HoldsMetadata(new_chunk)) {
      return Damage(old_chunk, new_chunk, "metadata lie there");
    }
    if (dense_ == count_ && new_chunk == store_.SlotChunk(count_)) {
      ++dense_;
    } else if (InDensePart(new_chunk) || !others_.insert(new_chunk).second) {
      return Damage(old_chunk, new_chunk, "another exception lies there");
    }
    if (!exceptions.Insert({old_chunk, new_chunk, 1})) {
      return Damage(old_chunk, new_chunk, "that chunk has an exception already");
    }
    store_.next_free_ = std::max(store_.next_free_, new_chunk + 1);
    ++count_;
    return absl::OkStatus();
  }

  uint64_t count() const { return count_; }
  bool dense() const { return dense_ == count_; }

  ExceptionTable exceptions;

 private:
  absl::Status Damage(uint64_t old_chunk, uint64_t new_chunk, std::string_view why) const {
    return absl::DataLossError(
        absl::StrCat("the store is damaged: exception ", count_, " says that chunk ", old_chunk,
                     " of the origin lies in chunk ", new_chunk, " of the store, but ", Absl(why)));
  }
  // No metadata, so a slot.
  bool InDensePart(uint64_t chunk) const {
    const uint64_t stride = store_.entries_ + 1;
    return (chunk - 1) / stride * store_.entries_ + (chunk - 1) % stride - 1 < dense_;
  }

  PersistentStore& store_;
  const uint64_t origin_chunks_;
  const uint64_t cow_chunks_;
  uint64_t count_ = 0;
  uint64_t dense_ = 0;  // so many entries at the start lie in their slots
  absl::flat_hash_set<uint64_t> others_;
};

Task<absl::StatusOr<PersistentStore::Opened>> PersistentStore::Open(
    std::shared_ptr<BlockDevice> cow, BlockLimits origin, SectorCount origin_size,
    uint64_t chunk_sectors, Known known) {
  if (cow->size() < SectorCount(chunk_sectors)) {
    co_return absl::UnavailableError(absl::StrCat(
        "the store has ", cow->size().value(), " sectors, less than one chunk of ", chunk_sectors));
  }
  const AlignedBytes header(kSectorBytes);
  const IoStatus status = co_await cow->Submit(IoRequest::Read(Sector(0), header.get()));
  Opened opened;
  if (status != IoStatus::kOk && known.invalid && status != IoStatus::kAborted) {
    opened.store.reset(new PersistentStore(std::move(cow), chunk_sectors));
    opened.valid = false;
    opened.header_is_wrong = true;
    co_return opened;
  }
  if (status != IoStatus::kOk) co_return CannotRead("the store's header", status);

  if (LoadLittleEndian<uint32_t>(header.get(), kMagicPlace) == 0) {
    opened.store.reset(new PersistentStore(std::move(cow), chunk_sectors));
    opened.valid = !known.restored;
    absl::Status formatted = co_await opened.store->Format(opened.valid);
    if (!formatted.ok()) co_return formatted;
    co_return opened;
  }
  absl::Status usable = CheckHeader(header.get(), origin, cow->limits());
  if (!usable.ok()) co_return usable;
  opened.store.reset(new PersistentStore(
      std::move(cow), LoadLittleEndian<uint32_t>(header.get(), kChunkSizePlace)));
  const bool header_valid = LoadLittleEndian<uint32_t>(header.get(), kValidPlace) != 0;
  opened.valid = header_valid && !known.invalid;
  opened.header_is_wrong = header_valid && known.invalid;
  if (!opened.valid) co_return opened;
  Reader reader(*opened.store, origin_size);
  absl::Status read = co_await opened.store->ReadEntries(reader);
  if (!read.ok()) co_return read;
  opened.exceptions = std::move(reader.exceptions);
  co_return opened;
}

// Area after area up to the terminator. What is in its block before it is written again with what
// comes.
Task<absl::Status> PersistentStore::ReadEntries(Reader& reader) {
  const AlignedBytes piece(std::min<size_t>(kReadBytes, Bytes(SectorCount(chunk_)).value()));
  bool ended = false;
  for (uint64_t index = 0; !ended;) {
    if (AreaChunk(index / entries_) >= cow_chunks()) {
      co_return absl::DataLossError(
          absl::StrCat("the store is damaged: area ", index / entries_, " lies past its end"));
    }
    const IoStatus read = co_await cow_->Submit(IoRequest::Read(EntrySector(index), piece.get()));
    if (read != IoStatus::kOk) co_return CannotRead("the store's exceptions", read);
    for (size_t place = 0; place < piece.get().size(); place += kEntryBytes, ++index) {
      const auto new_chunk = LoadLittleEndian<uint64_t>(piece.get(), place + sizeof(uint64_t));
      if (new_chunk == 0) {
        const size_t start = place / block_bytes_ * block_bytes_;
        std::ranges::copy(piece.get().subspan(start, place - start), block_.begin());
        ended = true;
        break;
      }
      absl::Status added = reader.Add(LoadLittleEndian<uint64_t>(piece.get(), place), new_chunk);
      if (!added.ok()) co_return added;
    }
    co_await NextTurn();
  }
  committed_ = reader.count();
  next_entry_ = reader.count();
  dense_ = reader.dense();
  if (HoldsMetadata(next_free_)) ++next_free_;
  zero_behind_ = true;
  co_return absl::OkStatus();
}

// The kernel writes the header first; a loss of power then leaves a valid header over whatever was
// in area 0. Here the header is last.
Task<absl::Status> PersistentStore::Format(bool valid) {
  if (cow_chunks() < 2) {
    co_return absl::UnavailableError(absl::StrCat("the store has ", cow_->size().value(),
                                                  " sectors, too few for a header and an area of ",
                                                  chunk_, " sectors each"));
  }
  IoStatus status = co_await WriteZeroesTo(*cow_, Sector(1), SectorCount(2 * chunk_ - 1));
  if (status == IoStatus::kOk) status = co_await cow_->Submit(IoRequest::Flush());
  if (status == IoStatus::kOk) status = co_await WriteHeader(valid);
  if (status != IoStatus::kOk) co_return CannotWrite(status);
  co_return absl::OkStatus();
}

Task<IoStatus> PersistentStore::WriteHeader(bool valid) {
  const AlignedBytes header(kSectorBytes);
  std::memset(header.get().data(), 0, kSectorBytes);
  StoreLittleEndian(header.get(), kMagicPlace, kMagic);
  StoreLittleEndian(header.get(), kValidPlace, uint32_t{valid});
  StoreLittleEndian(header.get(), kVersionPlace, kVersion);
  StoreLittleEndian(header.get(), kChunkSizePlace, static_cast<uint32_t>(chunk_));
  co_return co_await cow_->Submit(IoRequest::Write(Sector(0), header.get(), true));
}

// --- Allocation and commit ---

ExceptionStore::Allocation PersistentStore::Allocate(uint64_t wanted) {
  const uint64_t chunks = cow_chunks();
  const uint64_t stride = entries_ + 1;
  const uint64_t area_left = entries_ - next_entry_ % entries_;
  const uint64_t to_metadata = stride - (next_free_ - 1) % stride;
  uint64_t count =
      std::min({wanted, area_left, to_metadata, chunks - std::min(chunks, next_free_)});
  if (count == area_left && AreaChunk(next_entry_ / entries_ + 1) >= chunks) --count;
  if (count == 0) return {};
  const Allocation allocation{next_free_, count};
  next_entry_ += count;
  next_free_ += count;
  if (HoldsMetadata(next_free_)) ++next_free_;
  return allocation;
}

// The blocks that hold the entries from number `index` on, as they will be.
std::vector<std::byte> PersistentStore::EntryBlocks(std::span<const ExceptionRun> runs,
                                                    uint64_t index) const {
  uint64_t count = 0;
  for (const ExceptionRun& run : runs) count += run.count;
  size_t place = index % entries_ * kEntryBytes % block_bytes_;
  const size_t end = place + count * kEntryBytes;
  std::vector<std::byte> blocks((end + block_bytes_ - 1) / block_bytes_ * block_bytes_);
  std::copy_n(block_.begin(), place, blocks.begin());
  for (const ExceptionRun& run : runs) {
    for (uint64_t i = 0; i < run.count; ++i, place += kEntryBytes) {
      StoreEntry(blocks, place, run.old_chunk + i, run.new_chunk + i);
    }
  }
  return blocks;
}

Task<IoStatus> PersistentStore::ZeroArea(uint64_t area) {
  co_return co_await WriteZeroesTo(*cow_, ChunkPlace(AreaChunk(area)), SectorCount(chunk_));
}

// From the sector after that of entry number `index` to the end of its area.
Task<IoStatus> PersistentStore::ZeroBehind(uint64_t index) {
  const Sector first = EntrySector(index) + SectorCount(1);
  const Sector end = ChunkPlace(AreaChunk(index / entries_) + 1);
  co_return co_await WriteZeroesTo(*cow_, first, end - first);
}

Task<IoStatus> PersistentStore::Commit(std::span<const ExceptionRun> runs) {
  const uint64_t index = committed();
  const std::vector<std::byte> blocks = EntryBlocks(runs, index);
  uint64_t count = 0;
  for (const ExceptionRun& run : runs) count += run.count;
  CHECK(count > 0 && count <= commit_room());

  IoStatus status = IoStatus::kOk;
  if (zero_behind_) status = co_await ZeroBehind(index);
  const bool fills_area = (index + count) % entries_ == 0;
  if (fills_area && status == IoStatus::kOk) status = co_await ZeroArea(index / entries_ + 1);
  if (status == IoStatus::kOk) status = co_await cow_->Submit(IoRequest::Flush());
  if (status != IoStatus::kOk) co_return status;
  zero_behind_ = false;

  const uint64_t block_entries = block_bytes_ / kEntryBytes;
  const AlignedBytes out(blocks.size());
  std::ranges::copy(blocks, out.get().begin());
  status = co_await cow_->Submit(
      IoRequest::Write(EntrySector(index / block_entries * block_entries), out.get(), true));
  if (status != IoStatus::kOk) co_return status;

  committed_.store(index + count, std::memory_order_relaxed);
  if ((index + count) % block_entries == 0) {
    std::ranges::fill(block_, std::byte{0});
  } else {
    std::copy(blocks.end() - static_cast<ptrdiff_t>(block_bytes_), blocks.end(), block_.begin());
  }
  co_return IoStatus::kOk;
}

Task<IoStatus> PersistentStore::Invalidate() { return WriteHeader(false); }

ExceptionStore::Usage PersistentStore::usage() const {
  return {SectorCount(next_free_ * chunk_), cow_->size(),
          SectorCount((committed() / entries_ + 2) * chunk_)};
}

// --- Merging ---

Task<IoStatus> PersistentStore::ReadLast(uint64_t most, std::vector<ExceptionRun>& last) {
  last.clear();
  const uint64_t end = committed();
  if (end == 0) co_return IoStatus::kOk;
  const uint64_t area_start = (end - 1) / entries_ * entries_;
  const uint64_t first = std::max(area_start, end - std::min(end, most));
  const Sector from = EntrySector(first);
  const SectorCount count = EntrySector(end - 1) + SectorCount(1) - from;
  const AlignedBytes bytes(Bytes(count).value());
  const IoStatus status = co_await cow_->Submit(IoRequest::Read(from, bytes.get()));
  if (status != IoStatus::kOk) co_return status;
  constexpr uint64_t kPerSector = kSectorBytes / kEntryBytes;
  for (uint64_t index = first; index < end; ++index) {
    const size_t place = (index - first / kPerSector * kPerSector) * kEntryBytes;
    last.push_back({LoadLittleEndian<uint64_t>(bytes.get(), place),
                    LoadLittleEndian<uint64_t>(bytes.get(), place + 8), 1});
  }
  co_return IoStatus::kOk;
}

// A torn write may leave entries behind the first that is zeroed. They are merged already; Open()
// does not see them, and the first commit after it clears them.
Task<IoStatus> PersistentStore::RemoveLast(uint64_t count) {
  const uint64_t end = committed();
  CHECK(count > 0 && count <= end && (end - 1) / entries_ == (end - count) / entries_);
  const uint64_t left = end - count;
  const uint64_t block_entries = block_bytes_ / kEntryBytes;
  const uint64_t first = left / block_entries * block_entries;
  const uint64_t blocks = (end - first + block_entries - 1) / block_entries;
  const AlignedBytes bytes(blocks * block_bytes_);
  IoStatus status =
      co_await cow_->Submit(IoRequest::Read(EntrySector(first), bytes.get().first(block_bytes_)));
  if (status != IoStatus::kOk) co_return status;
  const size_t kept = (left - first) * kEntryBytes;
  std::memset(bytes.get().data() + kept, 0, bytes.get().size() - kept);
  status = co_await cow_->Submit(IoRequest::Write(EntrySector(first), bytes.get(), true));
  if (status != IoStatus::kOk) co_return status;
  std::ranges::copy(bytes.get().first(block_bytes_), block_.begin());
  co_return IoStatus::kOk;
}

void PersistentStore::Forget(uint64_t count) {
  const uint64_t left = committed() - count;
  committed_.store(left, std::memory_order_relaxed);
  next_entry_ = left;
  if (left == 0) dense_ = true;
  if (dense_) next_free_ = SlotChunk(left);
}

}  // namespace sectormap::targets
