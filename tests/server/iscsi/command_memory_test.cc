// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/command_memory.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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
  SessionShare Join(size_t unit, size_t initiator = 0) {
    return memory_.Join(Name(unit), absl::StrCat("host", initiator));
  }

  // How many buffers of that size the session gets.
  size_t Fill(SessionShare& share, size_t bytes) {
    size_t count = 0;
    while (std::optional<CommandBuffer> buffer = memory_.TryTake(share, bytes, DataKind::kMedium)) {
      taken_.push_back(*std::move(buffer));
      ++count;
    }
    return count;
  }

  static Task<void> TakeInto(CommandMemoryTest& test, SessionShare& share, size_t bytes,
                             CommandBuffer& buffer) {
    CommandMemory::Waiter waiter;
    buffer = co_await test.memory_.Take(share, bytes, DataKind::kMedium, waiter);
  }
  static Task<void> TakeOne(CommandMemoryTest& test, SessionShare& share, size_t bytes) {
    test.waited_for_ = co_await test.memory_.Take(share, bytes, DataKind::kMedium, test.waiter_);
    test.waits_ = false;
  }

  // What a unit waits for need not come from itself.
  static Task<void> WaitForAnother(CommandMemoryTest& test) {
    SessionShare hanging = test.Join(1);
    SessionShare other = test.Join(2);
    EXPECT_EQ(test.Fill(hanging, 1 << 20), 16u);
    std::vector<CommandBuffer> given_back = std::exchange(test.taken_, {});
    EXPECT_EQ(test.Fill(other, 1 << 20), 12u);
    Detach(TakeOne(test, other, 1 << 20));
    co_await NextTurn();
    EXPECT_FALSE(test.waited_for_);
    given_back.clear();
    co_await NextTurn();
    EXPECT_TRUE(test.waited_for_) << "room for 4 more, and nobody tells";
    test.taken_.clear();
    co_await NextTurn();
    test.waited_for_ = CommandBuffer();
    test.memory_.Leave(hanging);
    test.memory_.Leave(other);
  }

  // For each small command that ends the session sends another.
  static Task<void> LargeBehindSmall(CommandMemoryTest& test) {
    SessionShare share = test.Join(1);
    SessionShare other = test.Join(1);
    const size_t small_ones = test.Fill(share, 128 << 10);
    Detach(TakeOne(test, share, 4 << 20));
    for (size_t ended = 0; ended < small_ones && !test.waited_for_; ++ended) {
      test.taken_.erase(test.taken_.begin());
      test.Fill(share, 128 << 10);
      co_await NextTurn();
    }
    EXPECT_TRUE(test.waited_for_) << "all the small ones have ended, and others came before it";
    EXPECT_TRUE(test.memory_.TryTake(other, 128 << 10, DataKind::kMedium));
    test.taken_.clear();
    EXPECT_GT(test.Fill(share, 128 << 10), 0u);
    test.taken_.clear();
    test.waited_for_ = CommandBuffer();
    test.memory_.Leave(share);
    test.memory_.Leave(other);
  }

  // Among those that wait too. Another session is not held up by them.
  static Task<void> SmallBehindLarge(CommandMemoryTest& test) {
    SessionShare share = test.Join(1);
    SessionShare other = test.Join(1);
    test.Fill(share, 1 << 20);
    CommandBuffer small;
    Detach(TakeOne(test, share, 4 << 20));
    Detach(TakeInto(test, share, 128 << 10, small));
    EXPECT_FALSE(test.memory_.HasRoomForMore(share));
    test.taken_.pop_back();
    co_await NextTurn();
    EXPECT_FALSE(test.waited_for_);
    EXPECT_FALSE(small) << "it passed one that came before it";
    EXPECT_TRUE(test.memory_.TryTake(share, 24, DataKind::kParameters));
    EXPECT_TRUE(test.memory_.TryTake(other, 128 << 10, DataKind::kMedium));
    test.taken_.resize(test.taken_.size() - 4);
    co_await NextTurn();
    EXPECT_TRUE(test.waited_for_);
    EXPECT_TRUE(small);
    small = CommandBuffer();
    test.waited_for_ = CommandBuffer();
    test.taken_.clear();
    test.memory_.Leave(share);
    test.memory_.Leave(other);
  }

  // Nobody gives anything back: it ends, and those that waited behind it find room.
  static Task<void> GiveUpLarge(CommandMemoryTest& test) {
    SessionShare share = test.Join(1);
    test.Fill(share, 1 << 20);
    test.taken_.pop_back();
    std::array<CommandBuffer, 2> small;
    Detach(TakeOne(test, share, 4 << 20));
    for (CommandBuffer& buffer : small) Detach(TakeInto(test, share, 128 << 10, buffer));
    test.memory_.GiveUp(test.waiter_);
    test.memory_.GiveUp(test.waiter_);
    co_await NextTurn();
    EXPECT_FALSE(test.waits_);
    EXPECT_FALSE(test.waited_for_);
    for (CommandBuffer& buffer : small) {
      EXPECT_TRUE(buffer);
      buffer = CommandBuffer();
    }
    EXPECT_EQ(test.Fill(share, 1 << 20), 1u);
    test.taken_.clear();
    EXPECT_EQ(test.memory_.used(), 0u);
    test.memory_.Leave(share);
  }

  // One that waits does not keep out what fences the others off.
  static Task<void> ParameterListBehindLarge(CommandMemoryTest& test) {
    std::array<SessionShare, 33> stalled;
    for (size_t host = 0; host < stalled.size(); ++host) {
      stalled[host] = test.Join(1, host);
      test.Fill(stalled[host], 1 << 20);
    }
    SessionShare share = test.Join(1, stalled.size());
    Detach(TakeOne(test, share, 4 << 20));
    EXPECT_FALSE(test.waited_for_);
    EXPECT_TRUE(test.memory_.TryTake(share, 24, DataKind::kParameters));
    test.taken_.clear();
    co_await NextTurn();
    EXPECT_TRUE(test.waited_for_);
    test.waited_for_ = CommandBuffer();
    for (const SessionShare& each : stalled) test.memory_.Leave(each);
    test.memory_.Leave(share);
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  CommandMemory memory_{kDefaultCommandMemoryBytes};
  std::vector<CommandBuffer> taken_;
  CommandMemory::Waiter waiter_;
  CommandBuffer waited_for_;
  bool waits_ = true;
};

// Just above a power of two: what the pool gives is nearly twice what is asked for.
constexpr std::array<size_t, 4> kSizes = {4096, 516 * 1024, 1 << 20, 4 << 20};

TEST_F(CommandMemoryTest, AUnitThatHangsLeavesAsMuchAsItHas) {
  for (const size_t bytes : kSizes) {
    pool_->OnEach([&](Reactor&) {
      std::array<SessionShare, 8> sessions;
      for (size_t host = 0; host < sessions.size(); ++host) {
        sessions[host] = Join(1, host);
        Fill(sessions[host], bytes);
      }
      EXPECT_LE(memory_.used(), memory_.capacity() / 2) << bytes;
      EXPECT_GE(memory_.used() + scsi::kMaxTransferBytes, memory_.capacity() / 2) << bytes;
      taken_.clear();
      EXPECT_EQ(sessions[0].unit->used, 0u);
      for (const SessionShare& share : sessions) {
        EXPECT_EQ(share.used, 0u);
        memory_.Leave(share);
      }
    });
  }
}

TEST_F(CommandMemoryTest, ASessionThatStallsLeavesAsMuchOfItsUnitAsItHas) {
  for (const size_t bytes : kSizes) {
    pool_->OnEach([&](Reactor&) {
      SessionShare stalled = Join(1);
      SessionShare other = Join(1);
      Fill(stalled, bytes);
      EXPECT_LE(stalled.used, memory_.capacity() / 4) << bytes;
      EXPECT_GE(stalled.used + scsi::kMaxTransferBytes, memory_.capacity() / 4) << bytes;
      Fill(other, bytes);
      EXPECT_GE(other.used, memory_.capacity() / 8) << bytes;
      taken_.clear();
      memory_.Leave(stalled);
      memory_.Leave(other);
    });
  }
}

TEST_F(CommandMemoryTest, AnInitiatorWhoseSessionsAllStallLeavesOthersTheirPart) {
  for (const size_t bytes : kSizes) {
    pool_->OnEach([&](Reactor&) {
      std::array<SessionShare, 16> stalled;
      for (SessionShare& share : stalled) {
        share = Join(1);
        Fill(share, bytes);
      }
      const UnitShare& unit = *stalled[0].unit;
      // Each session may have what is as small as a parameter list in any case.
      const size_t lists = stalled.size() * scsi::kMaxParameterDataBytes;
      EXPECT_LE(unit.used, memory_.capacity() * 3 / 8 + lists) << bytes;
      EXPECT_GE(unit.used + scsi::kMaxTransferBytes, memory_.capacity() * 3 / 8) << bytes;
      SessionShare other = Join(1, 1);
      Fill(other, 4096);
      EXPECT_GE(other.used + lists, memory_.capacity() / 16) << bytes;
      taken_.clear();
      for (const SessionShare& share : stalled) memory_.Leave(share);
      EXPECT_EQ(unit.initiators.size(), 1u);
      memory_.Leave(other);
    });
  }
}

// Where all have as much as they can get, it is what FairPart() says.
TEST_F(CommandMemoryTest, WhatASessionMayHoldIfAllDoIsItsFairPart) {
  pool_->OnEach([&](Reactor&) {
    for (const size_t hosts : {1u, 2u, 5u}) {
      for (const size_t paths : {1u, 2u, 4u}) {
        std::vector<SessionShare> sessions;
        for (size_t i = 0; i < hosts * paths; ++i) sessions.push_back(Join(1, i % hosts));
        for (bool any = true; any;) {
          any = false;
          for (SessionShare& share : sessions) {
            std::optional<CommandBuffer> buffer = memory_.TryTake(share, 4096, DataKind::kMedium);
            if (!buffer) continue;
            taken_.push_back(*std::move(buffer));
            any = true;
          }
        }
        for (const SessionShare& share : sessions) {
          const size_t part = memory_.FairPart(share);
          EXPECT_LE(share.used, part + 8192) << hosts << " hosts, " << paths << " paths";
          EXPECT_GE(share.used + 8192, part) << hosts << " hosts, " << paths << " paths";
        }
        taken_.clear();
        for (const SessionShare& share : sessions) memory_.Leave(share);
      }
    }
  });
}

TEST_F(CommandMemoryTest, WhoHasNothingFindsRoomForAParameterList) {
  pool_->OnEach([&](Reactor&) {
    std::array<SessionShare, 33> stalled;
    for (size_t host = 0; host < stalled.size(); ++host) {
      stalled[host] = Join(1, host);
      Fill(stalled[host], 1 << 20);
    }
    EXPECT_EQ(memory_.used(), memory_.capacity() / 2);
    EXPECT_EQ(stalled.back().used, 0u);
    SessionShare other = Join(1);
    EXPECT_FALSE(memory_.TryTake(other, scsi::kMaxParameterDataBytes + 1, DataKind::kMedium));
    EXPECT_EQ(Fill(other, 24), 1u);
    EXPECT_EQ(Fill(stalled.front(), 24), 0u);
    taken_.clear();
    for (const SessionShare& share : stalled) memory_.Leave(share);
    memory_.Leave(other);
  });
}

TEST_F(CommandMemoryTest, HoweverManyHangAnotherFindsRoom) {
  pool_->OnEach([&](Reactor&) {
    std::array<SessionShare, 4> hanging;
    for (size_t unit = 0; unit < hanging.size(); ++unit) {
      hanging[unit] = Join(unit);
      EXPECT_GT(Fill(hanging[unit], 1 << 20), 0u);
    }
    SessionShare healthy = Join(hanging.size());
    EXPECT_GE(Fill(healthy, 4096), 512u);
    taken_.clear();
    for (const SessionShare& share : hanging) memory_.Leave(share);
    memory_.Leave(healthy);
  });
  EXPECT_EQ(memory_.used(), 0u);
}

TEST_F(CommandMemoryTest, WhoWaitsHearsOfRoomThatAnotherUnitGaveBack) {
  pool_->RunOn(0, WaitForAnother(*this));
}

TEST_F(CommandMemoryTest, ALargeOneThatWaitsIsNotPassedByItsSessionsSmallOnes) {
  pool_->RunOn(0, LargeBehindSmall(*this));
}

TEST_F(CommandMemoryTest, WhoWaitsKeepsThePlaceWithinItsSession) {
  pool_->RunOn(0, SmallBehindLarge(*this));
}

TEST_F(CommandMemoryTest, WhoGivesUpEndsAtOnceAndMakesRoom) { pool_->RunOn(0, GiveUpLarge(*this)); }

TEST_F(CommandMemoryTest, AParameterListPassesWhoWaits) {
  pool_->RunOn(0, ParameterListBehindLarge(*this));
}

}  // namespace
}  // namespace sectormap::iscsi
