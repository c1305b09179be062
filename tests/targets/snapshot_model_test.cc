// SPDX-License-Identifier: Apache-2.0
// Random work on an origin and its snapshots against plain arrays: flat and in a chain, several
// chunk sizes, with suspends, reloads and stores read again in between; one request at a time, and
// many on two reactors.
#include <map>
#include <thread>

#include "core/async/gate.h"
#include "core/async/next_turn.h"
#include "tests/support/crash_disk.h"
#include "tests/support/random.h"
#include "tests/support/slow_build.h"
#include "tests/targets/snapshot_fixture.h"
#include "tests/targets/write_history.h"

namespace sectormap::targets {
namespace {

// Not a multiple of any chunk size used but 1.
constexpr uint64_t kOrigin = 2043;
constexpr uint64_t kStore = 16384;

constexpr int kSteps = kSlowBuild ? 600 : 4000;

// The devices of a model: what each should read as.
class Model {
 public:
  Model(SnapshotHost& host, Random& random) : host_(host), random_(random) {
    std::vector<std::byte> bytes(kOrigin * kSectorBytes);
    random_.Fill(bytes);
    host_.AddMemory("/o", bytes);
    host_.Make("o", Row("snapshot-origin /o"));
    views_["o"] = bytes;
  }

  static std::string Row(std::string_view words) {
    return absl::StrCat("0 ", kOrigin, " ", Absl(words));
  }

  // A snapshot of /o beside the others.
  void TakeFlat() {
    const std::string name = absl::StrCat("f", tables_.size());
    host_.AddMemory("/" + name, kStore);
    host_.Suspend("o");
    const std::string kind = random_.OneIn(4) ? "N" : random_.OneIn(2) ? "P" : "PO";
    Add(name, absl::StrCat("snapshot /o /", name, " ", kind, " ", Chunk()));
    views_[name] = views_["o"];
    host_.Resume("o");
  }

  // A snapshot of /o on which the newest of the chain so far stands from now on.
  void TakeChained() {
    const std::string name = absl::StrCat("c", tables_.size());
    host_.AddMemory("/" + name, kStore);
    host_.Suspend("o");
    Add(name + "-real", absl::StrCat("snapshot /o /", name, " P ", Chunk()));
    if (!newest_.empty()) {
      std::string& older = tables_[newest_ + "-real"];
      older.replace(older.find("/o"), 2, name + "-real");
      host_.Suspend(newest_);
      host_.Reload(newest_ + "-real", older);
      host_.Resume(newest_);
    }
    host_.Make(name, Row(absl::StrCat("snapshot-origin ", name, "-real")));
    views_[name] = views_["o"];
    newest_ = name;
    host_.Resume("o");
  }

  void Step() {
    const std::string name = AnyDevice();
    std::vector<std::byte>& view = views_[name];
    const uint64_t first = random_.OneIn(10) ? 0 : random_.Below(kOrigin);
    const uint64_t longest =
        random_.OneIn(6) ? kOrigin - first : std::min<uint64_t>(kOrigin - first, 40);
    const uint64_t count = random_.Between(1, longest);
    const auto place = view.begin() + static_cast<ptrdiff_t>(first * kSectorBytes);
    switch (random_.Below(20)) {
      case 0:
        Disturb();
        return;
      case 1:
        EXPECT_EQ(host_.Submit(name, IoRequest::Flush()), IoStatus::kOk);
        return;
      case 2:
        if (name != "o") return;
        EXPECT_EQ(
            host_.Submit(name, random_.OneIn(2)
                                   ? IoRequest::Discard(Sector(first), SectorCount(count))
                                   : IoRequest::WriteZeroes(Sector(first), SectorCount(count))),
            IoStatus::kOk);
        std::fill_n(place, count * kSectorBytes, std::byte{0});
        return;
      case 3:
      case 4:
      case 5:
      case 6:
      case 7:
      case 8:
      case 9:
      case 10: {
        std::vector<std::byte> bytes(count * kSectorBytes);
        random_.Fill(bytes);
        std::ranges::copy(bytes, place);
        if (random_.OneIn(2) && host_.WriteAtOnce(name, first, bytes)) return;
        ASSERT_EQ(host_.Write(name, first, bytes, random_.OneIn(10)), IoStatus::kOk) << name;
        return;
      }
      default:
        ASSERT_TRUE(std::ranges::equal(host_.Read(name, first, count),
                                       std::span(&*place, count * kSectorBytes)))
            << name << ", " << count << " sectors at " << first;
    }
  }

  void ExpectAll() {
    for (const auto& [name, view] : views_) EXPECT_TRUE(host_.ReadAll(name) == view) << name;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, view] : views_) names.push_back(name);
    return names;
  }

  // A suspend and resume, or a reload, while others write.
  void DisturbGently() {
    auto chosen = tables_.begin();
    std::advance(chosen, random_.Below(tables_.size()));
    if (random_.OneIn(2)) {
      host_.Suspend(chosen->first);
      host_.Resume(chosen->first);
    } else {
      host_.Reload(chosen->first, chosen->second);
    }
  }

  // A reload, a suspend and resume, or a store that is closed and read again.
  void Disturb() {
    if (tables_.empty()) return;
    auto chosen = tables_.begin();
    std::advance(chosen, random_.Below(tables_.size()));
    const auto& [name, table] = *chosen;
    const bool persistent = table.find(" N ") == std::string::npos;
    switch (random_.Below(3)) {
      case 0:
        host_.Suspend(name);
        host_.Resume(name);
        return;
      case 1:
        host_.Reload(name, table);
        return;
      default:
        if (name.ends_with("-real") || !persistent) return;
        host_.Suspend("o");
        host_.Remove(name);
        host_.Make(name, table);
        host_.Resume("o");
    }
  }

 private:
  std::string AnyDevice() {
    auto chosen = views_.begin();
    std::advance(chosen, random_.Below(views_.size()));
    return random_.OneIn(3) ? "o" : chosen->first;
  }
  uint64_t Chunk() { return uint64_t{1} << random_.Below(7); }
  void Add(const std::string& name, const std::string& words) {
    tables_[name] = Row(words);
    host_.Make(name, tables_[name]);
  }

  SnapshotHost& host_;
  Random& random_;
  std::map<std::string, std::vector<std::byte>> views_;
  std::map<std::string, std::string> tables_;  // of snapshot rows
  std::string newest_;
};

// The chain's devices stand on one another the other way round than they were made.
void RemoveAll(SnapshotHost& host) {
  bool removed = true;
  while (removed) {
    removed = false;
    for (const DeviceInfo& info : host.registry().List()) {
      removed = host.registry().Remove(info.name, {}).ok() || removed;
    }
  }
  EXPECT_TRUE(host.registry().List().empty());
}

class SnapshotModelTest : public SnapshotFixture {
 protected:
  void TearDown() override { RemoveAll(host_); }
  Random random_;
};

TEST_F(SnapshotModelTest, SnapshotsBesideOneAnother) {
  Model model(host_, random_);
  for (int i = 0; i < kSteps && !HasFailure(); ++i) {
    if (i % (kSteps / 5) == 20) model.TakeFlat();
    model.Step();
  }
  model.ExpectAll();
}

TEST_F(SnapshotModelTest, SnapshotsInAChain) {
  Model model(host_, random_);
  for (int i = 0; i < kSteps && !HasFailure(); ++i) {
    if (i % (kSteps / 5) == 20) model.TakeChained();
    model.Step();
  }
  model.ExpectAll();
}

TEST_F(SnapshotModelTest, BothAtTheSameTime) {
  Model model(host_, random_);
  for (int i = 0; i < kSteps && !HasFailure(); ++i) {
    if (i % (kSteps / 3) == 20) model.TakeChained();
    if (i % (kSteps / 3) == 90) model.TakeFlat();
    model.Step();
  }
  model.ExpectAll();
}

TEST_F(SnapshotModelTest, AWriteToTheOriginCopiesOnceHoweverLongTheChainIs) {
  Model model(host_, random_);
  for (int i = 0; i < 8; ++i) model.TakeChained();
  ASSERT_EQ(host_.WritePattern("o", "NEW", 0, 64), IoStatus::kOk);
  int copies = 0;
  for (const DeviceInfo& info : host_.registry().List()) {
    if (!info.name.ends_with("-real")) continue;
    copies += *host_.Message(info.name, "exceptions 0") !=
              absl::StrCat(SplitWords(host_.Table(info.name), Comments::kNone)->at(4), " -");
  }
  EXPECT_EQ(copies, 1);
}

TEST_F(SnapshotModelTest, AChainOf64) {
  Model model(host_, random_);
  for (int i = 0; i < 64; ++i) {
    model.TakeChained();
    for (int step = 0; step < 4; ++step) model.Step();
  }
  for (int step = 0; step < kSteps / 4 && !HasFailure(); ++step) model.Step();
  model.ExpectAll();
}

// Many writers, each of its own regions, on both reactors; suspends and reloads in between.
class SnapshotConcurrencyTest : public SnapshotModelTest {
 protected:
  void Work(Model& model, int requests) {
    std::vector<std::unique_ptr<WriteHistory>> histories;
    std::vector<DeviceInUse> devices;
    for (const std::string& name : model.names()) {
      histories.push_back(std::make_unique<WriteHistory>(clock_, host_.ReadAll(name)));
      devices.push_back({host_.registry().Find(name).get(), histories.back().get()});
    }
    const uint64_t seed = random_.generator()();
    std::atomic<int> left{2};
    auto run = [&](int reactor) {
      host_.reactors().RunOn(reactor, UseLanes(devices, reactor, 2, 24, requests, seed));
      --left;
    };
    std::thread a(run, 0);
    std::thread b(run, 1);
    while (left > 0) model.DisturbGently();
    a.join();
    b.join();
    for (size_t i = 0; i < devices.size(); ++i) {
      EXPECT_TRUE(host_.ReadAll(model.names()[i]) == histories[i]->live()) << model.names()[i];
    }
  }
  CrashRecorder clock_{1};  // for the histories' times only
};

TEST_F(SnapshotConcurrencyTest, SnapshotsBesideOneAnother) {
  Model model(host_, random_);
  for (int i = 0; i < 4; ++i) {
    model.TakeFlat();
    Work(model, kSteps / 60);
  }
}

TEST_F(SnapshotConcurrencyTest, SnapshotsInAChain) {
  Model model(host_, random_);
  for (int i = 0; i < 4; ++i) {
    model.TakeChained();
    Work(model, kSteps / 60);
  }
}

// What somebody expects to read of a snapshot, whatever happens to its origin.
struct Watched {
  BlockDevice* device;
  const std::vector<std::byte>* image;
};

Task<void> Watch(std::vector<Watched> snapshots, int requests, uint64_t seed, Gate& gate) {
  Random random(seed);
  for (int i = 0; i < requests; ++i) {
    const auto& [device, image] = snapshots[random.Below(snapshots.size())];
    const uint64_t first = random.Below(kOrigin);
    const uint64_t longest = random.OneIn(20) ? kOrigin : random.OneIn(2) ? 8 : 100;
    const uint64_t count = random.Between(1, std::min(longest, kOrigin - first));
    std::vector<std::byte> found(count * kSectorBytes);
    EXPECT_EQ(co_await device->Submit(IoRequest::Read(Sector(first), found)), IoStatus::kOk);
    const auto expected = image->begin() + static_cast<ptrdiff_t>(first * kSectorBytes);
    EXPECT_TRUE(std::equal(found.begin(), found.end(), expected))
        << count << " sectors at " << first;
    co_await NextTurn();
  }
  gate.Leave();
}

// Origins that answer at once, as files do: reads and writes of both reactors meet commits, and a
// merge. The bits of what was merged are used again, since the store is open all the time.
class SnapshotMergeConcurrencyTest : public SnapshotConcurrencyTest {
 protected:
  Task<void> UseAll(int reactor, DeviceInUse origin, std::vector<Watched> snapshots,
                    uint64_t seed) {
    constexpr int kRequests = kSteps / 20;
    Gate watchers;
    for (uint64_t i = 0; i < 4; ++i) {
      CHECK(watchers.TryEnter());
      Detach(Watch(snapshots, kRequests, seed + 8 * i + static_cast<uint64_t>(reactor), watchers));
    }
    const auto first = static_cast<uint64_t>(reactor);
    co_await UseLanes({origin}, first, 2, 24, kRequests, seed);
    watchers.Close();
    co_await watchers.Drained();
  }

  void UseOnBoth(std::vector<std::string> names) {
    WriteHistory history(clock_, host_.ReadAll("o"));
    std::vector<std::vector<std::byte>> images(names.size());
    std::vector<Watched> watched;
    for (size_t i = 0; i < names.size(); ++i) {
      images[i] = host_.ReadAll(names[i]);
      watched.push_back({host_.registry().Find(names[i]).get(), &images[i]});
    }
    const DeviceInUse origin{host_.registry().Find("o").get(), &history};
    const uint64_t seed = random_.generator()();
    auto run = [&](int reactor) {
      host_.reactors().RunOn(reactor, UseAll(reactor, origin, watched, seed));
    };
    std::thread other(run, 1);
    run(0);
    other.join();
    EXPECT_TRUE(host_.ReadAll("o") == history.live());
    for (size_t i = 0; i < names.size(); ++i) EXPECT_TRUE(host_.ReadAll(names[i]) == images[i]);
  }
};

TEST_F(SnapshotMergeConcurrencyTest, ReadsAndRewritesMeetCommitsAndMerges) {
  std::vector<std::byte> bytes(kOrigin * kSectorBytes);
  random_.Fill(bytes);
  host_.AddMemory("/o", bytes);
  host_.AddMemory("/a", kStore);
  host_.AddMemory("/b", kStore);
  const std::string origin_row = Model::Row("snapshot-origin /o");
  host_.Make("o", origin_row);
  host_.Make("a", Model::Row("snapshot /o /a P 8"));
  for (int round = 0; round < 3 && !HasFailure(); ++round) {
    host_.Suspend("o");
    host_.Make("b", Model::Row("snapshot /o /b P 1"));
    host_.Resume("o");
    UseOnBoth({"a", "b"});
    const std::vector<std::byte> before = host_.ReadAll("a");
    host_.Suspend("o");
    host_.Suspend("a");
    host_.Reload("o", Model::Row("snapshot-merge /o /a P 8"));
    EXPECT_TRUE(host_.ReadAll("o") == before);
    UseOnBoth({"b"});
    while (host_.Status("o") != "snapshot-merge 16/16384 16") host_.Settle();
    // a is what o has become: the snapshot of a new instant, in the same store.
    host_.Suspend("o");
    host_.Reload("a", Model::Row("snapshot /o /a P 8"));
    host_.Reload("o", origin_row);
    host_.Remove("b");
    host_.AddMemory("/b", kStore);
  }
}

}  // namespace
}  // namespace sectormap::targets
