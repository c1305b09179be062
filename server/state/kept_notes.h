// SPDX-License-Identifier: Apache-2.0
// KeptNotes: the targets' notes in the state store, written on a thread of its own, so that no
// reactor waits for a disk.
#pragma once

#include <coroutine>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/async/reactor.h"
#include "core/map/target_notes.h"
#include "server/state/state_store.h"

namespace sectormap::state {

// How long what could not be written waits before it is tried again.
inline constexpr absl::Duration kNotesRetry = absl::Milliseconds(500);

class KeptNotes final : public TargetNotes {
 public:
  // `store` outlives it.
  explicit KeptNotes(StateStore& store);
  // Tries a last time what could not be written. REQUIRES: no call is under way.
  ~KeptNotes() override;
  KeptNotes(const KeptNotes&) = delete;
  KeptNotes& operator=(const KeptNotes&) = delete;

  // At start, before any target: what the store has.
  void Restore(const std::vector<std::string>& notes);

  bool Has(const std::string& note) const override;
  Task<void> Put(std::string note) override;
  Task<void> Remove(std::string note) override;

 private:
  struct Waiter {
    std::coroutine_handle<> caller;
    Reactor* reactor;
  };
  class Written;

  Task<void> Change(std::string note, bool there);
  void Run();
  // One attempt to bring the store to what is wanted.
  void Write();

  StateStore& store_;
  mutable absl::Mutex mutex_;
  std::set<std::string> wanted_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> kept_ ABSL_GUARDED_BY(mutex_);  // in the store
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sectormap::state
