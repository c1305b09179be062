// SPDX-License-Identifier: Apache-2.0
#include "tests/support/crash_disk.h"

#include <algorithm>
#include <coroutine>
#include <cstring>

#include "core/async/next_turn.h"
#include "core/async/reactor.h"
#include "core/base/check.h"

namespace sectormap {
namespace {

bool IsWrite(const IoRequest& request) {
  return request.op == IoOp::kWrite || request.op == IoOp::kDiscard ||
         request.op == IoOp::kWriteZeroes;
}

}  // namespace

std::shared_ptr<MemoryDevice> DiskOf(std::span<const std::byte> bytes) {
  auto device = MemoryDevice::Create(WholeSectors(ByteCount(bytes.size())));
  CHECK(device.ok());
  std::ranges::copy(bytes, (*device)->bytes().begin());
  return *std::move(device);
}

// --- CrashRecorder ---

CrashRecorder::~CrashRecorder() = default;

std::shared_ptr<CrashDisk> CrashRecorder::AddDisk(SectorCount size) {
  absl::MutexLock lock(&mutex_);
  disks_.push_back(std::shared_ptr<CrashDisk>(new CrashDisk(*this, disks_.size(), size)));
  return disks_.back();
}

void CrashRecorder::SetDelay(uint64_t turns_max) {
  absl::MutexLock lock(&mutex_);
  turns_max_ = turns_max;
}

uint64_t CrashRecorder::now() const {
  absl::MutexLock lock(&mutex_);
  return events_.size();
}

uint64_t CrashRecorder::CountOf(size_t disk, IoOp op) const {
  absl::MutexLock lock(&mutex_);
  const auto found = counts_.find({disk, op});
  return found != counts_.end() ? found->second : 0;
}

uint64_t CrashRecorder::Begin(size_t disk, const IoRequest& request) {
  std::shared_ptr<Write> write;
  if (IsWrite(request)) {
    write = std::make_shared<Write>();
    write->disk = disk;
    write->first = request.first;
    write->force_unit_access = request.force_unit_access;
    write->bytes.assign(request.data.begin(), request.data.end());
    write->bytes.resize(Bytes(request.count).value());
  }
  absl::MutexLock lock(&mutex_);
  ++counts_[{disk, request.op}];
  events_.push_back({.begins = true, .disk = disk, .write = std::move(write)});
  return events_.size() - 1;
}

void CrashRecorder::End(uint64_t begin) {
  absl::MutexLock lock(&mutex_);
  const size_t disk = events_[begin].disk;
  events_.push_back({.begins = false, .disk = disk, .write = nullptr, .begin = begin});
}

uint64_t CrashRecorder::Turns() {
  absl::MutexLock lock(&mutex_);
  return turns_max_ == 0 ? 0 : random_.Between(0, turns_max_);
}

// --- CrashDisk ---

CrashDisk::CrashDisk(CrashRecorder& recorder, size_t index, SectorCount size)
    : recorder_(recorder), index_(index), memory_(*MemoryDevice::Create(size)) {}

BlockLimits CrashDisk::limits() const { return memory_->limits(); }

void CrashDisk::Preset(std::span<const std::byte> bytes) {
  CHECK(bytes.size() == memory_->bytes().size());
  preset_.assign(bytes.begin(), bytes.end());
  std::ranges::copy(bytes, memory_->bytes().begin());
}

Task<IoStatus> CrashDisk::Submit(IoRequest request) { return Perform(request); }

// The bytes of a write are taken when it ends: who changes them before has broken the contract, and
// the events hold what was asked for.
Task<IoStatus> CrashDisk::Perform(IoRequest request) {
  const bool recorded = request.op != IoOp::kRead;
  const uint64_t begin = recorded ? recorder_.Begin(index_, request) : 0;
  for (uint64_t turns = recorder_.Turns(); turns > 0; --turns) co_await NextTurn();
  absl::MutexLock lock(&mutex_);
  Apply(request);
  if (recorded) recorder_.End(begin);
  co_return IoStatus::kOk;
}

void CrashDisk::Apply(const IoRequest& request) {
  if (request.op == IoOp::kFlush) return;
  CHECK(RangeFits(request.first, request.count, size()));
  const std::span<std::byte> place =
      memory_->bytes().subspan(ByteOffset(request.first).value(), Bytes(request.count).value());
  if (request.op == IoOp::kRead) {
    CHECK(request.data.size() == place.size());
    std::memcpy(request.data.data(), place.data(), place.size());
  } else if (request.op == IoOp::kWrite) {
    CHECK(request.data.size() == place.size());
    std::memcpy(place.data(), request.data.data(), place.size());
  } else {
    std::memset(place.data(), 0, place.size());
  }
}

// --- CrashCursor ---

CrashCursor::CrashCursor(const CrashRecorder& recorder)
    : events_([&recorder] {
        absl::MutexLock lock(&recorder.mutex_);
        return recorder.events_;
      }()) {
  absl::MutexLock lock(&recorder.mutex_);
  for (const std::shared_ptr<CrashDisk>& disk : recorder.disks_) {
    disks_.emplace_back().certain = disk->preset_;
    disks_.back().certain.resize(Bytes(disk->size()).value());
  }
}

void CrashCursor::MoveTo(uint64_t point) {
  CHECK(point >= point_ && point <= events_.size());
  for (; point_ < point; ++point_) Step(point_);
}

void CrashCursor::Step(uint64_t event) {
  const CrashRecorder::Event& what = events_[event];
  Disk& disk = disks_[what.disk];
  if (what.begins && what.write == nullptr) {
    std::vector<uint64_t>& covered = disk.flushes[event];
    for (const auto& [begin, ended] : disk.open) {
      if (ended) covered.push_back(begin);
    }
    return;
  }
  const uint64_t begin = what.begins ? event : what.begin;
  if (events_[begin].write == nullptr) {
    for (uint64_t write : disk.flushes[begin]) MakeCertain(disk, write);
    disk.flushes.erase(begin);
    return;
  }
  disk.open[begin] = !what.begins;
  const CrashRecorder::Write& write = WriteOf(begin);
  const uint64_t sectors = WholeSectors(ByteCount(write.bytes.size())).value();
  for (uint64_t i = 0; i < sectors; ++i) {
    std::vector<Candidate>& candidates = disk.uncertain[write.first.value() + i];
    std::erase_if(candidates, [begin](const Candidate& c) { return c.begin == begin; });
    candidates.push_back({begin, !what.begins});
  }
  if (!what.begins && write.force_unit_access) MakeCertain(disk, begin);
}

// What ended before this write is over; what ended after it, or has not ended, may still come.
void CrashCursor::MakeCertain(Disk& disk, uint64_t begin) {
  if (disk.open.erase(begin) == 0) return;
  const CrashRecorder::Write& write = WriteOf(begin);
  const uint64_t sectors = WholeSectors(ByteCount(write.bytes.size())).value();
  for (uint64_t i = 0; i < sectors; ++i) {
    const uint64_t sector = write.first.value() + i;
    const auto found = disk.uncertain.find(sector);
    if (found == disk.uncertain.end()) continue;
    std::vector<Candidate>& candidates = found->second;
    const auto self =
        std::ranges::find(candidates, begin, [](const Candidate& c) { return c.begin; });
    if (self == candidates.end()) continue;  // a later one is certain already
    std::ranges::copy(BytesOf(begin, sector),
                      disk.certain.begin() + static_cast<ptrdiff_t>(sector * kSectorBytes));
    const auto kept = std::remove_if(candidates.begin(), self + 1, [begin](const Candidate& c) {
      return c.ended || c.begin == begin;
    });
    candidates.erase(kept, self + 1);
    if (candidates.empty()) disk.uncertain.erase(found);
  }
}

std::span<const std::byte> CrashCursor::BytesOf(uint64_t begin, uint64_t sector) const {
  const CrashRecorder::Write& write = WriteOf(begin);
  return std::span(write.bytes)
      .subspan((sector - write.first.value()) * kSectorBytes, kSectorBytes);
}

CrashState CrashCursor::Certain() const {
  CrashState state;
  for (const Disk& disk : disks_) state.push_back(disk.certain);
  return state;
}

void CrashCursor::Put(CrashState& state, size_t disk, uint64_t sector, uint64_t begin) const {
  std::ranges::copy(BytesOf(begin, sector),
                    state[disk].begin() + static_cast<ptrdiff_t>(sector * kSectorBytes));
}

CrashState CrashCursor::TakeWrites(const std::function<bool(uint64_t begin)>& takes) const {
  CrashState state = Certain();
  for (size_t i = 0; i < disks_.size(); ++i) {
    for (const auto& [sector, candidates] : disks_[i].uncertain) {
      for (const Candidate& candidate : candidates) {
        if (takes(candidate.begin)) Put(state, i, sector, candidate.begin);
      }
    }
  }
  return state;
}

CrashState CrashCursor::TakeSectors(Random& random) const {
  CrashState state = Certain();
  for (size_t i = 0; i < disks_.size(); ++i) {
    for (const auto& [sector, candidates] : disks_[i].uncertain) {
      const uint64_t choice = random.Below(candidates.size() + 1);
      if (choice > 0) Put(state, i, sector, candidates[choice - 1].begin);
    }
  }
  return state;
}

CrashState CrashCursor::Sample(Random& random) const {
  std::vector<uint64_t> open;
  for (const Disk& disk : disks_) {
    for (const auto& [begin, ended] : disk.open) open.push_back(begin);
  }
  if (open.empty()) return Certain();
  const uint64_t one = open[random.Below(open.size())];
  switch (random.Below(6)) {
    case 0:
      return Certain();
    case 1:
      return TakeWrites([](uint64_t) { return true; });
    case 2:
      return TakeWrites([one](uint64_t begin) { return begin == one; });
    case 3:
      return TakeWrites([one](uint64_t begin) { return begin != one; });
    case 4: {
      std::map<uint64_t, bool> chosen;
      for (uint64_t begin : open) chosen[begin] = random.OneIn(2);
      return TakeWrites([&chosen](uint64_t begin) { return chosen.at(begin); });
    }
    default:
      return TakeSectors(random);
  }
}

bool CrashCursor::VisitAll(uint64_t most,
                           const std::function<void(const CrashState&)>& visit) const {
  struct Choice {
    size_t disk;
    uint64_t sector;
    const std::vector<Candidate>* candidates;
  };
  std::vector<Choice> choices;
  uint64_t states = 1;
  for (size_t i = 0; i < disks_.size(); ++i) {
    for (const auto& [sector, candidates] : disks_[i].uncertain) {
      choices.push_back({i, sector, &candidates});
      states *= candidates.size() + 1;
      if (states > most) return false;
    }
  }
  for (uint64_t number = 0; number < states; ++number) {
    CrashState state = Certain();
    uint64_t rest = number;
    for (const Choice& choice : choices) {
      const uint64_t options = choice.candidates->size() + 1;  // 0: what is certain
      const uint64_t taken = rest % options;
      rest /= options;
      if (taken == 0) continue;
      Put(state, choice.disk, choice.sector, (*choice.candidates)[taken - 1].begin);
    }
    visit(state);
  }
  return true;
}

uint64_t CrashCursor::uncertain_sectors() const {
  uint64_t count = 0;
  for (const Disk& disk : disks_) count += disk.uncertain.size();
  return count;
}

}  // namespace sectormap
