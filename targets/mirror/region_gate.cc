// SPDX-License-Identifier: Apache-2.0
#include "targets/mirror/region_gate.h"

#include <utility>

#include "targets/mirror/leg_tasks.h"

namespace sectormap::targets {

Task<RegionGate::Entry> RegionGate::EnterLater(uint64_t region) {
  Reactor& here = Reactor::Current();
  co_await home_.Switch();
  const Entry entry = co_await EnterAtHome(region);
  co_await here.Switch();
  co_return entry;
}

Task<RegionGate::Entry> RegionGate::EnterAtHome(uint64_t region) {
  while (true) {
    const LegSet legs = TryEnter(region);
    if (!legs.empty()) co_return Entry{legs};
    if (regions_.blocked(region)) {
      co_await unblocked_.Wait();
      continue;
    }
    if (log_ != nullptr) {
      const IoStatus status = co_await log_->MarkDirty(region, 1);
      if (status != IoStatus::kOk) co_return Entry{LegSet(), status};
    }
    // Nothing came between the log's answer and this.
    NoteDirty(region);
  }
}

Task<void> RegionGate::Announce(uint64_t first, uint64_t count) {
  if (log_ == nullptr) co_return;
  Reactor& here = Reactor::Current();
  co_await home_.Switch();
  // A failure is found again by who enters.
  const IoStatus status = co_await log_->MarkDirty(first, count);
  if (status == IoStatus::kOk) {
    for (uint64_t region = first; region < first + count; ++region) NoteDirty(region);
  }
  co_await here.Switch();
}

void RegionGate::TellIdle() {
  if (Reactor::CurrentOrNull() == &home_) {
    idle_.WakeAll();
  } else {
    home_.Post([this] { idle_.WakeAll(); });
  }
}

Task<bool> RegionGate::Block(uint64_t region) {
  regions_.Block(region);
  while (!interrupted_ && regions_.writes(region) != 0) co_await idle_.Wait();
  if (!interrupted_) co_return true;
  Unblock(region);
  co_return false;
}

void RegionGate::Unblock(uint64_t region) {
  regions_.Unblock(region);
  unblocked_.WakeAll();
}

void RegionGate::Interrupt() {
  interrupted_ = true;
  idle_.WakeAll();
}

void RegionGate::NoteDirty(uint64_t region) {
  if (regions_.SetDirty(region)) dirty_.push_back(region);
}

void RegionGate::NoteRecovered(uint64_t region) {
  if (log_ != nullptr && regions_.dirty(region)) dirty_.push_back(region);
}

void RegionGate::StartFromLog(LegSet whole) {
  dirty_.clear();
  for (uint64_t region = 0; region < regions_.count(); ++region) {
    const LegSet known = regions_.legs(region);
    const bool clean = log_->clean(region);
    // One leg alone, or some: that is what this table found out since it was loaded. All: then the
    // log has to say so too.
    const bool in_sync = clean && (known == legs_.all() || known == LegSet::Only(0));
    LegSet holders = in_sync ? legs_.all() : known == legs_.all() ? LegSet::Only(0) : known;
    if (!whole.empty()) holders = clean ? legs_.all() : whole;
    const bool dirty = !clean && log_->durable();
    regions_.Reset(region, holders, dirty);
    if (dirty && holders == legs_.all()) dirty_.push_back(region);
  }
}

void RegionGate::StartWithoutLog(LegSet whole) {
  for (uint64_t region = 0; region < regions_.count(); ++region) {
    regions_.Reset(region, whole.empty() ? regions_.legs(region) : whole, /*dirty=*/true);
  }
}

Task<RegionGate::Flushed> RegionGate::FlushLegs() {
  if (next_flush_ == nullptr) next_flush_ = std::make_shared<FlushRound>();
  const std::shared_ptr<FlushRound> round = next_flush_;
  while (!round->ended) {
    if (flushing_) {
      co_await flush_ended_.Wait();
      continue;
    }
    flushing_ = true;
    next_flush_ = nullptr;
    round->result = co_await FlushNow();
    round->ended = true;
    flushing_ = false;
    flush_ended_.WakeAll();
  }
  co_return round->result;
}

Task<RegionGate::Flushed> RegionGate::FlushNow() {
  LegTasks flushes(legs_, legs_.all(), IoRequest::Flush());
  if (!flushes.ended()) co_await flushes.Join();
  Flushed result{flushes.failed(), flushes.failure()};
  if (result.failed.empty()) co_return result;
  ++failed_flushes_;
  for (uint64_t region = 0; region < regions_.count(); ++region) {
    // What is clean was flushed before it became so.
    if (log_ != nullptr && log_->clean(region)) continue;
    if (regions_.KeepOnly(region, legs_.all() - result.failed).empty()) result.lost = true;
  }
  co_return result;
}

Task<LegSet> RegionGate::Tidy(bool force) {
  std::vector<uint64_t> idle;
  std::vector<uint64_t> stay;
  for (uint64_t region : dirty_) {
    if (!regions_.dirty(region) || !regions_.in_sync(region)) continue;
    (regions_.TryClean(region, force) ? idle : stay).push_back(region);
  }
  dirty_ = std::move(stay);
  if (idle.empty()) co_return LegSet();
  // From here a write to one of them has to come by the home reactor: it finds the bit still 0 and
  // takes the region back, or finds it 1 and has it cleared again.
  const Flushed flushed = co_await FlushLegs();
  if (!flushed.failed.empty()) {
    for (uint64_t region : idle) NoteDirty(region);
    co_return flushed.failed;
  }
  for (uint64_t region : idle) {
    if (!regions_.in_sync(region)) {
      // The flush that was under way when this began has taken a leg out of it.
      NoteDirty(region);
    } else if (!regions_.dirty(region) && !log_->clean(region)) {
      log_->SetClean(region);
    }
  }
  // What fails shows in the log's health; the bits are then 0, which is never wrong.
  static_cast<void>(co_await log_->Commit());
  co_return LegSet();
}

}  // namespace sectormap::targets
