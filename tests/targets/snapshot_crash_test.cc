// SPDX-License-Identifier: Apache-2.0
// The power fails. Whatever it leaves: a snapshot that opens as valid reads as at its instant, with
// every flushed write to it; the origin has every flushed write; a merge or the removal of a
// snapshot of a chain goes on with unchanged views.
#include <functional>
#include <thread>

#include "absl/strings/str_split.h"

#include "tests/support/crash_disk.h"
#include "tests/support/slow_build.h"
#include "tests/targets/snapshot_fixture.h"
#include "tests/targets/write_history.h"

namespace sectormap::targets {
namespace {

// Not a multiple of any chunk size used.
constexpr uint64_t kOrigin = 1003;
constexpr uint64_t kStore = 1280;

constexpr int kStates = kSlowBuild ? 60 : 700;

class SnapshotCrashTest : public testing::Test {
 protected:
  SnapshotCrashTest() {
    origin_ = recorder_.AddDisk(SectorCount(kOrigin));
    origin_->Preset(Pattern("ORG", Sector(0), SectorCount(kOrigin)));
    host_.Add("/o", origin_);
  }

  std::shared_ptr<CrashDisk> AddStore(const std::string& path, uint64_t sectors) {
    std::shared_ptr<CrashDisk> store = recorder_.AddDisk(SectorCount(sectors));
    host_.Add(path, store);
    return store;
  }

  std::unique_ptr<WriteHistory> HistoryOf(const std::string& name) {
    return std::make_unique<WriteHistory>(recorder_, host_.ReadAll(name));
  }
  DeviceInUse Use(const std::string& name, WriteHistory& history) {
    return {host_.registry().Find(name).get(), &history};
  }

  // Many writers at the same time, on two reactors.
  void Work(const std::vector<DeviceInUse>& devices, int requests, uint64_t lanes = 16) {
    recorder_.SetDelay(6);
    const uint64_t seed = random_.generator()();
    std::thread other(
        [&] { host_.reactors().RunOn(1, UseLanes(devices, 1, 2, lanes, requests, seed)); });
    host_.reactors().RunOn(0, UseLanes(devices, 0, 2, lanes, requests, seed));
    other.join();
    recorder_.SetDelay(0);
  }

  // `check` sees `states` states that a loss of power between `start` and now may leave.
  void ForStates(uint64_t start, int states,
                 const std::function<void(const CrashState&, uint64_t point)>& check) {
    std::vector<uint64_t> points;
    const uint64_t end = recorder_.now();
    for (int i = 0; i < states; ++i) points.push_back(random_.Between(start, end));
    std::ranges::sort(points);
    CrashCursor cursor(recorder_);
    for (uint64_t point : points) {
      cursor.MoveTo(point);
      check(cursor.Sample(random_), point);
      if (HasFailure()) FAIL() << "after " << point << " of " << end << " events";
    }
  }

  // The machine after the crash.
  void Reopen(const CrashState& state, const std::vector<std::string>& paths) {
    for (size_t i = 0; i < paths.size(); ++i) after_.AddMemory(paths[i], state[i]);
  }

  Random random_;
  CrashRecorder recorder_{random_.seed()};
  SnapshotHost host_;
  SnapshotHost after_{1};
  std::shared_ptr<CrashDisk> origin_;
};

TEST_F(SnapshotCrashTest, EveryStateOfASmallRunIsRight) {
  AddStore("/c", 64);
  host_.Make("s", "0 1003 snapshot /o /c P 1");
  host_.Make("o", "0 1003 snapshot-origin /o");
  const uint64_t start = recorder_.now();
  const auto origin = HistoryOf("o");
  const auto snapshot = HistoryOf("s");
  auto run = [](DeviceInUse o, DeviceInUse s) -> Task<void> {
    co_await o.history->Write(*o.device, 5, 2, false);
    co_await s.history->Write(*s.device, 6, 2, false);
    co_await o.history->Write(*o.device, 5, 1, true);
    co_await s.history->Flush(*s.device);
    co_await o.history->Write(*o.device, 1001, 2, false);
    co_await s.history->Write(*s.device, 1002, 1, true);
  };
  host_.reactors().RunOn(0, run(Use("o", *origin), Use("s", *snapshot)));
  CrashCursor cursor(recorder_);
  int states = 0;
  for (uint64_t point = start; point <= recorder_.now(); ++point) {
    cursor.MoveTo(point);
    ASSERT_TRUE(cursor.VisitAll(4096, [&](const CrashState& state) {
      ++states;
      EXPECT_EQ(origin->Problem(state[0], point), "");
      Reopen(state, {"/o", "/c"});
      after_.Make("s", "0 1003 snapshot /o /c P 1");
      EXPECT_EQ(snapshot->Problem(after_.ReadAll("s"), point), "");
      after_.Remove("s");
    }));
    ASSERT_FALSE(HasFailure()) << "after " << point << " events";
  }
  EXPECT_GT(states, 50);
}

TEST_F(SnapshotCrashTest, ANewStoreIsNewOrWhole) {
  const auto store = AddStore("/c", 64);
  std::vector<std::byte> garbage(64 * kSectorBytes, std::byte{0x11});
  std::fill_n(garbage.begin(), 4, std::byte{0});
  store->Preset(garbage);
  host_.Make("s", "0 1003 snapshot /o /c P 2");
  CrashCursor cursor(recorder_);
  for (uint64_t point = 0; point <= recorder_.now(); ++point) {
    cursor.MoveTo(point);
    ASSERT_TRUE(cursor.VisitAll(100, [&](const CrashState& state) {
      Reopen(state, {"/o", "/c"});
      after_.Make("s", "0 1003 snapshot /o /c P 2");
      EXPECT_EQ(*after_.Message("s", "exceptions 0"), "2 -");
      after_.Remove("s");
    }));
  }
}

class SnapshotCrashChunkTest : public SnapshotCrashTest,
                               public testing::WithParamInterface<uint64_t> {};

TEST_P(SnapshotCrashChunkTest, SnapshotsReadAsAtTheirInstant) {
  AddStore("/c", kStore);
  AddStore("/d", kStore);
  const std::string words = absl::StrCat("P ", GetParam());
  host_.Make("s", absl::StrCat("0 1003 snapshot /o /c ", words));
  host_.Make("o", "0 1003 snapshot-origin /o");
  const auto before = HistoryOf("o");
  const auto first = HistoryOf("s");
  Work({Use("o", *before), Use("s", *first)}, 4);
  const auto origin = HistoryOf("o");
  host_.Suspend("o");
  host_.Make("t", "0 1003 snapshot /o /d P 4");
  host_.Resume("o");
  const uint64_t start = recorder_.now();
  const auto second = HistoryOf("t");
  Work({Use("o", *origin), Use("s", *first), Use("t", *second)}, 12);
  ForStates(start, kStates, [&](const CrashState& state, uint64_t point) {
    EXPECT_EQ(origin->Problem(state[0], point), "");
    Reopen(state, {"/o", "/c", "/d"});
    after_.Make("s", absl::StrCat("0 1003 snapshot /o /c ", words));
    after_.Make("t", "0 1003 snapshot /o /d P 4");
    EXPECT_EQ(first->Problem(after_.ReadAll("s"), point), "");
    EXPECT_EQ(second->Problem(after_.ReadAll("t"), point), "");
    // And it is a good store to go on with.
    if (point % 8 == 0) {
      after_.Make("o", "0 1003 snapshot-origin /o");
      EXPECT_EQ(after_.WritePattern("o", "AFT", 0, kOrigin), IoStatus::kOk);
      after_.Remove("s");
      after_.Make("s", absl::StrCat("0 1003 snapshot /o /c ", words));
      EXPECT_EQ(first->Problem(after_.ReadAll("s"), point), "");
      after_.Remove("o");
    }
    after_.Remove("s");
    after_.Remove("t");
  });
}
INSTANTIATE_TEST_SUITE_P(Chunks, SnapshotCrashChunkTest, testing::Values(1, 8, 16));

// The store overflows while many write: what opens as valid is right all the same.
TEST_F(SnapshotCrashTest, ASnapshotThatWasInvalidatedNeverComesBackWrong) {
  AddStore("/c", 300);
  host_.Make("s", "0 1003 snapshot /o /c P 4");
  host_.Make("o", "0 1003 snapshot-origin /o");
  const uint64_t start = recorder_.now();
  const auto origin = HistoryOf("o");
  const auto snapshot = HistoryOf("s");
  Work({Use("o", *origin)}, 12);
  ASSERT_EQ(host_.Status("s"), "snapshot Invalid");
  int valid = 0;
  int invalid = 0;
  ForStates(start, kStates, [&](const CrashState& state, uint64_t point) {
    EXPECT_EQ(origin->Problem(state[0], point), "");
    Reopen(state, {"/o", "/c"});
    after_.Make("s", "0 1003 snapshot /o /c P 4");
    if (after_.Status("s") == "snapshot Invalid") {
      ++invalid;
    } else {
      ++valid;
      EXPECT_EQ(snapshot->Problem(after_.ReadAll("s"), point), "");
    }
    after_.Remove("s");
  });
  EXPECT_GT(valid, 0);
  EXPECT_GT(invalid, 0);
}

// Another snapshot of the same origin looks on, and the device is in use.
TEST_P(SnapshotCrashChunkTest, AnInterruptedMergeGoesOn) {
  AddStore("/c", kStore);
  AddStore("/d", kStore);
  const std::string words = absl::StrCat("P ", GetParam());
  host_.Make("s", absl::StrCat("0 1003 snapshot /o /c ", words));
  host_.Make("o", "0 1003 snapshot-origin /o");
  const auto before = HistoryOf("o");
  const auto snapshot = HistoryOf("s");
  Work({Use("o", *before), Use("s", *snapshot)}, 10);
  host_.Suspend("o");
  host_.Make("t", "0 1003 snapshot /o /d P 4");
  const auto other = HistoryOf("t");
  ASSERT_EQ(host_.Submit("s", IoRequest::Flush()), IoStatus::kOk);
  const auto merged = HistoryOf("s");
  host_.Remove("s");
  ASSERT_EQ(host_.Load("o", absl::StrCat("0 1003 snapshot-merge /o /c ", words)), absl::OkStatus());
  const uint64_t start = recorder_.now();
  recorder_.SetDelay(3);
  host_.Resume("o");
  Work({Use("o", *merged)}, 3, 8);
  recorder_.SetDelay(1);
  host_.Suspend("o");
  host_.Resume("o");
  const std::string done =
      absl::StrCat("snapshot-merge ", 2 * GetParam(), "/", kStore, " ", 2 * GetParam());
  while (host_.Status("o") != done) host_.Settle();
  EXPECT_EQ(host_.ReadAll("o"), merged->live());
  EXPECT_EQ(other->Problem(host_.ReadAll("t"), recorder_.now()), "");
  ForStates(start, kStates / 2, [&](const CrashState& state, uint64_t point) {
    Reopen(state, {"/o", "/c", "/d"});
    after_.Make("t", "0 1003 snapshot /o /d P 4");
    EXPECT_EQ(other->Problem(after_.ReadAll("t"), point), "");
    after_.Make("o", absl::StrCat("0 1003 snapshot-merge /o /c ", words));
    EXPECT_EQ(merged->Problem(after_.ReadAll("o"), point), "");
    while (after_.Status("o") != done) after_.Settle();
    EXPECT_EQ(merged->Problem(after_.ReadAll("o"), point), "");
    EXPECT_EQ(other->Problem(after_.ReadAll("t"), point), "");
    after_.Remove("o");
    after_.Remove("t");
  });
}

// s1 over s2 over the origin; s2 goes: what only it holds and s1 needs is kept in s1, then s1's
// origin is the origin. docs/formats.md has the sequence.
TEST_F(SnapshotCrashTest, TheRemovalOfASnapshotOfAChainLeavesTheOlderOneAsItIs) {
  AddStore("/c1", kStore);
  AddStore("/c2", kStore);
  host_.Make("s1-real", "0 1003 snapshot /o /c1 P 8");
  host_.Make("o", "0 1003 snapshot-origin /o");
  const auto before = HistoryOf("o");
  const auto s1 = HistoryOf("s1-real");
  Work({Use("o", *before), Use("s1-real", *s1)}, 4);
  // s2 comes between.
  const auto origin = HistoryOf("o");
  host_.Suspend("o");
  host_.Make("s2-real", "0 1003 snapshot /o /c2 P 16");
  host_.Reload("s1-real", "0 1003 snapshot s2-real /c1 P 8");
  host_.Make("s2", "0 1003 snapshot-origin s2-real");
  host_.Resume("o");
  const auto s2 = HistoryOf("s2");
  const uint64_t start = recorder_.now();
  Work({Use("o", *origin), Use("s2", *s2), Use("s1-real", *s1)}, 4);

  auto keep_all = [this] {
    std::string next = "0";
    while (next != "-") {
      const std::string answer = *host_.Message("s2-real", absl::StrCat("exceptions ", next));
      const std::vector<std::string> words = *SplitWords(answer, Comments::kNone);
      next = words[1];
      for (size_t i = 2; i < words.size(); ++i) {
        const std::pair<std::string, std::string> range = absl::StrSplit(words[i], '+');
        // Chunks of 16 sectors are two of 8.
        const uint64_t first = std::stoull(range.first) * 2;
        const uint64_t count = std::stoull(range.second) * 2;
        ASSERT_EQ(host_.Message("s1-real", absl::StrCat("keep ", first, " ", count)).status(),
                  absl::OkStatus());
      }
    }
  };
  recorder_.SetDelay(2);
  std::thread writers([&] { Work({Use("o", *origin), Use("s1-real", *s1)}, 4); });
  keep_all();
  writers.join();
  // What has come in the meantime, with nothing coming any more; then the swap.
  host_.Suspend("o");
  host_.Suspend("s2");
  keep_all();
  const uint64_t kept = recorder_.now();
  host_.Suspend("s1-real");
  host_.Reload("s1-real", "0 1003 snapshot /o /c1 P 8");
  host_.Remove("s2");
  host_.Remove("s2-real");
  host_.Resume("o");
  const uint64_t swapped = recorder_.now();
  Work({Use("o", *origin), Use("s1-real", *s1)}, 4);

  ForStates(start, kStates, [&](const CrashState& state, uint64_t point) {
    EXPECT_EQ(origin->Problem(state[0], point), "");
    Reopen(state, {"/o", "/c1", "/c2"});
    if (point <= swapped) {  // the tables on disk may be the old ones
      after_.Make("s2-real", "0 1003 snapshot /o /c2 P 16");
      after_.Make("s1-real", "0 1003 snapshot s2-real /c1 P 8");
      EXPECT_EQ(s2->Problem(after_.ReadAll("s2-real"), point), "");
      EXPECT_EQ(s1->Problem(after_.ReadAll("s1-real"), point), "");
      after_.Remove("s1-real");
      after_.Remove("s2-real");
    }
    if (point >= kept) {
      after_.Make("s1-real", "0 1003 snapshot /o /c1 P 8");
      EXPECT_EQ(s1->Problem(after_.ReadAll("s1-real"), point), "");
      after_.Remove("s1-real");
    }
  });
}

}  // namespace
}  // namespace sectormap::targets
