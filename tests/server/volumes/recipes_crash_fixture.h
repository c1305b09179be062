// SPDX-License-Identifier: Apache-2.0
// RecipesCrashTest: a recipe runs on a CrashMachine whose devices are written to; then the power
// fails after any event, a new machine starts from what is left, the recipe goes on there, and the
// devices have to read as their histories allow.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/async/reactor.h"
#include "tests/server/volumes/crash_machine.h"
#include "tests/support/slow_build.h"
#include "tests/support/test_directory.h"
#include "tests/targets/write_history.h"

namespace sectormap::volumes {

inline constexpr int kStates = kSlowBuild ? 120 : 400;

inline constexpr uint64_t kVolume = 251;  // sectors; no multiple of a chunk or a region
inline constexpr uint64_t kLanes = 6;
inline constexpr uint64_t kBlock = 8;  // sectors; a block is written by one lane only
inline constexpr uint64_t kTurnsMax = 3;
inline constexpr int64_t kRequestsBefore = 30;   // the recipe begins when the lanes have taken them
inline constexpr int64_t kRequestsPerStep = 30;  // after each change of the journal
inline constexpr int64_t kRequestsAfter = 60;    // its end
inline constexpr uint64_t kNear = 8;             // events

// How many requests the lanes may still send: a recipe that waits for its disks or its store is not
// drowned in events of the workload.
class Allowance {
 public:
  void Add(int64_t requests) { left_ += requests; }
  bool Take() {
    for (int64_t left = left_; left > 0;) {
      if (left_.compare_exchange_weak(left, left - 1)) return true;
    }
    return false;
  }
  bool used_up() const { return left_ <= 0; }
  void End() { over_ = true; }
  bool over() const { return over_; }

 private:
  std::atomic<int64_t> left_{0};
  std::atomic<bool> over_{false};
};

struct UsedDevice {
  std::shared_ptr<MappedDevice> device;
  targets::WriteHistory* history;
};

inline Task<void> RunLane(const std::vector<UsedDevice>& devices, uint64_t lane, uint64_t seed,
                          Allowance& allowance, std::atomic<uint64_t>& running) {
  Random random(seed);
  // Who flushes seldom leaves it to the recipe.
  const uint64_t flushes_one_in = random.Between(4, 40);
  const uint64_t forces_one_in = random.Between(4, 40);
  while (!allowance.over()) {
    if (!allowance.Take()) {
      co_await Reactor::Current().Sleep(nanoseconds(1));  // a tick
      continue;
    }
    const UsedDevice& use = devices[random.Below(devices.size())];
    if (random.OneIn(flushes_one_in)) {
      co_await use.history->Flush(*use.device);
      continue;
    }
    const uint64_t blocks = (use.history->size() + kBlock - 1) / kBlock;
    const uint64_t mine = (blocks - lane + kLanes - 1) / kLanes;
    // Some blocks again and again, others seldom: there are first writes from begin to end.
    const uint64_t block = random.OneIn(4) ? random.Below(mine) : 0;
    const uint64_t start = (block * kLanes + lane) * kBlock;
    const uint64_t size = std::min(kBlock, use.history->size() - start);
    const uint64_t first = random.Below(size);
    co_await use.history->Write(*use.device, start + first, random.Between(1, size - first),
                                random.OneIn(forces_one_in));
  }
  --running;
}

class RecipesCrashTest : public testing::Test {
 protected:
  using Views = std::map<std::string, std::vector<std::byte>>;
  using Judge = std::function<std::string(const std::string& device,
                                          const std::vector<std::byte>& view, bool switched)>;

  RecipesCrashTest()
      : machine_(reactors_, random_.seed(), {}, *state::OpenSqliteStore(directory_ / "state")) {
    machine_.RestoreDevices();
    machine_.ResumeOperations();
  }

  // --- Before ---

  void MakeDevice(const std::string& name, const std::string& table) {
    const auto made = machine_.service().catalog().Create({.name = name, .table = table});
    ASSERT_TRUE(made.ok()) << made.status();
    Scribble(name, 1);
  }
  void MakeVolume(const std::string& name) {
    machine_.AddDisk(absl::StrCat("/", name), kVolume);
    MakeDevice(name, absl::StrCat("0 ", kVolume, " linear /", name, " 0\n"));
  }
  // Writes here and there; with `parts` 1 everywhere.
  void Scribble(const std::string& name, uint64_t parts) {
    const uint64_t size = machine_.registry().Find(name)->size().value() / parts;
    std::vector<std::byte> bytes(std::max<uint64_t>(1, parts == 1 ? size : size / 8) *
                                 kSectorBytes);
    for (uint64_t part = 0; part < parts; ++part) {
      random_.Fill(bytes);
      const uint64_t first = part * size + random_.Below(size - bytes.size() / kSectorBytes + 1);
      ASSERT_EQ(machine_.Write(name, first, bytes), IoStatus::kOk);
    }
  }
  absl::Status TakeSnapshots(const std::vector<CreateSnapshots::Entry>& entries) {
    return machine_.service()
        .snapshots()
        .Create({.entries = entries, .chunk_sectors = chunk_, .never_grow = true})
        .status();
  }
  // s1, the oldest, to s3 of a volume, with writes to it and to them in between.
  void MakeChain(const std::string& volume = "vol") {
    MakeVolume(volume);
    for (const char* name : {"s1", "s2", "s3"}) {
      ASSERT_EQ(TakeSnapshots({{.name = name, .device = volume}}), absl::OkStatus());
      Scribble(volume, 3);
      Scribble(name, 5);
    }
  }
  // From now on it is looked at, and, if `written`, written to.
  void Watch(const std::string& name, bool written) {
    machine_.Flush(name);
    auto history = std::make_unique<targets::WriteHistory>(machine_.recorder(), machine_.View(name),
                                                           (histories_.size() + 1) << 32);
    if (written) in_use_.push_back({machine_.registry().Find(name), history.get()});
    histories_[name] = std::move(history);
  }

  // --- The run that crashes ---

  // `recipe` runs to its end, while the devices in use are written to.
  void Record(const std::function<void()>& recipe) {
    files_before_ = machine_.Files();
    tables_before_ = machine_.Tables();
    Allowance allowance;
    std::atomic<uint64_t> running{kLanes};
    machine_.journal().Watch([&](const Durable& now) {
      allowance.Add(kRequestsPerStep);
      if (at_change_) at_change_(now);
    });
    machine_.recorder().SetDelay(kTurnsMax);
    start_ = machine_.recorder().now();
    allowance.Add(kRequestsBefore);
    for (uint64_t lane = 0; lane < kLanes; ++lane) {
      machine_.reactors()[static_cast<int>(lane % 2)].Spawn(
          RunLane(in_use_, lane, random_.generator()(), allowance, running));
    }
    while (!allowance.used_up()) absl::SleepFor(absl::Milliseconds(1));
    recipe();
    allowance.Add(kRequestsAfter);
    while (!allowance.used_up()) absl::SleepFor(absl::Milliseconds(1));
    allowance.End();
    while (running != 0) absl::SleepFor(absl::Milliseconds(1));
    machine_.journal().Watch(nullptr);
    end_ = machine_.recorder().now();
    machine_.recorder().SetDelay(0);
    files_after_ = machine_.Files();
    tables_after_ = machine_.Tables();
  }
  void RecordOperation(const std::function<absl::StatusOr<OperationInfo>()>& start) {
    Record([&] {
      const absl::StatusOr<OperationInfo> started = start();
      ASSERT_TRUE(started.ok()) << started.status();
      const OperationInfo ended = machine_.WaitFor(started->id);
      EXPECT_EQ(NameOf(ended.state), NameOf(ends_as_)) << ended.error;
    });
  }

  // --- After the crash ---

  // The first and the last moment; of the others half near a change of the journal.
  std::vector<uint64_t> CrashPoints() {
    std::vector<Journal::Entry> changes = machine_.journal().entries();
    std::erase_if(changes, [this](const Journal::Entry& entry) { return entry.end < start_; });
    std::vector<uint64_t> points = {start_, end_};
    for (int i = 2; i < kStates; ++i) {
      if (i % 2 == 0 && !changes.empty()) {
        const Journal::Entry& near = changes[random_.Below(changes.size())];
        const uint64_t point = random_.Between(near.begin, near.end + 2 * kNear);
        points.push_back(std::clamp(point - std::min(point, kNear), start_, end_));
      } else {
        points.push_back(random_.Between(start_, end_));
      }
    }
    std::ranges::sort(points);
    return points;
  }

  void CrashEverywhere() {
    for (const auto& [name, history] : histories_) {
      if (!machine_.Has(name)) continue;
      EXPECT_EQ(history->Problem(machine_.View(name), end_, name == becomes_it_), "") << name;
    }
    if (HasFailure()) return;
    CrashCursor cursor(machine_.recorder());
    for (const uint64_t point : CrashPoints()) {
      cursor.MoveTo(point);
      const Left left = machine_.Sample(cursor, point, random_);
      CheckStart(left, /*again=*/false, [&](const auto& name, const auto& view, bool switched) {
        return histories_.at(name)->Problem(view, point, switched && name == becomes_it_);
      });
      if (HasFailure()) {
        FAIL() << "after " << point << " events (" << start_ << " to " << end_ << "), seed "
               << random_.seed();
      }
    }
    // Points before the change that counts, and after it.
    EXPECT_GT(states_begun_, kStates / 20);
    EXPECT_LT(states_begun_, kStates);
    if (!begun_) EXPECT_GT(states_resumed_, kStates / 20);
  }

  bool Begun(const Left& left) const {
    if (begun_) return begun_(left.durable);
    return !left.durable.contents.operations.empty();
  }

  void CheckStart(const Left& left, bool again, const Judge& problem) {
    const bool begun = Begun(left);
    CrashMachine after(reactors_after_, random_.generator()(), left);
    after.recorder().SetDelay(again ? 0 : random_.Below(3));
    after.RestoreDevices();
    const bool switched = !goes_.empty() && !after.Has(goes_);
    Views views;
    for (const auto& [name, history] : histories_) {
      if (name == goes_ && switched) continue;
      if (appears_.contains(name) && !begun) {
        EXPECT_FALSE(after.Has(name));
        continue;
      }
      views[name] = after.View(name);
      EXPECT_EQ(problem(name, views[name], switched), "") << name;
    }
    const Views at_start = views;
    after.ResumeOperations();
    const bool rolls_back = begun && !switched && !becomes_it_.empty();
    const bool written = random_.OneIn(2);
    if (written) Overwrite(after, rolls_back, views);
    for (const OperationInfo& info : after.WaitForAll()) {
      EXPECT_TRUE(info.state == ends_as_ || info.state == OperationState::kDone)
          << NameOf(info.state) << ": " << info.error;
    }
    if (!again) CountState(left, begun);
    if (rolls_back) views[becomes_it_] = views.at(goes_);
    for (const auto& [name, view] : views) {
      if (name == goes_ && begun) {
        EXPECT_FALSE(after.Has(name));
      } else {
        EXPECT_TRUE(after.View(name) == view) << name << " has changed";
      }
    }
    if (at_end_) at_end_(after, left, begun);
    if (!ends_variously_) {
      EXPECT_EQ(after.Tables(), begun ? tables_after_ : tables_before_);
      EXPECT_EQ(after.Files(), begun ? files_after_ : files_before_);
    }
    if (HasFailure() || again || written || !random_.OneIn(3)) return;
    CrashAgain(after, at_start);
  }

  void CountState(const Left& left, bool begun) {
    states_begun_ += begun;
    for (const state::OperationRecord& record : left.durable.contents.operations) {
      states_resumed_ += record.state == NameOf(OperationState::kRunning);
    }
  }

  // What the first start brought is on the disks: nothing may change any more.
  void CrashAgain(CrashMachine& machine, const Views& views) {
    // A mirror may still tidy its log: there are more events than a moment ago.
    const uint64_t point = random_.Between(0, machine.recorder().now());
    CrashCursor cursor(machine.recorder());
    cursor.MoveTo(point);
    CheckStart(machine.Sample(cursor, point, random_), /*again=*/true,
               [&](const std::string& name, const std::vector<std::byte>& view, bool switched) {
                 const bool merged = switched && name == becomes_it_ && views.contains(goes_);
                 return view == views.at(merged ? goes_ : name) ? "" : "it differs from before";
               });
    if (HasFailure()) FAIL() << "in the second crash, after " << point << " events";
  }

  // A cancel that was heard counts after a crash, too.
  static void ExpectCancelled(CrashMachine& after, const Left& left) {
    const state::OperationRecord& record = left.durable.contents.operations.back();
    if (!record.cancelled) return;
    EXPECT_EQ(after.WaitFor(record.id).state, OperationState::kCancelled);
  }

  // Somebody writes while the operation goes on; not what a rollback is about to throw away.
  void Overwrite(CrashMachine& after, bool rolls_back, Views& views) {
    for (int i = 0; i < 4; ++i) {
      for (auto& [name, view] : views) {
        if (name == goes_ || (rolls_back && name == becomes_it_)) continue;
        const uint64_t sectors = view.size() / kSectorBytes;
        const uint64_t first = random_.Below(sectors);
        const uint64_t count = random_.Between(1, std::min(kBlock, sectors - first));
        std::vector<std::byte> bytes(count * kSectorBytes);
        random_.Fill(bytes);
        EXPECT_EQ(after.Write(name, first, bytes), IoStatus::kOk) << name;
        std::ranges::copy(bytes, view.begin() + static_cast<ptrdiff_t>(first * kSectorBytes));
      }
    }
  }

  Random random_;
  TestDirectory directory_{"/tmp"};
  QuickReactors reactors_{2};
  QuickReactors reactors_after_{1};
  CrashMachine machine_;
  const uint64_t chunk_ = uint64_t{1} << random_.Between(1, 4);
  std::map<std::string, std::unique_ptr<targets::WriteHistory>> histories_;
  std::vector<UsedDevice> in_use_;
  uint64_t start_ = 0, end_ = 0;
  std::vector<std::string> files_before_, files_after_;
  std::map<std::string, std::string> tables_before_, tables_after_;
  int states_begun_ = 0, states_resumed_ = 0;

  // --- What a case says of itself ---
  OperationState ends_as_ = OperationState::kDone;
  std::string goes_;               // a snapshot that the recipe takes away
  std::string becomes_it_;         // the device that is rolled back to it
  std::set<std::string> appears_;  // snapshots that it makes
  bool ends_variously_ = false;    // not only with the tables of a run that nothing interrupts
  std::function<bool(const Durable&)> begun_;  // if not by an operation
  std::function<void(const Durable&)> at_change_;
  std::function<void(CrashMachine& after, const Left& left, bool begun)> at_end_;
};

}  // namespace sectormap::volumes
