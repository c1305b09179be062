// SPDX-License-Identifier: Apache-2.0
// The life of a snapshot, and what it says of itself. I/O: snapshot_io.cc; copies:
// snapshot_copy.cc.
#include "targets/snapshot/snapshot.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "targets/snapshot/origin_group.h"

namespace sectormap::targets {

Snapshot::Snapshot(std::shared_ptr<BlockDevice> cow, std::unique_ptr<ExceptionStore> store,
                   ExceptionTable exceptions, SectorCount origin_size, Found found)
    : cow_(std::move(cow)),
      store_(std::move(store)),
      chunk_shift_(std::countr_zero(store_->chunk_sectors())),
      state_(found.valid ? State::kValid : State::kInvalid),
      touched_((origin_size.value() + chunk_sectors() - 1) >> chunk_shift_),
      settled_(touched_.capacity()),
      exceptions_(std::move(exceptions)),
      header_is_wrong_(found.header_is_wrong) {
  absl::MutexLock lock(&mutex_);
  uint64_t next = 0;
  while (const std::optional<ExceptionRun> run = exceptions_.NextFrom(next)) {
    touched_.Add(run->old_chunk, run->count);
    settled_.Add(run->old_chunk, run->count);
    next = run->old_chunk + run->count;
  }
}

Snapshot::~Snapshot() {
  absl::MutexLock lock(&mutex_);
  CHECK(owner_.target == nullptr && IsQuiet());
}

absl::Status Snapshot::CheckOrigin(SectorCount size) {
  absl::MutexLock lock(&mutex_);
  const uint64_t chunks = (size.value() + chunk_sectors() - 1) >> chunk_shift_;
  const std::optional<ExceptionRun> past = exceptions_.NextFrom(std::min(chunks, kChunksMax));
  if (!past.has_value()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the store holds chunk ", past->old_chunk,
                                                    " of its origin, but this origin has ", chunks,
                                                    " chunks"));
}

absl::Status Snapshot::TakeOver(const Owner& owner) {
  absl::MutexLock life(&life_mutex_);
  RETURN_IF_ERROR(CheckOrigin(owner.origin->size()));
  Owner old;
  {
    absl::MutexLock lock(&mutex_);
    if (owner_.target == owner.target) return absl::OkStatus();
    if (owner_.target != nullptr && !owner_suspended_) {
      return absl::FailedPreconditionError(
          "Unable to perform snapshot handover until source is suspended.");
    }
    old = owner_;
  }
  if (owner.merging && !owner.group->StartMerging(this)) {
    return absl::FailedPreconditionError("A snapshot is already merging.");
  }
  if (old.merging && (!owner.merging || old.group != owner.group)) old.group->StopMerging(this);
  // With the same origin nothing stops, also if the store goes to another device: writes to the
  // origin are held back all the time.
  const bool goes_on =
      old.target != nullptr && old.group == owner.group && old.merging == owner.merging;
  if (!goes_on && old.target != nullptr) old.group->Remove(this, old.host->reactors());
  {
    absl::MutexLock lock(&mutex_);
    if (!goes_on) mutex_.Await(absl::Condition(this, &Snapshot::IsQuiet));
    owner_ = owner;
    owner_suspended_ = true;
    // A merge asks for no room.
    if (owner.merging) overflowed_ = false;
  }
  if (!goes_on && !owner.merging) owner.group->Add(this, owner.host->reactors());
  return absl::OkStatus();
}

void Snapshot::SetSuspended(const void* target, bool suspended) {
  absl::MutexLock lock(&mutex_);
  if (owner_.target != target) return;
  owner_suspended_ = suspended;
  // The store may take it again. Not waited for: it may be suspended, too.
  if (suspended || !std::exchange(header_is_wrong_, false)) return;
  ++background_;
  owner_.host->reactors()[0].Spawn(TellInvalidAgain());
}

void Snapshot::LetGo(const void* target) {
  absl::MutexLock life(&life_mutex_);
  Owner old;
  {
    absl::MutexLock lock(&mutex_);
    if (owner_.target != target) return;
    old = owner_;
  }
  old.group->Remove(this, old.host->reactors());
  if (old.merging) old.group->StopMerging(this);
  bool tell = false;
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Snapshot::IsQuiet));
    tell = std::exchange(header_is_wrong_, false);
  }
  if (tell) old.host->reactors().RunOn(0, [this] { return TellInvalid(); });
  absl::MutexLock lock(&mutex_);
  owner_ = {};
}

bool Snapshot::is_valid() {
  absl::MutexLock lock(&mutex_);
  return state_ == State::kValid;
}

std::string Snapshot::Status() {
  absl::MutexLock lock(&mutex_);
  if (state_ != State::kValid) return "Invalid";
  if (merge_failed_) return "Merge failed";
  if (overflowed_) return "Overflow";
  const ExceptionStore::Usage usage = store_->usage();
  return absl::StrCat(usage.allocated.value(), "/", usage.total.value(), " ",
                      usage.metadata.value());
}

std::string Snapshot::Exceptions(uint64_t first) {
  std::vector<ExceptionRun> ranges;
  std::optional<ExceptionRun> run;
  {
    absl::MutexLock lock(&mutex_);
    uint64_t next = first;
    size_t seen = 0;
    while ((run = exceptions_.NextFrom(next)).has_value() && seen < kExceptionRunsMax) {
      if (!ranges.empty() && ranges.back().old_chunk + ranges.back().count == run->old_chunk) {
        ranges.back().count += run->count;
      } else if (ranges.size() < kExceptionRangesMax) {
        ranges.push_back(*run);
      } else {
        break;
      }
      next = run->old_chunk + run->count;
      ++seen;
    }
  }
  std::string text =
      absl::StrCat(chunk_sectors(), " ", run.has_value() ? absl::StrCat(run->old_chunk) : "-");
  for (const ExceptionRun& range : ranges) {
    absl::StrAppend(&text, " ", range.old_chunk, "+", range.count);
  }
  return text;
}

}  // namespace sectormap::targets
