// SPDX-License-Identifier: Apache-2.0
#include "core/block/range_lock.h"

#include "core/base/check.h"

namespace sectormap {

RangeLock::~RangeLock() { CHECK(first_ == nullptr); }

bool RangeLock::TryGrant(Hold& hold) {
  absl::MutexLock lock(&mutex_);
  Append(hold);
  if (IsFree(hold)) {
    hold.state_ = Hold::State::kHeld;
    return true;
  }
  hold.state_ = Hold::State::kWaiting;
  return false;
}

bool RangeLock::Enqueue(Hold& hold, std::coroutine_handle<> handle) {
  absl::MutexLock lock(&mutex_);
  // Between TryGrant and here another reactor may have let the range go.
  if (hold.state_ == Hold::State::kHeld) return false;
  hold.handle_ = handle;
  hold.reactor_ = &Reactor::Current();
  return true;
}

void RangeLock::Release(Hold& hold) {
  absl::MutexLock lock(&mutex_);
  CHECK(hold.state_ == Hold::State::kHeld);
  (hold.previous_ != nullptr ? hold.previous_->next_ : first_) = hold.next_;
  (hold.next_ != nullptr ? hold.next_->previous_ : last_) = hold.previous_;
  for (Hold* later = hold.next_; later != nullptr; later = later->next_) {
    if (later->state_ != Hold::State::kWaiting || !later->Conflicts(hold) || !IsFree(*later)) {
      continue;
    }
    later->state_ = Hold::State::kHeld;
    // Null: it is still on its way into Enqueue(), which will see that it need not wait.
    if (later->reactor_ != nullptr) {
      later->reactor_->Post([handle = later->handle_] { handle.resume(); });
    }
  }
}

void RangeLock::Append(Hold& hold) {
  hold.previous_ = last_;
  (last_ != nullptr ? last_->next_ : first_) = &hold;
  last_ = &hold;
}

bool RangeLock::IsFree(const Hold& hold) const {
  for (const Hold* earlier = hold.previous_; earlier != nullptr; earlier = earlier->previous_) {
    if (earlier->Conflicts(hold)) return false;
  }
  return true;
}

}  // namespace sectormap
