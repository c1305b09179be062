// SPDX-License-Identifier: Apache-2.0
// Unit attentions and task management.
#include "server/scsi/unit_attention.h"

#include "absl/synchronization/notification.h"
#include "tests/server/scsi/unit_fixture.h"

namespace sectormap::scsi {
namespace {

class AttentionTest : public UnitTest {
 protected:
  Answer Ready(Initiator& who) { return Run(who, Cdb({0x00})); }

  void RegisterKey(int reactor, LunNexus& nexus, uint64_t key) {
    AbortSignal never;
    const ReservationRequest request{ReservationAction::kRegisterAndIgnore, {}, 0, key, false};
    (void)pool_->RunOn(reactor, unit_->ChangeReservations(nexus, request, never));
  }
};

TEST(AttentionQueueTest, KeepsOrderAndDropsRepeats) {
  AttentionQueue queue;
  queue.Add(kPowerOn);
  queue.Add(kCapacityChanged);
  queue.Add(kPowerOn);
  EXPECT_EQ(queue.Take(), kPowerOn);
  EXPECT_EQ(queue.Take(), kCapacityChanged);
  EXPECT_FALSE(queue.Take());
}

TEST(AttentionQueueTest, HoldsEveryKindThereIs) {
  AttentionQueue queue;
  const std::vector<SenseCode> kinds = {kPowerOn,
                                        kBusDeviceReset,
                                        kModeParametersChanged,
                                        kCapacityChanged,
                                        kReservationsReleased,
                                        kReservationsPreempted,
                                        kCommandsCleared,
                                        kReportedLunsChanged,
                                        kRegistrationsPreempted,
                                        kMediumMayHaveChanged,
                                        kInquiryDataChanged};
  for (SenseCode kind : kinds) queue.Add(kind);
  for (SenseCode kind : kinds) EXPECT_EQ(queue.Take(), kind);
}

TEST_F(AttentionTest, ANewNexusHearsOfPowerOnOnce) {
  Initiator& a = Login(1, 0, false, true);
  EXPECT_GOOD(Run(a, Cdb({0x12, 0, 0, 0, 96})));
  EXPECT_GOOD(Run(a, Cdb({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16})));
  EXPECT_FAILS(Ready(a), kPowerOn);
  EXPECT_GOOD(Ready(a));
}

TEST_F(AttentionTest, AnUnknownCommandIsToldTheAttentionFirst) {
  Initiator& a = Login(1, 0, false, true);
  EXPECT_FAILS(Run(a, Cdb({0xc1})), kPowerOn);
  EXPECT_FAILS(Run(a, Cdb({0xc1})), kInvalidOpcode);
}

TEST_F(AttentionTest, SizeChangesReachEveryNexus) {
  Initiator& a = Login(1, 0);
  Initiator& b = Login(2, 1);
  disk_->set_size(SectorCount(kBlocks / 2));
  unit_->OnSizeChanged();
  unit_->OnSizeChanged();
  EXPECT_FAILS(Run(a, Cdb10(0x28, 0, 0, 1)), kCapacityChanged);
  EXPECT_EQ(Run(a, Cdb({0x25})).Number(0, 4), kBlocks / 2 - 1);
  EXPECT_FAILS(Ready(b), kCapacityChanged);
  EXPECT_GOOD(Ready(b));
}

// As two units of one session; told by REQUEST SENSE as by any command.
TEST_F(AttentionTest, AChangeOfTheLunsIsToldOnOneUnitOfASession) {
  Initiator& a = Login(1);
  Initiator& b = Login(2);
  for (const CdbBytes& cdb : {Cdb({0x00}), Cdb({0x03, 0, 0, 0, 18})}) {
    const auto change = std::make_shared<LunListChange>();
    unit_->TellLunsChanged(*a.nexus, change);
    unit_->TellLunsChanged(*b.nexus, change);
    unit_->OnSizeChanged();
    const Answer told = Run(a, cdb);
    EXPECT_EQ(told.good() ? told.data.at(12) : told.sense.bytes[12], 0x3f);
    EXPECT_FAILS(Ready(b), kCapacityChanged);
    EXPECT_GOOD(Ready(b));
    EXPECT_FAILS(Ready(a), kCapacityChanged);
  }
}

TEST_F(AttentionTest, WhatVpdPagesSayIsToldWhenItChangesAndOnlyThen) {
  Initiator& a = Login(1, 0);
  Initiator& b = Login(2, 1);
  unit_->OnLimitsChanged();
  EXPECT_GOOD(Ready(a));
  BlockLimits limits = disk_->limits();
  limits.can_lend = !limits.can_lend;  // nobody's business
  disk_->set_limits(limits);
  unit_->OnLimitsChanged();
  EXPECT_GOOD(Ready(a));
  limits.io_opt_bytes = 64 * 1024;
  disk_->set_limits(limits);
  unit_->OnLimitsChanged();
  EXPECT_FAILS(Ready(a), kInquiryDataChanged);
  EXPECT_FAILS(Ready(b), kInquiryDataChanged);
  EXPECT_EQ(Run(a, Cdb({0x12, 1, 0xb0, 0, 255})).Number(12, 4), 128u);
}

class MediumTest : public AttentionTest {
 protected:
  void SetUp() override {
    AttentionTest::SetUp();
    has_medium_ = false;
  }
  std::vector<CdbBytes> CommandsOfTheMedium() {
    return {Cdb({0x00}),
            Cdb({0x1d, 0x04}),
            Cdb({0x25}),
            Cdb16(0x9e, 0x10, 0, 32),
            Cdb16(0x9e, 0x12, 0, 24),
            Cdb10(0x28, 0, 0, 1),
            Cdb10(0x2a, 0, 0, 1),
            Cdb10(0x35, 0, 0, 0),
            Cdb10(0x42, 0, 0, 24),
            Cdb16(0x93, 0x08, 0, 1)};
  }

  static Task<void> RunInto(MediumTest& test, Initiator& who, Answer& answer, int& left,
                            WaitQueue& ended) {
    answer = co_await test.RunOn(*who.nexus, Cdb({0x00}), {});
    if (--left == 0) ended.WakeAll();
  }
  static Task<void> TwoAtOnce(MediumTest& test, Initiator& a, Initiator& b, Answer& of_a,
                              Answer& of_b) {
    int left = 2;
    WaitQueue ended;
    Detach(RunInto(test, a, of_a, left, ended));
    BlockLimits limits = test.disk_->limits();
    limits.logical_block_bytes = limits.physical_block_bytes = 4096;
    test.disk_->set_limits(limits);
    Detach(RunInto(test, b, of_b, left, ended));
    while (left != 0) co_await ended.Wait();
  }
};

TEST_F(MediumTest, WithoutItOnlyTheUnitItselfAnswers) {
  MakeUnit({});
  Initiator& a = Login(1, 0);
  for (const CdbBytes& cdb : CommandsOfTheMedium()) {
    EXPECT_FAILS(Run(a, cdb, Fill(1, 1)), kManualInterventionRequired);
  }
  for (const CdbBytes& cdb :
       {Cdb({0x12, 0, 0, 0, 96}), Cdb({0x12, 1, 0xb0, 0, 255}), Cdb({0x1a, 0, 0x3f, 0, 255}),
        Cdb({0x03, 0, 0, 0, 18}), Cdb({0x16}), Cdb({0x17}), Cdb({0x1b, 0, 0, 0, 1}),
        Cdb({0x5e, 0, 0, 0, 0, 0, 0, 0, 8}), Cdb({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16})}) {
    EXPECT_GOOD(Run(a, cdb));
  }
  for (int op = 0; op < kIoOpCount; ++op) EXPECT_EQ(disk_->submitted[op], 0) << op;
}

// Also when nothing else has changed: what was asked before may be wrong.
TEST_F(MediumTest, ItsComingIsToldToEveryNexus) {
  MakeUnit({});
  Initiator& a = Login(1, 0);
  Initiator& b = Login(2, 1);
  EXPECT_FAILS(Ready(a), kManualInterventionRequired);
  EXPECT_FAILS(Ready(b), kManualInterventionRequired);
  disk_->lends = disk_->writes_at_once = true;
  has_medium_ = true;
  EXPECT_FAILS(Run(a, Cdb10(0x28, 0, 0, 1)), kMediumMayHaveChanged);
  EXPECT_GOOD(Run(a, Cdb10(0x28, 0, 0, 1)));
  EXPECT_FAILS(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 1)), kMediumMayHaveChanged);
  EXPECT_EQ(ByteOnDisk(0), 0);
  EXPECT_GOOD(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 1)));
  EXPECT_EQ(ByteOnDisk(0), 1);
  EXPECT_EQ(Run(b, Cdb16(0x9e, 0x10, 0, 32)).data[14], 0xc0);
  Initiator& c = Login(3, 0);
  EXPECT_GOOD(Ready(c));
}

TEST_F(MediumTest, ItsLimitsComeBeforeItAndAreNotToldTwice) {
  const BlockLimits limits = disk_->limits();
  disk_->set_limits({});
  MakeUnit({});
  Initiator& a = Login(1);
  disk_->set_limits(limits);
  unit_->OnLimitsChanged();
  EXPECT_FAILS(Ready(a), kManualInterventionRequired);
  has_medium_ = true;
  EXPECT_FAILS(Ready(a), kMediumMayHaveChanged);
  EXPECT_EQ(Run(a, Cdb16(0x9e, 0x10, 0, 32)).data[14], 0xc0);
}

TEST_F(MediumTest, TheFirstGivesAUnitItsBlocksWhichAreSavedFirst) {
  NoteSaves store;
  BlockLimits limits = disk_->limits();
  limits.logical_block_bytes = limits.physical_block_bytes = 4096;
  disk_->set_limits(limits);
  MakeUnit({.block_bytes = 0, .store = &store});
  Initiator& a = Login(1, 0);
  Initiator& b = Login(2, 1);
  EXPECT_EQ(unit_->Plan(Cdb10(0x28, 0, 0, 1)).bytes, 0u);
  EXPECT_EQ(unit_->Plan(Cdb10(0x2a, 0, 0, 1)).bytes, 0u);
  for (const CdbBytes& cdb : CommandsOfTheMedium()) {
    EXPECT_FAILS(Run(a, cdb, Fill(1, 1)), kManualInterventionRequired);
  }
  EXPECT_GOOD(Run(a, Cdb({0x12, 1, 0xb0, 0, 255})));
  EXPECT_EQ(Run(a, Cdb({0x1a, 0, 0x3f, 0, 255})).Number(4, 4), 0u);

  has_medium_ = true;
  store.status = absl::ResourceExhaustedError("full");
  EXPECT_FAILS(Ready(a), kManualInterventionRequired);
  EXPECT_FAILS(Ready(b), kManualInterventionRequired);
  store.status = absl::OkStatus();
  EXPECT_FAILS(Ready(a), kMediumMayHaveChanged);
  EXPECT_EQ(store.identity, "a device");
  EXPECT_EQ(store.block_bytes, 4096u);
  EXPECT_EQ(Run(a, Cdb({0x25})).Number(4, 4), 4096u);
  EXPECT_EQ(unit_->Plan(Cdb10(0x2a, 0, 0, 1)).bytes, 4096u);
  EXPECT_FAILS(Run(b, Cdb({0x25})), kMediumMayHaveChanged);
  EXPECT_EQ(Run(b, Cdb({0x25})).Number(0, 4), kBlocks / 8 - 1);
}

// A table is swapped between two commands that both wait for the store.
TEST_F(MediumTest, CommandsThatFindItAtOnceAgreeOnItsBlocks) {
  NoteSaves store;
  MakeUnit({.block_bytes = 0, .store = &store});
  Initiator& a = Login(1);
  Initiator& b = Login(2);
  has_medium_ = true;
  Answer of_a;
  Answer of_b;
  pool_->RunOn(0, TwoAtOnce(*this, a, b, of_a, of_b));
  EXPECT_TRUE(of_a.FailedWith(kMediumMayHaveChanged)) << of_a;
  EXPECT_TRUE(of_b.FailedWith(kMediumMayHaveChanged)) << of_b;
  EXPECT_EQ(store.block_bytes, kTestBlockBytes);
  EXPECT_EQ(Run(a, Cdb({0x25})).Number(4, 4), kTestBlockBytes);
}

TEST_F(AttentionTest, AttentionComesBeforeAConflict) {
  Initiator& a = Login(1);
  EXPECT_GOOD(Run(a, Cdb({0x16})));
  Initiator& b = Login(2, 1, false, true);
  EXPECT_FAILS(Ready(b), kPowerOn);
  EXPECT_CONFLICT(Ready(b));
}

TEST_F(AttentionTest, ResetEndsTasksReservationsAndModesAndTellsAll) {
  Initiator& a = Login(1, 0);
  Initiator& b = Login(2, 1);
  EXPECT_GOOD(Run(a, Cdb({0x16})));
  unit_->SetModeParameters(*a.nexus, {.software_write_protect = true, .descriptor_sense = false});
  EXPECT_FAILS(Ready(b), kModeParametersChanged);
  AbortSignal never;
  pool_->RunOn(1, unit_->Reset(*b.nexus, never));
  EXPECT_EQ(a.aborts.calls, 1);
  EXPECT_EQ(b.aborts.calls, 0);
  EXPECT_FAILS(Ready(a), kBusDeviceReset);
  EXPECT_FAILS(Ready(b), kBusDeviceReset);
  EXPECT_GOOD(Run(b, Cdb10(0x2a, 0, 0, 1), Fill(1, 1)));
}

TEST_F(AttentionTest, ClearTaskSetTellsTheOthers) {
  Initiator& a = Login(1, 0);
  Initiator& b = Login(2, 1);
  Initiator& c = Login(3, 1);
  AbortSignal never;
  pool_->RunOn(0, unit_->ClearTaskSet(*a.nexus, never));
  EXPECT_EQ(b.aborts.calls + c.aborts.calls, 2);
  EXPECT_GOOD(Ready(a));
  EXPECT_FAILS(Ready(b), kCommandsCleared);
  EXPECT_FAILS(Ready(c), kCommandsCleared);
}

// Two sessions that preempt and abort each other at once: each waits for the other's tasks, which
// wait for the first's. Here a session's tasks end only when its PREEMPT AND ABORT does.
class StubbornTasks final : public NexusTasks {
 public:
  Task<void> AbortTasks(uint64_t) override {
    ++running;
    if (own_command != nullptr) own_command->Raise();
    while (!own_command_ended) co_await Reactor::Current().Sleep(std::chrono::microseconds(100));
    --running;
  }
  std::atomic<int> running{0};  // a session would wait for these in its Gate
  std::atomic<bool> own_command_ended{false};
  AbortSignal* own_command = nullptr;  // its PREEMPT AND ABORT, while that runs
};

Task<void> PreemptOther(LogicalUnit& unit, LunNexus& nexus, uint64_t key, uint64_t other,
                        StubbornTasks& own) {
  ReservationRequest request{ReservationAction::kPreemptAndAbort, ReservationType::kWriteExclusive,
                             key, other, false};
  AbortSignal abort;
  own.own_command = &abort;
  (void)co_await unit.ChangeReservations(nexus, request, abort);
  own.own_command = nullptr;
  own.own_command_ended = true;
}

Task<LunNexusPtr> AttachOne(LogicalUnit& unit, std::string name, NexusTasks& tasks) {
  NexusIdentity identity;
  identity.initiator_port = std::move(name);
  identity.target_port = "t";
  co_return unit.Attach(identity, 0, false, &tasks);
}

// ABORT TASK for a PREEMPT AND ABORT that waits for a device that hangs.
TEST_F(AttentionTest, APreemptAndAbortThatIsAbortedWaitsNoMore) {
  StubbornTasks tasks_a, tasks_b;
  LunNexusPtr a = pool_->RunOn(0, AttachOne(*unit_, "a", tasks_a));
  LunNexusPtr b = pool_->RunOn(1, AttachOne(*unit_, "b", tasks_b));
  RegisterKey(0, *a, 1);
  RegisterKey(1, *b, 2);
  absl::Notification done;
  const auto start = [](Task<void> task, absl::Notification& ended) -> Task<void> {
    co_await task;
    ended.Notify();
  };
  (*pool_)[0].Spawn(start(PreemptOther(*unit_, *a, 1, 2, tasks_a), done));
  while (tasks_b.running == 0) std::this_thread::yield();
  EXPECT_FALSE(done.HasBeenNotified());
  (*pool_)[0].Post([&tasks_a] { tasks_a.own_command->Raise(); });
  done.WaitForNotification();
  EXPECT_EQ(tasks_b.running, 1);
  tasks_b.own_command_ended = true;
  while (tasks_b.running != 0) std::this_thread::yield();
  for (int i = 0; i < 3; ++i) pool_->OnEach([](Reactor&) {});
  a.reset();
  b.reset();
}

// What was answered as rejected is not done when the device lets go of another's command at last.
TEST_F(AttentionTest, AResetThatIsGivenUpEndsTasksAndNothingElse) {
  StubbornTasks tasks_a, tasks_b;
  LunNexusPtr a = pool_->RunOn(0, AttachOne(*unit_, "a", tasks_a));
  LunNexusPtr b = pool_->RunOn(1, AttachOne(*unit_, "b", tasks_b));
  for (LunNexus* nexus : {a.get(), b.get()}) {
    while (unit_->TakeAttention(*nexus).has_value()) {
    }
  }
  unit_->SetModeParameters(*a, {.software_write_protect = true, .descriptor_sense = false});
  EXPECT_EQ(unit_->TakeAttention(*b), kModeParametersChanged);
  AbortSignal abort;
  std::atomic<bool> ended{false};
  (*pool_)[0].Spawn([](LogicalUnit& unit, LunNexus& nexus, AbortSignal& signal,
                       std::atomic<bool>& done) -> Task<void> {
    co_await unit.Reset(nexus, signal);
    done = true;
  }(*unit_, *a, abort, ended));
  while (tasks_b.running == 0) std::this_thread::yield();
  EXPECT_FALSE(ended);
  (*pool_)[0].Post([&abort] { abort.Raise(); });
  while (!ended) std::this_thread::yield();
  tasks_b.own_command_ended = true;
  while (tasks_b.running != 0) std::this_thread::yield();
  for (int i = 0; i < 3; ++i) pool_->OnEach([](Reactor&) {});
  EXPECT_EQ(unit_->TakeAttention(*a), std::nullopt);
  EXPECT_EQ(unit_->TakeAttention(*b), kCommandsCleared);
  EXPECT_EQ(unit_->TakeAttention(*b), std::nullopt);
  EXPECT_TRUE(unit_->mode_parameters().software_write_protect);
  a.reset();
  b.reset();
}

TEST_F(AttentionTest, MutualPreemptAndAbortDoesNotWaitForEver) {
  StubbornTasks tasks_a, tasks_b;
  LunNexusPtr a = pool_->RunOn(0, AttachOne(*unit_, "a", tasks_a));
  LunNexusPtr b = pool_->RunOn(1, AttachOne(*unit_, "b", tasks_b));
  RegisterKey(0, *a, 1);
  RegisterKey(1, *b, 2);
  absl::Notification a_done, b_done;
  const auto start = [](Task<void> task, absl::Notification& done) -> Task<void> {
    co_await task;
    done.Notify();
  };
  (*pool_)[0].Spawn(start(PreemptOther(*unit_, *a, 1, 2, tasks_a), a_done));
  while (unit_->reservations().registrations().size() != 1) std::this_thread::yield();
  RegisterKey(1, *b, 2);
  (*pool_)[1].Spawn(start(PreemptOther(*unit_, *b, 2, 1, tasks_b), b_done));
  a_done.WaitForNotification();
  b_done.WaitForNotification();
  while (tasks_a.running + tasks_b.running != 0) std::this_thread::yield();
  for (int i = 0; i < 3; ++i) pool_->OnEach([](Reactor&) {});
  a.reset();
  b.reset();
}

}  // namespace
}  // namespace sectormap::scsi
