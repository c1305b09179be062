// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/families.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace sectormap::metrics {

namespace {

// How many bytes the character takes that `text` begins with; 0: it is not one of UTF-8 (RFC 3629
// section 4). REQUIRES: `text` is not empty.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < bytes) return 0;
  // Overlong forms, surrogates, and what is above U+10FFFF.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return bytes;
}

std::string Utf8(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) {
      absl::StrAppend(&result, "\\x", absl::Hex(static_cast<unsigned char>(text[0])));
    } else {
      result.append(text.substr(0, bytes));
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return result;
}

}  // namespace

Family::Family(std::string_view name, std::string_view help, prometheus::MetricType type) {
  family_.name = name;
  family_.help = help;
  family_.type = type;
}

prometheus::ClientMetric& Family::NewMetric(Labels labels) {
  prometheus::ClientMetric& metric = family_.metric.emplace_back();
  for (const auto& [name, value] : labels) {
    metric.label.push_back({std::string(name), Utf8(value)});
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
