// SPDX-License-Identifier: Apache-2.0
// Pieces: runs the pieces of one request side by side, in batches. All that are added run, whatever
// fails; the answer is one of the failures. On one reactor.
#pragma once

#include <utility>
#include <vector>

#include "core/async/task.h"
#include "core/async/when_all.h"
#include "core/base/io_status.h"

namespace sectormap {

class Pieces {
 public:
  // A request over thousands of rows takes a bounded share of the reactor's memory and of the
  // queues below.
  static constexpr size_t kAtOnceMax = 64;

  // True: Join() has to be awaited before the next Add().
  bool Add(Task<IoStatus> piece) {
    if (piece.immediate()) {
      Note(piece.await_resume());
    } else {
      under_way_.push_back(std::move(piece));
    }
    return ++added_ % kAtOnceMax == 0;
  }
  Task<IoStatus> Join() {
    std::vector<Task<IoStatus>> batch = std::exchange(under_way_, {});
    if (batch.size() == 1) {
      const IoStatus status = co_await batch.front();
      Note(status);
    } else if (!batch.empty()) {
      const IoStatus status = co_await WhenAll(std::move(batch));
      Note(status);
    }
    co_return result_;
  }

 private:
  // What is asked again as a whole forgets how its other pieces ended.
  void Note(IoStatus status) {
    if (result_ == IoStatus::kOk || status == IoStatus::kRequeue) result_ = status;
  }

  std::vector<Task<IoStatus>> under_way_;
  size_t added_ = 0;
  IoStatus result_ = IoStatus::kOk;
};

}  // namespace sectormap
