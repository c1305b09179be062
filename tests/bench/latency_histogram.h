// SPDX-License-Identifier: Apache-2.0
// LatencyHistogram: counts nanoseconds, answers percentiles in microseconds. One thread.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace sectormap::bench {

// Latencies in classes of 1/64: enough for a percentile with three digits.
class LatencyHistogram {
 public:
  void Add(uint64_t ns) {
    ++counts_[ClassOf(ns)];
    ++total_;
    sum_ns_ += ns;
    max_ns_ = std::max(max_ns_, ns);
  }
  void Add(const LatencyHistogram& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    total_ += other.total_;
    sum_ns_ += other.sum_ns_;
    max_ns_ = std::max(max_ns_, other.max_ns_);
  }
  uint64_t total() const { return total_; }
  double mean_us() const {
    return total_ == 0 ? 0 : static_cast<double>(sum_ns_) / 1e3 / static_cast<double>(total_);
  }
  double max_us() const { return static_cast<double>(max_ns_) / 1e3; }
  double PercentileUs(double percent) const {
    const auto wanted = static_cast<uint64_t>(static_cast<double>(total_) * percent / 100);
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > wanted) return static_cast<double>(LowestOf(i)) / 1e3;
    }
    return max_us();
  }

 private:
  static constexpr size_t kSteps = 64;  // per power of two
  static size_t ClassOf(uint64_t ns) {
    if (ns < kSteps) return ns;
    const auto power = static_cast<size_t>(std::bit_width(ns)) - 1;
    return (power - 5) * kSteps + (ns >> (power - 6)) - kSteps;
  }
  static uint64_t LowestOf(size_t index) {
    if (index < kSteps) return index;
    return (index % kSteps + kSteps) << (index / kSteps - 1);
  }
  std::array<uint64_t, 64 * kSteps> counts_{};
  uint64_t total_ = 0, sum_ns_ = 0, max_ns_ = 0;
};

}  // namespace sectormap::bench
