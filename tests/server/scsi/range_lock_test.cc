// SPDX-License-Identifier: Apache-2.0
// COMPARE AND WRITE and ORWRITE against every other write, from several reactors.
#include "server/scsi/range_lock.h"

#include "absl/synchronization/notification.h"
#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

class RangeLockTest : public UnitTest {
 protected:
  static SectorRange Range(uint64_t first, uint64_t count) {
    return {Sector(first), SectorCount(count)};
  }
};

Task<void> WriteFor(RangeLock& lock, SectorRange range, std::atomic<int>& writing,
                    std::atomic<bool>& may_end) {
  AbortSignal abort;
  co_await lock.WaitUntilFree(range, abort);
  RangeLock::InFlight in_flight(lock, range, abort);
  ++writing;
  while (!may_end) co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
  --writing;
}

Task<void> HoldFor(RangeLock& lock, SectorRange range, std::atomic<bool>& held,
                   std::atomic<bool>& may_end) {
  const RangeLock::Exclusive exclusive = co_await lock.Acquire(range);
  held = true;
  while (!may_end) co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
}

void Await(const std::atomic<int>& value, int wanted) {
  while (value != wanted) std::this_thread::yield();
}
void Await(const std::atomic<bool>& value) {
  while (!value) std::this_thread::yield();
}

TEST_F(RangeLockTest, AnExclusiveWaitsForOverlappingWritesOnly) {
  RangeLock lock(*pool_, 0);
  std::atomic<int> near{0}, far{0};
  std::atomic<bool> near_ends{false}, far_ends{false}, held{false}, free{false};
  (*pool_)[1].Spawn(WriteFor(lock, Range(10, 10), near, near_ends));
  (*pool_)[1].Spawn(WriteFor(lock, Range(20, 10), far, far_ends));
  Await(near, 1);
  Await(far, 1);
  (*pool_)[0].Spawn(HoldFor(lock, Range(15, 5), held, free));
  pool_->OnEach([](Reactor&) {});
  pool_->OnEach([](Reactor&) {});
  EXPECT_FALSE(held);
  near_ends = true;
  Await(held);
  EXPECT_EQ(far, 1);
  far_ends = true;
  free = true;
  Await(far, 0);
  pool_->OnEach([](Reactor&) {});
  pool_->OnEach([](Reactor&) {});
}

TEST_F(RangeLockTest, AHoldKeepsOverlappingWritesOutOnEveryReactorAndOthersIn) {
  RangeLock lock(*pool_, 0);
  std::atomic<bool> held{false}, free{false}, ends{true};
  (*pool_)[0].Spawn(HoldFor(lock, Range(100, 8), held, free));
  Await(held);
  std::atomic<int> wait_for[2] = {0, 0};
  pool_->OnEach([&](Reactor& reactor) {
    wait_for[reactor.index()] = lock.MustWait(Range(107, 1)) && lock.MustWait(Range(0, 101)) &&
                                !lock.MustWait(Range(108, 1)) && !lock.MustWait(Range(0, 100));
  });
  EXPECT_EQ(wait_for[0], 1);
  EXPECT_EQ(wait_for[1], 1);
  free = true;
  // Both come through when the hold is gone.
  std::atomic<int> writing{0};
  pool_->RunOn(0, WriteFor(lock, Range(100, 8), writing, ends));
  pool_->RunOn(1, WriteFor(lock, Range(100, 8), writing, ends));
  pool_->OnEach([](Reactor&) {});
}

Task<void> AbortedWriteFor(RangeLock& lock, SectorRange range, std::atomic<int>& writing,
                           std::atomic<bool>& may_end) {
  AbortSignal abort;
  RangeLock::InFlight in_flight(lock, range, abort);
  abort.Raise();
  ++writing;
  while (!may_end) co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
  --writing;
}

TEST_F(RangeLockTest, AnAbortedWriteKeepsOverlappingWritesOutOnEveryReactorUntilItEnds) {
  RangeLock lock(*pool_, 0);
  std::atomic<int> aborted{0}, writing{0};
  std::atomic<bool> aborted_ends{false}, ends{true};
  (*pool_)[0].Spawn(AbortedWriteFor(lock, Range(100, 8), aborted, aborted_ends));
  Await(aborted, 1);
  // At once: there is no moment at which another reactor does not know of it.
  for (int reactor : {0, 1}) {
    pool_->RunOn(reactor, [](RangeLock& tried) -> Task<void> {
      EXPECT_TRUE(tried.MustWait(Range(107, 1)));
      EXPECT_TRUE(tried.MustWait(Range(0, 101)));
      EXPECT_FALSE(tried.MustWait(Range(108, 1)));
      EXPECT_FALSE(tried.MustWait(Range(0, 100)));
      co_return;
    }(lock));
  }
  aborted_ends = true;
  pool_->RunOn(0, WriteFor(lock, Range(100, 8), writing, ends));
  pool_->RunOn(1, WriteFor(lock, Range(100, 8), writing, ends));
  pool_->OnEach([](Reactor&) {});
}

// The unit's own lock, and a device that would take the bytes in the call.
TEST_F(RangeLockTest, AWriteAtOnceDoesNotPassAnAbortedWrite) {
  disk_->writes_at_once = true;
  Initiator& initiator = Login(1, 1);
  const SectorRange range = unit_->SectorsOf(100, 8);
  std::atomic<int> aborted{0};
  std::atomic<bool> aborted_ends{false};
  (*pool_)[0].Spawn(AbortedWriteFor(unit_->range_lock(), range, aborted, aborted_ends));
  Await(aborted, 1);
  EXPECT_GOOD(Run(initiator, Cdb10(0x2a, 0, 108, 1), Fill(1, 1)));
  EXPECT_EQ(in_place_, 1);
  absl::Notification done;
  (*pool_)[1].Spawn([](Task<Answer> task, absl::Notification& ended) -> Task<void> {
    EXPECT_GOOD(co_await task);
    ended.Notify();
  }(RunOn(*initiator.nexus, Cdb10(0x2a, 0, 107, 1), Fill(1, 2)), done));
  pool_->OnEach([](Reactor&) {});
  EXPECT_FALSE(done.HasBeenNotified());
  EXPECT_EQ(ByteOnDisk(107), 0);
  aborted_ends = true;
  done.WaitForNotification();
  EXPECT_EQ(in_place_, 1);
  EXPECT_EQ(ByteOnDisk(107), 2);
  pool_->OnEach([](Reactor&) {});
}

TEST_F(RangeLockTest, OverlappingExclusivesRunOneAfterTheOther) {
  RangeLock lock(*pool_, 1);
  std::atomic<bool> first{false}, second{false}, first_ends{false}, second_ends{true};
  (*pool_)[0].Spawn(HoldFor(lock, Range(0, 8), first, first_ends));
  Await(first);
  (*pool_)[1].Spawn(HoldFor(lock, Range(4, 8), second, second_ends));
  pool_->OnEach([](Reactor&) {});
  pool_->OnEach([](Reactor&) {});
  EXPECT_FALSE(second);
  first_ends = true;
  Await(second);
  for (int i = 0; i < 4; ++i) pool_->OnEach([](Reactor&) {});
}

// A counter in a block, raised only by COMPARE AND WRITE: each success must be one step.
Task<uint64_t> CountUp(UnitTest* test, Task<Answer> (*run)(UnitTest*, int, CdbBytes, Bytes8),
                       int who, uint64_t wanted) {
  uint64_t successes = 0;
  while (successes < wanted) {
    const Answer now = co_await run(test, who, Cdb10(0x28, 0, 7, 1), {});
    Bytes8 data = now.data;
    Bytes8 next = now.data;
    for (size_t i = 0; i < 4 && ++next[i] == 0; ++i) {
    }
    data.insert(data.end(), next.begin(), next.end());
    const Answer answer = co_await run(test, who, CompareAndWriteCdb(7, 1), data);
    if (answer.good()) ++successes;
    EXPECT_TRUE(answer.good() || answer.FailedWith(kMiscompareDuringVerify)) << answer;
  }
  co_return successes;
}

class CompareAndWriteRace : public RangeLockTest {
 protected:
  static Task<Answer> RunAs(UnitTest* test, int who, CdbBytes cdb, Bytes8 data) {
    auto* self = static_cast<CompareAndWriteRace*>(test);
    return self->RunOn(*self->initiators_[who]->nexus, cdb, std::move(data));
  }
  // Ordinary writes of another nexus to the other half of the block range that is compared.
  static Task<void> Disturb(CompareAndWriteRace* self, int who, const std::atomic<bool>& stop) {
    uint8_t value = 0;
    while (!stop) {
      (void)co_await self->RunOn(*self->initiators_[who]->nexus, Cdb10(0x2a, 0, 8, 4),
                                 Fill(4, ++value));
      co_await Reactor::Current().Sleep(std::chrono::microseconds(1));
    }
  }
};

TEST_F(CompareAndWriteRace, IncrementsFromManyNexusesAreNeverLost) {
  constexpr int kNexuses = 6;
  constexpr uint64_t kEach = 40;
  disk_->suspends = true;
  for (int i = 0; i < kNexuses; ++i) Login(i, i % 2);
  Login(kNexuses, 0);
  std::atomic<bool> stop{false};
  absl::Notification disturbed;
  (*pool_)[0].Spawn([](Task<void> task, absl::Notification& done) -> Task<void> {
    co_await task;
    done.Notify();
  }(Disturb(this, kNexuses, stop), disturbed));
  std::vector<std::thread> threads;
  std::atomic<uint64_t> successes{0};
  for (int i = 0; i < kNexuses; ++i) {
    threads.emplace_back([this, i, &successes] {
      successes += pool_->RunOn(i % 2, CountUp(this, RunAs, i, kEach));
    });
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  disturbed.WaitForNotification();
  uint32_t counter = 0;
  for (size_t i = 0; i < 4; ++i) counter |= static_cast<uint32_t>(ByteOnDisk(7, i)) << (8 * i);
  EXPECT_EQ(counter, successes);
  EXPECT_EQ(counter, kNexuses * kEach);
}

// Each nexus sets its own bits by ORWRITE; none may be lost.
Task<void> SetBits(UnitTest* test, Task<Answer> (*run)(UnitTest*, int, CdbBytes, Bytes8), int who) {
  for (size_t at = 0; at < 64; ++at) {
    Bytes8 data(kTestBlockBytes);
    data[at] = static_cast<uint8_t>(1 << who);
    EXPECT_GOOD(co_await run(test, who, Cdb16(0x8b, 0, 20, 1), data));
  }
}

TEST_F(CompareAndWriteRace, OrWritesFromManyNexusesAllArrive) {
  disk_->suspends = true;
  for (int i = 0; i < 4; ++i) Login(i, i % 2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] { pool_->RunOn(i % 2, SetBits(this, RunAs, i)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t at = 0; at < 64; ++at) EXPECT_EQ(ByteOnDisk(20, at), 0x0f) << at;
}

// A write that splits what COMPARE AND WRITE has compared would be seen: both blocks are always
// written together, so they are always equal.
Task<void> WritePairs(UnitTest* test, Task<Answer> (*run)(UnitTest*, int, CdbBytes, Bytes8),
                      int who, bool compares) {
  for (int i = 0; i < 60; ++i) {
    const auto value = static_cast<uint8_t>(i * 2 + who);
    Bytes8 next(2 * kTestBlockBytes, value);
    if (!compares) {
      EXPECT_GOOD(co_await run(test, who, Cdb10(0x2a, 0, 30, 2), next));
      continue;
    }
    const Answer now = co_await run(test, who, Cdb10(0x28, 0, 30, 2), {});
    Bytes8 data = now.data;
    data.insert(data.end(), next.begin(), next.end());
    const Answer answer = co_await run(test, who, CompareAndWriteCdb(30, 2), data);
    if (!answer.good()) continue;
    // What it wrote is there, or a whole later write; never a mixture that it did not compare.
  }
}

TEST_F(CompareAndWriteRace, WritesAndComparesLeaveWholeWrites) {
  disk_->suspends = true;
  for (int i = 0; i < 4; ++i) Login(i, i % 2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] { pool_->RunOn(i % 2, WritePairs(this, RunAs, i, i >= 2)); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ByteOnDisk(30), ByteOnDisk(31, 511));
}

}  // namespace
}  // namespace sectormap::scsi
