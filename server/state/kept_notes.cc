// SPDX-License-Identifier: Apache-2.0
#include "server/state/kept_notes.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/check.h"

namespace sectormap::state {

// Until the store has been written once from now on, or refused to be. Posted back to the reactor
// that is suspending just now, so that it cannot be resumed before it has suspended.
class KeptNotes::Written {
 public:
  explicit Written(KeptNotes& owner) : owner_(owner) {}
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> caller) {
    absl::MutexLock hold(&owner_.mutex_);
    if (owner_.wanted_ == owner_.kept_) return false;
    owner_.waiters_.push_back({caller, &Reactor::Current()});
    return true;
  }
  void await_resume() noexcept {}

 private:
  KeptNotes& owner_;
};

KeptNotes::KeptNotes(StateStore& store) : store_(store), thread_([this] { Run(); }) {}

KeptNotes::~KeptNotes() {
  {
    absl::MutexLock hold(&mutex_);
    stopping_ = true;
  }
  thread_.join();
  absl::MutexLock hold(&mutex_);
  CHECK(waiters_.empty());
}

void KeptNotes::Restore(const std::vector<std::string>& notes) {
  absl::MutexLock hold(&mutex_);
  kept_.insert(notes.begin(), notes.end());
  wanted_ = kept_;
}

bool KeptNotes::Has(const std::string& note) const {
  absl::MutexLock hold(&mutex_);
  return wanted_.contains(note);
}

Task<void> KeptNotes::Put(std::string note) { return Change(std::move(note), true); }

Task<void> KeptNotes::Remove(std::string note) { return Change(std::move(note), false); }

Task<void> KeptNotes::Change(std::string note, bool there) {
  {
    absl::MutexLock hold(&mutex_);
    if (there) {
      wanted_.insert(std::move(note));
    } else {
      wanted_.erase(note);
    }
  }
  co_await Written(*this);
}

void KeptNotes::Run() {
  const auto has_work = [this] {
    mutex_.AssertHeld();
    return !waiters_.empty() || stopping_;
  };
  for (bool last = false; !last;) {
    {
      absl::MutexLock hold(&mutex_);
      const bool behind = wanted_ != kept_;
      mutex_.AwaitWithTimeout(absl::Condition(&has_work),
                              behind ? kNotesRetry : absl::InfiniteDuration());
      if (stopping_ && wanted_ == kept_) return;
      last = stopping_;
    }
    Write();
  }
}

void KeptNotes::Write() {
  std::set<std::string> wanted;
  std::vector<Waiter> waiters;
  Changes changes;
  {
    absl::MutexLock hold(&mutex_);
    wanted = wanted_;
    waiters.swap(waiters_);
    std::ranges::set_difference(wanted, kept_, std::back_inserter(changes.put_notes));
    std::ranges::set_difference(kept_, wanted, std::back_inserter(changes.delete_notes));
  }
  const absl::Status written = store_.Apply(changes);
  if (written.ok()) {
    absl::MutexLock hold(&mutex_);
    kept_ = std::move(wanted);
  }
  for (const Waiter& waiter : waiters) {
    waiter.reactor->Post([caller = waiter.caller] { caller.resume(); });
  }
}

}  // namespace sectormap::state
