// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/recovery.h"

#include <algorithm>
#include <optional>

#include "core/async/next_turn.h"
#include "core/block/aligned_bytes.h"
#include "targets/mirror/leg_tasks.h"

namespace sectormap::targets {
namespace {

// Regions that are in sync and passed by at once: the reactor has other work too.
constexpr uint64_t kPassedAtOnce = 1 << 16;

}  // namespace

Recovery::Recovery(RegionStates& regions, RegionGate& gate, Legs& legs, const Activity& activity,
                   Reactor& home, SectorCount region_size, SectorCount length,
                   std::function<void()> finished)
    : regions_(regions),
      gate_(gate),
      legs_(legs),
      activity_(activity),
      home_(home),
      region_size_(region_size),
      length_(length),
      finished_(std::move(finished)) {}

void Recovery::Start() {
  if (workers() == 0) {
    Begin();
  } else {
    again_ = stopping_;
  }
}

void Recovery::Begin() {
  stopping_ = false;
  gate_.Continue();
  next_ = 0;
  next_start_ = home_.clock().Now();
  activity_seen_ = activity_.total();
  AddWorkers(kRegionsInRecovery);
  for (int i = 0; i < kRegionsInRecovery; ++i) {
    // Not inline: one of memory's speed would be done before the next one starts.
    home_.Post([this] { Detach(Work()); });
  }
}

void Recovery::Stop() {
  stopping_ = true;
  again_ = false;
  gate_.Interrupt();
  pauses_.WakeAll();
}

bool Recovery::AwaitEnd(const GiveUp& give_up) {
  absl::MutexLock lock(&workers_mutex_);
  auto ended = [this] {
    workers_mutex_.AssertHeld();
    return workers_ == 0;
  };
  return AwaitUnless(give_up, workers_mutex_, absl::Condition(&ended));
}

void Recovery::SetRate(uint64_t bytes_per_second) {
  rate_ = bytes_per_second;
  ++rate_changes_;
  next_start_ = home_.clock().Now();
  pauses_.WakeAll();
}

Task<std::optional<uint64_t>> Recovery::NextRegion() {
  while (next_ < regions_.count() && !stopping_) {
    const uint64_t region = next_++;
    if (!regions_.in_sync(region)) co_return region;
    if (region % kPassedAtOnce == kPassedAtOnce - 1) co_await NextTurn();
  }
  co_return std::nullopt;
}

SectorCount Recovery::SizeOf(uint64_t region) const {
  const SectorCount first(region * region_size_.value());
  return std::min(region_size_, length_ - first);
}

Task<void> Recovery::Work() {
  std::optional<AlignedBytes> buffer;
  while (!stopping_) {
    const std::optional<uint64_t> region = co_await NextRegion();
    if (!region.has_value()) break;
    if (!buffer.has_value()) buffer.emplace(std::min(Bytes(region_size_), kCopyBytes).value());
    co_await WaitForTurn(*region);
    if (stopping_) break;
    const MonotonicTime start = home_.clock().Now();
    co_await Recover(*region, buffer->get());
    last_copy_ = home_.clock().Now() - start;
  }
  const bool last = workers() == 1;
  if (last && !stopping_) finished_();
  if (last && std::exchange(again_, false)) Begin();
  AddWorkers(-1);
}

// Before a region is blocked, so that no write waits for a pause.
Task<void> Recovery::WaitForTurn(uint64_t region) {
  const MonotonicTime turn = std::max(next_start_, home_.clock().Now());
  next_start_ = turn;
  if (rate_ != 0) {
    const double seconds =
        static_cast<double>(Bytes(SizeOf(region)).value()) / static_cast<double>(rate_);
    next_start_ += std::chrono::duration_cast<nanoseconds>(std::chrono::duration<double>(seconds));
  }
  const uint64_t activity = activity_.total();
  if (std::exchange(activity_seen_, activity) != activity) {
    const nanoseconds pause = std::min<nanoseconds>(kYieldFactor * last_copy_, kYieldMax);
    next_start_ = std::max(next_start_, turn + pause);
  }
  const uint64_t rate_change = rate_changes_;
  while (!stopping_ && rate_change == rate_changes_ && home_.clock().Now() < turn) {
    const Reactor::TimerId timer = home_.CallAt(turn, [this] { pauses_.WakeAll(); });
    co_await pauses_.Wait();
    home_.CancelTimer(timer);
  }
}

Task<void> Recovery::Recover(uint64_t region, std::span<std::byte> buffer) {
  if (!co_await gate_.Block(region)) co_return;
  const uint64_t lost_before = gate_.failed_flushes();
  const LegSet took = co_await Copy(region, buffer);
  // A leg that failed a flush meanwhile may have lost a part of the copy.
  if (gate_.failed_flushes() == lost_before) regions_.AddLegs(region, took);
  if (regions_.in_sync(region)) gate_.NoteRecovered(region);
  gate_.Unblock(region);
}

// Which legs have been given all of the region.
Task<LegSet> Recovery::Copy(uint64_t region, std::span<std::byte> buffer) {
  LegSet to = legs_.all() - regions_.legs(region);
  const SectorCount piece_most = WholeSectors(ByteCount(buffer.size()));
  const SectorCount end = SizeOf(region);
  SectorCount done;
  while (done < end && !to.empty()) {
    if (stopping_) co_return LegSet();
    const SectorCount length = std::min(piece_most, end - done);
    const Sector first = Sector(region * region_size_.value()) + done;
    const auto data = buffer.first(Bytes(length).value());
    const IoStatus status = co_await ReadPiece(region, IoRequest::Read(first, data));
    if (status != IoStatus::kOk) co_return LegSet();
    LegTasks writes(legs_, to, IoRequest::Write(first, data));
    if (!writes.ended()) co_await writes.Join();
    legs_.NoteErrors(writes.failed(), LegError::kResync);
    to = to - writes.failed();
    done += length;
  }
  co_return to;
}

Task<IoStatus> Recovery::ReadPiece(uint64_t region, IoRequest read) {
  LegSet untried = regions_.legs(region);
  LegSet failed;
  IoStatus status = IoStatus::kIoError;
  while (!untried.empty()) {
    const size_t leg = legs_.ChooseForRead(untried);
    status = co_await legs_.Submit(leg, read);
    if (status == IoStatus::kOk) break;
    failed = failed | LegSet::Only(leg);
    untried = untried - LegSet::Only(leg);
  }
  // The copy has failed only if nobody else has what they could not read.
  legs_.NoteErrors(failed, untried.empty() ? LegError::kResync : LegError::kRead);
  co_return status;
}

}  // namespace sectormap::targets
