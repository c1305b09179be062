// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/families.h"

#include <limits>

#include "core/base/check.h"
#include "core/base/utf8.h"

namespace sectormap::metrics {

Family::Family(std::string_view name, std::string_view help, prometheus::MetricType type) {
  family_.name = name;
  family_.help = help;
  family_.type = type;
}

prometheus::ClientMetric& Family::NewMetric(Labels labels) {
  prometheus::ClientMetric& metric = family_.metric.emplace_back();
  for (const auto& [name, value] : labels) {
    metric.label.push_back({std::string(name), ToUtf8(value)});
  }
  return metric;
}

void Family::Add(Labels labels, double value) {
  prometheus::ClientMetric& metric = NewMetric(labels);
  if (family_.type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

void Family::AddHistogram(Labels labels, std::span<const double> bounds,
                          std::span<const uint64_t> counts, double sum_seconds) {
  CHECK(counts.size() == bounds.size() + 1);
  prometheus::ClientMetric& metric = NewMetric(labels);
  uint64_t cumulative = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    cumulative += counts[i];
    metric.histogram.bucket.push_back(
        {cumulative, i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity()});
  }
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = sum_seconds;
}

void Families::Add(Family family) {
  if (!family.family_.metric.empty()) families_.push_back(std::move(family.family_));
}

Family Counter(std::string_view name, std::string_view help) {
  return {name, help, prometheus::MetricType::Counter};
}

Family Gauge(std::string_view name, std::string_view help) {
  return {name, help, prometheus::MetricType::Gauge};
}

Family Histogram(std::string_view name, std::string_view help) {
  return {name, help, prometheus::MetricType::Histogram};
}

}  // namespace sectormap::metrics
