// SPDX-License-Identifier: Apache-2.0
// The life of a target that has work of its own (core/map/target.h): what it is told, when, and
// what becomes of requests that it hands back.
#include "absl/strings/str_join.h"
#include "tests/core/map/map_fixture.h"

namespace sectormap {
namespace {

// Notes what it is told. Holds every write until it is suspended.
class LivelyTarget final : public Target {
 public:
  struct Diary {
    absl::Mutex mutex;
    std::vector<std::string> lines;
    TargetHost* host = nullptr;
    std::atomic<int> held{0};
    bool refuse_resume = false;
    bool works = false;  // has work of its own that does not end

    void SetWorks(bool now) {
      absl::MutexLock lock(&mutex);
      works = now;
    }

    void Note(std::string line) {
      absl::MutexLock lock(&mutex);
      lines.push_back(std::move(line));
    }
    std::string TakeAll() {
      absl::MutexLock lock(&mutex);
      return absl::StrJoin(std::exchange(lines, {}), " ");
    }
  };
  static Diary* diary;

  explicit LivelyTarget(SectorCount length) : Target(length) {}
  ~LivelyTarget() override {
    if (Reactor::CurrentOrNull() != nullptr) diary->Note("ends-on-a-reactor");
  }
  BlockLimits limits() const override { return {}; }
  Task<IoStatus> Submit(IoRequest request) override {
    if (request.op != IoOp::kWrite) return IoStatus::kOk;
    return HoldUntilSuspended();
  }
  std::string TableArgs() const override { return ""; }
  bool flush_is_for_backings() const override { return false; }
  absl::Status PreResume() override {
    diary->Note("preresume");
    if (diary->refuse_resume) return absl::DataLossError("the store is damaged");
    return absl::OkStatus();
  }
  void Resume() override {
    suspending_ = false;
    diary->Note("resume");
  }
  bool EndWork(const GiveUp& give_up) override {
    absl::MutexLock lock(&diary->mutex);
    auto ended = [] { return !diary->works; };
    return AwaitUnless(give_up, diary->mutex, absl::Condition(&ended));
  }
  void PreSuspend(SuspendMode mode) override {
    answer_ = mode == SuspendMode::kNoFlush ? IoStatus::kRequeue : IoStatus::kIoError;
    suspending_ = true;
    diary->Note("presuspend");
  }
  void PostSuspend() override { diary->Note("postsuspend"); }

 private:
  Task<IoStatus> HoldUntilSuspended() {
    ++diary->held;
    while (!suspending_) co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
    co_return answer_.load();
  }

  std::atomic<bool> suspending_{false};
  std::atomic<IoStatus> answer_{IoStatus::kOk};
};
LivelyTarget::Diary* LivelyTarget::diary = nullptr;

const TargetType kLivelyTarget{
    .name = "lively",
    .version = "1.0.0",
    .usage = "",
    .summary = "for tests",
    .create = [](TargetArgs& args) -> absl::StatusOr<std::unique_ptr<Target>> {
      LivelyTarget::diary->host = &args.host();
      return std::make_unique<LivelyTarget>(args.length());
    },
};

class TargetLifeTest : public MapFixture {
 protected:
  void SetUp() override {
    LivelyTarget::diary = &diary_;
    MapFixture::SetUp();
    types_.Add(kLivelyTarget);
  }
  // The devices write into the diary until they are gone.
  void TearDown() override { registry_.reset(); }

  LivelyTarget::Diary diary_;
};

TEST_F(TargetLifeTest, IsToldInTheKernelsOrder) {
  Make("x", "0 8 lively\n");
  EXPECT_EQ(diary_.TakeAll(), "preresume resume");
  ASSERT_EQ(registry().Suspend("x", SuspendMode::kFlush), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "presuspend postsuspend");
  ASSERT_EQ(registry().Suspend("x", SuspendMode::kFlush), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "");
  ASSERT_EQ(registry().Resume("x"), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "preresume resume");
  ASSERT_EQ(registry().Resume("x"), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "");
  ASSERT_EQ(registry().Remove("x", {}), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "presuspend postsuspend");
}

TEST_F(TargetLifeTest, ATableThatWasNeverLiveIsToldNothing) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  ASSERT_EQ(Load("x", "0 8 lively\n"), absl::OkStatus());
  ASSERT_EQ(registry().Clear("x"), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "");
}

TEST_F(TargetLifeTest, TheOldTableEndsBeforeTheNewOneBegins) {
  Make("x", "0 8 lively\n");
  ASSERT_EQ(Load("x", "0 16 lively\n"), absl::OkStatus());
  diary_.TakeAll();
  ASSERT_EQ(registry().Resume("x"), absl::OkStatus());
  EXPECT_EQ(diary_.TakeAll(), "presuspend postsuspend preresume resume");
}

TEST_F(TargetLifeTest, AHeldWriteFailsAtAFlushSuspend) {
  const auto device = Make("x", "0 8 lively\n");
  std::vector<std::byte> data(Bytes(SectorCount(8)).value());
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(0), data));
  while (diary_.held == 0) std::this_thread::yield();
  ASSERT_EQ(registry().Suspend("x", SuspendMode::kFlush), absl::OkStatus());
  EXPECT_EQ(write.Wait(), IoStatus::kIoError);
}

TEST_F(TargetLifeTest, AHeldWriteGoesToTheNextTableAfterANoFlushSuspend) {
  const auto device = Make("x", "0 4 lively\n4 4 linear /dev/b 0\n");
  std::vector<std::byte> data(Bytes(SectorCount(8)).value(), std::byte{7});
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(0), data));
  while (diary_.held == 0) std::this_thread::yield();
  ASSERT_EQ(Load("x", "0 8 linear /dev/a 0\n"), absl::OkStatus());
  ASSERT_EQ(registry().Suspend("x", SuspendMode::kNoFlush), absl::OkStatus());
  EXPECT_FALSE(write.done());
  ASSERT_EQ(registry().Resume("x"), absl::OkStatus());
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*a_, 0), 7);
  EXPECT_EQ(ByteAt(*a_, 7), 7);
}

TEST_F(TargetLifeTest, AFailedSuspendIsTakenBack) {
  Make("x", "0 8 lively\n8 8 linear /dev/a 0\n");
  diary_.TakeAll();
  a_->Fail(IoOp::kFlush, IoStatus::kIoError);
  EXPECT_FALSE(registry().Suspend("x", SuspendMode::kFlush).ok());
  EXPECT_EQ(diary_.TakeAll(), "presuspend resume");
}

TEST_F(TargetLifeTest, ASuspendThatIsGivenUpIsTakenBack) {
  const auto device = Make("x", "0 8 lively\n8 8 linear /dev/a 0\n");
  diary_.TakeAll();
  a_->Hold();
  std::vector<std::byte> data(Bytes(SectorCount(8)).value());
  Pending write(*reactors_, 0, *device, IoRequest::Write(Sector(8), data));
  while (a_->CountOf(IoOp::kWrite) == 0) std::this_thread::yield();
  EXPECT_EQ(registry().Suspend("x", SuspendMode::kFlush, [] { return true; }).code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(diary_.TakeAll(), "presuspend resume");
  a_->Release();
  EXPECT_EQ(write.Wait(), IoStatus::kOk);
}

// --- removal of a device whose work does not end ---

TEST_F(TargetLifeTest, ARemovalThatIsGivenUpChangesNothing) {
  ASSERT_TRUE(registry().Create("x", {.uuid = "u", .identity = "i"}).ok());
  ASSERT_EQ(Load("x", "0 8 lively\n"), absl::OkStatus());
  ASSERT_EQ(registry().Resume("x"), absl::OkStatus());
  diary_.SetWorks(true);
  diary_.TakeAll();
  for (const bool deferred : {false, true}) {
    const absl::Status status =
        registry().Remove("x", {.force = false, .deferred = deferred}, [] { return true; });
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(diary_.TakeAll(), "resume");
    EXPECT_TRUE(InfoOf("x").has_live_table);
    EXPECT_FALSE(InfoOf("x").deferred_remove);
    EXPECT_TRUE(registry().Open("x").ok());
  }
  diary_.SetWorks(false);
  EXPECT_EQ(registry().Remove("x", {}), absl::OkStatus());
}

TEST_F(TargetLifeTest, WhileItIsRemovedNobodyOpensADeviceAndItIsNamed) {
  Make("low", "0 8 zero");
  ASSERT_TRUE(registry().Create("x", {.uuid = "u", .identity = "i"}).ok());
  ASSERT_EQ(Load("x", "0 8 lively\n8 8 linear low 0\n"), absl::OkStatus());
  ASSERT_EQ(registry().Resume("x"), absl::OkStatus());
  diary_.SetWorks(true);
  std::atomic<bool> waits{false};
  std::thread removal([&] {
    EXPECT_EQ(registry().Remove("x", {}, [&waits] { return waits.exchange(true), false; }),
              absl::OkStatus());
  });
  while (!waits) std::this_thread::yield();
  EXPECT_EQ(Message(registry().Open("x").status()),
            "Device or resource busy: 'x' is being removed");
  ASSERT_TRUE(registry().Create("y", {}).ok());
  EXPECT_THAT(Message(Load("y", "0 8 linear x 0")), testing::HasSubstr("'x' is being removed"));
  EXPECT_EQ(registry().Create("z", {.uuid = "u", .identity = ""}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Message(registry().Remove("low", {})),
            "Device or resource busy: 'low' is in use by device 'x'");
  EXPECT_FALSE(registry().CheckUsedOnlyBy("low", {}).ok());
  diary_.SetWorks(false);
  removal.join();
  EXPECT_TRUE(registry().Remove("low", {}).ok());
  EXPECT_TRUE(registry().Create("z", {.uuid = "u", .identity = "i"}).ok());
}

TEST_F(TargetLifeTest, ADeferredRemovalThatCannotEndHoldsUpNothingElse) {
  Make("stuck", "0 8 lively\n");
  Make("other", "0 8 zero");
  Make("x", "0 8 zero");
  diary_.SetWorks(true);
  for (const char* name : {"stuck", "other"}) {
    const DeviceRef hold = *registry().Open(name);
    ASSERT_TRUE(registry().Remove(name, {.force = false, .deferred = true}).ok());
  }
  WaitUntilGone("other");
  absl::Notification heard;
  const uint64_t id =
      registry().Subscribe([&heard](DeviceRegistry::Change change, const DeviceInfo& info) {
        if (change == DeviceRegistry::Change::kChanged && info.name == "x") heard.Notify();
      });
  registry().Find("x")->RaiseEvent();
  heard.WaitForNotification();
  registry().Unsubscribe(id);
  EXPECT_TRUE(InfoOf("stuck").deferred_remove);
  diary_.SetWorks(false);
  WaitUntilGone("stuck");
}

// As the last thing, it flushes a leg that answers no more.
TEST_F(TargetLifeTest, AtTheEndADeferredRemovalThatWaitsForASuspendedDeviceIsLetGo) {
  backings_.Add("/dev/log", SectorCount(128));
  Make("leg", "0 16384 linear /dev/a 0\n");
  const auto mirror =
      Make("mirror", "0 16384 mirror disk 3 /dev/log 1024 nosync 2 leg 0 /dev/b 0\n");
  ASSERT_EQ(Fill(*mirror, 0, 8, 7), IoStatus::kOk);
  ASSERT_EQ(registry().Suspend("leg", SuspendMode::kFlush), absl::OkStatus());
  {
    const DeviceRef hold = *registry().Open("mirror");
    ASSERT_TRUE(registry().Remove("mirror", {.force = false, .deferred = true}).ok());
  }
  while (registry().Open("mirror").ok()) std::this_thread::yield();
  registry_.reset();
  EXPECT_EQ(a_.use_count(), 2);
}

// Flushed by a suspend of the device above, which its own gate does not count.
TEST_F(TargetLifeTest, ATableThatIsSwappedWhileItIsFlushedFromAboveEndsOnAControlThread) {
  for (const bool gives_up : {false, true}) {
    Make("low", "0 8 lively\n8 8 linear /dev/a 0\n");
    Make("top", "0 16 linear low 0\n");
    const int before = a_->CountOf(IoOp::kFlush);
    a_->Hold();
    std::thread suspend([&] {
      const absl::Status status =
          registry().Suspend("top", SuspendMode::kFlush, [&] { return gives_up; });
      EXPECT_EQ(status.ok(), !gives_up) << status;
    });
    while (a_->CountOf(IoOp::kFlush) == before) std::this_thread::yield();
    if (gives_up) suspend.join();
    ASSERT_EQ(Load("low", "0 16 error\n"), absl::OkStatus());
    ASSERT_EQ(registry().Suspend("low", SuspendMode::kNoFlush), absl::OkStatus());
    ASSERT_EQ(registry().Resume("low"), absl::OkStatus());
    a_->Release();
    if (!gives_up) suspend.join();
    EXPECT_EQ(registry().Suspend("top", SuspendMode::kNoFlush), absl::OkStatus());
    ASSERT_EQ(registry().Remove("top", {}), absl::OkStatus());
    ASSERT_EQ(registry().Remove("low", {}), absl::OkStatus());
    EXPECT_THAT(diary_.TakeAll(), testing::Not(testing::HasSubstr("ends-on-a-reactor")));
  }
}

TEST_F(TargetLifeTest, AtTheEndWhatWaitsForAResumeIsLetGo) {
  Make("low", "0 8 linear /dev/a 0\n");
  const auto top = Make("top", "0 8 linear low 0\n");
  ASSERT_EQ(registry().Suspend("low", SuspendMode::kFlush), absl::OkStatus());
  std::vector<std::byte> data(Bytes(SectorCount(8)).value());
  Pending write(*reactors_, 0, *top, IoRequest::Write(Sector(0), data));
  registry().EndSuspended();
  EXPECT_EQ(write.Wait(), IoStatus::kAborted);
}

TEST_F(TargetLifeTest, AtTheEndWhatADeviceBelowHoldsIsLetGo) {
  Make("low", "0 8 lively\n");
  const auto top = Make("top", "0 8 linear low 0\n");
  std::vector<std::byte> data(Bytes(SectorCount(8)).value());
  Pending write(*reactors_, 0, *top, IoRequest::Write(Sector(0), data));
  while (diary_.held == 0) std::this_thread::yield();
  registry_.reset();
  EXPECT_EQ(write.Wait(), IoStatus::kAborted);
}

TEST_F(TargetLifeTest, ARefusedResumeLeavesTheDeviceSuspendedWithTheNewTable) {
  const auto device = Make("x", "0 8 linear /dev/a 0\n");
  ASSERT_EQ(Load("x", "0 16 lively\n"), absl::OkStatus());
  diary_.refuse_resume = true;
  EXPECT_EQ(Message(registry().Resume("x")), "the store is damaged");
  EXPECT_TRUE(InfoOf("x").suspended);
  EXPECT_EQ(InfoOf("x").size, SectorCount(16));
  diary_.refuse_resume = false;
  EXPECT_EQ(registry().Resume("x"), absl::OkStatus());
  EXPECT_FALSE(InfoOf("x").suspended);
}

TEST_F(TargetLifeTest, ARefusedFirstResumeLeavesTheDeviceSuspendedToo) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  ASSERT_EQ(Load("x", "0 16 lively\n"), absl::OkStatus());
  diary_.refuse_resume = true;
  EXPECT_EQ(Message(registry().Resume("x")), "the store is damaged");
  EXPECT_TRUE(InfoOf("x").suspended);
  EXPECT_EQ(InfoOf("x").size, SectorCount(16));
  std::vector<std::byte> data(Bytes(SectorCount(8)).value());
  Pending read(*reactors_, 0, *registry().Find("x"), IoRequest::Read(Sector(0), data));
  EXPECT_FALSE(read.done());
  diary_.refuse_resume = false;
  EXPECT_EQ(registry().Resume("x"), absl::OkStatus());
  EXPECT_EQ(read.Wait(), IoStatus::kOk);
  EXPECT_EQ(diary_.TakeAll(), "preresume preresume resume");
}

// The log of a mirror is cleaned after a flush of its legs: a leg that had gone before it, by the
// order of their names, made all of an orderly end dirty.
TEST_F(TargetLifeTest, AtTheEndADeviceGoesBeforeThoseBelowIt) {
  constexpr uint64_t kFirstRegion = 1024;  // the byte of the log with its bit
  const auto log = backings_.Add("/dev/log", SectorCount(128));
  Make("leg", "0 16384 linear /dev/a 0\n");
  const auto mirror =
      Make("mirror", "0 16384 mirror disk 3 /dev/log 1024 nosync 2 leg 0 /dev/b 0\n");
  ASSERT_EQ(Fill(*mirror, 0, 8, 7), IoStatus::kOk);
  ASSERT_EQ(log->bytes()[kFirstRegion], std::byte{0xfe});
  registry_.reset();
  EXPECT_EQ(log->bytes()[kFirstRegion], std::byte{0xff});
}

TEST_F(TargetLifeTest, AnEventIsCountedAndTheWatchersHearOfIt) {
  Make("x", "0 8 lively\n");
  std::atomic<uint32_t> seen{0};
  const uint64_t id = registry().Subscribe(
      [&seen](DeviceRegistry::Change, const DeviceInfo& info) { seen = info.event_number; });
  reactors_->OnEach([this](Reactor& reactor) {
    if (reactor.index() == 0) diary_.host->RaiseEvent();
  });
  EXPECT_EQ(*registry().WaitEvent("x", 0, [] { return false; }), 1u);
  while (seen != 1) std::this_thread::yield();
  registry().Unsubscribe(id);
}

}  // namespace
}  // namespace sectormap
