// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/command_counters.h"

#include <gtest/gtest.h>

#include "core/async/reactor_pool.h"

namespace sectormap::scsi {
namespace {

using std::chrono::microseconds;

OpClass ClassOfOpcode(uint8_t opcode) { return ClassOf({opcode}); }

TEST(CommandCountersTest, CommandsFallIntoTheirClasses) {
  EXPECT_EQ(ClassOfOpcode(0x88), OpClass::kRead);
  EXPECT_EQ(ClassOfOpcode(0x2a), OpClass::kWrite);
  EXPECT_EQ(ClassOfOpcode(0x8e), OpClass::kWrite);
  EXPECT_EQ(ClassOfOpcode(0x42), OpClass::kUnmap);
  EXPECT_EQ(ClassOfOpcode(0x93), OpClass::kWriteSame);
  EXPECT_EQ(ClassOfOpcode(0x89), OpClass::kCompareWrite);
  EXPECT_EQ(ClassOfOpcode(0x35), OpClass::kFlush);
  EXPECT_EQ(ClassOfOpcode(0x12), OpClass::kOther);
}

TEST(CommandCountersTest, ADurationBelongsToTheFirstBucketThatHoldsIt) {
  EXPECT_EQ(CommandCounters::BucketOf(microseconds(0)), 0u);
  EXPECT_EQ(CommandCounters::BucketOf(microseconds(25)), 0u);
  EXPECT_EQ(CommandCounters::BucketOf(nanoseconds(25'001)), 1u);
  EXPECT_EQ(CommandCounters::BucketOf(std::chrono::seconds(10)), kLatencyBuckets - 2);
  EXPECT_EQ(CommandCounters::BucketOf(std::chrono::hours(1)), kLatencyBuckets - 1);
}

TEST(CommandCountersTest, TheSumIsThatOfAllReactors) {
  SteadyClock clock;
  auto pool = ReactorPool::Start(2, clock);
  ASSERT_TRUE(pool.ok()) << pool.status();
  CommandCounters counters;
  (*pool)->OnEach([&](Reactor&) {
    for (int i = 0; i < 1000; ++i) {
      counters.Count(OpClass::kWrite, 4096, i % 10 != 0, microseconds(60));
    }
  });
  const CommandTotals totals = counters.Sum();
  const auto& writes = totals.classes[static_cast<int>(OpClass::kWrite)];
  EXPECT_EQ(writes.commands, 2000u);
  EXPECT_EQ(writes.bytes, 2000u * 4096);
  EXPECT_EQ(writes.errors, 200u);
  EXPECT_EQ(writes.nanoseconds, 2000u * 60'000);
  EXPECT_EQ(writes.latency[2], 2000u);
  EXPECT_EQ(totals.classes[static_cast<int>(OpClass::kRead)].commands, 0u);
}

}  // namespace
}  // namespace sectormap::scsi
