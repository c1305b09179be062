// SPDX-License-Identifier: Apache-2.0
// Waiting for what a snapshot does with a chunk. A part of snapshot.cc and its brothers.
#pragma once

#include "targets/snapshot/snapshot.h"

namespace sectormap::targets {

// co_await Change(snapshot, chunk): until the copy of the chunk that is under way has been settled;
// or the snapshot is wholly invalid, if it is becoming so; or buffers are free, if it was they that
// kept the copy from beginning. At once if none of these is the case. Then look again.
class Snapshot::Change {
 public:
  Change(Snapshot& snapshot, uint64_t chunk) : snapshot_(snapshot), chunk_(chunk) {}

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle) {
    absl::MutexLock lock(&snapshot_.mutex_);
    WaiterList* list = List();
    if (list != nullptr) list->Add(waiter_, handle);
    return list != nullptr;
  }
  void await_resume() noexcept {}

 private:
  WaiterList* List() ABSL_EXCLUSIVE_LOCKS_REQUIRED(snapshot_.mutex_) {
    if (Pending* pending = snapshot_.PendingAt(chunk_)) return &pending->waiters;
    if (snapshot_.state_ == State::kInvalidating) return &snapshot_.invalidate_waiters_;
    const bool starved = snapshot_.state_ == State::kValid &&
                         !snapshot_.exceptions_.Find(chunk_).exists &&
                         snapshot_.BuffersAreOut(snapshot_.BufferBytes(1));
    return starved ? &snapshot_.buffer_waiters_ : nullptr;
  }

  Snapshot& snapshot_;
  const uint64_t chunk_;
  WaiterList::Waiter waiter_;
};

}  // namespace sectormap::targets
