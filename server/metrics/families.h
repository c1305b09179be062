// SPDX-License-Identifier: Apache-2.0
// Families: the samples of one scrape, put together family by family.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <prometheus/metric_family.h>

namespace sectormap::metrics {

// Label names are literals; values are copied and may hold any bytes: one that is not of UTF-8,
// which Prometheus refuses a whole scrape for, becomes \xNN.
using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

// One metric name and its samples.
class Family {
 public:
  Family(std::string_view name, std::string_view help, prometheus::MetricType type);

  void Add(Labels labels, double value);
  void Add(Labels labels, uint64_t value) { Add(labels, static_cast<double>(value)); }
  // `counts` has one element more than `bounds` (seconds, rising): what is above the last bound.
  void AddHistogram(Labels labels, std::span<const double> bounds, std::span<const uint64_t> counts,
                    double sum_seconds);

 private:
  friend class Families;
  prometheus::ClientMetric& NewMetric(Labels labels);
  prometheus::MetricFamily family_;
};

// What a source adds to.
class Families {
 public:
  // Families keep the order in which they are added. A family without samples is left out.
  void Add(Family family);

  std::vector<prometheus::MetricFamily> Take() { return std::move(families_); }

 private:
  std::vector<prometheus::MetricFamily> families_;
};

Family Counter(std::string_view name, std::string_view help);  // the name ends in _total
Family Gauge(std::string_view name, std::string_view help);
Family Histogram(std::string_view name, std::string_view help);  // the name ends in _seconds

}  // namespace sectormap::metrics
