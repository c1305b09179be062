// SPDX-License-Identifier: Apache-2.0
// A mirror of three legs against a plain array: random requests from two reactors while legs fail,
// tables are replaced and recovery runs. What a read gives is what was written last; at the end of
// every round all legs are equal.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/support/random.h"
#include "tests/support/slow_build.h"
#include "tests/targets/mirror/mirror_fixture.h"

namespace sectormap::targets {
namespace {

constexpr uint64_t kLanes = 8;
constexpr uint64_t kOps = 120;  // of a lane, in a round
constexpr int kRounds = kSlowBuild ? 15 : 60;

// What each sector may hold. A lane's sectors are its own.
class Model {
 public:
  explicit Model(uint64_t sectors) : values_(sectors, {0}) {}

  void Wrote(uint64_t sector, uint64_t value, bool certainly) {
    if (certainly) values_[sector].clear();
    values_[sector].push_back(value);
  }
  // What was read is what it is from now on.
  bool MayBe(uint64_t sector, uint64_t value) {
    std::vector<uint64_t>& values = values_[sector];
    if (std::ranges::find(values, value) == values.end()) return false;
    values = {value};
    return true;
  }

 private:
  std::vector<std::vector<uint64_t>> values_;
};

class MirrorModelTest : public MirrorFixture {
 protected:
  static constexpr uint64_t kRegionSize = 64;

  // Legs in this order, the primary first.
  std::string Words(const std::string& legs, bool nosync) {
    const std::string sync = nosync ? " nosync" : " sync";
    std::string words = disk_log_ ? absl::StrCat("disk 3 log ", kRegionSize, sync)
                                  : absl::StrCat("core 2 ", kRegionSize, sync);
    absl::StrAppend(&words, " ", legs.size());
    for (char leg : legs) absl::StrAppend(&words, " ", std::string(1, leg), " 0");
    return words + features_;
  }
  std::string health() {
    const std::string status = Status();
    const size_t one = status.find(" 1 ");
    return status.substr(one + 3, status.find(' ', one + 3) - one - 3);
  }
  bool in_sync() {
    return Status().find(absl::StrCat(" ", kRegions_, "/", kRegions_, " ")) != std::string::npos;
  }

  Task<void> RunLane(uint64_t lane, uint64_t seed, std::atomic<uint64_t>& running) {
    Random random(seed);
    std::vector<std::byte> bytes(kSectorBytes);
    for (uint64_t i = 0; i < kOps; ++i) {
      const uint64_t sector = random.Below(kLength / kLanes) * kLanes + lane;
      const uint64_t kind = random.Below(20);
      if (kind == 0) {
        const IoStatus ignored = co_await device_->Submit(IoRequest::Flush());
        static_cast<void>(ignored);  // a flush that fails promises nothing
      } else if (kind < 9) {
        const IoStatus status = co_await device_->Submit(IoRequest::Read(Sector(sector), bytes));
        if (status != IoStatus::kOk) continue;
        uint64_t value = 0;
        std::memcpy(&value, bytes.data(), sizeof value);
        EXPECT_TRUE(model_.MayBe(sector, value)) << "sector " << sector << " reads " << value;
      } else {
        const bool zeroes = kind == 9;
        const uint64_t value = zeroes ? 0 : (lane + 1) << 32 | ++writes_[lane];
        std::memcpy(bytes.data(), &value, sizeof value);
        const IoRequest write = zeroes ? IoRequest::WriteZeroes(Sector(sector), SectorCount(1))
                                       : IoRequest::Write(Sector(sector), bytes, random.OneIn(8));
        const IoStatus status = co_await device_->Submit(write);
        model_.Wrote(sector, value, status == IoStatus::kOk);
      }
      if (random.OneIn(4)) co_await Pause();
    }
    --running;
  }
  static Task<void> Pause() { co_await Reactor::Current().Sleep(std::chrono::microseconds(50)); }

  // Some writes, reads and flushes of some legs fail for a while.
  void Break(Random& random, const std::string& legs) {
    for (char leg : legs) {
      LegDisk& disk_of = disk(std::string(1, leg));
      const uint64_t first = random.Below(kLength);
      disk_of.Fail({.op = IoOp::kWrite,
                    .first = Sector(first),
                    .end = Sector(first + 1 + random.Below(4096)),
                    .times = 1 + random.Below(20)});
      if (random.OneIn(3)) disk_of.Fail({.op = IoOp::kFlush, .times = 1});
      if (random.OneIn(3)) disk_of.Fail({.op = IoOp::kRead, .times = 1 + random.Below(5)});
    }
    // Once each has had an error, it is what they hold that decides whom to read.
    for (const char* name : {"a", "b", "c"}) {
      if (random.OneIn(2)) disk(name).Fail({.op = IoOp::kRead, .times = 1});
    }
  }

  // What an administrator, or the daemon by itself, does while the lanes run. `safe` holds every
  // acknowledged write.
  void Interfere(Random& random, char safe) {
    const bool holds = features_ == " 1 handle_errors";
    const std::string letters = health();
    const bool failed = letters.find_first_of("DF") != std::string::npos;
    if (holds && failed) {
      // The failed legs go, and held writes to the new table. Or they are given up.
      std::string legs(1, safe);
      if (random.OneIn(4)) {
        ASSERT_EQ(device_->Suspend(SuspendMode::kFlush), absl::OkStatus());
      }
      legs += safe == 'a' ? 'c' : 'a';
      for (const char* name : {"a", "b", "c"}) disk(name).Heal();
      Use(Words(legs, false), SuspendMode::kNoFlush);
      return;
    }
    switch (random.Below(4)) {
      case 0:
        ASSERT_EQ(device_->Suspend(random.OneIn(2) ? SuspendMode::kFlush : SuspendMode::kNoFlush),
                  absl::OkStatus());
        ASSERT_EQ(device_->Resume(), absl::OkStatus());
        break;
      case 1:
        ASSERT_TRUE(
            device_->table(TableSlot::kLive)
                ->Message(Sector(0), random.OneIn(2) ? "recovery_rate 0" : "recovery_rate 50000000")
                .ok());
        break;
      default:
        break;
    }
  }

  void RunRound(Random& random) {
    disk_log_ = random.OneIn(2);
    constexpr const char* kFeatures[] = {"", " 1 handle_errors", " 2 handle_errors keep_log"};
    features_ = kFeatures[random.Below(3)];
    // All legs are equal. The primary fails, or the others do, never both.
    Use(Words("abc", random.OneIn(2)));
    const bool primary_fails = random.OneIn(3);
    // Until it is in sync, nobody but the primary has all the data.
    if (primary_fails) WaitUntil([&] { return in_sync(); });
    const char safe = primary_fails ? 'b' : 'a';
    std::atomic<uint64_t> running{kLanes};
    for (uint64_t lane = 0; lane < kLanes; ++lane) {
      (*reactors_)[static_cast<int>(lane % 2)].Spawn(RunLane(lane, random.generator()(), running));
    }
    Break(random, primary_fails ? "a" : random.OneIn(2) ? "b" : "bc");
    while (running.load() != 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      Interfere(random, safe);
    }
    for (const char* name : {"a", "b", "c"}) disk(name).Heal();
    // The good leg first, as after a crash.
    std::string legs = safe == 'a' ? "abc" : "bac";
    Use(Words(legs, false));
    WaitUntil([&] { return in_sync(); });
    EXPECT_EQ(health(), "AAA");
    EXPECT_TRUE(Same("a", "b"));
    EXPECT_TRUE(Same("a", "c"));
    for (uint64_t sector = 0; sector < kLength; ++sector) {
      uint64_t value = 0;
      std::memcpy(&value, disk("a").bytes().data() + sector * kSectorBytes, sizeof value);
      ASSERT_TRUE(model_.MayBe(sector, value)) << "sector " << sector << " holds " << value;
    }
  }

  const uint64_t kRegions_ = kLength / kRegionSize;
  bool disk_log_ = false;
  std::string features_;
  Model model_{kLength};
  uint64_t writes_[kLanes] = {};
};

TEST_F(MirrorModelTest, ReadsGiveWhatWasWrittenWhateverFails) {
  Random random;
  for (const char* name : {"a", "b", "c"}) disk(name).SuspendEveryRequest();
  for (int round = 0; round < kRounds; ++round) {
    RunRound(random);
    if (HasFailure()) FAIL() << "round " << round << ", seed " << random.seed();
  }
}

}  // namespace
}  // namespace sectormap::targets
