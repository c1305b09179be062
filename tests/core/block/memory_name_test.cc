// SPDX-License-Identifier: Apache-2.0
#include "core/block/memory_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sectormap {
namespace {

uint64_t SectorsIn(const std::string& name) {
  const absl::StatusOr<SectorCount> size = ParseMemoryName(name);
  EXPECT_TRUE(size.ok()) << size.status();
  return size.ok() ? size->value() : 0;
}

TEST(MemoryNameTest, SuffixesArePowersOf1024OrSectors) {
  EXPECT_EQ(SectorsIn("mem:512"), 1u);
  EXPECT_EQ(SectorsIn("mem:1s"), 1u);
  EXPECT_EQ(SectorsIn("mem:1K"), 2u);
  EXPECT_EQ(SectorsIn("mem:1k"), 2u);
  EXPECT_EQ(SectorsIn("mem:64M"), 131072u);
  EXPECT_EQ(SectorsIn("mem:1G"), 2097152u);
  EXPECT_EQ(SectorsIn("mem:1T"), 2147483648u);
  EXPECT_EQ(SectorsIn("mem:100s@scratch-1.a_B"), 100u);
}

class WrongMemoryNameTest : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Names, WrongMemoryNameTest,
                         testing::Values("mem:", "mem:M", "mem:0", "mem:0s", "mem:-1M", "mem:+1M",
                                         "mem: 1M", "mem:1 M", "mem:1.5M", "mem:1X", "mem:1MB",
                                         "mem:511", "mem:513", "mem:1M@", "mem:1M@a b",
                                         "mem:1M@a@b", "mem:1M@\xc3\xa4", "mem:0x10s",
                                         "mem:99999999999999999999999", "mem:9999999999T",
                                         "mem:18014398509481984s", "memory:1M", ""));

TEST_P(WrongMemoryNameTest, IsRefusedWithTheForm) {
  const absl::Status status = ParseMemoryName(GetParam()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << GetParam();
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("mem:64M"));
}

}  // namespace
}  // namespace sectormap
