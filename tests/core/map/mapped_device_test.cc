// SPDX-License-Identifier: Apache-2.0
#include "core/map/mapped_device.h"

#include <algorithm>

#include "tests/core/map/map_fixture.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

class MappedDeviceTest : public MapFixture {};

TEST_F(MappedDeviceTest, WithoutATableIsEmptyAndUnavailable) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  const auto device = registry().Find("x");
  EXPECT_EQ(device->size(), SectorCount(0));
  EXPECT_EQ(Fill(*device, 0, 1, 1), IoStatus::kUnavailable);
  EXPECT_EQ(Run(*device, IoRequest::Flush()), IoStatus::kUnavailable);
  EXPECT_EQ(ExtentAt(*device, Sector(0)).status, IoStatus::kUnavailable);
}

TEST_F(MappedDeviceTest, SendsEachPieceToItsRow) {
  const auto device = Make("x", "0 8 linear /dev/a 100\n8 8 linear /dev/b 200\n");
  ASSERT_EQ(Fill(*device, 6, 4, 7), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*a_, 106), 7);
  EXPECT_EQ(ByteAt(*a_, 107), 7);
  EXPECT_EQ(ByteAt(*a_, 108), 0);
  EXPECT_EQ(ByteAt(*b_, 200), 7);
  EXPECT_EQ(ByteAt(*b_, 201), 7);
  EXPECT_EQ(ByteAt(*b_, 202), 0);
}

TEST_F(MappedDeviceTest, CutsReadsAndWritesAtTheBoundaryCountedFromTheRow) {
  const auto device = Make("x", "0 3 zero\n3 32 striped 2 8 /dev/a 0 /dev/b 0\n");
  ASSERT_EQ(Fill(*device, 3, 32, 1), IoStatus::kOk);
  EXPECT_EQ(a_->CountOf(IoOp::kWrite), 2);
  EXPECT_EQ(b_->CountOf(IoOp::kWrite), 2);
  for (const IoRequest& piece : a_->seen()) EXPECT_EQ(piece.count, SectorCount(8));
}

TEST_F(MappedDeviceTest, LendsWhatIsOnePieceOfOneBacking) {
  const auto device = Make("x", "0 8 linear /dev/a 100\n8 32 striped 2 8 /dev/a 0 /dev/b 0\n");
  ASSERT_EQ(Fill(*device, 0, 40, 7), IoStatus::kOk);
  const auto lend = [&](uint64_t first, uint64_t count) {
    return reactors_->RunOn(0,
                            [](MappedDevice& from, Sector at, SectorCount sectors) -> Task<Loan> {
                              co_return from.Lend(at, sectors);
                            }(*device, Sector(first), SectorCount(count)));
  };
  const Loan linear = lend(6, 2);
  ASSERT_EQ(linear.bytes.size(), Bytes(SectorCount(2)).value());
  EXPECT_EQ(linear.bytes.data(), a_->bytes().data() + ByteOffset(Sector(106)).value());
  const Loan stripe = lend(17, 7);
  ASSERT_TRUE(stripe);
  EXPECT_EQ(stripe.bytes.data(), b_->bytes().data() + ByteOffset(Sector(1)).value());
  EXPECT_FALSE(lend(7, 2)) << "two rows";
  EXPECT_FALSE(lend(15, 2)) << "two stripes";
  EXPECT_FALSE(lend(39, 2)) << "past the end";
}

TEST_F(MappedDeviceTest, LendsNothingWhileSuspendedOrWhereATargetWouldWatchReads) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n");
  const auto lends = [&](const std::shared_ptr<MappedDevice>& from) {
    std::atomic<int> loans{0};
    reactors_->OnEach([&](Reactor&) { loans += bool(from->Lend(Sector(0), SectorCount(1))); });
    return loans > 0;
  };
  EXPECT_TRUE(lends(device));
  ASSERT_TRUE(registry().Suspend("x", SuspendMode::kFlush).ok());
  EXPECT_FALSE(lends(device));
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_TRUE(lends(device));
  EXPECT_FALSE(lends(Make("flaky", "0 8 flakey /dev/a 0 1 0\n")));
  EXPECT_FALSE(lends(Make("late", "0 8 delay /dev/a 0 0\n")));
}

TEST_F(MappedDeviceTest, ALoanCountsAsARead) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n");
  reactors_->RunOn(0, [](MappedDevice& from) -> Task<void> {
    EXPECT_TRUE(from.Lend(Sector(0), SectorCount(4)));
    co_return;
  }(*device));
  const IoTotals::PerOp reads = device->counters().Sum().ops[static_cast<int>(IoOp::kRead)];
  EXPECT_EQ(reads.requests, 1u);
  EXPECT_EQ(reads.bytes, Bytes(SectorCount(4)).value());
}

class WriteAtOnceTest : public MappedDeviceTest {
 protected:
  bool Write(const std::shared_ptr<MappedDevice>& device, uint64_t first, uint64_t count) {
    return reactors_->RunOn(0, [](MappedDevice& to, Sector at, SectorCount sectors) -> Task<bool> {
      const std::vector<std::byte> bytes(Bytes(sectors).value(), std::byte{0x77});
      co_return to.WriteAtOnce(at, bytes);
    }(*device, Sector(first), SectorCount(count)));
  }
};

TEST_F(WriteAtOnceTest, ReachesTheOneBackingOfOnePiece) {
  const auto device = Make("x", "0 8 linear /dev/a 100\n8 32 striped 2 8 /dev/a 0 /dev/b 0\n");
  EXPECT_TRUE(Write(device, 6, 2));
  EXPECT_EQ(a_->bytes()[ByteOffset(Sector(105)).value()], std::byte{0});
  EXPECT_EQ(a_->bytes()[ByteOffset(Sector(106)).value()], std::byte{0x77});
  EXPECT_TRUE(Write(device, 17, 7));
  EXPECT_EQ(b_->bytes()[ByteOffset(Sector(1)).value()], std::byte{0x77});
  EXPECT_FALSE(Write(device, 7, 2)) << "two rows";
  EXPECT_FALSE(Write(device, 15, 2)) << "two stripes";
  EXPECT_FALSE(Write(device, 39, 2)) << "past the end";
  EXPECT_TRUE(a_->seen().empty());
  const IoTotals::PerOp writes = device->counters().Sum().ops[static_cast<int>(IoOp::kWrite)];
  EXPECT_EQ(writes.requests, 2u);
  EXPECT_EQ(writes.bytes, Bytes(SectorCount(9)).value());
}

TEST_F(WriteAtOnceTest, IsNoneWhileSuspendedOrWhereATargetHasMoreToDo) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n");
  ASSERT_TRUE(registry().Suspend("x", SuspendMode::kFlush).ok());
  EXPECT_FALSE(Write(device, 0, 1));
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_TRUE(Write(device, 0, 1));
  EXPECT_FALSE(Write(Make("flaky", "0 8 flakey /dev/a 0 1 0\n"), 0, 1));
  EXPECT_FALSE(Write(Make("late", "0 8 delay /dev/a 0 0\n"), 0, 1));
  EXPECT_FALSE(Write(Make("legs", "0 8 mirror core 2 8 nosync 2 /dev/a 64 /dev/b 64\n"), 0, 1));
}

TEST_F(WriteAtOnceTest, IsNoneOfAReadOnlyTable) {
  EXPECT_FALSE(Write(Make("x", "0 8 linear /dev/a 0\n", /*read_only=*/true), 0, 1));
}

TEST_F(MappedDeviceTest, DiscardsAreCutAtRowEndsOnly) {
  const auto device = Make("x", "0 64 striped 2 8 /dev/a 0 /dev/b 0\n64 8 linear /dev/a 1000\n");
  ASSERT_EQ(Run(*device, IoRequest::Discard(Sector(0), SectorCount(72))), IoStatus::kOk);
  EXPECT_EQ(a_->CountOf(IoOp::kDiscard), 2);  // its whole share of the stripes, and the linear row
  EXPECT_EQ(b_->CountOf(IoOp::kDiscard), 1);
}

TEST_F(MappedDeviceTest, ForceUnitAccessReachesEveryPiece) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  std::vector<std::byte> data(Bytes(SectorCount(16)).value());
  ASSERT_EQ(Run(*device, IoRequest::Write(Sector(0), data, /*force_unit_access=*/true)),
            IoStatus::kOk);
  EXPECT_TRUE(a_->seen().at(0).force_unit_access);
  EXPECT_TRUE(b_->seen().at(0).force_unit_access);
}

TEST_F(MappedDeviceTest, AFailedPieceFailsTheWholeAndTheOthersRun) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n16 8 linear /dev/a 8\n");
  b_->Fail(IoOp::kWrite, IoStatus::kNoSpace);
  EXPECT_EQ(Fill(*device, 0, 24, 3), IoStatus::kNoSpace);
  EXPECT_EQ(ByteAt(*a_, 0), 3);
  EXPECT_EQ(ByteAt(*a_, 15), 3);
}

TEST_F(MappedDeviceTest, PiecesRunSideBySide) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  a_->Hold();
  std::vector<std::byte> data(Bytes(SectorCount(16)).value(), std::byte{9});
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(0), data));
  while (b_->CountOf(IoOp::kWrite) == 0) std::this_thread::yield();
  EXPECT_FALSE(write.done());
  a_->Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
}

TEST_F(MappedDeviceTest, ARequestOverThousandsOfRowsIsServed) {
  std::string text;
  for (int i = 0; i < 5000; ++i) {
    text += std::to_string(i) + " 1 linear " + (i % 2 == 0 ? "/dev/a " : "/dev/b ") +
            std::to_string(i) + "\n";
  }
  const auto device = Make("x", text);
  a_->SuspendEveryRequest();
  ASSERT_EQ(Fill(*device, 0, 5000, 5), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*a_, 4998), 5);
  EXPECT_EQ(ByteAt(*b_, 4999), 5);
  EXPECT_EQ(Run(*device, IoRequest::Discard(Sector(0), SectorCount(5000))), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*b_, 4999), 0);
}

TEST_F(MappedDeviceTest, FlushReachesEachBackingOnce) {
  const auto device =
      Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n16 8 linear /dev/a 8\n24 8 zero\n");
  ASSERT_EQ(Run(*device, IoRequest::Flush()), IoStatus::kOk);
  EXPECT_EQ(a_->CountOf(IoOp::kFlush), 1);
  EXPECT_EQ(b_->CountOf(IoOp::kFlush), 1);
}

TEST_F(MappedDeviceTest, AFlushFailsIfOneBackingFails) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  b_->Fail(IoOp::kFlush, IoStatus::kIoError);
  EXPECT_EQ(Run(*device, IoRequest::Flush()), IoStatus::kIoError);
  EXPECT_EQ(a_->CountOf(IoOp::kFlush), 1);
}

TEST_F(MappedDeviceTest, ReadOnlyTableRefusesEveryKindOfWrite) {
  const auto device = Make("x", "0 8 linear /dev/a 0", /*read_only=*/true);
  EXPECT_TRUE(device->read_only());
  EXPECT_EQ(Fill(*device, 0, 1, 1), IoStatus::kReadOnly);
  EXPECT_EQ(Run(*device, IoRequest::Discard(Sector(0), SectorCount(1))), IoStatus::kReadOnly);
  EXPECT_EQ(Run(*device, IoRequest::WriteZeroes(Sector(0), SectorCount(1))), IoStatus::kReadOnly);
  EXPECT_EQ(ByteAt(*device, 0), 0);
  EXPECT_EQ(Run(*device, IoRequest::Flush()), IoStatus::kOk);
}

TEST_F(MappedDeviceTest, PastTheEndIsOutOfRange) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  EXPECT_EQ(Fill(*device, 7, 2, 1), IoStatus::kOutOfRange);
  EXPECT_EQ(Run(*device, IoRequest::Discard(Sector(UINT64_MAX), SectorCount(2))),
            IoStatus::kOutOfRange);
  EXPECT_EQ(ExtentAt(*device, Sector(8)).status, IoStatus::kOutOfRange);
  EXPECT_EQ(ByteAt(*a_, 7), 0);
}

TEST_F(MappedDeviceTest, WhatTheTableCannotDoIsNotSupported) {
  a_->mutable_limits().can_discard = false;
  b_->mutable_limits().can_write_zeroes = false;
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  EXPECT_EQ(Run(*device, IoRequest::Discard(Sector(8), SectorCount(1))), IoStatus::kNotSupported);
  EXPECT_EQ(Run(*device, IoRequest::WriteZeroes(Sector(0), SectorCount(1))),
            IoStatus::kNotSupported);
}

TEST_F(MappedDeviceTest, OnePieceThatIsReadyNeedsNoFrame) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  bool immediate = false;
  reactors_->OnEach([&](Reactor& reactor) {
    if (reactor.index() != 0) return;
    std::vector<std::byte> data(kSectorBytes);
    immediate = device->Submit(IoRequest::Write(Sector(3), data)).immediate();
  });
  EXPECT_TRUE(immediate);
  EXPECT_EQ(device->counters().Sum().ops[static_cast<int>(IoOp::kWrite)].requests, 1u);
}

TEST_F(MappedDeviceTest, ATaskThatIsNeverAwaitedDoesNotHoldUpASuspend) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  a_->SuspendEveryRequest();
  reactors_->OnEach([&](Reactor&) {
    std::vector<std::byte> data(kSectorBytes);
    static_cast<void>(device->Submit(IoRequest::Write(Sector(3), data)));
  });
  EXPECT_TRUE(device->Suspend(SuspendMode::kNoFlush).ok());
  EXPECT_TRUE(device->Resume().ok());
}

TEST_F(MappedDeviceTest, CountsRequestsBytesAndErrors) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 error\n");
  Fill(*device, 0, 2, 1);
  Fill(*device, 6, 4, 1);
  const IoTotals::PerOp writes = device->counters().Sum().ops[static_cast<int>(IoOp::kWrite)];
  EXPECT_EQ(writes.requests, 2u);
  EXPECT_EQ(writes.bytes, 6 * kSectorBytes);
  EXPECT_EQ(writes.errors, 1u);
}

TEST_F(MappedDeviceTest, ExtentsEndAtTheirRow) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 16 zero\n24 8 linear /dev/b 0\n");
  EXPECT_EQ(ExtentAt(*device, Sector(2)).count, SectorCount(6));
  EXPECT_TRUE(ExtentAt(*device, Sector(2)).mapped);
  EXPECT_EQ(ExtentAt(*device, Sector(9)).count, SectorCount(15));
  EXPECT_FALSE(ExtentAt(*device, Sector(9)).mapped);
  EXPECT_EQ(ExtentAt(*device, Sector(31)).count, SectorCount(1));
}

TEST_F(MappedDeviceTest, DevicesStack) {
  Make("low", "0 100 linear /dev/a 1000\n");
  Make("mid", "0 50 linear low 25\n50 50 linear /dev/mapper/low 0\n");
  const auto top = Make("top", "0 40 striped 2 4 mid 0 mid 50\n");
  ASSERT_EQ(Fill(*top, 4, 4, 8), IoStatus::kOk);  // second stripe: mid 50, low 0, a 1000
  EXPECT_EQ(ByteAt(*a_, 1000), 8);
  EXPECT_EQ(ByteAt(*a_, 1003), 8);
  EXPECT_EQ(ByteAt(*a_, 1004), 0);
}

// --- suspend, resume, swap ---

TEST_F(MappedDeviceTest, SuspendWaitsForWhatIsInFlight) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  a_->Hold();
  std::vector<std::byte> data(kSectorBytes);
  Pending write(*reactors_, 1, *device, IoRequest::Write(Sector(0), data));
  while (a_->CountOf(IoOp::kWrite) == 0) std::this_thread::yield();
  absl::Notification suspended;
  std::thread control([&] {
    EXPECT_TRUE(device->Suspend(SuspendMode::kNoFlush).ok());
    suspended.Notify();
  });
  Settle();
  EXPECT_FALSE(suspended.HasBeenNotified());
  EXPECT_FALSE(device->info().suspended);
  a_->Release();
  control.join();
  // The suspend ends a moment before the writer is told.
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_TRUE(device->info().suspended);
  EXPECT_TRUE(device->Resume().ok());
}

// While one is given up: `x` has a row over a disk that does not answer, and one over one that
// does.
class GivenUpSuspendTest : public MappedDeviceTest {
 protected:
  void SetUp() override {
    MappedDeviceTest::SetUp();
    device_ = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  }
  absl::Status SuspendAndGiveUp(SuspendMode mode) {
    return device_->Suspend(mode, [] { return true; });
  }
  void ExpectIoGoesOn() {
    EXPECT_FALSE(device_->info().suspended);
    std::vector<std::byte> data(kSectorBytes);
    EXPECT_EQ(Pending(*reactors_, 0, *device_, IoRequest::Write(Sector(8), data)).Wait(),
              IoStatus::kOk);
  }

  std::shared_ptr<MappedDevice> device_;
};

TEST_F(GivenUpSuspendTest, WhatIsInFlightGoesOn) {
  a_->Hold();
  std::vector<std::byte> data(kSectorBytes);
  Pending write(*reactors_, 1, *device_, IoRequest::Write(Sector(0), data));
  while (a_->CountOf(IoOp::kWrite) == 0) std::this_thread::yield();
  for (const SuspendMode mode : {SuspendMode::kFlush, SuspendMode::kNoFlush}) {
    EXPECT_EQ(SuspendAndGiveUp(mode).code(), absl::StatusCode::kCancelled);
    ExpectIoGoesOn();
  }
  EXPECT_FALSE(write.done());
  a_->Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_TRUE(device_->Suspend(SuspendMode::kFlush).ok());
  EXPECT_TRUE(device_->Resume().ok());
}

TEST_F(GivenUpSuspendTest, AFlushThatIsUnderWayIsWaitedForByTheNext) {
  a_->Hold();
  EXPECT_EQ(SuspendAndGiveUp(SuspendMode::kFlush).code(), absl::StatusCode::kCancelled);
  ExpectIoGoesOn();
  ASSERT_EQ(a_->CountOf(IoOp::kFlush), 1);
  EXPECT_EQ(SuspendAndGiveUp(SuspendMode::kNoFlush).code(), absl::StatusCode::kCancelled);
  a_->Release();
  EXPECT_TRUE(device_->Suspend(SuspendMode::kNoFlush).ok());
  EXPECT_TRUE(device_->info().suspended);
  EXPECT_TRUE(device_->Resume().ok());
}

TEST_F(GivenUpSuspendTest, ASwapThatIsGivenUpLeavesBothTablesWhereTheyAre) {
  a_->Hold();
  std::vector<std::byte> data(kSectorBytes);
  Pending write(*reactors_, 1, *device_, IoRequest::Write(Sector(0), data));
  while (a_->CountOf(IoOp::kWrite) == 0) std::this_thread::yield();
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0").ok());
  EXPECT_EQ(device_->Resume(SuspendMode::kFlush, [] { return true; }).code(),
            absl::StatusCode::kCancelled);
  ExpectIoGoesOn();
  EXPECT_TRUE(device_->info().has_inactive_table);
  a_->Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_TRUE(device_->Resume().ok());
  EXPECT_EQ(device_->size(), SectorCount(8));
}

TEST_F(GivenUpSuspendTest, OneThatEndsInTimeIsDone) {
  EXPECT_TRUE(SuspendAndGiveUp(SuspendMode::kFlush).ok());
  EXPECT_TRUE(device_->info().suspended);
}

TEST_F(MappedDeviceTest, RequestsWaitWhileSuspendedAndTheNewTableMapsThem) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(registry().Suspend("x", SuspendMode::kFlush).ok());
  std::vector<std::byte> data(kSectorBytes, std::byte{4});
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(2), data));
  Settle();
  EXPECT_FALSE(write.done());
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*b_, 2), 4);
  EXPECT_EQ(ByteAt(*a_, 2), 0);
}

TEST_F(MappedDeviceTest, WaitingRequestsGoOnInTheirOrder) {
  const auto device = Make("x", "0 100 linear /dev/a 0");
  ASSERT_TRUE(device->Suspend(SuspendMode::kNoFlush).ok());
  std::vector<std::byte> data(kSectorBytes);
  std::vector<std::unique_ptr<Pending>> writes;
  for (uint64_t i = 0; i < 100; ++i) {
    writes.push_back(
        std::make_unique<Pending>(*reactors_, 0, *device, IoRequest::Write(Sector(99 - i), data)));
  }
  Settle();
  a_->Forget();
  ASSERT_TRUE(device->Resume().ok());
  for (auto& write : writes) EXPECT_EQ(write->Wait(), IoStatus::kOk);
  const std::vector<IoRequest> seen = a_->seen();
  ASSERT_EQ(seen.size(), 100u);
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(seen[i].first, Sector(99 - i));
}

TEST_F(MappedDeviceTest, AWaitingRequestPastTheNewEndIsOutOfRange) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(device->Suspend(SuspendMode::kNoFlush).ok());
  std::vector<std::byte> data(kSectorBytes);
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(6), data));
  Settle();
  ASSERT_TRUE(Load("x", "0 4 linear /dev/a 0").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(write.Wait(), IoStatus::kOutOfRange);
}

TEST_F(MappedDeviceTest, FlushSuspendFlushesTheBackingsAndNoFlushDoesNot) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0");
  a_->Forget();
  ASSERT_TRUE(device->Suspend(SuspendMode::kNoFlush).ok());
  EXPECT_EQ(a_->CountOf(IoOp::kFlush), 0);
  ASSERT_TRUE(device->Resume().ok());
  ASSERT_TRUE(device->Suspend(SuspendMode::kFlush).ok());
  EXPECT_EQ(a_->CountOf(IoOp::kFlush), 1);
  EXPECT_EQ(b_->CountOf(IoOp::kFlush), 1);
  ASSERT_TRUE(device->Resume().ok());
}

TEST_F(MappedDeviceTest, ASuspendFlushesThroughDevicesThatAreSuspendedThemselves) {
  const auto low = Make("low", "0 100 linear /dev/a 0");
  Make("mid", "0 50 linear low 0");
  const auto top = Make("top", "0 40 linear mid 0");
  for (const SuspendMode mode : {SuspendMode::kFlush, SuspendMode::kNoFlush}) {
    ASSERT_TRUE(low->Suspend(mode).ok());
    a_->Forget();
    ASSERT_TRUE(top->Suspend(SuspendMode::kFlush).ok());
    EXPECT_EQ(a_->CountOf(IoOp::kFlush), 1);
    ASSERT_TRUE(top->Resume().ok());
    ASSERT_TRUE(low->Resume().ok());
  }
}

TEST_F(MappedDeviceTest, AFailedFlushLeavesTheDeviceServingWithTheOldTable) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  a_->Fail(IoOp::kFlush, IoStatus::kIoError);
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0").ok());
  const absl::Status status = registry().Resume("x");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(device->info().suspended);
  EXPECT_TRUE(device->info().has_inactive_table);
  EXPECT_EQ(Fill(*device, 0, 1, 2), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*a_, 0), 2);
  EXPECT_TRUE(registry().Resume("x", SuspendMode::kNoFlush).ok());
  EXPECT_EQ(Fill(*device, 0, 1, 3), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*b_, 0), 3);
}

TEST_F(MappedDeviceTest, SuspendingTwiceAndResumingTwiceIsFine) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  EXPECT_TRUE(device->Suspend(SuspendMode::kFlush).ok());
  EXPECT_TRUE(device->Suspend(SuspendMode::kFlush).ok());
  EXPECT_TRUE(device->Resume().ok());
  EXPECT_TRUE(device->Resume().ok());
  EXPECT_EQ(ByteAt(*device, 0), 0);
}

TEST_F(MappedDeviceTest, ResumeOfASuspendedDeviceWithoutATableIsRefused) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  EXPECT_TRUE(registry().Resume("x").ok());
  ASSERT_TRUE(registry().Suspend("x", SuspendMode::kFlush).ok());
  EXPECT_EQ(registry().Resume("x").code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Load("x", "0 8 zero").ok());
  EXPECT_TRUE(registry().Resume("x").ok());
}

TEST_F(MappedDeviceTest, ClearThrowsTheInactiveTableAway) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(Load("x", "0 4 zero").ok());
  ASSERT_TRUE(registry().Clear("x").ok());
  EXPECT_TRUE(registry().Clear("x").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(device->size(), SectorCount(8));
}

class CountingObserver final : public DeviceObserver {
 public:
  explicit CountingObserver(MappedDevice& device) : device_(device) { device.AddObserver(this); }
  ~CountingObserver() override { device_.RemoveObserver(this); }
  void OnSizeChanged() override {
    ++size_changes;
    size_seen = device_.size();
    waiting_was_done = waiting != nullptr && waiting();
  }
  void OnReadOnlyChanged() override { ++read_only_changes; }
  void OnLimitsChanged() override {
    ++limits_changes;
    limits_seen = device_.limits();
  }
  int size_changes = 0, read_only_changes = 0, limits_changes = 0;
  BlockLimits limits_seen;
  SectorCount size_seen;
  std::function<bool()> waiting;
  bool waiting_was_done = false;

 private:
  MappedDevice& device_;
};

TEST_F(MappedDeviceTest, ObserversHearOfANewSizeBeforeIoGoesOn) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  CountingObserver observer(*device);
  ASSERT_TRUE(device->Suspend(SuspendMode::kNoFlush).ok());
  std::vector<std::byte> data(kSectorBytes);
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(6), data));
  Settle();
  observer.waiting = [&write] { return write.done(); };
  ASSERT_TRUE(Load("x", "0 16 linear /dev/a 0").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(observer.size_changes, 1);
  EXPECT_EQ(observer.size_seen, SectorCount(16));
  EXPECT_FALSE(observer.waiting_was_done);
  EXPECT_EQ(observer.read_only_changes, 0);
}

TEST_F(MappedDeviceTest, ObserversHearOfReadOnlyAndOfNothingElse) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  CountingObserver observer(*device);
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(observer.size_changes + observer.read_only_changes + observer.limits_changes, 0);
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0", /*read_only=*/true).ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(observer.read_only_changes, 1);
}

TEST_F(MappedDeviceTest, ObserversHearOfNewLimits) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  CountingObserver observer(*device);
  b_->mutable_limits().can_discard = false;
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(observer.limits_changes, 1);
  EXPECT_FALSE(observer.limits_seen.can_discard);
  EXPECT_EQ(observer.size_changes + observer.read_only_changes, 0);
}

TEST_F(MappedDeviceTest, AMediumComesWithTheFirstTableAlsoOfTheDeviceBelow) {
  ASSERT_TRUE(registry().Create("low", {}).ok());
  ASSERT_TRUE(Load("low", "0 8 linear /dev/a 0").ok());
  ASSERT_TRUE(registry().AnnounceSize("low").ok());
  const auto top = Make("top", "0 8 linear low 0");
  const auto mirror = Make("mirror", "0 8 mirror core 1 8 2 low 0 /dev/b 0");
  const auto low = registry().Find("low");
  EXPECT_FALSE(low->has_medium());
  EXPECT_FALSE(top->has_medium());
  EXPECT_TRUE(mirror->has_medium());  // it has another leg
  ASSERT_TRUE(registry().Resume("low").ok());
  EXPECT_TRUE(low->has_medium());
  EXPECT_TRUE(top->has_medium());
}

TEST_F(MappedDeviceTest, AStuckSuspendHoldsUpOnlyItsOwnDevice) {
  const auto stuck = Make("stuck", "0 8 linear /dev/a 0");
  Make("other", "0 8 linear /dev/b 0");
  a_->Hold();
  std::vector<std::byte> data(kSectorBytes);
  Pending write(*reactors_, 0, *stuck, IoRequest::Write(Sector(0), data));
  while (a_->CountOf(IoOp::kWrite) == 0) std::this_thread::yield();
  std::thread control([&] { EXPECT_TRUE(registry().Suspend("stuck", SuspendMode::kFlush).ok()); });
  Settle();
  EXPECT_TRUE(registry().Info("stuck").ok());
  EXPECT_EQ(registry().List().size(), 2u);
  EXPECT_TRUE(registry().Table("stuck", TableSlot::kLive).ok());
  EXPECT_TRUE(registry().Status("stuck", TableSlot::kLive).ok());
  EXPECT_TRUE(Load("other", "0 8 zero").ok());
  EXPECT_TRUE(registry().Resume("other").ok());
  EXPECT_TRUE(registry().Remove("other", {}).ok());
  EXPECT_FALSE(write.done());
  a_->Release();
  control.join();
  EXPECT_TRUE(registry().Resume("stuck").ok());
}

// --- splitting, against a flat array ---

TEST_F(MappedDeviceTest, RandomRequestsOverRandomTablesMatchAFlatDisk) {
  Random random;
  constexpr uint64_t kSectors = 600;
  for (int round = 0; round < 20; ++round) {
    // Rows over disjoint parts of /dev/a and /dev/b, some striped, so that the device is one disk.
    std::string text;
    uint64_t used[2] = {0, 0};
    uint64_t start = 0;
    while (start < kSectors) {
      if (random.OneIn(3)) {
        const uint64_t chunk = random.Between(1, 9);
        const uint64_t rounds = random.Between(1, 5);
        text += std::to_string(start) + " " + std::to_string(2 * chunk * rounds) + " striped 2 " +
                std::to_string(chunk) + " /dev/a " + std::to_string(used[0]) + " /dev/b " +
                std::to_string(used[1]) + "\n";
        used[0] += chunk * rounds;
        used[1] += chunk * rounds;
        start += 2 * chunk * rounds;
      } else {
        const uint64_t length = random.Between(1, 40);
        const uint64_t disk = random.Below(2);
        text += std::to_string(start) + " " + std::to_string(length) + " linear /dev/" +
                (disk == 0 ? "a " : "b ") + std::to_string(used[disk]) + "\n";
        used[disk] += length;
        start += length;
      }
    }
    if (round % 2 == 1) a_->SuspendEveryRequest();
    const std::string name = "x" + std::to_string(round);
    const auto device = Make(name, text);
    std::vector<std::byte> flat(Bytes(SectorCount(start)).value());
    ASSERT_EQ(Run(*device, IoRequest::WriteZeroes(Sector(0), SectorCount(start))), IoStatus::kOk);
    for (int i = 0; i < 100; ++i) {
      const uint64_t first = random.Below(start);
      const uint64_t count = random.Between(1, start - first);
      const std::span<std::byte> part =
          std::span(flat).subspan(first * kSectorBytes, count * kSectorBytes);
      std::vector<std::byte> data(part.size());
      if (random.OneIn(5)) {
        std::ranges::fill(part, std::byte{0});
        ASSERT_EQ(Run(*device, IoRequest::Discard(Sector(first), SectorCount(count))),
                  IoStatus::kOk);
      } else if (random.OneIn(2)) {
        random.Fill(data);
        std::ranges::copy(data, part.begin());
        ASSERT_EQ(Run(*device, IoRequest::Write(Sector(first), data)), IoStatus::kOk);
      } else {
        ASSERT_EQ(Run(*device, IoRequest::Read(Sector(first), data)), IoStatus::kOk);
        ASSERT_TRUE(std::ranges::equal(data, part)) << text << first << "+" << count;
      }
    }
    ASSERT_TRUE(registry().Remove(name, {}).ok());
  }
}

}  // namespace
}  // namespace sectormap
