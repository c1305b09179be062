// SPDX-License-Identifier: Apache-2.0
// CrashMachine: what sectormapd has of volumes, as the daemon joins it, on crash disks and on a
// state store that is in step with them. A loss of power after any event leaves bytes on the disks,
// records in the store and files in the directory; a new machine starts from them.
//
//   CrashMachine machine(reactors, seed, {}, SQLite's store);
//   machine.AddDisk("/a", 256); machine.RestoreDevices(); machine.ResumeOperations();
//   ... recipes and I/O ...
//   CrashCursor cursor(machine.recorder());
//   cursor.MoveTo(point);
//   CrashMachine after(reactors, seed, machine.Sample(cursor, point, random));
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "core/async/reactor_pool.h"
#include "core/base/status_macros.h"
#include "core/map/device_registry.h"
#include "server/volumes/volume_service.h"
#include "targets/builtin_targets.h"
#include "tests/support/crash_disk.h"
#include "tests/support/manual_clock.h"
#include "tests/support/random.h"

namespace sectormap::volumes {

// What is durable beside the disks' bytes.
struct Durable {
  state::Contents contents;
  std::map<std::string, size_t> files;  // by path: the disk with the file's bytes
};

// What a loss of power leaves.
struct Left {
  CrashState disks;
  Durable durable;
};

// What was durable when, in the order in which it became so. Any thread.
class Journal {
 public:
  struct Entry {
    uint64_t begin, end;  // recorder.now() before and after it became durable
    Durable durable;
  };
  using Watcher = std::function<void(const Durable& now)>;

  Journal(const CrashRecorder& recorder, Durable first) : recorder_(recorder) {
    entries_.push_back({0, 0, std::move(first)});
  }

  // Called after each change, by who made it. Before the first one that matters.
  void Watch(Watcher watcher) {
    absl::MutexLock hold(&mutex_);
    watcher_ = std::move(watcher);
  }

  absl::Status Change(const std::function<absl::Status(Durable& durable)>& change) {
    Durable next;
    Watcher watcher;
    {
      absl::MutexLock one_at_a_time(&mutex_);
      next = entries_.back().durable;
      const uint64_t begin = recorder_.now();
      RETURN_IF_ERROR(change(next));
      entries_.push_back({begin, recorder_.now(), next});
      watcher = watcher_;
    }
    if (watcher) watcher(next);
    return absl::OkStatus();
  }

  Durable Now() const {
    absl::MutexLock hold(&mutex_);
    return entries_.back().durable;
  }
  std::vector<Entry> entries() const {
    absl::MutexLock hold(&mutex_);
    return entries_;
  }

  // A change that was under way when the power failed may be there or not.
  Durable At(uint64_t point, Random& random) const {
    absl::MutexLock hold(&mutex_);
    size_t certain = 0;
    size_t possible = 0;
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i].end < point) certain = i;
      if (entries_[i].begin <= point) possible = i;
    }
    return entries_[random.Between(certain, possible)].durable;
  }

 private:
  const CrashRecorder& recorder_;
  mutable absl::Mutex mutex_;
  Watcher watcher_ ABSL_GUARDED_BY(mutex_);
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

// A store whose records the journal holds; with `kept_in`, what that makes of the changes.
class JournalStore final : public state::StateStore {
 public:
  JournalStore(Journal& journal, std::unique_ptr<state::StateStore> kept_in)
      : journal_(journal), kept_in_(std::move(kept_in)) {}

  absl::StatusOr<state::Contents> LoadAll() override { return journal_.Now().contents; }
  absl::Status PutDevice(const state::DeviceRecord& device) override {
    state::Changes changes;
    changes.put_devices.push_back(device);
    return Apply(changes);
  }
  absl::Status DeleteDevice(std::string_view identity) override {
    state::Changes changes;
    changes.delete_devices.emplace_back(identity);
    return Apply(changes);
  }
  absl::Status Apply(const state::Changes& changes) override {
    return journal_.Change([&](Durable& durable) -> absl::Status {
      if (kept_in_ == nullptr) return ApplyTo(durable.contents, changes);
      RETURN_IF_ERROR(kept_in_->Apply(changes));
      ASSIGN_OR_RETURN(durable.contents, kept_in_->LoadAll());
      return absl::OkStatus();
    });
  }
  absl::Status PutExport(const state::TargetRecord&, const state::ExportRecord&) override {
    return absl::UnimplementedError("no exports here");
  }
  absl::Status DeleteExports(std::span<const state::ExportKey>) override {
    return absl::UnimplementedError("no exports here");
  }
  absl::Status PutReservation(std::string_view, std::string_view) override {
    return absl::UnimplementedError("no reservations here");
  }
  absl::StatusOr<std::vector<std::string>> UnusedFiles() override {
    std::vector<std::string> unused;
    for (const state::MadeFileRecord& file : journal_.Now().contents.made_files) {
      if (!file.in_table) unused.push_back(file.path);
    }
    return unused;
  }
  absl::StatusOr<std::string> Reservation(std::string_view) override { return std::string(); }
  absl::Status PutBlockBytes(std::string_view, uint32_t) override {
    return absl::UnimplementedError("no exports here");
  }
  absl::StatusOr<uint32_t> BlockBytes(std::string_view) override { return 0; }

 private:
  // As the schema has it.
  static absl::Status ApplyTo(state::Contents& contents, const state::Changes& changes) {
    const auto by_identity = [](const auto& record) { return record.device_identity; };
    for (const std::string& identity : changes.delete_devices) {
      std::erase_if(contents.devices, [&](const auto& one) { return one.identity == identity; });
      std::erase_if(contents.snapshots,
                    [&](const auto& one) { return by_identity(one) == identity; });
    }
    for (const state::DeviceRecord& device : changes.put_devices) {
      for (const state::DeviceRecord& one : contents.devices) {
        if (one.name == device.name && one.identity != device.identity) {
          return absl::AlreadyExistsError("another device has the name");
        }
      }
      Put(contents.devices, device, &state::DeviceRecord::identity);
    }
    std::ranges::sort(contents.devices, {}, &state::DeviceRecord::name);
    for (const state::SnapshotRecord& snapshot : changes.put_snapshots) {
      if (std::ranges::find(contents.devices, snapshot.device_identity,
                            &state::DeviceRecord::identity) == contents.devices.end()) {
        return absl::NotFoundError("a snapshot without its device");
      }
      Put(contents.snapshots, snapshot, &state::SnapshotRecord::device_identity);
    }
    for (const std::string& path : changes.put_made_files) {
      Put(contents.made_files, {.path = path}, &state::MadeFileRecord::path);
    }
    for (state::MadeFileRecord& file : contents.made_files) {
      if (std::ranges::count(changes.use_made_files, file.path) != 0) file.in_table = true;
      if (std::ranges::count(changes.retire_made_files, file.path) != 0) file.in_table = false;
    }
    for (const std::string& path : changes.delete_made_files) {
      std::erase_if(contents.made_files, [&](const auto& one) { return one.path == path; });
    }
    for (state::OperationRecord operation : changes.put_operations) {
      for (const state::OperationRecord& one : contents.operations) {
        if (one.id == operation.id) operation.cancelled |= one.cancelled;
      }
      Put(contents.operations, operation, &state::OperationRecord::id);
    }
    for (const std::string& note : changes.put_notes) {
      std::erase(contents.notes, note);
      contents.notes.push_back(note);
    }
    for (const std::string& note : changes.delete_notes) std::erase(contents.notes, note);
    for (const int64_t id : changes.delete_operations) {
      std::erase_if(contents.operations, [&](const auto& one) { return one.id == id; });
    }
    return absl::OkStatus();
  }
  template <typename Record, typename Key>
  static void Put(std::vector<Record>& records, const Record& record, Key Record::*key) {
    const auto there = std::ranges::find(records, record.*key, key);
    if (there == records.end()) {
      records.push_back(record);
    } else {
      *there = record;
    }
  }

  Journal& journal_;
  const std::unique_ptr<state::StateStore> kept_in_;
};

// The machine's files, each a crash disk. A file that is made or removed is so, durably, when the
// call returns.
class CrashFiles final : public BackingSource {
 public:
  CrashFiles(CrashRecorder& recorder, Journal& journal) : recorder_(recorder), journal_(journal) {}

  void Put(const std::string& path, std::shared_ptr<CrashDisk> disk) {
    absl::MutexLock hold(&mutex_);
    disks_[path] = std::move(disk);
  }
  std::shared_ptr<CrashDisk> Find(std::string_view path) {
    absl::MutexLock hold(&mutex_);
    const auto found = disks_.find(std::string(path));
    return found == disks_.end() ? nullptr : found->second;
  }

  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name, bool) override {
    std::shared_ptr<CrashDisk> disk = Find(name);
    if (disk == nullptr) return absl::NotFoundError("no such file");
    return std::shared_ptr<BlockDevice>(std::move(disk));
  }
  absl::Status MakeFile(std::string_view name, SectorCount size) override {
    if (Find(name) != nullptr) return absl::AlreadyExistsError("there is such a file");
    std::shared_ptr<CrashDisk> disk = recorder_.AddDisk(size);
    RETURN_IF_ERROR(journal_.Change([&](Durable& durable) {
      durable.files[std::string(name)] = disk->index();
      return absl::OkStatus();
    }));
    Put(std::string(name), std::move(disk));
    return absl::OkStatus();
  }
  absl::Status RemoveFile(std::string_view name) override {
    if (Find(name) == nullptr) return absl::OkStatus();
    {
      absl::MutexLock hold(&mutex_);
      disks_.erase(std::string(name));
    }
    return journal_.Change([&](Durable& durable) {
      durable.files.erase(std::string(name));
      return absl::OkStatus();
    });
  }

 private:
  CrashRecorder& recorder_;
  Journal& journal_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<CrashDisk>> disks_ ABSL_GUARDED_BY(mutex_);
};

// Reactors for all machines of a test. Time passes a thousand times as fast: what a target does
// every two seconds, or rests for, is soon done.
class QuickReactors {
 public:
  explicit QuickReactors(int count) {
    targets::AddBuiltinTargets(types_);
    auto pool = ReactorPool::Start(count, clock_);
    CHECK(pool.ok());
    pool_ = *std::move(pool);
    ticker_ = std::thread([this] {
      while (!stopping_) {
        clock_.Advance(kStep, *pool_);
        absl::SleepFor(kPause);
      }
    });
  }
  ~QuickReactors() {
    stopping_ = true;
    ticker_.join();
  }

  ReactorPool& pool() { return *pool_; }
  const TargetRegistry& types() const { return types_; }

 private:
  static constexpr std::chrono::seconds kStep{1};
  static constexpr absl::Duration kPause = absl::Microseconds(500);

  ManualClock clock_;
  TargetRegistry types_;
  std::unique_ptr<ReactorPool> pool_;
  std::atomic<bool> stopping_{false};
  std::thread ticker_;
};

class CrashMachine {
 public:
  static constexpr std::string_view kDirectory = "/made";  // of the files that recipes make

  // `store`: see JournalStore. `reactors` outlive it.
  CrashMachine(QuickReactors& reactors, uint64_t seed, const Left& left,
               std::unique_ptr<state::StateStore> store = nullptr)
      : reactors_(reactors.pool()), recorder_(seed), journal_(recorder_, PutDisks(left)) {
    for (const auto& [path, disk] : disks_) files_.Put(path, disk);
    store_ = std::make_unique<JournalStore>(journal_, std::move(store));
    registry_ = std::make_unique<DeviceRegistry>(reactors_, reactors.types(), files_);
    service_ = std::make_unique<VolumeService>(
        VolumeService::Parts{.registry = *registry_,
                             .store = *store_,
                             .backings = files_,
                             .reactors = reactors_,
                             .directory = std::string(kDirectory),
                             .operations_sleep_max = absl::Microseconds(100)});
  }
  ~CrashMachine() {
    service_.reset();
    registry_.reset();
  }

  // --- The start, as the daemon's ---

  void RestoreDevices() {
    restored_ = journal_.Now().contents;
    EXPECT_EQ(service_->RestoreDevices(restored_), absl::OkStatus());
    for (const DeviceInfo& info : registry_->List()) EXPECT_EQ(info.error, "") << info.name;
  }
  void ResumeOperations() { service_->ResumeOperations(restored_); }

  // --- What it has ---

  CrashRecorder& recorder() { return recorder_; }
  Journal& journal() { return journal_; }
  VolumeService& service() { return *service_; }
  DeviceRegistry& registry() { return *registry_; }
  ReactorPool& reactors() { return reactors_; }

  void AddDisk(const std::string& path, uint64_t sectors) {
    ASSERT_EQ(files_.MakeFile(path, SectorCount(sectors)), absl::OkStatus());
  }
  // REQUIRES: nothing in flight.
  std::span<std::byte> BytesOf(const std::string& path) { return files_.Find(path)->bytes(); }

  bool Has(const std::string& device) { return registry_->Find(device) != nullptr; }
  // Empty if it cannot be read.
  std::vector<std::byte> View(const std::string& device) {
    const auto mapped = registry_->Find(device);
    if (mapped == nullptr) return {};
    std::vector<std::byte> bytes(mapped->size().value() * kSectorBytes);
    const IoStatus status =
        reactors_.RunOn(0, [&] { return mapped->Submit(IoRequest::Read(Sector(0), bytes)); });
    return status == IoStatus::kOk ? bytes : std::vector<std::byte>();
  }
  IoStatus Write(const std::string& device, uint64_t first, std::span<std::byte> bytes) {
    const auto mapped = registry_->Find(device);
    return reactors_.RunOn(0,
                           [&] { return mapped->Submit(IoRequest::Write(Sector(first), bytes)); });
  }
  void Flush(const std::string& device) {
    const auto mapped = registry_->Find(device);
    EXPECT_EQ(reactors_.RunOn(0, [&] { return mapped->Submit(IoRequest::Flush()); }),
              IoStatus::kOk);
  }
  std::string TableOf(const std::string& device) {
    const auto table = registry_->Table(device, TableSlot::kLive);
    return table.ok() ? *table : std::string(table.status().message());
  }
  std::map<std::string, std::string> Tables() {
    std::map<std::string, std::string> tables;
    for (const DeviceInfo& info : registry_->List()) tables[info.name] = TableOf(info.name);
    return tables;
  }
  std::vector<std::string> Files() {
    std::vector<std::string> paths;
    for (const auto& [path, disk] : journal_.Now().files) paths.push_back(path);
    return paths;
  }
  OperationInfo WaitFor(int64_t id) {
    return *service_->operations().Wait(id, [] { return false; });
  }
  std::vector<OperationInfo> WaitForAll() {
    for (const OperationInfo& info : service_->operations().List()) WaitFor(info.id);
    return service_->operations().List();
  }

  // --- The crash ---

  // REQUIRES: the cursor is at `point`.
  Left Sample(const CrashCursor& cursor, uint64_t point, Random& random) const {
    return {.disks = cursor.Sample(random), .durable = journal_.At(point, random)};
  }

 private:
  Durable PutDisks(const Left& left) {
    Durable durable = left.durable;
    for (auto& [path, index] : durable.files) {
      const std::vector<std::byte>& bytes = left.disks[index];
      std::shared_ptr<CrashDisk> disk = recorder_.AddDisk(WholeSectors(ByteCount(bytes.size())));
      disk->Preset(bytes);
      index = disk->index();
      disks_[path] = std::move(disk);
    }
    return durable;
  }

  ReactorPool& reactors_;
  CrashRecorder recorder_;
  std::map<std::string, std::shared_ptr<CrashDisk>> disks_;  // at the start
  Journal journal_;
  CrashFiles files_{recorder_, journal_};
  std::unique_ptr<JournalStore> store_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<VolumeService> service_;
  state::Contents restored_;
};

}  // namespace sectormap::volumes
