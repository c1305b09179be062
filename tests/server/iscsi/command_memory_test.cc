// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/command_memory.h"

#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "core/async/clock.h"
#include "core/async/next_turn.h"
#include "core/async/reactor_pool.h"
#include "core/base/check.h"

namespace sectormap::iscsi {
namespace {

// Units whose devices hang take what they can get. Numbers stand for them: nothing looks into a
// Lun.
class CommandMemoryTest : public testing::Test {
 protected:
  CommandMemoryTest() : pool_(*ReactorPool::Start(1, clock_)) {}

  static const scsi::Lun* Name(size_t unit) { return reinterpret_cast<const scsi::Lun*>(unit); }

  // How many buffers of that size the unit gets.
  size_t Fill(UnitShare& share, size_t bytes) {
    size_t count = 0;
    while (std::optional<CommandBuffer> buffer = memory_.TryTake(share, bytes)) {
      taken_.push_back(*std::move(buffer));
      ++count;
    }
    return count;
  }

  static Task<void> TakeOne(CommandMemoryTest& test, UnitShare& share, size_t bytes) {
    test.waited_for_ = co_await test.memory_.Take(share, bytes);
  }

  // What a unit waits for need not come from itself.
  static Task<void> WaitForAnother(CommandMemoryTest& test) {
    UnitShare& hanging = test.memory_.Join(Name(1));
    UnitShare& other = test.memory_.Join(Name(2));
    EXPECT_EQ(test.Fill(hanging, 1 << 20), 32u);
    std::vector<CommandBuffer> given_back = std::exchange(test.taken_, {});
    EXPECT_EQ(test.Fill(other, 1 << 20), 16u);
    Detach(TakeOne(test, other, 1 << 20));
    co_await NextTurn();
    EXPECT_FALSE(test.waited_for_);
    given_back.clear();
    co_await NextTurn();
    EXPECT_TRUE(test.waited_for_) << "room for 16 more, and nobody tells";
    test.taken_.clear();
    co_await NextTurn();
    test.waited_for_ = CommandBuffer();
    test.memory_.Leave(Name(1));
    test.memory_.Leave(Name(2));
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  CommandMemory memory_{kDefaultCommandMemoryBytes};
  std::vector<CommandBuffer> taken_;
  CommandBuffer waited_for_;
};

TEST_F(CommandMemoryTest, AUnitThatHangsLeavesAsMuchAsItHas) {
  // Just above a power of two: what the pool gives is nearly twice what is asked for.
  for (const size_t bytes : {size_t{4096}, size_t{516 * 1024}, size_t{1 << 20}, size_t{4 << 20}}) {
    pool_->OnEach([&](Reactor&) {
      UnitShare& share = memory_.Join(Name(1));
      EXPECT_GT(Fill(share, bytes), 0u);
      EXPECT_LE(memory_.used(), memory_.capacity() / 2) << bytes;
      EXPECT_GE(memory_.used() + scsi::kMaxTransferBytes, memory_.capacity() / 2) << bytes;
      taken_.clear();
      EXPECT_EQ(share.used, 0u);
      memory_.Leave(Name(1));
    });
  }
}

TEST_F(CommandMemoryTest, HoweverManyHangAnotherFindsRoom) {
  pool_->OnEach([&](Reactor&) {
    for (size_t hanging = 1; hanging <= 4; ++hanging) {
      EXPECT_GT(Fill(memory_.Join(Name(hanging)), 1 << 20), 0u);
    }
    UnitShare& healthy = memory_.Join(Name(5));
    EXPECT_GE(Fill(healthy, 4096), 512u);
    taken_.clear();
    for (size_t unit = 1; unit <= 5; ++unit) memory_.Leave(Name(unit));
  });
  EXPECT_EQ(memory_.used(), 0u);
}

TEST_F(CommandMemoryTest, WhoWaitsHearsOfRoomThatAnotherUnitGaveBack) {
  pool_->RunOn(0, WaitForAnother(*this));
}

}  // namespace
}  // namespace sectormap::iscsi
