// SPDX-License-Identifier: Apache-2.0
// WriteHistory: what was written to a device, sector by sector, and when, so that a test can say
// what the device may read as after a loss of power: for each sector the last write that is certain
// to be there (acknowledged, and forced or followed by a flush), or one that came after it.
//
// Writes of one sector come one after the other; those of different sectors at any time.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/async/gate.h"
#include "core/block/block_device.h"
#include "tests/support/crash_disk.h"
#include "tests/support/random.h"

namespace sectormap::targets {

class WriteHistory {
 public:
  // What the device reads as now; `recorder` tells the time. What is written is numbered from
  // `first_id`: bytes of two histories whose numbers do not meet are never the same.
  WriteHistory(const CrashRecorder& recorder, std::vector<std::byte> before, uint64_t first_id = 1)
      : recorder_(recorder),
        before_(std::move(before)),
        sectors_(before_.size() / kSectorBytes),
        live_(before_),
        next_id_(first_id) {}

  uint64_t size() const { return sectors_.size(); }

  // Writes [first, first + count) of `device`, which it is the history of.
  Task<void> Write(BlockDevice& device, uint64_t first, uint64_t count, bool forced) {
    const uint64_t id = Begin(first, count, forced);
    std::vector<std::byte> bytes;
    for (uint64_t i = 0; i < count; ++i) {
      const std::vector<std::byte> sector = Sector512(id, first + i);
      bytes.insert(bytes.end(), sector.begin(), sector.end());
    }
    // Every second one as a session offers it, if the device takes it.
    if (forced || id % 2 == 0 || !device.WriteAtOnce(Sector(first), bytes)) {
      const IoStatus status =
          co_await device.Submit(IoRequest::Write(Sector(first), bytes, forced));
      EXPECT_EQ(status, IoStatus::kOk);
    }
    absl::MutexLock lock(&mutex_);
    for (uint64_t i = 0; i < count; ++i) {
      sectors_[first + i].back().acknowledged = recorder_.now();
      std::memcpy(&live_[(first + i) * kSectorBytes], &bytes[i * kSectorBytes], kSectorBytes);
    }
  }

  Task<void> Flush(BlockDevice& device) {
    const uint64_t start = recorder_.now();
    const IoStatus status = co_await device.Submit(IoRequest::Flush());
    EXPECT_EQ(status, IoStatus::kOk);
    absl::MutexLock lock(&mutex_);
    flushes_.push_back({start, recorder_.now()});
  }

  // The device was given other bytes at an instant between two numbers of events, as by a rollback:
  // from then on it has them, and what was written later.
  void Become(std::vector<std::byte> bytes, uint64_t begin, uint64_t end) {
    absl::MutexLock lock(&mutex_);
    became_ = std::move(bytes);
    became_begin_ = begin;
    became_end_ = end;
  }

  // What it reads as without a loss of power. REQUIRES: nothing under way.
  const std::vector<std::byte>& live() const { return live_; }

  // Empty if `view` is what the device may read as if the power fails after `point` events;
  // `became`: if Become() has happened by then.
  std::string Problem(const std::vector<std::byte>& view, uint64_t point,
                      bool became = false) const {
    absl::MutexLock lock(&mutex_);
    if (view.size() != before_.size()) return "it cannot be read";
    uint64_t flushed = 0;
    for (const Span& flush : flushes_) {
      if (flush.acknowledged <= point) flushed = std::max(flushed, flush.start);
    }
    for (uint64_t sector = 0; sector < sectors_.size(); ++sector) {
      if (!MayHold(sector, &view[sector * kSectorBytes], point, flushed, became)) {
        return absl::StrCat("sector ", sector, " holds what it must not after ", point, " events");
      }
    }
    return "";
  }

 private:
  static constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  struct Span {
    uint64_t start;
    uint64_t acknowledged;
  };
  struct Entry {
    uint64_t id;
    bool forced;
    uint64_t start;
    uint64_t acknowledged = kNever;
  };

  static std::vector<std::byte> Sector512(uint64_t id, uint64_t sector) {
    std::vector<std::byte> bytes(kSectorBytes);
    for (size_t place = 0; place < bytes.size(); place += 16) {
      std::memcpy(&bytes[place], &id, 8);
      std::memcpy(&bytes[place + 8], &sector, 8);
    }
    return bytes;
  }

  uint64_t Begin(uint64_t first, uint64_t count, bool forced) {
    absl::MutexLock lock(&mutex_);
    const uint64_t id = next_id_++;
    for (uint64_t i = 0; i < count; ++i) {
      sectors_[first + i].push_back({id, forced, recorder_.now()});
    }
    return id;
  }

  bool MayHold(uint64_t sector, const std::byte* found, uint64_t point, uint64_t flushed,
               bool became) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const std::vector<Entry>& entries = sectors_[sector];
    for (size_t i = entries.size(); i > 0; --i) {
      const Entry& entry = entries[i - 1];
      if (entry.start > point) continue;
      if (became && entry.acknowledged < became_begin_) break;
      if (std::memcmp(found, Sector512(entry.id, sector).data(), kSectorBytes) == 0) return true;
      // What was under way then may have come before.
      if (became && entry.start < became_end_) continue;
      const bool certain =
          (entry.forced && entry.acknowledged <= point) || entry.acknowledged <= flushed;
      if (certain) return false;
    }
    const std::vector<std::byte>& at_first = became ? became_ : before_;
    return std::memcmp(found, &at_first[sector * kSectorBytes], kSectorBytes) == 0;
  }

  const CrashRecorder& recorder_;
  const std::vector<std::byte> before_;
  mutable absl::Mutex mutex_;
  std::vector<std::vector<Entry>> sectors_;
  std::vector<Span> flushes_;
  std::vector<std::byte> live_;
  uint64_t next_id_;
  std::vector<std::byte> became_;
  uint64_t became_begin_ = 0, became_end_ = 0;
};

// A device in use, and its history.
struct DeviceInUse {
  BlockDevice* device;
  WriteHistory* history;
};

// A writer of its own sectors: of regions of kRegion sectors, every `lanes`-th is its own.
inline constexpr uint64_t kRegion = 37;

inline Task<void> UseLane(std::vector<DeviceInUse> devices, uint64_t lane, uint64_t lanes,
                          int requests, uint64_t seed, Gate& gate) {
  Random random(seed + lane);
  for (int i = 0; i < requests; ++i) {
    const DeviceInUse& use = devices[random.Below(devices.size())];
    const uint64_t regions = (use.history->size() + kRegion - 1) / kRegion;
    const uint64_t mine = (regions - lane + lanes - 1) / lanes;
    const uint64_t start = (random.Below(mine) * lanes + lane) * kRegion;
    const uint64_t size = std::min(kRegion, use.history->size() - start);
    const uint64_t first = random.Below(size);
    const uint64_t longest = random.OneIn(3) ? size - first : std::min<uint64_t>(size - first, 4);
    co_await use.history->Write(*use.device, start + first, random.Between(1, longest),
                                random.OneIn(8));
    if (random.OneIn(10)) co_await use.history->Flush(*use.device);
  }
  gate.Leave();
}

inline Task<void> UseLanes(std::vector<DeviceInUse> devices, uint64_t first, uint64_t step,
                           uint64_t lanes, int requests, uint64_t seed) {
  Gate gate;
  for (uint64_t lane = first; lane < lanes; lane += step) {
    CHECK(gate.TryEnter());
    Detach(UseLane(devices, lane, lanes, requests, seed, gate));
  }
  gate.Close();
  co_await gate.Drained();
}

}  // namespace sectormap::targets
