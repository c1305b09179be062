// SPDX-License-Identifier: Apache-2.0
#include "targets/snapshot/origin_group.h"

#include <algorithm>
#include <map>

#include "absl/container/inlined_vector.h"
#include "core/async/next_turn.h"
#include "core/base/check.h"

namespace sectormap::targets {

std::shared_ptr<OriginGroup> OriginGroup::Of(const std::shared_ptr<BlockDevice>& origin) {
  // Never destroyed: tables may go later than static objects.
  static auto& mutex = *new absl::Mutex;
  static auto& groups = *new std::map<const BlockDevice*, std::weak_ptr<OriginGroup>>;
  absl::MutexLock lock(&mutex);
  // Whoever holds a group holds its device, too: an address is used again only by a new group.
  std::erase_if(groups, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<OriginGroup>& known = groups[origin.get()];
  std::shared_ptr<OriginGroup> group = known.lock();
  if (group == nullptr) known = group = std::make_shared<OriginGroup>();
  return group;
}

OriginGroup::~OriginGroup() {
  absl::MutexLock lock(&mutex_);
  CHECK(snapshots_.empty());
}

void OriginGroup::Publish(ReactorPool& reactors) {
  const std::vector<Snapshot*> snapshots = snapshots_;
  reactors.OnEach(
      [this, &snapshots](Reactor& reactor) { shards_[reactor.index()].snapshots = snapshots; });
}

void OriginGroup::Add(Snapshot* snapshot, ReactorPool& reactors) {
  absl::MutexLock lock(&mutex_);
  CHECK(std::ranges::find(snapshots_, snapshot) == snapshots_.end());
  snapshots_.push_back(snapshot);
  Publish(reactors);
}

void OriginGroup::Remove(Snapshot* snapshot, ReactorPool& reactors) {
  absl::MutexLock lock(&mutex_);
  if (std::erase(snapshots_, snapshot) != 0) Publish(reactors);
}

bool OriginGroup::StartMerging(const Snapshot* snapshot) {
  absl::MutexLock lock(&merging_mutex_);
  if (merging_ != nullptr && merging_ != snapshot) return false;
  merging_ = snapshot;
  return true;
}

void OriginGroup::StopMerging(const Snapshot* snapshot) {
  absl::MutexLock lock(&merging_mutex_);
  if (merging_ == snapshot) merging_ = nullptr;
}

const Snapshot* OriginGroup::merging() const {
  absl::MutexLock lock(&merging_mutex_);
  return merging_;
}

void OriginGroup::StartInAll(Sector first, SectorCount count, const Snapshot* except) {
  for (Snapshot* snapshot : Here()) {
    if (snapshot != except) snapshot->StartCopies(first, count);
  }
}

Task<IoStatus> OriginGroup::CopyInAll(Sector first, SectorCount count, const Snapshot* except) {
  // Inside each before anything else runs on this reactor: none can go away until it is left.
  absl::InlinedVector<Snapshot*, 4> inside;
  for (Snapshot* snapshot : Here()) {
    if (snapshot == except || snapshot->IsCopied(first, count)) continue;
    snapshot->Enter();
    inside.push_back(snapshot);
  }
  // All copy at the same time; then each is waited for.
  for (Snapshot* snapshot : inside) snapshot->StartCopies(first, count);
  IoStatus result = IoStatus::kOk;
  for (Snapshot* snapshot : inside) {
    const IoStatus status = co_await snapshot->CopyBefore(first, count);
    if (result == IoStatus::kOk) result = status;
  }
  for (Snapshot* snapshot : inside) snapshot->Leave();
  co_return result;
}

Task<IoStatus> OriginGroup::CopyThenSubmit(BlockDevice& device, IoRequest request,
                                           const Snapshot* except) {
  if (request.has_data()) {
    const IoStatus copied = co_await CopyInAll(request.first, request.count, except);
    co_return copied == IoStatus::kOk ? co_await device.Submit(request) : copied;
  }
  for (SectorCount done; done < request.count; done += kClearAtOnce) {
    const IoRequest part = request.Part(done, std::min(kClearAtOnce, request.count - done));
    IoStatus status = co_await CopyInAll(part.first, part.count, except);
    if (status == IoStatus::kOk) status = co_await device.Submit(part);
    if (status != IoStatus::kOk) co_return status;
    co_await NextTurn();  // others have their turn
  }
  co_return IoStatus::kOk;
}

}  // namespace sectormap::targets
