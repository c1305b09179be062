// SPDX-License-Identifier: Apache-2.0
// PerReactor: a shard of T for each reactor that has asked for its own. There may be kMaxReactors
// of them and there are mostly few, and most objects (a LUN, a device) are used on some of those
// only: a shard is made the first time, so an idle object costs a row of null pointers.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <utility>

#include "core/async/reactor.h"

namespace sectormap {

// REQUIRES: when it goes, no thread uses it any more.
template <typename T>
class PerReactor {
 public:
  PerReactor() = default;
  PerReactor(const PerReactor&) = delete;
  PerReactor& operator=(const PerReactor&) = delete;
  ~PerReactor() {
    for (std::atomic<Slot*>& slot : slots_) delete slot.load(std::memory_order_relaxed);
  }

  // On a reactor: its own shard. Allocates once for each reactor, later it is one plain load.
  T& Mine() {
    std::atomic<Slot*>& slot = slots_[Reactor::Current().index()];
    Slot* mine = slot.load(std::memory_order_relaxed);
    if (mine == nullptr) [[unlikely]] {
      mine = new Slot;
      slot.store(mine, std::memory_order_release);
    }
    return mine->value;
  }

  // Any thread: every shard that is there. What `visit` reads of a shard must bear being read while
  // its reactor writes it.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const std::atomic<Slot*>& slot : slots_) {
      const Slot* shard = slot.load(std::memory_order_acquire);
      if (shard != nullptr) visit(shard->value);
    }
  }

 private:
  // On cache lines of its own: no reactor slows another down.
  struct alignas(64) Slot {
    T value{};
  };
  std::array<std::atomic<Slot*>, kMaxReactors> slots_{};
};

}  // namespace sectormap
