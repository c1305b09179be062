// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/logical_unit.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "server/scsi/command_table.h"
#include "server/scsi/handlers.h"
#include "server/scsi/parameter_limits.h"

namespace sectormap::scsi {
namespace {

// Bits of a nexus's gates that stop a command with this access.
uint8_t ConflictMask(Access access) {
  switch (access) {
    case Access::kAlways:
    case Access::kSelfJudged:
      return 0;
    case Access::kStatus:
      return kReservedByOther;
    case Access::kRead:
      return kReservedByOther | kReadsConflict;
    case Access::kWrite:
      return kReservedByOther | kWritesConflict;
  }
  return 0;
}

bool IsBlockSize(uint32_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kSectorBytes && bytes <= kMaxTransferBytes;
}

}  // namespace

Characteristics Characteristics::After(const BlockLimits& limits) const {
  Characteristics next = *this;
  next.physical_block_bytes = limits.physical_block_bytes;
  next.physical_alignment_bytes = limits.physical_alignment_bytes;
  next.io_min_bytes = limits.io_min_bytes;
  next.io_opt_bytes = limits.io_opt_bytes;
  next.reads_zeros = limits.can_discard && limits.discard_zeroes;
  if (limits.can_discard) {
    next.unmaps = true;
    next.unmap_granularity_bytes = limits.discard_granularity_bytes;
    next.unmap_alignment_bytes = limits.discard_alignment_bytes;
    next.write_same_unmaps |= next.reads_zeros;
  }
  return next;
}

// --- Birth and death ---

LunNexus::LunNexus(std::shared_ptr<LogicalUnit> its_unit, uint64_t its_id,
                   NexusIdentity its_identity, uint64_t its_lun_number, bool is_read_only,
                   NexusTasks* its_tasks)
    : unit(std::move(its_unit)),
      id(its_id),
      identity(std::move(its_identity)),
      lun_number(its_lun_number),
      read_only(is_read_only),
      tasks(its_tasks),
      reactor(&Reactor::Current()) {}

void LunNexusDeleter::operator()(LunNexus* nexus) const {
  // The unit stays until the nexus is gone.
  const std::shared_ptr<LogicalUnit> unit = nexus->unit;
  unit->Detach(*nexus);
  delete nexus;
}

LogicalUnit::LogicalUnit(UnitBacking backing, ReactorPool& reactors, LunOptions options)
    : backing_(std::move(backing)),
      reactors_(reactors),
      options_(std::move(options)),
      identity_(MakeUnitIdentity(backing_.identity)),
      block_bytes_(options_.block_bytes),
      home_(identity_.naa.back() % reactors.size()),
      range_lock_(reactors, home_) {}

absl::StatusOr<std::shared_ptr<LogicalUnit>> LogicalUnit::Create(UnitBacking backing,
                                                                 ReactorPool& reactors,
                                                                 LunOptions options) {
  if (options.block_bytes != 0 && !IsBlockSize(options.block_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a logical block of ", options.block_bytes, " bytes cannot be exported"));
  }
  absl::StatusOr<Reservations> saved = Reservations::FromRecord(options.reservation_record);
  if (!saved.ok()) return saved.status();
  std::shared_ptr<LogicalUnit> unit(
      new LogicalUnit(std::move(backing), reactors, std::move(options)));
  {
    absl::MutexLock lock(&unit->mutex_);
    unit->reservations_ = *std::move(saved);
  }
  if (unit->backing_.add_observer) unit->backing_.add_observer(unit.get());
  unit->OnLimitsChanged();
  if (unit->block_bytes() != 0 && unit->HasMedium()) unit->OnMediumCame(nullptr);
  return unit;
}

LogicalUnit::~LogicalUnit() {
  if (backing_.remove_observer) backing_.remove_observer(this);
}

const MappedDevice& LogicalUnit::device() const {
  CHECK(backing_.mapped != nullptr);
  return *backing_.mapped;
}

LunNexusPtr LogicalUnit::Attach(NexusIdentity identity, uint64_t lun_number, bool read_only,
                                NexusTasks* tasks) {
  absl::MutexLock lock(&mutex_);
  LunNexusPtr nexus(new LunNexus(shared_from_this(), next_nexus_id_++, std::move(identity),
                                 lun_number, read_only, tasks));
  nexuses_.push_back(nexus.get());
  nexus->attentions.Add(kPowerOn);
  UpdateGates(*nexus);
  return nexus;
}

void LogicalUnit::Detach(LunNexus& nexus) {
  absl::MutexLock lock(&mutex_);
  std::erase(nexuses_, &nexus);
  if (reserved_by_ == &nexus) {
    // SPC-2 §5.5.1: RESERVE(6) ends with the nexus; a persistent reservation does not.
    reserved_by_ = nullptr;
    UpdateAllGates();
  }
}

// --- The way of a command ---

CommandPlan LogicalUnit::Plan(const CdbBytes& cdb) const {
  const CommandEntry* entry = FindCommand(cdb);
  if (entry == nullptr || !Has(*entry)) return {};
  uint64_t bytes = entry->bytes(*entry, cdb, block_bytes());
  const bool parameters = entry->address == Address::kNone;
  if (parameters && entry->direction == DataDirection::kIn) {
    bytes = std::min<uint64_t>(bytes, kMaxParameterDataBytes);
  }
  const uint64_t limit = parameters ? kMaxParameterDataBytes : kMaxTransferBytes;
  if (bytes > limit) bytes = 0;
  if (bytes == 0 && entry->direction == DataDirection::kOut) return {};
  return {entry->direction, static_cast<uint32_t>(bytes), entry->is_set(kExactLength), parameters};
}

Command LogicalUnit::CommandOf(LunNexus& nexus, const CdbBytes& cdb, std::span<std::byte> buffer,
                               AbortSignal* abort) {
  return {this, &nexus, FindCommand(cdb), cdb, buffer, 0, 0, abort};
}

Task<ScsiResult> LogicalUnit::Execute(LunNexus& nexus, const CdbBytes& cdb,
                                      std::span<std::byte> buffer, AbortSignal& abort) {
  Command command = CommandOf(nexus, cdb, buffer, &abort);
  const uint8_t gates = nexus.gates.load(std::memory_order_relaxed);
  if (std::optional<ScsiResult> stopped = Stop(command, gates)) return *std::move(stopped);
  if ((gates & kNoMedium) != 0 && command.entry->is_set(kNeedsMedium)) [[unlikely]] {
    return LookForMedium(command);
  }
  if (command.entry->direction == DataDirection::kIn && command.entry->address != Address::kNone) {
    CHECK(command.buffer.size() >=
          command.entry->bytes(*command.entry, command.cdb, block_bytes()));
  }
  return command.entry->run(command);
}

std::optional<ScsiResult> LogicalUnit::ReadInPlace(LunNexus& nexus, const CdbBytes& cdb,
                                                   Loan& loan) {
  if (!backing_.device->limits().can_lend) return std::nullopt;
  Command command = CommandOf(nexus, cdb, {}, nullptr);
  if (command.entry == nullptr || command.entry->run != &Read) return std::nullopt;
  const uint8_t gates = nexus.gates.load(std::memory_order_relaxed);
  if ((gates & kNoMedium) != 0) return std::nullopt;
  if (std::optional<ScsiResult> stopped = Stop(command, gates)) return stopped;
  if (command.blocks == 0) return ScsiResult{};
  const SectorRange range = SectorsOf(command.lba, command.blocks);
  loan = disk().Lend(range.first, range.count);
  if (!loan) return std::nullopt;
  return ScsiResult{ScsiStatus::kGood, {}, static_cast<uint32_t>(loan.bytes.size())};
}

std::optional<ScsiResult> LogicalUnit::WriteAtOnce(LunNexus& nexus, const CdbBytes& cdb,
                                                   std::span<std::byte> data) {
  Command command = CommandOf(nexus, cdb, data, nullptr);
  if (command.entry == nullptr || command.entry->run != &Write) return std::nullopt;
  const uint8_t gates = nexus.gates.load(std::memory_order_relaxed);
  if ((gates & kNoMedium) != 0) return std::nullopt;
  if (std::optional<ScsiResult> stopped = Stop(command, gates)) return stopped;
  if (!TryWrite(command)) return std::nullopt;
  return ScsiResult{};
}

std::optional<ScsiResult> LogicalUnit::Stop(Command& command, uint8_t gates) {
  const CommandEntry* entry = command.entry;
  // SAM-5 §5.14.5: a unit attention comes before all but a few commands, also before those that do
  // not exist.
  if ((gates & kAttentionPending) != 0 && (entry == nullptr || !entry->is_set(kDespiteAttention))) {
    if (std::optional<SenseCode> attention = TakeAttention(*command.nexus)) {
      return command.Fail(*attention);
    }
  }
  if (entry == nullptr || !Has(*entry)) {
    const bool other_action = entry == nullptr && FindOpcode(command.cdb[0]) != nullptr;
    return other_action ? command.RefuseField(1) : command.Fail(kInvalidOpcode);
  }
  if ((gates & ConflictMask(entry->access)) != 0) {
    return ScsiResult{ScsiStatus::kReservationConflict, {}, 0};
  }
  if (const uint16_t byte = ReservedBitSet(*entry, command.cdb); byte != 0) {
    return command.RefuseField(byte);
  }
  if (entry->is_set(kNeedsMedium)) {
    // What a range and a length mean, only a medium says.
    if ((gates & kNoMedium) != 0) return std::nullopt;
    const uint64_t capacity = capacity_blocks();
    if (capacity == 0) return command.Fail(kManualInterventionRequired);
    const BlockRange range = RangeOf(*entry, command.cdb);
    if (range.blocks > capacity || range.lba > capacity - range.blocks) {
      return command.Fail(kLbaOutOfRange);
    }
    command.lba = range.lba;
    command.blocks = range.blocks;
  }
  if (entry->address != Address::kNone) {
    const uint64_t bytes = entry->bytes(*entry, command.cdb, block_bytes());
    if (bytes > kMaxTransferBytes) return command.RefuseField(LengthFieldOf(*entry));
    if (entry->is_set(kModifies) && (gates & kProtected) != 0) return command.Fail(kWriteProtected);
    if (entry->is_set(kExactLength) && command.buffer.size() != bytes) {
      return command.Fail(kInvalidFieldInInformationUnit);
    }
  } else if (entry->is_set(kModifies) && (gates & kProtected) != 0) {
    return command.Fail(kWriteProtected);
  }
  return std::nullopt;
}

// --- The medium ---

// The first command that finds a medium opens the gates: a stacked device's comes with the table of
// one below it, of which nobody tells the unit. No command runs that was planned before.
Task<ScsiResult> LogicalUnit::LookForMedium(Command command) {
  if (!HasMedium()) co_return command.Fail(kManualInterventionRequired);
  if (options_.block_bytes == 0) {
    const bool taken = co_await TakeBlockBytes();
    if (!taken) co_return command.Fail(kManualInterventionRequired);
  }
  OnMediumCame(command.nexus);
  co_return command.Fail(kMediumMayHaveChanged);
}

// Durable before anybody hears of it. Of several commands that do this at once, all save what the
// first has found.
Task<bool> LogicalUnit::TakeBlockBytes() {
  Reactor& origin = Reactor::Current();
  const uint32_t found = limits().logical_block_bytes;
  if (!IsBlockSize(found)) co_return false;
  uint32_t none = 0;
  block_bytes_.compare_exchange_strong(none, found, std::memory_order_relaxed);
  if (options_.store == nullptr) co_return true;
  const absl::Status saved =
      co_await options_.store->SaveBlockBytes(backing_.identity, block_bytes());
  co_await origin.Switch();
  co_return saved.ok();
}

void LogicalUnit::OnMediumCame(const LunNexus* from) {
  absl::MutexLock lock(&mutex_);
  if (has_medium_) return;
  has_medium_ = true;
  for (LunNexus* nexus : nexuses_) {
    if (nexus != from) AddAttention(*nexus, kMediumMayHaveChanged);
  }
  UpdateAllGates();
}

Characteristics LogicalUnit::characteristics() const {
  absl::MutexLock lock(&mutex_);
  return characteristics_;
}

bool LogicalUnit::OffersUnmap() const {
  absl::MutexLock lock(&mutex_);
  // Without a medium nobody knows yet, and NOT READY is the answer.
  return characteristics_.unmaps || !has_medium_;
}

// --- Gates and unit attentions ---

void LogicalUnit::UpdateGates(LunNexus& nexus) {
  uint8_t gates = 0;
  if (!nexus.attentions.empty()) gates |= kAttentionPending;
  switch (reservations_.HindranceOf(nexus.name())) {
    case Hindrance::kNone:
      break;
    case Hindrance::kWrites:
      gates |= kWritesConflict;
      break;
    case Hindrance::kReadsAndWrites:
      gates |= kWritesConflict | kReadsConflict;
      break;
  }
  if (reserved_by_ != nullptr && reserved_by_ != &nexus) gates |= kReservedByOther;
  if (nexus.read_only || mode_.software_write_protect ||
      (backing_.read_only && backing_.read_only())) {
    gates |= kProtected;
  }
  if (!has_medium_) gates |= kNoMedium;
  nexus.gates.store(gates, std::memory_order_relaxed);
}

void LogicalUnit::UpdateAllGates() {
  for (LunNexus* nexus : nexuses_) UpdateGates(*nexus);
}

void LogicalUnit::AddAttention(LunNexus& nexus, SenseCode code) {
  nexus.attentions.Add(code);
  nexus.gates.fetch_or(kAttentionPending, std::memory_order_relaxed);
}

std::optional<SenseCode> LogicalUnit::TakeAttention(LunNexus& nexus) {
  absl::MutexLock lock(&mutex_);
  std::optional<SenseCode> code = nexus.attentions.Take();
  if (code == kReportedLunsChanged && std::exchange(nexus.luns_changed->told, true)) {
    code = nexus.attentions.Take();
  }
  if (nexus.attentions.empty()) {
    nexus.gates.fetch_and(static_cast<uint8_t>(~kAttentionPending), std::memory_order_relaxed);
  }
  return code;
}

void LogicalUnit::TellLunsChanged(LunNexus& nexus, std::shared_ptr<LunListChange> change) {
  absl::MutexLock lock(&mutex_);
  nexus.luns_changed = std::move(change);
  AddAttention(nexus, kReportedLunsChanged);
}

void LogicalUnit::OnSizeChanged() {
  absl::MutexLock lock(&mutex_);
  for (LunNexus* nexus : nexuses_) AddAttention(*nexus, kCapacityChanged);
}

void LogicalUnit::OnReadOnlyChanged() {
  absl::MutexLock lock(&mutex_);
  // The WP bit is a mode parameter (SBC-3 §6.5.1).
  for (LunNexus* nexus : nexuses_) AddAttention(*nexus, kModeParametersChanged);
  UpdateAllGates();
}

void LogicalUnit::OnLimitsChanged() {
  const BlockLimits now = limits();
  absl::MutexLock lock(&mutex_);
  const Characteristics before = std::exchange(characteristics_, characteristics_.After(now));
  // The coming of a medium says it all.
  if (characteristics_ == before || !has_medium_) return;
  for (LunNexus* nexus : nexuses_) AddAttention(*nexus, kInquiryDataChanged);
}

// --- Mode parameters ---

ModeParameters LogicalUnit::mode_parameters() const {
  absl::MutexLock lock(&mutex_);
  return mode_;
}

void LogicalUnit::SetModeParameters(const LunNexus& from, ModeParameters parameters) {
  absl::MutexLock lock(&mutex_);
  if (parameters == mode_) return;
  mode_ = parameters;
  descriptor_sense_.store(mode_.descriptor_sense, std::memory_order_relaxed);
  for (LunNexus* nexus : nexuses_) {
    if (nexus != &from) AddAttention(*nexus, kModeParametersChanged);
  }
  UpdateAllGates();
}

bool LogicalUnit::IsWriteProtected(const LunNexus& nexus) const {
  return (nexus.gates.load(std::memory_order_relaxed) & kProtected) != 0;
}

// --- Reservations ---

// SPC-2 §5.5.1: RESERVE(6) and persistent reservations exclude each other, whoever asks: while
// anybody is registered, RESERVE and RELEASE conflict, and while the unit is reserved, PERSISTENT
// RESERVE IN and OUT do.
bool LogicalUnit::ReserveFor(LunNexus& nexus) {
  absl::MutexLock lock(&mutex_);
  if (reserved_by_ != nullptr && reserved_by_ != &nexus) return false;
  if (!reservations_.registrations().empty()) return false;
  reserved_by_ = &nexus;
  UpdateAllGates();
  return true;
}

bool LogicalUnit::ReleaseFrom(LunNexus& nexus) {
  absl::MutexLock lock(&mutex_);
  // A holder goes in any case: a RESERVE that overtakes the saving of a registration leaves both,
  // and then neither could.
  if (reserved_by_ != &nexus) return reservations_.registrations().empty();
  reserved_by_ = nullptr;
  UpdateAllGates();
  return true;
}

bool LogicalUnit::IsReserved() const {
  absl::MutexLock lock(&mutex_);
  return reserved_by_ != nullptr;
}

Reservations LogicalUnit::reservations() const {
  absl::MutexLock lock(&mutex_);
  return reservations_;
}

std::vector<uint16_t> LogicalUnit::RelativePorts() const {
  absl::MutexLock lock(&mutex_);
  std::vector<uint16_t> ports;
  for (const LunNexus* nexus : nexuses_) ports.push_back(nexus->identity.relative_target_port);
  std::sort(ports.begin(), ports.end());
  ports.erase(std::unique(ports.begin(), ports.end()), ports.end());
  return ports;
}

}  // namespace sectormap::scsi
