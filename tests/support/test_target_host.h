// SPDX-License-Identifier: Apache-2.0
// A TargetHost for targets that are tested without a mapped device: counts their events.
#pragma once

#include <atomic>

#include "core/base/check.h"
#include "core/map/target_host.h"

namespace sectormap {

class TestTargetHost final : public TargetHost {
 public:
  // Null: for targets that have no work of their own.
  explicit TestTargetHost(ReactorPool* reactors = nullptr) : reactors_(reactors) {}

  ReactorPool& reactors() override {
    CHECK(reactors_ != nullptr);
    return *reactors_;
  }
  void RaiseEvent() override { ++events_; }
  int events() const { return events_; }

 private:
  ReactorPool* const reactors_;
  std::atomic<int> events_{0};
};

}  // namespace sectormap
