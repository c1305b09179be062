// SPDX-License-Identifier: Apache-2.0
// A mirror over crash disks: whatever a loss of power leaves, the legs agree where the log says
// clean, they agree everywhere after the resync, and every write that was flushed is there.
#include <cstring>
#include <deque>

#include "absl/strings/str_cat.h"
#include "core/async/gate.h"
#include "core/async/next_turn.h"
#include "core/map/mapped_device.h"
#include "targets/builtin_targets.h"
#include "targets/mirror/log_image.h"
#include "targets/mirror/region_gate.h"
#include "tests/support/crash_disk.h"
#include "tests/support/manual_clock.h"
#include "tests/support/random.h"
#include "tests/support/slow_build.h"
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

constexpr uint64_t kStatesPerCase = kSlowBuild ? 300 : 2000;

constexpr uint64_t kLength = 192;  // sectors of a leg
constexpr uint64_t kRegion = 8;
constexpr uint64_t kBlock = 2;  // sectors; one lane writes to a block
constexpr uint64_t kLanes = 6;
constexpr uint64_t kLogSectors = 3;
constexpr uint64_t kNever = ~uint64_t{0};
constexpr uint64_t kEventsAtStart = 24;

// A leg that now and then does not write.
class Forgetful final : public BlockDevice {
 public:
  Forgetful(std::shared_ptr<BlockDevice> lower, uint64_t one_in, uint64_t seed)
      : lower_(std::move(lower)), one_in_(one_in), random_(seed) {}
  SectorCount size() const override { return lower_->size(); }
  BlockLimits limits() const override { return lower_->limits(); }
  Task<IoStatus> Submit(IoRequest request) override {
    if (request.op == IoOp::kWrite && one_in_ != 0) {
      absl::MutexLock lock(&mutex_);
      if (random_.OneIn(one_in_)) return IoStatus::kIoError;
    }
    return lower_->Submit(request);
  }

 private:
  const std::shared_ptr<BlockDevice> lower_;
  const uint64_t one_in_;
  absl::Mutex mutex_;
  Random random_ ABSL_GUARDED_BY(mutex_);
};

// What was written to a sector, in order; the first is what was there before.
struct Version {
  uint64_t id;
  uint64_t begin;       // recorder.now() before it was submitted
  uint64_t end;         // and when it had been answered
  uint64_t durable_at;  // the crash point from which it has to be there
};
struct FlushDone {
  uint64_t begin;
  uint64_t end;
};

struct Case {
  std::string name;
  std::string log_words;  // of the table that crashes, after the log's name
  size_t legs;
  uint64_t forgets_one_in;  // the last leg
  bool log_is_garbage = false;
};
void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

class MirrorCrashTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(2, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    versions_.resize(kLength);
  }

  std::string Row(std::string_view log_words) const {
    std::string row =
        absl::StrCat("0 ", kLength, " mirror disk ", std::string(log_words), " ", GetParam().legs);
    for (size_t leg = 0; leg < GetParam().legs; ++leg) absl::StrAppend(&row, " leg", leg, " 0");
    return row;
  }

  std::shared_ptr<MappedDevice> Make(std::string_view row) {
    auto device =
        std::make_shared<MappedDevice>("m", "", "00000000000000000000000000000001", *reactors_);
    auto table = MappingTable::Build(*TableSpec::Parse(row), false, types_, devices_, *device);
    EXPECT_TRUE(table.ok()) << table.status();
    device->Load(*std::move(table));
    EXPECT_EQ(device->Resume(), absl::OkStatus());
    return device;
  }

  // --- The workload ---

  void Record() {
    recorder_.SetDelay(3);
    std::vector<std::byte> first(kLength * kSectorBytes);
    for (uint64_t sector = 0; sector < kLength; ++sector) {
      versions_[sector].push_back({sector + 1, 0, 0, 0});
      PutId(first, sector, sector + 1);
    }
    const bool in_sync = GetParam().log_words.find(" nosync") != std::string::npos;
    for (size_t leg = 0; leg < GetParam().legs; ++leg) {
      auto disk = recorder_.AddDisk(SectorCount(kLength));
      if (leg == 0 || in_sync) disk->Preset(first);
      const bool forgets = leg + 1 == GetParam().legs;
      devices_.Add(absl::StrCat("leg", leg),
                   std::make_shared<Forgetful>(disk, forgets ? GetParam().forgets_one_in : 0,
                                               random_.seed() + leg));
    }
    auto log = recorder_.AddDisk(SectorCount(kLogSectors));
    if (GetParam().log_is_garbage) {
      log->Preset(std::vector<std::byte>(kLogSectors * kSectorBytes, std::byte{0xff}));
    }
    devices_.Add("log", log);
    const auto device = Make(Row(GetParam().log_words));
    std::atomic<uint64_t> running{kLanes};
    for (uint64_t lane = 0; lane < kLanes; ++lane) {
      (*reactors_)[static_cast<int>(lane % 2)].Spawn(
          RunLane(*device, lane, random_.generator()(), running));
    }
    // Regions go clean while others are written to.
    while (running.load() != 0) clock_.Advance(kTidyPeriod, *reactors_);
    device->Retire();
    NoteDurability();
  }

  Task<void> RunLane(BlockDevice& device, uint64_t lane, uint64_t seed,
                     std::atomic<uint64_t>& running) {
    Random random(seed);
    uint64_t next_id = (lane + 1) << 32;
    std::vector<std::byte> bytes(kBlock * kSectorBytes);
    for (int i = 0; i < 50; ++i) {
      if (random.OneIn(8)) {
        const uint64_t begin = recorder_.now();
        const IoStatus flushed = co_await device.Submit(IoRequest::Flush());
        EXPECT_EQ(flushed, IoStatus::kOk);
        flushes_[lane].push_back({begin, recorder_.now()});
        continue;
      }
      const uint64_t blocks = kLength / kBlock / kLanes;
      // Some regions again and again, others seldom: those go clean.
      const uint64_t block = random.OneIn(3) ? random.Below(blocks) : random.Below(3);
      const uint64_t first = (block * kLanes + lane) * kBlock;
      const bool fua = random.OneIn(6);
      const uint64_t begin = recorder_.now();
      for (uint64_t s = 0; s < kBlock; ++s) {
        PutId(bytes, s, ++next_id);
        versions_[first + s].push_back({next_id, begin, kNever, kNever});
      }
      const IoStatus written = co_await device.Submit(IoRequest::Write(Sector(first), bytes, fua));
      EXPECT_EQ(written, IoStatus::kOk);
      const uint64_t end = recorder_.now();
      for (uint64_t s = 0; s < kBlock; ++s) {
        versions_[first + s].back().end = end;
        if (fua) versions_[first + s].back().durable_at = end;
      }
      for (uint64_t pause = random.Below(4); pause > 0; --pause) co_await NextTurn();
    }
    --running;
  }

  void NoteDurability() {
    for (const auto& lane : flushes_) {
      for (const FlushDone& flush : lane) {
        for (auto& versions : versions_) {
          for (Version& version : versions) {
            if (version.end <= flush.begin) {
              version.durable_at = std::min(version.durable_at, flush.end);
            }
          }
        }
      }
    }
  }

  // --- After the crash ---

  void CheckState(const CrashState& state, uint64_t point) {
    const size_t legs = GetParam().legs;
    LogImage log(kLength / kRegion, kSectorBytes);
    log.Read(state[legs]);
    for (uint64_t region = 0; region < kLength / kRegion; ++region) {
      if (!log.clean(region)) continue;
      for (size_t leg = 1; leg < legs; ++leg) {
        ASSERT_TRUE(std::ranges::equal(RegionOf(state[0], region), RegionOf(state[leg], region)))
            << "region " << region << " of leg " << leg << " is clean and differs";
      }
    }
    std::vector<std::shared_ptr<MemoryDevice>> disks;
    for (size_t leg = 0; leg < legs; ++leg) {
      disks.push_back(DiskOf(state[leg]));
      devices_.Add(absl::StrCat("leg", leg), disks.back());
    }
    devices_.Add("log", DiskOf(state[legs]));
    const auto device = Make(Row(absl::StrCat("2 log ", kRegion)));
    // Reaching full sync is an event; a log that is garbage is another.
    const std::string in_sync = absl::StrCat(" ", kLength / kRegion, "/", kLength / kRegion, " ");
    for (uint32_t seen = 0;
         device->table(TableSlot::kLive)->StatusText().find(in_sync) == std::string::npos;) {
      const auto event = device->WaitEvent(seen, [] { return false; });
      ASSERT_TRUE(event.ok()) << event.status();
      seen = *event;
    }
    device->Retire();
    for (size_t leg = 1; leg < legs; ++leg) {
      ASSERT_TRUE(std::ranges::equal(disks[0]->bytes(), disks[leg]->bytes()))
          << "leg " << leg << " differs after the resync";
    }
    for (uint64_t sector = 0; sector < kLength; ++sector) CheckSector(*disks[0], sector, point);
  }

  void CheckSector(MemoryDevice& disk, uint64_t sector, uint64_t point) {
    const auto bytes = disk.bytes().subspan(sector * kSectorBytes, kSectorBytes);
    uint64_t id = 0;
    std::memcpy(&id, bytes.data(), sizeof id);
    const std::vector<Version>& versions = versions_[sector];
    size_t oldest = 0;
    size_t found = versions.size();
    for (size_t i = 0; i < versions.size(); ++i) {
      if (versions[i].durable_at <= point) oldest = i;
      if (versions[i].id == id && (i == 0 || versions[i].begin < point)) found = i;
    }
    ASSERT_LT(found, versions.size()) << "sector " << sector << " holds what nobody wrote: " << id;
    ASSERT_GE(found, oldest) << "sector " << sector << " has lost a flushed write";
  }

  static std::span<const std::byte> RegionOf(const std::vector<std::byte>& disk, uint64_t region) {
    return std::span(disk).subspan(region * kRegion * kSectorBytes, kRegion * kSectorBytes);
  }
  static void PutId(std::span<std::byte> bytes, uint64_t sector, uint64_t id) {
    for (size_t at = 0; at < kSectorBytes; at += sizeof id) {
      std::memcpy(bytes.data() + sector * kSectorBytes + at, &id, sizeof id);
    }
  }

  Random random_;
  ManualClock clock_;
  TargetRegistry types_;
  NamedDevices devices_;
  std::unique_ptr<ReactorPool> reactors_;
  CrashRecorder recorder_{random_.seed()};
  std::vector<std::vector<Version>> versions_;  // of each sector; written by its lane only
  std::vector<std::vector<FlushDone>> flushes_{kLanes};
};

TEST_P(MirrorCrashTest, NothingIsLostAndCleanMeansEqual) {
  Record();
  if (HasFailure()) return;
  const uint64_t points = recorder_.now();
  uint64_t last_point = 0;  // a cursor does not go back
  CrashCursor cursor(recorder_);
  for (uint64_t i = 0; i < kStatesPerCase; ++i) {
    // The start is where the log is made: a few events, and every one counts.
    const uint64_t at_start = kStatesPerCase / 4;
    const uint64_t point = i < at_start ? i * kEventsAtStart / at_start
                                        : (i - at_start) * points / (kStatesPerCase - 1 - at_start);
    if (point < last_point) continue;
    last_point = point;
    cursor.MoveTo(point);
    CheckState(cursor.Sample(random_), point);
    if (HasFatalFailure()) {
      FAIL() << "after " << point << " of " << points << " events, seed " << random_.seed();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mirror, MirrorCrashTest,
                         testing::Values(Case{"InSync", "3 log 8 nosync", 2, 0},
                                         Case{"WhileItSyncs", "2 log 8", 2, 0},
                                         Case{"ThreeLegs", "2 log 8", 3, 0},
                                         Case{"ANewLogOverGarbage", "2 log 8", 2, 0, true},
                                         Case{"ALegThatFails", "3 log 8 nosync", 2, 20}),
                         [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

}  // namespace
}  // namespace sectormap::targets
