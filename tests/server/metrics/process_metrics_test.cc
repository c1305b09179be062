// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/process_metrics.h"

#include <gtest/gtest.h>

#include <set>

namespace sectormap::metrics {
namespace {

// Fields 3 to 25 of proc(5)'s stat, with numbers that tell them apart.
constexpr char kFields[] = " S 4 5 6 7 8 9 10 11 12 13 200 100 16 17 18 19 7 21 5000 4096000 25 26";

TEST(ProcessStatTest, ReadsTicksPagesAndThreads) {
  const auto stat = ParseProcessStat(std::string("1 (sectormapd)") + kFields, 100, 4096);
  ASSERT_TRUE(stat.has_value());
  EXPECT_DOUBLE_EQ(stat->cpu_seconds, 3);
  EXPECT_EQ(stat->threads, 7u);
  EXPECT_EQ(stat->virtual_bytes, 4096000u);
  EXPECT_EQ(stat->resident_bytes, 25u * 4096);
}

TEST(ProcessStatTest, TheCommandsNameMayHoldBracketsAndBlanks) {
  const auto stat = ParseProcessStat(std::string("1 (a) b (c)") + kFields, 100, 4096);
  ASSERT_TRUE(stat.has_value());
  EXPECT_DOUBLE_EQ(stat->cpu_seconds, 3);
}

TEST(ProcessStatTest, ALineThatIsCutShortGivesNothing) {
  EXPECT_FALSE(ParseProcessStat("", 100, 4096).has_value());
  EXPECT_FALSE(ParseProcessStat("1 (x", 100, 4096).has_value());
  EXPECT_FALSE(ParseProcessStat("1 (x) S 4 5 6", 100, 4096).has_value());
  EXPECT_FALSE(
      ParseProcessStat("1 (x) S 4 5 6 7 8 9 10 11 12 13 -1 100 16 17 18 19 7 21 50 4 25", 100, 4096)
          .has_value());
}

TEST(ProcessFamiliesTest, SaysWhatEveryClientLibrarySays) {
  Families families;
  AddProcessFamilies(std::chrono::system_clock::time_point(std::chrono::milliseconds(1500)),
                     families);
  std::set<std::string> names;
  for (const auto& family : families.Take()) {
    names.insert(family.name);
    if (family.name == "process_open_fds") {
      EXPECT_GE(family.metric.front().gauge.value, 3);
    }
    if (family.name == "process_start_time_seconds") {
      EXPECT_EQ(family.metric.front().gauge.value, 1.5);
    }
    if (family.name == "process_resident_memory_bytes") {
      EXPECT_GT(family.metric.front().gauge.value, 1e6);
    }
  }
  for (const char* name :
       {"process_cpu_seconds_total", "process_resident_memory_bytes",
        "process_virtual_memory_bytes", "process_start_time_seconds", "process_open_fds"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

}  // namespace
}  // namespace sectormap::metrics
