// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/command_memory.h"

#include <gtest/gtest.h>

#include "core/async/clock.h"
#include "core/async/reactor_pool.h"
#include "core/base/check.h"

namespace sectormap::iscsi {
namespace {

// Units whose devices hang take what they can get. Names stand for them: nothing looks into a Lun.
class CommandMemoryTest : public testing::Test {
 protected:
  CommandMemoryTest() : pool_(*ReactorPool::Start(1, clock_)) {}

  // How many buffers of that size the unit gets.
  size_t Fill(UnitShare& share, size_t bytes) {
    size_t count = 0;
    while (std::optional<CommandBuffer> buffer = memory_.TryTake(share, bytes)) {
      taken_.push_back(*std::move(buffer));
      ++count;
    }
    return count;
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  CommandMemory memory_{kDefaultCommandMemoryBytes};
  std::vector<CommandBuffer> taken_;
};

TEST_F(CommandMemoryTest, AUnitThatHangsLeavesAsMuchAsItHas) {
  // Just above a power of two: what the pool gives is nearly twice what is asked for.
  for (const size_t bytes : {size_t{4096}, size_t{516 * 1024}, size_t{1 << 20}, size_t{4 << 20}}) {
    pool_->OnEach([&](Reactor&) {
      UnitShare share;
      EXPECT_GT(Fill(share, bytes), 0u);
      EXPECT_LE(memory_.used(), memory_.capacity() / 2) << bytes;
      EXPECT_GE(memory_.used() + scsi::kMaxTransferBytes, memory_.capacity() / 2) << bytes;
      taken_.clear();
      EXPECT_EQ(share.used, 0u);
    });
  }
}

TEST_F(CommandMemoryTest, HoweverManyHangAnotherFindsRoom) {
  pool_->OnEach([&](Reactor&) {
    std::array<UnitShare, 4> hanging;
    for (UnitShare& share : hanging) EXPECT_GT(Fill(share, 1 << 20), 0u);
    UnitShare healthy;
    EXPECT_GE(Fill(healthy, 4096), 512u);
    taken_.clear();
  });
  EXPECT_EQ(memory_.used(), 0u);
}

}  // namespace
}  // namespace sectormap::iscsi
