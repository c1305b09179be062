// SPDX-License-Identifier: Apache-2.0
// Recipes over real files, the real targets and a real SQLite store, as main.cc joins them; and
// what a `kill -9` at any durable step leaves: the whole directory is copied before and after each
// write to the store, and each copy is started again.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/async/clock.h"
#include "core/async/reactor_pool.h"
#include "core/block/backing_opener.h"
#include "core/map/device_registry.h"
#include "server/volumes/keeper.h"
#include "server/volumes/volume_service.h"
#include "targets/builtin_targets.h"
#include "tests/support/test_directory.h"

namespace sectormap::volumes {

// Tells of every write before and after it is durable.
class StepStore final : public state::StateStore {
 public:
  StepStore(std::unique_ptr<state::StateStore> store, std::function<void()> step)
      : store_(std::move(store)), step_(std::move(step)) {}

  absl::StatusOr<state::Contents> LoadAll() override { return store_->LoadAll(); }
  absl::Status PutDevice(const state::DeviceRecord& device) override {
    return Step([&] { return store_->PutDevice(device); });
  }
  absl::Status DeleteDevice(std::string_view identity) override {
    return Step([&] { return store_->DeleteDevice(identity); });
  }
  absl::Status PutExport(const state::TargetRecord& target,
                         const state::ExportRecord& entry) override {
    return Step([&] { return store_->PutExport(target, entry); });
  }
  absl::Status DeleteExports(std::span<const state::ExportKey> exports) override {
    return Step([&] { return store_->DeleteExports(exports); });
  }
  absl::Status PutReservation(std::string_view identity, std::string_view record) override {
    return Step([&] { return store_->PutReservation(identity, record); });
  }
  absl::StatusOr<std::vector<std::string>> UnusedFiles() override { return store_->UnusedFiles(); }
  absl::StatusOr<std::string> Reservation(std::string_view identity) override {
    return store_->Reservation(identity);
  }
  absl::Status PutBlockBytes(std::string_view identity, uint32_t bytes) override {
    return Step([&] { return store_->PutBlockBytes(identity, bytes); });
  }
  absl::StatusOr<uint32_t> BlockBytes(std::string_view identity) override {
    return store_->BlockBytes(identity);
  }
  absl::Status Apply(const state::Changes& changes) override {
    return Step([&] { return store_->Apply(changes); });
  }

 private:
  template <typename Call>
  absl::Status Step(Call call) {
    // SQLite's files are copied too: not while one of us writes.
    absl::MutexLock one_at_a_time(&mutex_);
    step_();
    const absl::Status status = call();
    step_();
    return status;
  }

  const std::unique_ptr<state::StateStore> store_;
  const std::function<void()> step_;
  absl::Mutex mutex_;
};

class RecipeTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kVolumeSectors = 2048;  // 1 MiB
  static constexpr uint64_t kChunk = 16;

  void SetUp() override {
    targets::AddBuiltinTargets(types_);
    std::filesystem::create_directories(root());
    Start();
  }
  void TearDown() override { Stop(); }

  std::filesystem::path live() const { return scratch_.path() / "live"; }
  std::filesystem::path root() const { return live() / "devices"; }
  std::string Path(const std::string& name) const { return (root() / name).string(); }

  void Start() {
    auto pool = ReactorPool::Start(1, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    reactors_ = *std::move(pool);
    auto store = state::OpenSqliteStore((live() / "state").string());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::make_unique<StepStore>(*std::move(store), [this] { SaveStep(); });
    const auto contents = store_->LoadAll();
    ASSERT_TRUE(contents.ok()) << contents.status();
    backings_ = *BackingOpener::Create({.device_roots = {root().string()}});
    registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, *backings_);
    service_ = std::make_unique<VolumeService>(VolumeService::Parts{
        .registry = *registry_,
        .store = *store_,
        .backings = *backings_,
        .reactors = *reactors_,
        .directory = root().string(),
        .log_file = [this](const std::string& path,
                           const std::string& what) { file_log_[path] = what; },
        .operations_sleep_max = sleep_max_});
    catalog_ = &service_->catalog();
    operations_ = &service_->operations();
    snapshots_ = &service_->snapshots();
    moves_ = &service_->moves();
    mirrors_ = &service_->mirrors();
    EXPECT_TRUE(service_->RestoreDevices(*contents).ok());
    for (const DeviceInfo& info : registry_->List()) {
      if (!may_be_unbuilt_.contains(info.name)) EXPECT_EQ(info.error, "") << info.name;
    }
    service_->ResumeOperations(*contents);
  }

  void Stop() {
    keeper_.reset();
    service_.reset();
    registry_.reset();
    backings_.reset();
    store_.reset();
    reactors_.reset();
  }

  void Restart() {
    Stop();
    Start();
  }

  // --- Files and devices ---

  std::string MakeFile(const std::string& name, uint64_t sectors) {
    std::ofstream(Path(name)).close();
    std::filesystem::resize_file(Path(name), sectors * kSectorBytes);
    return Path(name);
  }
  void Make(const std::string& name, const std::string& table) {
    const auto made = catalog_->Create({.name = name, .table = table});
    ASSERT_TRUE(made.ok()) << made.status();
  }
  // A device of one linear row over a file of its own, with known bytes.
  void MakeVolume(const std::string& name = "vol") {
    const std::string path = MakeFile(name + ".img", kVolumeSectors);
    Make(name, absl::StrCat("0 ", kVolumeSectors, " linear ", path, " 0\n"));
    Fill(name, 0, kVolumeSectors, 1);
  }

  // Bytes that say where they are and by which write they came.
  static std::vector<std::byte> Pattern(uint64_t first, uint64_t sectors, uint32_t version) {
    std::vector<std::byte> bytes(sectors * kSectorBytes);
    for (uint64_t i = 0; i < bytes.size() / 16; ++i) {
      const uint64_t words[2] = {first * kSectorBytes / 16 + i, version};
      std::memcpy(&bytes[i * 16], words, sizeof words);
    }
    return bytes;
  }
  void Fill(const std::string& device, uint64_t first, uint64_t sectors, uint32_t version) {
    std::vector<std::byte> bytes = Pattern(first, sectors, version);
    const auto mapped = registry_->Find(device);
    ASSERT_NE(mapped, nullptr) << device;
    EXPECT_EQ(
        reactors_->RunOn(0, [&] { return mapped->Submit(IoRequest::Write(Sector(first), bytes)); }),
        IoStatus::kOk);
  }
  std::vector<std::byte> View(const std::string& device) {
    const auto mapped = registry_->Find(device);
    if (mapped == nullptr) return {};
    std::vector<std::byte> bytes(mapped->size().value() * kSectorBytes);
    if (bytes.empty()) return {};
    EXPECT_EQ(
        reactors_->RunOn(0, [&] { return mapped->Submit(IoRequest::Read(Sector(0), bytes)); }),
        IoStatus::kOk)
        << device;
    return bytes;
  }
  bool Exists(const std::string& device) { return registry_->Find(device) != nullptr; }
  std::string TableOf(const std::string& device) {
    const auto table = registry_->Table(device, TableSlot::kLive);
    return table.ok() ? *table : std::string(table.status().message());
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const DeviceInfo& info : registry_->List()) names.push_back(info.name);
    return names;
  }
  std::vector<std::string> Files() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(root())) {
      names.push_back(entry.path().filename());
    }
    std::ranges::sort(names);
    return names;
  }

  // --- Operations ---

  void TakeSnapshot(const std::string& name, const std::string& of = "vol") {
    const auto made =
        snapshots_->Create({.entries = {{.name = name, .device = of}}, .chunk_sectors = chunk_});
    ASSERT_TRUE(made.ok()) << made.status();
  }
  // All occasions on which files of the daemon's go.
  void SweepFiles() {
    if (!Exists("swept")) MakeVolume("swept");
    TakeSnapshot("x", "swept");
    ExpectDone(snapshots_->StartRemove("x"));
    EXPECT_FALSE(std::filesystem::exists(Path("x.cow")));
    Restart();
  }
  OperationInfo WaitFor(const absl::StatusOr<OperationInfo>& started) {
    EXPECT_TRUE(started.ok()) << started.status();
    if (!started.ok()) return {};
    return *operations_->Wait(started->id, [] { return false; });
  }
  void ExpectDone(const absl::StatusOr<OperationInfo>& started) {
    const OperationInfo ended = WaitFor(started);
    EXPECT_EQ(ended.state, OperationState::kDone) << ended.error;
  }
  void WaitForAll() {
    for (const OperationInfo& info : operations_->List()) {
      static_cast<void>(operations_->Wait(info.id, [] { return false; }));
    }
  }

  // --- Kills ---

  // Runs `recipe` and keeps what a kill at each step of the store would have left. `check` then
  // runs over each of these, after a new start.
  void KillAtEveryStep(const std::function<void()>& recipe,
                       const std::function<void(size_t step)>& check) {
    saving_ = true;
    recipe();
    saving_ = false;
    const size_t steps = steps_;
    EXPECT_GE(steps, 2u);
    Stop();
    for (size_t step = 0; step < steps && !HasFatalFailure(); ++step) {
      SCOPED_TRACE(absl::StrCat("killed at step ", step, " of ", steps));
      std::filesystem::remove_all(live());
      std::filesystem::copy(Saved(step), live(), std::filesystem::copy_options::recursive);
      Start();
      check(step);
      Stop();
      std::filesystem::remove_all(Saved(step));
    }
    steps_ = 0;
    Start();
  }

  SteadyClock clock_;
  TestDirectory scratch_{"/tmp"};
  TargetRegistry types_;
  uint64_t chunk_ = kChunk;
  std::map<std::string, std::string> file_log_;          // the last of each file
  std::set<std::string> may_be_unbuilt_;                 // at a start
  absl::Duration sleep_max_ = absl::InfiniteDuration();  // of operations, from the next start
  std::unique_ptr<ReactorPool> reactors_;
  std::unique_ptr<StepStore> store_;
  std::unique_ptr<BackingOpener> backings_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<VolumeService> service_;
  VolumeCatalog* catalog_ = nullptr;  // of the service, as are the next ones
  Operations* operations_ = nullptr;
  Snapshots* snapshots_ = nullptr;
  Moves* moves_ = nullptr;
  Mirrors* mirrors_ = nullptr;
  std::unique_ptr<Keeper> keeper_;

 private:
  std::filesystem::path Saved(size_t step) const {
    return scratch_.path() / absl::StrCat("step", step);
  }

  // On the only reactor, so that nothing is submitted while files are copied one by one.
  void SaveStep() {
    if (!saving_) return;
    reactors_->OnEach([this](Reactor&) {
      std::filesystem::copy(live(), Saved(steps_), std::filesystem::copy_options::recursive);
    });
    ++steps_;
  }

  bool saving_ = false;
  size_t steps_ = 0;
};

}  // namespace sectormap::volumes
