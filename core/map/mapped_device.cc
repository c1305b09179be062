// SPDX-License-Identifier: Apache-2.0
#include "core/map/mapped_device.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/async/next_turn.h"
#include "core/async/pieces.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"

namespace sectormap {
namespace {

// How often a waiter for an event looks whether its caller has gone.
constexpr absl::Duration kCancelPoll = absl::Milliseconds(100);

absl::Status GivenUp() {
  return absl::CancelledError("given up before all I/O had ended, which goes on as before");
}

// The first piece of `request`: what of it lies in `row`, where it goes, not crossing the target's
// boundary. Discards and write-zeroes are cut at row ends only (target.h).
IoRequest FirstPiece(const MappingTable& table, const MappingTable::Row& row,
                     const IoRequest& request) {
  const SectorCount length =
      table.PieceLength(row, request.first - row.start, request.count, request.has_data());
  IoRequest piece = request.Part(SectorCount(0), length);
  piece.first = row.PlaceOf(request.first);
  return piece;
}

Task<IoStatus> SubmitPieces(const MappingTable& table, IoRequest request) {
  Pieces pieces;
  SectorCount done;
  while (done < request.count) {
    const IoRequest rest = request.Part(done, request.count - done);
    const MappingTable::Row& row = table.Find(rest.first);
    const IoRequest piece = FirstPiece(table, row, rest);
    done += piece.count;
    if (pieces.Add(row.way.device->Submit(piece))) {
      co_await pieces.Join();
      co_await NextTurn();
    }
  }
  co_return co_await pieces.Join();
}

Task<IoStatus> FlushEach(std::span<BlockDevice* const> members) {
  Pieces pieces;
  for (BlockDevice* member : members) {
    if (pieces.Add(member->Submit(IoRequest::Flush()))) {
      co_await pieces.Join();
      co_await NextTurn();
    }
  }
  co_return co_await pieces.Join();
}

// What a suspend flushes: the same media as a flush does, reached through the mapped devices below
// whether their gates are open or not. A suspend must not wait until somebody resumes another
// device: the kernel's does not either (drivers/md/dm.c: dm_suspend sends no flush down). But a
// target that flushes itself (a mirror) waits for what is below it.
struct FlushBelow {
  std::vector<std::shared_ptr<const MappingTable>> tables;
  std::vector<BlockDevice*> members;  // of the tables

  void Add(std::shared_ptr<const MappingTable> table) {
    for (BlockDevice* member : table->flush_set()) {
      const auto* mapped = dynamic_cast<const MappedDevice*>(member);
      if (mapped == nullptr) {
        members.push_back(member);
        continue;
      }
      std::shared_ptr<const MappingTable> below = mapped->table(TableSlot::kLive);
      // Without one, nothing of it can have been written.
      if (below != nullptr) Add(std::move(below));
    }
    tables.push_back(std::move(table));
  }
};

// What a request meets before any target sees it.
IoStatus Refusal(const MappingTable* table, const IoRequest& request) {
  if (table == nullptr) return IoStatus::kUnavailable;
  if (request.op == IoOp::kFlush) return IoStatus::kOk;
  if (!RangeFits(request.first, request.count, table->size())) return IoStatus::kOutOfRange;
  if (request.op == IoOp::kRead) return IoStatus::kOk;
  if (table->read_only()) return IoStatus::kReadOnly;
  const BlockLimits& limits = table->limits();
  const bool able = (request.op != IoOp::kDiscard || limits.can_discard) &&
                    (request.op != IoOp::kWriteZeroes || limits.can_write_zeroes);
  return able ? IoStatus::kOk : IoStatus::kNotSupported;
}

}  // namespace

// One request inside the gate. Taken when Submit is called, not when its task is awaited: the task
// already points into the table.
class MappedDevice::Pass {
 public:
  explicit Pass(Shard& shard) : shard_(&shard) { ++shard.in_flight; }
  Pass(Pass&& other) noexcept : shard_(std::exchange(other.shard_, nullptr)) {}
  Pass& operator=(Pass&&) = delete;
  ~Pass() {
    if (shard_ != nullptr) Leave();
  }
  void Leave() {
    CHECK(Reactor::Current().index() == shard_->reactor);
    std::exchange(shard_, nullptr)->Leave();
  }

 private:
  Shard* shard_;
};

MappedDevice::MappedDevice(std::string name, std::string uuid, std::string identity,
                           ReactorPool& reactors, TargetNotes* notes)
    : identity_(std::move(identity)),
      reactors_(reactors),
      notes_(notes),
      name_(std::move(name)),
      uuid_(std::move(uuid)) {
  for (int i = 0; i < kMaxReactors; ++i) shards_[i].reactor = i;
}

MappedDevice::~MappedDevice() {
  for (const Shard& shard : shards_) CHECK(shard.in_flight == 0);
}

SectorCount MappedDevice::size() const {
  return SectorCount(size_.load(std::memory_order_relaxed));
}

BlockLimits MappedDevice::limits() const {
  if (const Reactor* reactor = Reactor::CurrentOrNull()) {
    const MappingTable* table = shards_[reactor->index()].table;
    if (table != nullptr) return table->limits();
  }
  std::shared_ptr<const MappingTable> live = table(TableSlot::kLive);
  if (live == nullptr && size() != SectorCount(0)) live = table(TableSlot::kInactive);
  return live != nullptr ? live->limits() : BlockLimits();
}

bool MappedDevice::has_medium() const {
  // Under the lock, without a part in the table: the last one must not go on a reactor.
  absl::MutexLock lock(&state_mutex_);
  if (live_ == nullptr) return false;
  // A target that flushes itself (a mirror) may do without one of those below.
  const std::span<BlockDevice* const> members = live_->flush_set();
  return std::all_of(members.begin(), members.end(), [](const BlockDevice* member) {
    const auto* mapped = dynamic_cast<const MappedDevice*>(member);
    return mapped == nullptr || mapped->has_medium();
  });
}

Task<IoStatus> MappedDevice::Submit(IoRequest request) {
  Shard& shard = ThisShard();
  if (!shard.open) [[unlikely]] {
    return SubmitWhenOpen(shard, request);
  }
  const IoStatus refusal = Refusal(shard.table, request);
  if (refusal != IoStatus::kOk) [[unlikely]] {
    return Counted(request,
                   retired_.load(std::memory_order_relaxed) ? IoStatus::kAborted : refusal);
  }
  if (request.op == IoOp::kFlush) return SubmitFlush(shard, request);
  const MappingTable::Row& row = shard.table->Find(request.first);
  const IoRequest piece = FirstPiece(*shard.table, row, request);
  if (piece.count == request.count) return SubmitTo(*row.way.device, shard, request, piece);
  Pass pass(shard);
  return Finish(std::move(pass), request, SubmitPieces(*shard.table, request));
}

// For what does not wait: the row that has all of the range as one piece, while the gate is open.
const MappingTable::Row* MappedDevice::RowOfOnePiece(const Shard& shard, Sector first,
                                                     SectorCount count) {
  const MappingTable* table = shard.table;
  if (!shard.open || table == nullptr || !RangeFits(first, count, table->size())) return nullptr;
  const MappingTable::Row& row = table->Find(first);
  return table->PieceLength(row, first - row.start, count, true) < count ? nullptr : &row;
}

Loan MappedDevice::Lend(Sector first, SectorCount count) {
  const Shard& shard = ThisShard();
  if (shard.table == nullptr || !shard.table->limits().can_lend) return {};
  const MappingTable::Row* row = RowOfOnePiece(shard, first, count);
  if (row == nullptr) return {};
  Loan loan = row->way.device->Lend(row->PlaceOf(first), count);
  if (loan) counters_.Count(IoOp::kRead, count, IoStatus::kOk);
  return loan;
}

bool MappedDevice::WriteAtOnce(Sector first, std::span<const std::byte> bytes) {
  const Shard& shard = ThisShard();
  const SectorCount count = WholeSectors(ByteCount(bytes.size()));
  const MappingTable::Row* row = RowOfOnePiece(shard, first, count);
  if (row == nullptr || shard.table->read_only()) return false;
  if (!row->way.device->WriteAtOnce(row->PlaceOf(first), bytes)) return false;
  counters_.Count(IoOp::kWrite, count, IoStatus::kOk);
  return true;
}

Task<IoStatus> MappedDevice::SubmitFlush(Shard& shard, IoRequest request) {
  const std::span<BlockDevice* const> members = shard.table->flush_set();
  if (members.empty()) return Counted(request, IoStatus::kOk);
  if (members.size() == 1) return SubmitTo(*members.front(), shard, request, request);
  Pass pass(shard);
  return Finish(std::move(pass), request, FlushEach(shard.table->flush_set()));
}

// The way of nearly every request: one piece, and no frame of our own if the answer is there.
Task<IoStatus> MappedDevice::SubmitTo(BlockDevice& lower, Shard& shard, IoRequest request,
                                      IoRequest piece) {
  Pass pass(shard);
  Task<IoStatus> task = lower.Submit(piece);
  if (task.immediate()) {
    const IoStatus status = task.await_resume();
    if (status == IoStatus::kRequeue) [[unlikely]] {
      return SubmitAgain(shard, request);
    }
    return Counted(request, status);
  }
  return Finish(std::move(pass), request, std::move(task));
}

Task<IoStatus> MappedDevice::Finish(Pass pass, IoRequest request, Task<IoStatus> task) {
  IoStatus status;
  {
    // Its frame goes before the gate is left: after that the table may go.
    Task<IoStatus> owned = std::move(task);
    status = co_await owned;
  }
  pass.Leave();
  if (status == IoStatus::kRequeue) [[unlikely]] {
    co_return co_await SubmitAgain(ThisShard(), request);
  }
  co_return Counted(request, status);
}

Task<IoStatus> MappedDevice::SubmitWhenOpen(Shard& shard, IoRequest request) {
  while (!shard.open) co_await shard.waiters.Wait();
  co_return co_await Submit(request);
}

// A target has handed the request back since the device is being suspended: the gate is closed, or
// closes in a moment.
Task<IoStatus> MappedDevice::SubmitAgain(Shard& shard, IoRequest request) {
  co_await NextTurn();
  while (!shard.open) co_await shard.waiters.Wait();
  co_return co_await Submit(request);
}

Task<Extent> MappedDevice::ExtentAt(Sector first) {
  Shard& shard = ThisShard();
  while (!shard.open) co_await shard.waiters.Wait();
  if (shard.table == nullptr) co_return Extent{IoStatus::kUnavailable, true, SectorCount(0)};
  if (first.offset() >= shard.table->size()) {
    co_return Extent{IoStatus::kOutOfRange, true, SectorCount(0)};
  }
  Pass pass(shard);
  const MappingTable::Row& row = shard.table->Find(first);
  Extent extent = co_await row.way.device->ExtentAt(row.PlaceOf(first));
  extent.count = std::min(extent.count, row.end() - first);
  pass.Leave();
  co_return extent;
}

void MappedDevice::AddObserver(DeviceObserver* observer) {
  absl::MutexLock lock(&observers_mutex_);
  observers_.push_back(observer);
}

void MappedDevice::RemoveObserver(DeviceObserver* observer) {
  absl::MutexLock lock(&observers_mutex_);
  std::erase(observers_, observer);
}

void MappedDevice::TellObservers(bool size_changed, bool read_only_changed, bool limits_changed) {
  absl::MutexLock lock(&observers_mutex_);
  for (DeviceObserver* observer : observers_) {
    if (size_changed) observer->OnSizeChanged();
    if (read_only_changed) observer->OnReadOnlyChanged();
    if (limits_changed) observer->OnLimitsChanged();
  }
}

// --- Control. A table is let go outside of state_mutex_: that may close devices below. ---

void MappedDevice::Load(std::shared_ptr<const MappingTable> table) {
  std::optional<UnbuiltTable> gone;
  absl::MutexLock lock(&state_mutex_);
  inactive_.swap(table);
  gone.swap(unbuilt_inactive_);
}

void MappedDevice::Clear() { Load(nullptr); }

void MappedDevice::AnnounceSize() {
  absl::MutexLock lock(&state_mutex_);
  CHECK(live_ == nullptr && inactive_ != nullptr);
  size_.store(inactive_->size().value(), std::memory_order_relaxed);
}

bool MappedDevice::Drain::Wait(const GiveUp& give_up) {
  absl::MutexLock lock(&mutex_);
  auto drained = [this] {
    mutex_.AssertHeld();
    return left_ == 0;
  };
  return AwaitUnless(give_up, mutex_, absl::Condition(&drained));
}

bool MappedDevice::CloseAndDrain(const GiveUp& give_up) {
  Drain left(reactors_.size());
  for (int i = 0; i < reactors_.size(); ++i) {
    reactors_[i].Post([&shard = shards_[i], &left] {
      shard.open = false;
      if (shard.in_flight == 0) {
        left.Count();
      } else {
        shard.drained = &left;
      }
    });
  }
  if (left.Wait(give_up)) return true;
  reactors_.OnEach([this](Reactor& reactor) { shards_[reactor.index()].drained = nullptr; });
  return false;
}

void MappedDevice::UseTable(const MappingTable* table) {
  reactors_.OnEach([this, table](Reactor& reactor) { shards_[reactor.index()].table = table; });
}

void MappedDevice::OpenAll() {
  reactors_.OnEach([this](Reactor& reactor) {
    Shard& shard = shards_[reactor.index()];
    shard.open = true;
    shard.waiters.WakeAll();
  });
}

struct MappedDevice::FlushEnd {
  absl::Mutex mutex;
  std::optional<IoStatus> status ABSL_GUARDED_BY(mutex);
};

// In flight like a request: whatever becomes of who waits for it, the table stays.
Task<void> MappedDevice::FlushInside(std::vector<BlockDevice*> members,
                                     std::shared_ptr<FlushEnd> end) {
  Pass pass(ThisShard());
  const IoStatus status = co_await FlushEach(members);
  pass.Leave();
  absl::MutexLock lock(&end->mutex);
  end->status = status;
}

absl::Status MappedDevice::FlushAll(std::shared_ptr<const MappingTable> table,
                                    const GiveUp& give_up) {
  FlushBelow flush;
  flush.Add(std::move(table));
  flushing_ = std::move(flush.tables);
  const auto end = std::make_shared<FlushEnd>();
  reactors_[0].Spawn(FlushInside(std::move(flush.members), end));
  absl::MutexLock lock(&end->mutex);
  auto ended = [&end] {
    end->mutex.AssertHeld();
    return end->status.has_value();
  };
  if (!AwaitUnless(give_up, end->mutex, absl::Condition(&ended))) return GivenUp();
  flushing_.clear();
  if (*end->status == IoStatus::kOk) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a flush of the backing devices failed (",
                                          Absl(ToString(*end->status)),
                                          "), so the device was not suspended and I/O goes on; "
                                          "suspend without a flush (noflush) if "
                                          "what was written last may be lost"));
}

absl::Status MappedDevice::Quiesce(SuspendMode mode,
                                   const std::shared_ptr<const MappingTable>& live,
                                   const GiveUp& give_up) {
  if (live != nullptr) {
    if (!live->EndWork(give_up)) return GivenUp();
    live->PreSuspend(mode);
  }
  if (!CloseAndDrain(give_up)) return GivenUp();
  flushing_.clear();
  if (mode == SuspendMode::kNoFlush || live == nullptr) return absl::OkStatus();
  return FlushAll(live, give_up);
}

absl::Status MappedDevice::SuspendLocked(SuspendMode mode, const GiveUp& give_up) {
  std::shared_ptr<const MappingTable> live;
  {
    absl::MutexLock lock(&state_mutex_);
    if (suspended_) return absl::OkStatus();
    live = live_;
  }
  const absl::Status quiet = Quiesce(mode, live, give_up);
  if (!quiet.ok()) {
    if (live != nullptr) live->Resume();
    OpenAll();
    return quiet;
  }
  if (live != nullptr) live->PostSuspend();
  absl::MutexLock lock(&state_mutex_);
  suspended_ = true;
  return absl::OkStatus();
}

absl::Status MappedDevice::Suspend(SuspendMode mode, const GiveUp& give_up) {
  absl::MutexLock lock(&verb_mutex_);
  return SuspendLocked(mode, give_up);
}

absl::Status MappedDevice::Resume(SuspendMode mode, const GiveUp& give_up) {
  absl::MutexLock verb_lock(&verb_mutex_);
  bool first = false;
  {
    absl::MutexLock lock(&state_mutex_);
    if (inactive_ == nullptr && !suspended_) return absl::OkStatus();
    first = live_ == nullptr && !suspended_;
    if (inactive_ == nullptr && live_ == nullptr) {
      return absl::FailedPreconditionError(
          "the device is suspended and has no table; load one, then resume");
    }
  }
  if (!first) RETURN_IF_ERROR(SuspendLocked(mode, give_up));
  std::shared_ptr<const MappingTable> next;
  std::shared_ptr<const MappingTable> old;
  std::optional<UnbuiltTable> gone;
  {
    absl::MutexLock lock(&state_mutex_);
    old = live_;
    next = inactive_ != nullptr ? std::exchange(inactive_, nullptr) : live_;
    if (next != live_) gone.swap(unbuilt_live_);
    live_ = next;
  }
  const uint64_t size = next != nullptr ? next->size().value() : 0;
  const bool read_only = next != nullptr && next->read_only();
  if (next != old) {
    const bool size_changed = size_.exchange(size, std::memory_order_relaxed) != size;
    const bool read_only_changed =
        read_only_.exchange(read_only, std::memory_order_relaxed) != read_only;
    const bool limits_changed = old == nullptr || old->limits() != next->limits();
    TellObservers(size_changed, read_only_changed, limits_changed);
  }
  if (first) return StartFirstTable(*next);
  UseTable(next.get());
  if (next != nullptr) {
    RETURN_IF_ERROR(next->PreResume());
    next->Resume();
  }
  {
    absl::MutexLock lock(&state_mutex_);
    suspended_ = false;
  }
  OpenAll();
  return absl::OkStatus();
}

// Without a live table nothing is in flight and nothing waits, so that the reactors are visited
// once and not three times: a start has ten thousand of these.
absl::Status MappedDevice::StartFirstTable(const MappingTable& table) {
  const absl::Status ready = table.PreResume();
  if (!ready.ok()) {
    CloseAndDrain(nullptr);
    UseTable(&table);
    absl::MutexLock lock(&state_mutex_);
    suspended_ = true;
    return ready;
  }
  table.Resume();
  UseTable(&table);
  return absl::OkStatus();
}

bool MappedDevice::Retire(const GiveUp& give_up) {
  absl::MutexLock verb_lock(&verb_mutex_);
  if (!SuspendLocked(SuspendMode::kNoFlush, give_up).ok()) return false;
  std::shared_ptr<const MappingTable> live;
  std::shared_ptr<const MappingTable> inactive;
  std::optional<UnbuiltTable> unbuilt_live;
  std::optional<UnbuiltTable> unbuilt_inactive;
  {
    absl::MutexLock lock(&state_mutex_);
    live.swap(live_);
    inactive.swap(inactive_);
    unbuilt_live.swap(unbuilt_live_);
    unbuilt_inactive.swap(unbuilt_inactive_);
    suspended_ = false;
  }
  size_.store(0, std::memory_order_relaxed);
  retired_.store(true, std::memory_order_relaxed);
  UseTable(nullptr);
  OpenAll();
  return true;
}

void MappedDevice::SetUnbuilt(TableSlot slot, UnbuiltTable table) {
  std::optional<UnbuiltTable> unbuilt = std::move(table);
  absl::MutexLock lock(&state_mutex_);
  if (slot == TableSlot::kInactive) {
    CHECK(inactive_ == nullptr);
    unbuilt.swap(unbuilt_inactive_);
    return;
  }
  CHECK(live_ == nullptr);
  size_.store(unbuilt->size.value(), std::memory_order_relaxed);
  read_only_.store(unbuilt->read_only, std::memory_order_relaxed);
  unbuilt.swap(unbuilt_live_);
}

std::optional<MappedDevice::UnbuiltTable> MappedDevice::unbuilt(TableSlot slot) const {
  absl::MutexLock lock(&state_mutex_);
  return slot == TableSlot::kLive ? unbuilt_live_ : unbuilt_inactive_;
}

void MappedDevice::SetName(std::string name) {
  absl::MutexLock lock(&state_mutex_);
  name_ = std::move(name);
}

void MappedDevice::SetUuid(std::string uuid) {
  absl::MutexLock lock(&state_mutex_);
  uuid_ = std::move(uuid);
}

DeviceInfo MappedDevice::info() const {
  DeviceInfo info;
  info.identity = identity_;
  info.size = size();
  info.read_only = read_only();
  {
    absl::MutexLock lock(&event_mutex_);
    info.event_number = event_number_;
  }
  absl::MutexLock lock(&state_mutex_);
  info.name = name_;
  info.uuid = uuid_;
  info.suspended = suspended_;
  info.has_inactive_table = inactive_ != nullptr || unbuilt_inactive_.has_value();
  info.has_live_table = live_ != nullptr || unbuilt_live_.has_value();
  if (live_ != nullptr) info.target_count = live_->rows().size();
  if (unbuilt_live_.has_value()) {
    info.target_count = unbuilt_live_->rows;
    info.error = unbuilt_live_->error;
  }
  return info;
}

std::shared_ptr<const MappingTable> MappedDevice::table(TableSlot slot) const {
  absl::MutexLock lock(&state_mutex_);
  return slot == TableSlot::kLive ? live_ : inactive_;
}

void MappedDevice::RaiseEvent() {
  absl::MutexLock lock(&event_mutex_);
  ++event_number_;
  if (event_listener_) event_listener_();
}

void MappedDevice::CountEvent() {
  absl::MutexLock lock(&event_mutex_);
  ++event_number_;
}

void MappedDevice::SetEventListener(std::function<void()> listener) {
  absl::MutexLock lock(&event_mutex_);
  event_listener_ = std::move(listener);
}

absl::StatusOr<uint32_t> MappedDevice::WaitEvent(uint32_t seen,
                                                 const std::function<bool()>& cancelled) {
  absl::MutexLock lock(&event_mutex_);
  auto differs = [this, seen] {
    event_mutex_.AssertHeld();
    return event_number_ != seen;
  };
  while (!event_mutex_.AwaitWithTimeout(absl::Condition(&differs), kCancelPoll)) {
    if (cancelled()) return absl::DeadlineExceededError("no event came before the wait ended");
  }
  return event_number_;
}

}  // namespace sectormap
