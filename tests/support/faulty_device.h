// SPDX-License-Identifier: Apache-2.0
// FaultyDevice: passes requests on to another device, and fails those it was told to fail. Set up
// before the I/O, or from its reactor.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/block/block_device.h"

namespace sectormap {

class FaultyDevice final : public BlockDevice {
 public:
  struct Fault {
    std::optional<IoOp> op = std::nullopt;  // empty: any
    Sector first{0};  // requests that touch [first, first + count); a flush touches all
    SectorCount count = kMaxDeviceSectors;
    IoStatus status = IoStatus::kIoError;
    uint64_t pass = 0;              // so many matching requests are let through first
    uint64_t times = ~uint64_t{0};  // and so many then fail
    bool after_the_work = false;    // the lower device does it, and the answer is still `status`
  };

  explicit FaultyDevice(std::shared_ptr<BlockDevice> lower) : lower_(std::move(lower)) {}

  void Add(const Fault& fault) { faults_.push_back(fault); }
  void FailAll(IoStatus status) { Add({.status = status}); }
  void Heal() { faults_.clear(); }
  // Overrides the lower device's own.
  void SetLimits(const BlockLimits& limits) { limits_ = limits; }

  uint64_t failed() const { return failed_; }
  uint64_t passed() const { return passed_; }

  SectorCount size() const override { return lower_->size(); }
  BlockLimits limits() const override { return limits_.value_or(lower_->limits()); }

  Task<IoStatus> Submit(IoRequest request) override {
    for (Fault& fault : faults_) {
      if (!Touches(fault, request)) continue;
      if (fault.pass > 0) {
        --fault.pass;
        continue;
      }
      if (fault.times == 0) continue;
      --fault.times;
      ++failed_;
      if (fault.after_the_work) return FailAfter(request, fault.status);
      return fault.status;
    }
    ++passed_;
    return lower_->Submit(request);
  }

  Task<Extent> ExtentAt(Sector first) override { return lower_->ExtentAt(first); }

 private:
  static bool Touches(const Fault& fault, const IoRequest& request) {
    if (fault.op.has_value() && *fault.op != request.op) return false;
    if (request.op == IoOp::kFlush) return true;
    return request.first < fault.first + fault.count && fault.first < request.first + request.count;
  }

  Task<IoStatus> FailAfter(IoRequest request, IoStatus status) {
    static_cast<void>(co_await lower_->Submit(request));
    co_return status;
  }

  const std::shared_ptr<BlockDevice> lower_;
  std::optional<BlockLimits> limits_;
  std::vector<Fault> faults_;
  uint64_t failed_ = 0;
  uint64_t passed_ = 0;
};

}  // namespace sectormap
