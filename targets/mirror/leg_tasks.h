// SPDX-License-Identifier: Apache-2.0
// LegTasks: one request to several legs, side by side. What ends at once needs no frame.
#pragma once

#include <utility>

#include "absl/container/inlined_vector.h"
#include "core/async/reactor.h"
#include "core/async/task.h"
#include "core/async/wait_queue.h"
#include "core/base/io_status.h"
#include "targets/mirror/legs.h"

namespace sectormap::targets {

class LegTasks {
 public:
  // Submits to each of `to`.
  LegTasks(const Legs& legs, LegSet to, const IoRequest& request) {
    for (size_t leg : to) {
      Task<IoStatus> task = legs.Submit(leg, request);
      if (task.immediate()) {
        Note(leg, task.await_resume());
      } else {
        under_way_.push_back({leg, std::move(task)});
      }
    }
  }

  bool ended() const { return under_way_.empty(); }
  // Afterwards all have ended. On one reactor, to which every leg's task comes back.
  Task<void> Join() {
    Reactor& here = Reactor::Current();
    size_t left = under_way_.size() - 1;
    WaitQueue all_ended;
    for (size_t i = 0; i + 1 < under_way_.size(); ++i) {
      Detach(RunOne(*this, under_way_[i], here, left, all_ended));
    }
    const IoStatus status = co_await under_way_.back().task;
    co_await here.Switch();
    Note(under_way_.back().leg, status);
    while (left != 0) co_await all_ended.Wait();
    under_way_.clear();
  }

  // REQUIRES: ended.
  LegSet failed() const { return failed_; }
  // Of the first that failed; kOk if none did.
  IoStatus failure() const { return failure_; }

 private:
  struct UnderWay {
    size_t leg;
    Task<IoStatus> task;
  };

  void Note(size_t leg, IoStatus status) {
    if (status == IoStatus::kOk) [[likely]] {
      return;
    }
    failed_ = failed_ | LegSet::Only(leg);
    if (failure_ == IoStatus::kOk) failure_ = status;
  }

  static Task<void> RunOne(LegTasks& all, UnderWay& one, Reactor& here, size_t& left,
                           WaitQueue& all_ended) {
    const IoStatus status = co_await one.task;
    co_await here.Switch();
    all.Note(one.leg, status);
    if (--left == 0) all_ended.WakeAll();
  }

  absl::InlinedVector<UnderWay, 2> under_way_;  // most mirrors have two legs
  LegSet failed_;
  IoStatus failure_ = IoStatus::kOk;
};

}  // namespace sectormap::targets
