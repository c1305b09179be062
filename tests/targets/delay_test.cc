// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <list>
#include <thread>

#include "tests/support/manual_clock.h"
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

class DelayTest : public TargetFixture {
 protected:
  const Clock& clock() override { return manual_; }

  // A request that is under way; how it ended is in `status` once `done`.
  struct Pending {
    std::atomic<bool> done{false};
    IoStatus status = IoStatus::kAborted;
  };
  // Returns when the request has been submitted.
  Pending& Start(BlockDevice& device, IoRequest request) {
    Pending& pending = pendings_.emplace_back();
    reactors_->OnEach([&](Reactor&) { Detach(Track(device, request, pending)); });
    return pending;
  }
  static Task<void> Track(BlockDevice& device, IoRequest request, Pending& pending) {
    pending.status = co_await device.Submit(request);
    pending.done = true;
  }
  void Advance(milliseconds time) {
    manual_.Advance(time, *reactors_);
    reactors_->OnEach([](Reactor&) {});
  }

  ManualClock manual_;
  std::vector<std::byte> sector_ = std::vector<std::byte>(512, std::byte{7});

 private:
  std::list<Pending> pendings_;
};

TEST_F(DelayTest, PrintsTableAndStatusAsTheKernel) {
  EXPECT_EQ(TargetOf("0 1000 delay /dev/vdd 0 10").TableArgs(), "/dev/vdd 0 10");
  EXPECT_EQ(TargetOf("0 1000 delay /dev/vdd 0 10 /dev/vde 8 20").TableArgs(),
            "/dev/vdd 0 10 /dev/vde 8 20");
  Target& nine = TargetOf("0 1000 delay /dev/vdd 0 10 /dev/vde 8 20 /dev/vde 8 30");
  EXPECT_EQ(nine.TableArgs(), "/dev/vdd 0 10 /dev/vde 8 20 /dev/vde 8 30");
  EXPECT_EQ(nine.StatusArgs(), "0 0 0");
}

TEST_F(DelayTest, RefusesBadArgumentsInTheKernelsWords) {
  constexpr const char* kCount = "line 1: delay: Requires exactly 3, 6 or 9 arguments";
  EXPECT_THAT(Refusal("0 8 delay"), HasSubstr(kCount));
  EXPECT_THAT(Refusal("0 8 delay /dev/vdd 0 1 /dev/vde"), HasSubstr(kCount));
  EXPECT_THAT(Refusal("0 8 delay /dev/vdd 0 x"), HasSubstr("Invalid delay"));
  EXPECT_THAT(Refusal("0 8 delay /dev/vdd 0 4294967296"), HasSubstr("Invalid delay"));
  EXPECT_THAT(Refusal("0 8 delay /dev/vdd x 1"), HasSubstr("Invalid device sector"));
  EXPECT_THAT(Refusal("0 8 delay /dev/nowhere 0 1"), HasSubstr("Device lookup failed"));
  EXPECT_THAT(Refusal("0 8 delay /dev/vdd 0 1 /dev/vde 16384 1"),
              HasSubstr("too small for target"));
}

TEST_F(DelayTest, HoldsARequestForItsTimeAndCountsIt) {
  Target& target = TargetOf("0 1000 delay /dev/vdd 0 10 /dev/vde 8 20 /dev/vde 8 30");
  std::vector<std::byte> back(512);
  Pending& read = Start(target, IoRequest::Read(Sector(5), back));
  Pending& write = Start(target, IoRequest::Write(Sector(5), sector_));
  Pending& discard = Start(target, IoRequest::Discard(Sector(100), SectorCount(8)));
  Pending& flush = Start(target, IoRequest::Flush());
  EXPECT_EQ(target.StatusArgs(), "1 2 1");
  Advance(milliseconds(9));
  EXPECT_FALSE(read.done);
  Advance(milliseconds(1));
  EXPECT_TRUE(read.done);
  EXPECT_EQ(target.StatusArgs(), "0 2 1");
  EXPECT_EQ(disk("/dev/vde").bytes()[13 * 512], std::byte{0}) << "held before it is submitted";
  Advance(milliseconds(10));
  EXPECT_TRUE(write.done && discard.done);
  EXPECT_EQ(write.status, IoStatus::kOk);
  EXPECT_EQ(disk("/dev/vde").bytes()[13 * 512], std::byte{7});
  EXPECT_FALSE(flush.done);
  Advance(milliseconds(10));
  EXPECT_TRUE(flush.done);
  EXPECT_EQ(target.StatusArgs(), "0 0 0");
}

TEST_F(DelayTest, ZeroMillisecondsPassAtOnce) {
  Target& target = TargetOf("0 1000 delay /dev/vdd 16 0 /dev/vdd 16 20");
  std::vector<std::byte> back(512);
  disk("/dev/vdd").bytes()[17 * 512] = std::byte{9};
  EXPECT_EQ(Run(target, IoRequest::Read(Sector(1), back)), IoStatus::kOk);
  EXPECT_EQ(back[0], std::byte{9});
}

TEST_F(DelayTest, ALaterRequestWithAShorterTimeGoesFirst) {
  Target& target = TargetOf("0 1000 delay /dev/vdd 0 10 /dev/vdd 0 100");
  std::vector<std::byte> back(512);
  Pending& write = Start(target, IoRequest::Write(Sector(5), sector_));
  Pending& read = Start(target, IoRequest::Read(Sector(5), back));
  Advance(milliseconds(10));
  EXPECT_TRUE(read.done);
  EXPECT_FALSE(write.done);
  Advance(milliseconds(90));
  EXPECT_TRUE(write.done);
}

TEST_F(DelayTest, ASuspendLetsEverythingGoAndAResumeDelaysAgain) {
  Target& target = TargetOf("0 1000 delay /dev/vdd 0 1000000");
  Pending& write = Start(target, IoRequest::Write(Sector(5), sector_));
  Pending& flush = Start(target, IoRequest::Flush());
  target.PreSuspend(SuspendMode::kFlush);
  while (!write.done || !flush.done) std::this_thread::yield();
  EXPECT_EQ(write.status, IoStatus::kOk);
  EXPECT_EQ(disk("/dev/vdd").bytes()[5 * 512], std::byte{7});
  EXPECT_EQ(Run(target, IoRequest::Write(Sector(6), sector_)), IoStatus::kOk) << "no time now";
  target.PostSuspend();
  target.Resume();
  Pending& held = Start(target, IoRequest::Write(Sector(7), sector_));
  EXPECT_EQ(target.StatusArgs(), "0 1 0");
  Advance(milliseconds(1000000));
  EXPECT_TRUE(held.done);
}

}  // namespace
}  // namespace sectormap::targets
