// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/task_management.h"

#include "tests/server/iscsi/iscsi_fixture.h"

namespace sectormap::iscsi {
namespace {

using Outcome = FakeInitiator::Outcome;
using Function = TaskManagementFunction;
using Result = TaskManagementResult;

// LUN 1 keeps its requests until the test lets them go; time stands still.
class TaskManagementTest : public IscsiTest {
 public:
  TaskManagementTest() : IscsiTest(Time::kManual), slow_(AddSlowUnit(1)) {}

  // Both units' attentions are past, and LUN 1 holds what comes.
  static Task<FakeInitiator*> Ready(TaskManagementTest& test, uint64_t isid = 0x800000000001) {
    test.slow_->Release();
    InitiatorOptions options;
    options.isid = isid;
    FakeInitiator* initiator = co_await Session(test, options);
    co_await initiator->Run(FakeInitiator::TestUnitReady(1));
    test.slow_->Hold();
    co_return initiator;
  }

  static Task<uint32_t> Held(TaskManagementTest& test, FakeInitiator& initiator,
                             FakeInitiator::Command command) {
    const size_t before = test.slow_->held();
    const uint32_t tag = co_await initiator.Start(std::move(command));
    while (test.slow_->held() == before) {
      const bool alive = co_await initiator.Ping();
      EXPECT_TRUE(alive);
    }
    co_return tag;
  }
  static Task<uint32_t> HeldWrite(TaskManagementTest& test, FakeInitiator& initiator) {
    return Held(test, initiator, FakeInitiator::Write10(0, test.data_, 1));
  }

  static Task<Result> ResultOf(FakeInitiator& initiator) {
    const auto answer = co_await initiator.ReceiveKind(Opcode::kTaskManagementResponse);
    EXPECT_TRUE(answer.has_value());
    co_return answer ? HeaderAs<TaskManagementResponseHeader>(answer->header).response
                     : Result::kFunctionRejected;
  }

  static bool HasAnswer(const FakeInitiator& initiator) {
    for (const FakeInitiator::Pdu& pdu : initiator.unexpected()) {
      if (pdu.header.opcode() == Opcode::kTaskManagementResponse) return true;
    }
    return false;
  }

  // While LUN 1 hangs, everything else goes on.
  static Task<void> ExpectAlive(FakeInitiator& initiator) {
    const bool alive = co_await initiator.Ping();
    EXPECT_TRUE(alive);
    const Outcome other = co_await initiator.Run(FakeInitiator::Read10(0, 1, 0));
    EXPECT_TRUE(other.good());
  }

  static Task<void> AbortInFlight(TaskManagementTest& test, Function function, uint32_t attention) {
    FakeInitiator* initiator = co_await Ready(test);
    const uint32_t tag = co_await HeldWrite(test, *initiator);
    co_await initiator->StartManage(function, 1, tag, initiator->cmd_sn() - 1);
    co_await ExpectAlive(*initiator);
    // The command is in the device's hands: it is too early to call it ended.
    EXPECT_FALSE(HasAnswer(*initiator));
    test.slow_->Release();
    const Result result = co_await ResultOf(*initiator);
    EXPECT_EQ(result, Result::kFunctionComplete);
    // A reset of the target leaves an attention on this unit too.
    co_await initiator->Run(FakeInitiator::TestUnitReady(0));
    co_await ExpectAlive(*initiator);
    EXPECT_FALSE(initiator->Answered(tag));
    const Outcome next = co_await initiator->Run(FakeInitiator::TestUnitReady(1));
    EXPECT_EQ(next.sense_code(), attention);
    EXPECT_EQ(initiator->max_cmd_sn(), initiator->exp_cmd_sn() + kCommandWindow - 1);
  }

  static Task<void> AbortGone(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Ready(test);
    const std::optional<Result> gone =
        co_await initiator->Manage(Function::kAbortTask, 0, 0x4711, initiator->cmd_sn() - 1);
    EXPECT_EQ(gone, Result::kTaskDoesNotExist);
    // RFC 7143 §11.5.1: one that has not come counts as come, and is not waited for.
    const uint32_t lost = initiator->cmd_sn()++;
    const uint32_t later = co_await initiator->Start(FakeInitiator::TestUnitReady());
    co_await initiator->Ping();
    EXPECT_FALSE(initiator->Answered(later));
    const std::optional<Result> never =
        co_await initiator->Manage(Function::kAbortTask, 0, 0x4712, lost);
    EXPECT_EQ(never, Result::kFunctionComplete);
    const Outcome outcome = co_await initiator->Finish(later);
    EXPECT_TRUE(outcome.good());
  }

  static Task<void> AbortWhileDataIsAwaited(TaskManagementTest& test) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    FakeInitiator* initiator = co_await Session(test, options);
    initiator->hold_requests = true;
    const uint32_t tag = co_await initiator->Start(FakeInitiator::Write10(0, test.data_, 0));
    while (initiator->held_requests.empty()) co_await initiator->Step();
    const std::optional<Result> result =
        co_await initiator->Manage(Function::kAbortTask, 0, tag, initiator->cmd_sn() - 1);
    EXPECT_EQ(result, Result::kFunctionComplete);
    // The data that was asked for comes too late.
    DataOutHeader header;
    header.flags = kFinalBit;
    header.initiator_task_tag = tag;
    header.target_transfer_tag = initiator->held_requests.front().target_transfer_tag;
    co_await initiator->Send(header, test.data_);
    co_await ExpectAlive(*initiator);
    EXPECT_FALSE(initiator->Answered(tag));
    EXPECT_EQ(test.disk_->bytes()[0], std::byte{0});
  }

  // Two writes have been asked for their data.
  static Task<void> OwesData(TaskManagementTest& test) {
    InitiatorOptions options;
    options.initial_r2t = true;
    options.immediate_data = false;
    FakeInitiator* initiator = co_await Session(test, options);
    initiator->hold_requests = true;
    for (int i = 0; i < 2; ++i) co_await initiator->Start(FakeInitiator::Write10(0, test.data_, 0));
    while (initiator->held_requests.size() < 2) co_await initiator->Step();
  }
  static Task<void> PayOne(TaskManagementTest& test) {
    FakeInitiator* initiator = test.initiators_.back().get();
    const ReadyToTransferHeader request = initiator->held_requests.front();
    DataOutHeader header;
    header.flags = kFinalBit;
    header.initiator_task_tag = request.initiator_task_tag;
    header.target_transfer_tag = request.target_transfer_tag;
    co_await initiator->Send(header, test.data_);
    const Outcome outcome = co_await initiator->Finish(request.initiator_task_tag);
    EXPECT_TRUE(outcome.good());
  }

  // Reads for many sends, of which little fits the pipe.
  static Task<void> AskForMuch(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Session(test, {}, {.capacity = 1500});
    for (int i = 0; i < 8; ++i) co_await initiator->Start(FakeInitiator::Read10(0, 2048));
  }
  // More than leaves together.
  static Task<void> TakeSome(FakeInitiator& initiator) {
    for (size_t taken = 0; taken <= 2 * PduWriter::kBatchDataBytes; taken += 262144) {
      co_await initiator.Step();
    }
  }
  // Wants no answer.
  static Task<void> SayAlive(FakeInitiator& initiator) {
    NopOutHeader header;
    header.opcode_byte |= kImmediateBit;
    header.initiator_task_tag = kReservedTag;
    co_await initiator.Send(header);
    for (int i = 0; i < 10; ++i) co_await Yield();
  }

  static Task<void> Refusals(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Ready(test);
    struct Case {
      Function function;
      uint64_t lun;
      Result result;
    };
    const std::vector<Case> cases = {
        {Function::kClearAca, 0, Result::kFunctionNotSupported},
        {Function::kTaskReassign, 0, Result::kReassignmentNotSupported},
        {Function::kQueryTask, 0, Result::kFunctionNotSupported},
        {Function::kQueryTaskSet, 0, Result::kFunctionNotSupported},
        {Function::kItNexusReset, 0, Result::kFunctionNotSupported},
        {Function::kQueryAsynchronousEvent, 0, Result::kFunctionNotSupported},
        {Function::kLogicalUnitReset, 99, Result::kLunDoesNotExist},
        {Function::kAbortTaskSet, 99, Result::kLunDoesNotExist},
        {static_cast<Function>(0), 0, Result::kFunctionRejected},
        {static_cast<Function>(77), 0, Result::kFunctionRejected},
    };
    for (const Case& c : cases) {
      const std::optional<Result> result = co_await initiator->Manage(c.function, c.lun);
      EXPECT_EQ(result, c.result) << static_cast<int>(c.function);
    }
  }

  static Task<void> HangingStart(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Ready(test);
    test.tag_ = co_await HeldWrite(test, *initiator);
    co_await initiator->StartManage(Function::kLogicalUnitReset, 1);
    co_await ExpectAlive(*initiator);
    EXPECT_FALSE(HasAnswer(*initiator));
  }
  static Task<void> HangingEnd(TaskManagementTest& test) {
    FakeInitiator* initiator = test.initiators_.back().get();
    const Result result = co_await ResultOf(*initiator);
    EXPECT_EQ(result, Result::kFunctionRejected);
    co_await ExpectAlive(*initiator);
    const bool out = co_await initiator->Logout();
    EXPECT_TRUE(out);
    EXPECT_FALSE(initiator->Answered(test.tag_));
    test.slow_->Release();
    co_await AllEnded(test);
  }

  // Aborted again after it was too early to say so: the device still has it.
  static Task<void> AbortStart(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Ready(test);
    test.tag_ = co_await HeldWrite(test, *initiator);
    co_await initiator->StartManage(Function::kAbortTask, 1, test.tag_, initiator->cmd_sn() - 1);
    co_await ExpectAlive(*initiator);
  }
  static Task<void> AbortAgain(TaskManagementTest& test) {
    FakeInitiator* initiator = test.initiators_.back().get();
    const Result rejected = co_await ResultOf(*initiator);
    EXPECT_EQ(rejected, Result::kFunctionRejected);
    co_await initiator->StartManage(Function::kAbortTask, 1, test.tag_, initiator->cmd_sn() - 1);
    co_await ExpectAlive(*initiator);
    EXPECT_FALSE(HasAnswer(*initiator));
    test.slow_->Release();
    const Result result = co_await ResultOf(*initiator);
    EXPECT_EQ(result, Result::kFunctionComplete);
    EXPECT_FALSE(initiator->Answered(test.tag_));
  }

  // The peer has gone, a command is in the device's hands: asking for a logout asks nobody, and
  // nothing of that is left when the connection has ended.
  static Task<void> AskWhileEnding(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Ready(test);
    co_await HeldWrite(test, *initiator);
    const std::shared_ptr<ConnectionHandle> handle = test.last_handle_;
    initiator->Shutdown();
    for (int i = 0; i < 10; ++i) co_await Yield();
    handle->AskLogout(DropReason::kTargetRemoved);
    for (int i = 0; i < 10; ++i) co_await Yield();
    test.slow_->Release();
    co_await AllEnded(test);
    const IscsiTotals totals = test.directory_.totals();
    EXPECT_EQ(totals.drops[static_cast<int>(DropReason::kPeerClosed)], 1u);
  }

  static Task<void> ResetEndsOthers(TaskManagementTest& test) {
    FakeInitiator* one = co_await Ready(test, 0x800000000001);
    FakeInitiator* two = co_await Ready(test, 0x800000000002);
    const uint32_t tag = co_await HeldWrite(test, *two);
    co_await one->StartManage(Function::kLogicalUnitReset, 1);
    co_await ExpectAlive(*one);
    EXPECT_FALSE(HasAnswer(*one));
    test.slow_->Release();
    const Result result = co_await ResultOf(*one);
    EXPECT_EQ(result, Result::kFunctionComplete);
    const Outcome attention = co_await two->Run(FakeInitiator::TestUnitReady(1));
    EXPECT_EQ(attention.sense_code(), 0x062903u);
    EXPECT_FALSE(two->Answered(tag));
  }

  // It is another session's command that the device holds.
  static Task<void> ResetOfOthersInVainStart(TaskManagementTest& test) {
    test.other_ = co_await Ready(test, 0x800000000001);
    test.asking_ = co_await Ready(test, 0x800000000002);
    co_await HeldWrite(test, *test.other_);
    co_await test.asking_->StartManage(Function::kLogicalUnitReset, 1);
    co_await ExpectAlive(*test.asking_);
  }
  static Task<void> ResetOfOthersInVainEnd(TaskManagementTest& test) {
    const Result result = co_await ResultOf(*test.asking_);
    EXPECT_EQ(result, Result::kFunctionRejected);
    test.slow_->Release();
    for (int i = 0; i < 10; ++i) co_await ExpectAlive(*test.asking_);
    const Outcome asking = co_await test.asking_->Run(FakeInitiator::TestUnitReady(1));
    EXPECT_EQ(asking.sense_code(), 0u) << "it was reset after all";
    const Outcome other = co_await test.other_->Run(FakeInitiator::TestUnitReady(1));
    EXPECT_EQ(other.sense_code(), 0x062f00u) << "its write was ended without an answer";
  }

  // PERSISTENT RESERVE OUT, on LUN 1.
  static FakeInitiator::Command ReserveOut(uint8_t action, std::span<const std::byte, 24> list) {
    FakeInitiator::Command command;
    command.lun = 1;
    command.cdb = {0x5f, action, 1, 0, 0, 0, 0, 0, 24};
    command.direction = scsi::DataDirection::kOut;
    command.expected = list.size();
    command.data = list;
    return command;
  }
  static std::array<std::byte, 24> Keys(uint8_t key, uint8_t action_key) {
    std::array<std::byte, 24> list{};
    list[7] = std::byte{key};
    list[15] = std::byte{action_key};
    return list;
  }
  static Task<void> AbortOwnPreempt(TaskManagementTest& test) {
    constexpr uint8_t kPreemptAndAbort = 5, kRegisterAndIgnore = 6;
    FakeInitiator* one = co_await Ready(test, 0x800000000001);
    FakeInitiator* two = co_await Ready(test, 0x800000000002);
    const auto one_key = Keys(0, 1), two_key = Keys(0, 2), preempted = Keys(1, 2);
    const Outcome first = co_await one->Run(ReserveOut(kRegisterAndIgnore, one_key));
    const Outcome second = co_await two->Run(ReserveOut(kRegisterAndIgnore, two_key));
    EXPECT_TRUE(first.good() && second.good());
    co_await HeldWrite(test, *two);
    const uint32_t tag = co_await one->Start(ReserveOut(kPreemptAndAbort, preempted));
    co_await ExpectAlive(*one);
    EXPECT_FALSE(one->Answered(tag));
    const std::optional<Result> result =
        co_await one->Manage(Function::kAbortTask, 1, tag, one->cmd_sn() - 1);
    EXPECT_EQ(result, Result::kFunctionComplete);
    EXPECT_EQ(test.slow_->held(), 1u);
    EXPECT_FALSE(one->Answered(tag));
    test.slow_->Release();
    // The other's tasks end all the same.
    const Outcome attention = co_await two->Run(FakeInitiator::TestUnitReady(1));
    EXPECT_EQ(attention.sense_code(), 0x062a05u);
  }

  static Task<void> ColdReset(TaskManagementTest& test) {
    FakeInitiator* one = co_await Ready(test, 0x800000000001);
    FakeInitiator* two = co_await Ready(test, 0x800000000002);
    test.slow_->Release();
    co_await one->StartManage(Function::kTargetColdReset, 0);
    const Result result = co_await ResultOf(*one);
    EXPECT_EQ(result, Result::kFunctionComplete);
    const std::optional<FakeInitiator::Pdu> end = co_await two->Receive();
    EXPECT_FALSE(end.has_value());
    co_await AllEnded(test);
    EXPECT_EQ(test.directory_.totals().drops[static_cast<int>(DropReason::kColdReset)], 2u);
  }

  // What was answered as rejected is not done either; asked again, it is.
  static Task<void> ColdResetStart(TaskManagementTest& test) {
    FakeInitiator* initiator = co_await Ready(test);
    test.tag_ = co_await HeldWrite(test, *initiator);
    co_await initiator->StartManage(Function::kTargetColdReset, 0);
    co_await ExpectAlive(*initiator);
  }
  static Task<void> ColdResetEnd(TaskManagementTest& test) {
    FakeInitiator* initiator = test.initiators_.back().get();
    const Result rejected = co_await ResultOf(*initiator);
    EXPECT_EQ(rejected, Result::kFunctionRejected);
    for (int i = 0; i < 10; ++i) co_await Yield();
    co_await ExpectAlive(*initiator);
    test.slow_->Release();
    co_await initiator->StartManage(Function::kTargetColdReset, 0);
    const Result result = co_await ResultOf(*initiator);
    EXPECT_EQ(result, Result::kFunctionComplete);
    co_await AllEnded(test);
    EXPECT_FALSE(initiator->Answered(test.tag_));
    EXPECT_EQ(test.directory_.totals().drops[static_cast<int>(DropReason::kColdReset)], 1u);
  }

  // What was answered as rejected ends nobody's commands later, nor does what a session asked for
  // that has ended.
  static Task<void> ResetInVainStart(TaskManagementTest& test, Function function) {
    test.other_ = co_await Ready(test, 0x800000000001);
    test.asking_ = co_await Ready(test, 0x800000000002);
    co_await HeldWrite(test, *test.asking_);
    co_await test.asking_->StartManage(function, 1);
    co_await ExpectAlive(*test.asking_);
  }
  static Task<void> ResetInVainEnd(TaskManagementTest& test, bool rejected) {
    if (rejected) {
      const Result result = co_await ResultOf(*test.asking_);
      EXPECT_EQ(result, Result::kFunctionRejected);
    } else {
      test.asking_->Shutdown();
      for (int i = 0; i < 10; ++i) co_await Yield();
    }
    const uint32_t tag = co_await Held(test, *test.other_, FakeInitiator::Read10(64, 1, 1));
    test.slow_->ReleaseOne();
    co_await ExpectAlive(*test.other_);
    test.slow_->Release();
    co_await ExpectAlive(*test.other_);
    EXPECT_TRUE(test.other_->Answered(tag));
  }

  // The same initiator port logs in while its old session has a command in the device's hands.
  static Task<void> ReinstateStart(TaskManagementTest& test) {
    FakeInitiator* old = co_await Ready(test);
    co_await HeldWrite(test, *old);
    test.Connect();
    Detach(ReinstateLogin(test));
    const std::optional<FakeInitiator::Pdu> end = co_await old->Receive();
    EXPECT_FALSE(end.has_value());
    EXPECT_FALSE(test.status_.has_value());
  }
  static Task<void> ReinstateLogin(TaskManagementTest& test) {
    test.status_ = co_await test.initiators_.back()->Login({});
  }
  static Task<void> ReinstateEnd(TaskManagementTest& test) {
    while (!test.status_) co_await Yield();
    EXPECT_EQ(test.status_, LoginStatus::kSuccess);
    EXPECT_EQ(test.directory_.sessions().size(), 1u);
  }

  // A new session writes where the device still has an old one's write: that must not come after.
  static Task<void> WriteBehindOld(TaskManagementTest& test, FakeInitiator& next) {
    co_await next.Run(FakeInitiator::TestUnitReady(0));
    co_await next.Run(FakeInitiator::TestUnitReady(1));
    const uint32_t tag = co_await next.Start(FakeInitiator::Write10(0, test.later_data_, 1));
    for (int i = 0; i < 10; ++i) co_await ExpectAlive(next);
    EXPECT_EQ(test.slow_->held(), 1u);
    EXPECT_FALSE(next.Answered(tag));
    test.slow_->Release();
    const Outcome outcome = co_await next.Finish(tag);
    EXPECT_TRUE(outcome.good());
    const Outcome read = co_await next.Run(FakeInitiator::Read10(0, 8, 1));
    EXPECT_EQ(read.data, test.later_data_);
  }
  static Task<void> WriteAfterReinstatement(TaskManagementTest& test) {
    while (!test.status_) co_await Yield();
    EXPECT_EQ(test.status_, LoginStatus::kSuccess);
    EXPECT_EQ(test.directory_.sessions().size(), 2u);
    co_await WriteBehindOld(test, *test.initiators_.back());
  }
  static Task<void> WriteAfterLogout(TaskManagementTest& test) {
    FakeInitiator* old = co_await Ready(test);
    co_await HeldWrite(test, *old);
    const bool out = co_await old->Logout();
    EXPECT_TRUE(out);
    InitiatorOptions options;
    options.isid = 0x800000000002;
    FakeInitiator& next = test.Connect();
    const std::optional<LoginStatus> status = co_await next.Login(options);
    EXPECT_EQ(status, LoginStatus::kSuccess);
    co_await WriteBehindOld(test, next);
  }
  static Task<void> WriteAfterRejectedAbort(TaskManagementTest& test) {
    FakeInitiator* initiator = test.initiators_.back().get();
    const Result rejected = co_await ResultOf(*initiator);
    EXPECT_EQ(rejected, Result::kFunctionRejected);
    co_await WriteBehindOld(test, *initiator);
  }

  // Sessions of one initiator port, one after the other, without end, with I/O under way.
  static Task<void> ReinstateOften(TaskManagementTest& test) {
    test.slow_->Release();
    for (int i = 0; i < 50; ++i) {
      FakeInitiator* initiator = co_await Session(test);
      for (int k = 0; k < 10; ++k) {
        co_await initiator->Start(FakeInitiator::Write10(0, test.data_, 0));
      }
    }
    EXPECT_EQ(test.directory_.sessions().size(), 1u);
  }

  SlowDevice* const slow_;
  const std::vector<std::byte> data_ = std::vector<std::byte>(4096, std::byte{0xab});
  const std::vector<std::byte> later_data_ = std::vector<std::byte>(4096, std::byte{0xcd});
  uint32_t tag_ = 0;
  FakeInitiator* asking_ = nullptr;
  FakeInitiator* other_ = nullptr;
  std::optional<LoginStatus> status_;
};

TEST_F(TaskManagementTest, AbortTaskAnswersWhenTheDeviceLetsGo) {
  pool_->RunOn(0, AbortInFlight(*this, Function::kAbortTask, 0));
}
TEST_F(TaskManagementTest, AbortTaskSetAnswersWhenTheDeviceLetsGo) {
  pool_->RunOn(0, AbortInFlight(*this, Function::kAbortTaskSet, 0));
}
TEST_F(TaskManagementTest, ClearTaskSetAnswersWhenTheDeviceLetsGo) {
  pool_->RunOn(0, AbortInFlight(*this, Function::kClearTaskSet, 0));
}
TEST_F(TaskManagementTest, LogicalUnitResetAnswersWhenTheDeviceLetsGo) {
  pool_->RunOn(0, AbortInFlight(*this, Function::kLogicalUnitReset, 0x062903));
}
TEST_F(TaskManagementTest, TargetWarmResetAnswersWhenTheDeviceLetsGo) {
  pool_->RunOn(0, AbortInFlight(*this, Function::kTargetWarmReset, 0x062903));
}
TEST_F(TaskManagementTest, AbortTaskOfWhatIsGoneOrNeverCame) { pool_->RunOn(0, AbortGone(*this)); }
TEST_F(TaskManagementTest, AbortTaskEndsAWriteThatWaitsForItsData) {
  pool_->RunOn(0, AbortWhileDataIsAwaited(*this));
}
TEST_F(TaskManagementTest, WhatIsNotSupportedSaysSo) { pool_->RunOn(0, Refusals(*this)); }

TEST_F(TaskManagementTest, AHangingDeviceDelaysTheAnswerByTheGraceAndNothingElse) {
  pool_->RunOn(0, HangingStart(*this));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, HangingEnd(*this));
}

TEST_F(TaskManagementTest, WhatTheDeviceStillHasIsNotGoneForASecondAbort) {
  pool_->RunOn(0, AbortStart(*this));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, AbortAgain(*this));
}

TEST_F(TaskManagementTest, AConnectionThatEndsIsNotAskedToLogOut) {
  pool_->RunOn(0, AskWhileEnding(*this));
  clock_.Advance(kLogoutGrace, *pool_);  // a timer of the connection's would find it gone
}

TEST_F(TaskManagementTest, LogicalUnitResetEndsTheTasksOfOtherSessions) {
  pool_->RunOn(0, ResetEndsOthers(*this));
}
TEST_F(TaskManagementTest, AbortTaskEndsAPreemptAndAbortThatWaits) {
  pool_->RunOn(0, AbortOwnPreempt(*this));
}
TEST_F(TaskManagementTest, TargetColdResetDropsEverySession) { pool_->RunOn(0, ColdReset(*this)); }

TEST_F(TaskManagementTest, ATargetColdResetThatWasRejectedDropsNobody) {
  pool_->RunOn(0, ColdResetStart(*this));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, ColdResetEnd(*this));
}

TEST_F(TaskManagementTest, ALogicalUnitResetThatWasRejectedEndsNobodysCommands) {
  pool_->RunOn(0, ResetInVainStart(*this, Function::kLogicalUnitReset));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, ResetInVainEnd(*this, true));
}

TEST_F(TaskManagementTest, ATargetWarmResetThatWasRejectedEndsNobodysCommands) {
  pool_->RunOn(0, ResetInVainStart(*this, Function::kTargetWarmReset));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, ResetInVainEnd(*this, true));
}

TEST_F(TaskManagementTest, ARejectedResetOfAnothersCommandResetsNothingLater) {
  pool_->RunOn(0, ResetOfOthersInVainStart(*this));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, ResetOfOthersInVainEnd(*this));
}

TEST_F(TaskManagementTest, AResetWhoseSessionHasEndedEndsNobodysCommands) {
  pool_->RunOn(0, ResetInVainStart(*this, Function::kLogicalUnitReset));
  pool_->RunOn(0, ResetInVainEnd(*this, false));
}

TEST_F(TaskManagementTest, ReinstatementWaitsForTheOldSession) {
  pool_->RunOn(0, ReinstateStart(*this));
  slow_->Release();
  pool_->RunOn(0, ReinstateEnd(*this));
}

TEST_F(TaskManagementTest, ReinstatementPassesAnOldSessionThatHangs) {
  pool_->RunOn(0, ReinstateStart(*this));
  clock_.Advance(kReinstatementWait, *pool_);
  pool_->RunOn(0, WriteAfterReinstatement(*this));
}

TEST_F(TaskManagementTest, WhatIsWrittenAfterALogoutStays) {
  pool_->RunOn(0, WriteAfterLogout(*this));
}

TEST_F(TaskManagementTest, WhatIsWrittenAfterAnAbortThatWasRejectedStays) {
  pool_->RunOn(0, AbortStart(*this));
  clock_.Advance(kAbortGrace, *pool_);
  pool_->RunOn(0, WriteAfterRejectedAbort(*this));
}

TEST_F(TaskManagementTest, ReinstatementAgainAndAgainLeavesOneSession) {
  pool_->RunOn(0, ReinstateOften(*this));
}

TEST_F(TaskManagementTest, ASilentPeerIsAskedAndThenDropped) {
  pool_->RunOn(0, [](TaskManagementTest& test) -> Task<void> { co_await Session(test); }(*this));
  clock_.Advance(kKeepAliveInterval, *pool_);
  clock_.Advance(kKeepAliveInterval, *pool_);
  pool_->RunOn(0, [](TaskManagementTest& test) -> Task<void> {
    const auto ping = co_await test.initiators_.back()->ReceiveKind(Opcode::kNopIn);
    EXPECT_TRUE(ping.has_value());
    EXPECT_EQ(ping->header.initiator_task_tag, kReservedTag);
  }(*this));
  clock_.Advance(kKeepAliveInterval, *pool_);
  EXPECT_EQ(directory_.sessions().size(), 1u);
  clock_.Advance(kKeepAliveInterval, *pool_);
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_EQ(directory_.totals().drops[static_cast<int>(DropReason::kKeepAlive)], 1u);
}

// Who answers each ping and sends no data that it owes. Data begins the time anew.
TEST_F(TaskManagementTest, WhoOwesDataForTooLongIsDropped) {
  constexpr auto kLooks = kDataOutTimeout / kKeepAliveInterval;
  pool_->RunOn(0, OwesData(*this));
  for (const bool pays : {true, false}) {
    for (int look = 0; look < kLooks; ++look) {
      clock_.Advance(kKeepAliveInterval, *pool_);
      pool_->RunOn(0, ExpectAlive(*initiators_.back()));
    }
    EXPECT_EQ(directory_.sessions().size(), 1u);
    if (pays) pool_->RunOn(0, PayOne(*this));
  }
  clock_.Advance(kKeepAliveInterval, *pool_);
  clock_.Advance(kKeepAliveInterval, *pool_);
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_EQ(directory_.totals().drops[static_cast<int>(DropReason::kDataOutTimeout)], 1u);
}

// Who says that it is there and takes no answers. Taking some begins the time anew.
TEST_F(TaskManagementTest, WhoTakesNoAnswersForTooLongIsDropped) {
  constexpr auto kLooks = kSendTimeout / kKeepAliveInterval;
  pool_->RunOn(0, AskForMuch(*this));
  for (const bool takes : {true, false}) {
    for (int look = 0; look < kLooks; ++look) {
      clock_.Advance(kKeepAliveInterval, *pool_);
      pool_->RunOn(0, SayAlive(*initiators_.back()));
    }
    EXPECT_EQ(directory_.sessions().size(), 1u);
    if (takes) pool_->RunOn(0, TakeSome(*initiators_.back()));
  }
  clock_.Advance(kKeepAliveInterval, *pool_);
  pool_->RunOn(0, SayAlive(*initiators_.back()));
  clock_.Advance(kKeepAliveInterval, *pool_);
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_EQ(directory_.totals().drops[static_cast<int>(DropReason::kSendTimeout)], 1u);
}

TEST_F(TaskManagementTest, WhoOwesNothingIsNotDropped) {
  pool_->RunOn(0, [](TaskManagementTest& test) -> Task<void> {
    FakeInitiator* initiator = co_await Ready(test);
    co_await HeldWrite(test, *initiator);
  }(*this));
  for (int look = 0; look < 2 * kDataOutTimeout / kKeepAliveInterval; ++look) {
    clock_.Advance(kKeepAliveInterval, *pool_);
    pool_->RunOn(0, ExpectAlive(*initiators_.back()));
  }
  EXPECT_EQ(directory_.sessions().size(), 1u);
}

TEST_F(TaskManagementTest, ALoginThatTakesTooLongIsDropped) {
  pool_->RunOn(0, [](TaskManagementTest& test) -> Task<void> {
    test.Connect();
    co_return;
  }(*this));
  clock_.Advance(kLoginTimeout, *pool_);
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_EQ(directory_.totals().drops[static_cast<int>(DropReason::kLoginTimeout)], 1u);
}

// However often it answers.
TEST_F(TaskManagementTest, ADiscoveryThatTakesTooLongIsDropped) {
  pool_->RunOn(0, [](TaskManagementTest& test) -> Task<void> {
    const std::optional<LoginStatus> status = co_await test.Connect().Login({.target = ""});
    EXPECT_EQ(status, LoginStatus::kSuccess);
  }(*this));
  for (auto left = kDiscoveryTimeout - kKeepAliveInterval; left > left.zero();
       left -= kKeepAliveInterval) {
    clock_.Advance(kKeepAliveInterval, *pool_);
    EXPECT_TRUE(pool_->RunOn(0, initiators_.back()->Ping()));
  }
  clock_.Advance(kKeepAliveInterval, *pool_);
  pool_->RunOn(0, AllEnded(*this));
  EXPECT_EQ(directory_.totals().drops[static_cast<int>(DropReason::kDiscoveryTimeout)], 1u);
}

}  // namespace
}  // namespace sectormap::iscsi
