// SPDX-License-Identifier: Apache-2.0
#include "core/map/mapping_table.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/huge_pages.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_error.h"

namespace sectormap {
namespace {

// A linear row over a file with a path of middle length.
constexpr size_t kUsualRowBytes = 64;

std::string KnownTypes(const TargetRegistry& types) {
  std::vector<std::string_view> names;
  for (const TargetType* type : types.all()) names.push_back(type->name);
  std::sort(names.begin(), names.end());
  std::string text = "known types:";
  for (std::string_view name : names) text.append(" ").append(name);
  return text;
}

absl::StatusOr<MappingTable::Row> BuildRow(const TableSpec::Line& line,
                                           const TableSpec::Line::Words& words, bool read_only,
                                           const TargetRegistry& types, DeviceResolver& devices,
                                           TargetHost& host, bool restored) {
  const TargetType* type = types.Find(words.type);
  if (type == nullptr) {
    return TableError(line.number, words.type, "unknown target type", KnownTypes(types));
  }
  TargetArgs args(words.args, line.length, read_only, devices, host, restored);
  absl::StatusOr<std::unique_ptr<Target>> target = type->create(args);
  if (!target.ok()) {
    const std::string usage = absl::StrCat("usage: <start> <length> ", Absl(type->name),
                                           type->usage.empty() ? "" : " ", Absl(type->usage));
    return TableErrorAt(line.number, words.type, target.status(), usage);
  }
  CHECK((*target)->size() == line.length);
  const Target::Way way = (*target)->way();
  return MappingTable::Row{line.start, line.length, way, type, *std::move(target)};
}

// Gives a row that is built once more the devices that the first one has, in their order: so a
// target finds in use whatever it would open, and touches nothing else.
class DevicesOfRow final : public DeviceResolver {
 public:
  explicit DevicesOfRow(const Target& target) : left_(target.backings()) {}

  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode) override {
    if (left_.empty() || left_.front().name() != name) {
      return absl::NotFoundError("the row has another device there");
    }
    const DeviceRef& device = left_.front();
    left_ = left_.subspan(1);
    return device;
  }

 private:
  std::span<const DeviceRef> left_;
};

uint64_t BlockSectors(const BlockLimits& limits) {
  return std::max<uint64_t>(WholeSectors(ByteCount(limits.logical_block_bytes)).value(), 1);
}

// Tells the first time that it is given a device.
class DistinctDevices {
 public:
  bool Add(const BlockDevice* device) {
    // Most rows lie on the device of the row before them.
    return std::exchange(last_, device) != device && seen_.insert(device).second;
  }

 private:
  std::unordered_set<const BlockDevice*> seen_;
  const BlockDevice* last_ = nullptr;
};

}  // namespace

struct MappingTable::Seen {
  DistinctDevices used;
  DistinctDevices flushed;  // as backings
  std::vector<BlockDevice*> flush_themselves;
};

absl::StatusOr<std::shared_ptr<const MappingTable>> MappingTable::Build(
    const TableSpec& spec, bool read_only, const TargetRegistry& types, DeviceResolver& devices,
    TargetHost& host, bool restored) {
  if (spec.empty()) {
    return TableError(0, "", "no targets specified", "a table needs at least one row");
  }
  std::shared_ptr<MappingTable> table(new MappingTable());
  table->read_only_ = read_only;
  table->rows_.reserve(spec.lines().size());
  PreferHugePages(table->rows_);
  std::vector<uint64_t> ends;
  ends.reserve(spec.lines().size());
  Seen seen;
  WordSplitter splitter;
  for (const TableSpec::Line& line : spec.lines()) {
    ASSIGN_OR_RETURN(
        Row built, BuildRow(line, line.Split(splitter), read_only, types, devices, host, restored));
    ends.push_back(built.end().value());
    table->Add(std::move(built), seen);
  }
  table->flush_set_.insert(table->flush_set_.end(), seen.flush_themselves.begin(),
                           seen.flush_themselves.end());
  table->index_ = BtreeIndex(ends);
  table->size_ = table->rows_.back().end().offset();
  RETURN_IF_ERROR(table->CheckRowsKeepBlocksWhole(spec));
  return table;
}

// All that is asked of a row when it is new, as long as it is in the cache.
void MappingTable::Add(Row row, Seen& seen) {
  const Target& target = *row.target;
  const BlockLimits limits = MovedLimits(target.limits(), Sector(0), row.start);
  limits_ = rows_.empty() ? limits : StackedLimits(limits_, limits);
  if (target.io_boundary() != SectorCount(0)) has_boundaries_ = true;
  const bool flush_backings = target.flush_is_for_backings();
  for (const DeviceRef& backing : target.backings()) {
    BlockDevice* device = backing.device.get();
    if (seen.used.Add(device)) sizes_at_build_.push_back({device, device->size()});
    if (flush_backings && seen.flushed.Add(device)) flush_set_.push_back(device);
  }
  if (!flush_backings) seen.flush_themselves.push_back(row.target.get());
  rows_.push_back(std::move(row));
}

// A request aligned to the table's logical block must never be cut by a row's end into a piece that
// the next row's medium cannot address (dm-table.c, validate_hardware_logical_block_alignment).
absl::Status MappingTable::CheckRowsKeepBlocksWhole(const TableSpec& spec) const {
  const uint64_t table_block = BlockSectors(limits_);
  if (table_block == 1) return absl::OkStatus();
  uint64_t remaining = 0;  // sectors of a table block that the rows so far leave to the next one
  size_t last = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const uint64_t length = rows_[i].length.value();
    last = i;
    if (remaining < length && remaining % BlockSectors(rows_[i].target->limits()) != 0) break;
    remaining = (table_block - rows_[i].end().value() % table_block) % table_block;
  }
  if (remaining == 0) return absl::OkStatus();
  const Row& row = rows_[last];
  const int line = spec.lines()[last].number;
  return TableError(line, row.type->name,
                    absl::StrCat("table line ", line, " (start sect ", row.start.value(), " len ",
                                 row.length.value(), ") not aligned to h/w logical block size ",
                                 limits_.logical_block_bytes),
                    absl::StrCat("let every row end at a multiple of ", table_block, " sectors"));
}

bool MappingTable::BackingShrank() const {
  return std::any_of(sizes_at_build_.begin(), sizes_at_build_.end(),
                     [](const SeenSize& seen) { return seen.device->size() < seen.size; });
}

std::string MappingTable::Text(void (*append_words)(const Target& target,
                                                    std::string& text)) const {
  std::string text;
  // A million rows are tens of megabytes: not copied each time they have doubled.
  text.reserve(rows_.size() * kUsualRowBytes);
  PreferHugePages(text);
  for (const Row& row : rows_) {
    AppendRowHead(row.start, row.length, row.type->name, text);
    append_words(*row.target, text);
    text += '\n';
  }
  return text;
}

std::string MappingTable::TableText() const {
  return Text([](const Target& target, std::string& text) { target.AppendTableArgs(text); });
}

std::string MappingTable::TableTextToKeep() const {
  return Text([](const Target& target, std::string& text) { text += target.TableArgsToKeep(); });
}

std::string MappingTable::StatusText() const {
  return Text([](const Target& target, std::string& text) { text += target.StatusArgs(); });
}

bool MappingTable::IsWhatSays(const TableSpec& spec, const TargetRegistry& types,
                              TargetHost& host) const {
  if (spec.lines().size() != rows_.size()) return false;
  WordSplitter splitter;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    const TableSpec::Line& line = spec.lines()[i];
    const TableSpec::Line::Words words = line.Split(splitter);
    if (line.start != row.start || line.length != row.length || words.type != row.type->name) {
      return false;
    }
    DevicesOfRow devices(*row.target);
    const absl::StatusOr<Row> other =
        BuildRow(line, words, read_only_, types, devices, host, /*restored=*/false);
    if (!other.ok() || other->target->TableArgsOnceLive() != row.target->TableArgsOnceLive()) {
      return false;
    }
  }
  return true;
}

std::vector<DeviceRef> MappingTable::Dependencies() const {
  std::vector<DeviceRef> devices;
  DistinctDevices seen;
  for (const Row& row : rows_) {
    for (const DeviceRef& backing : row.target->backings()) {
      if (seen.Add(backing.device.get())) devices.push_back(backing);
    }
  }
  return devices;
}

absl::StatusOr<std::string> MappingTable::Message(Sector sector, std::string_view text) const {
  if (sector.offset() >= size_) {
    return absl::InvalidArgumentError(absl::StrCat("sector ", sector.value(),
                                                   " is outside of the table, which has ",
                                                   size_.value(), " sectors"));
  }
  const std::optional<std::vector<std::string>> words = SplitWords(text, Comments::kNone);
  if (!words.has_value()) {
    return absl::InvalidArgumentError("the message ends in a backslash, or holds a NUL");
  }
  if (words->empty()) return absl::InvalidArgumentError("the message is empty");
  absl::MutexLock lock(&message_mutex_);
  return Find(sector).target->Message(*words);
}

absl::Status MappingTable::PreResume() const {
  for (const Row& row : rows_) RETURN_IF_ERROR(row.target->PreResume());
  return absl::OkStatus();
}

void MappingTable::Resume() const {
  for (const Row& row : rows_) row.target->Resume();
}

bool MappingTable::EndWork(const GiveUp& give_up) const {
  return std::all_of(rows_.begin(), rows_.end(),
                     [&](const Row& row) { return row.target->EndWork(give_up); });
}

void MappingTable::PreSuspend(SuspendMode mode) const {
  for (const Row& row : rows_) row.target->PreSuspend(mode);
}

void MappingTable::PostSuspend() const {
  for (const Row& row : rows_) row.target->PostSuspend();
}

}  // namespace sectormap
