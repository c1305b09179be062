// SPDX-License-Identifier: Apache-2.0
// Legs: a mirror's devices, and what became of the I/O to them.
#pragma once

#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "core/map/device_resolver.h"
#include "core/map/target_host.h"
#include "targets/mirror/leg_set.h"

namespace sectormap::targets {

// What failed on a leg, by the letter that `status` shows; the most severe first
// (drivers/md/dm-raid1.c, device_status_char).
enum class LegError : uint8_t {
  kFlush = 1,   // F: a flush that the dirty log needed
  kWrite = 2,   // D: a write, or a flush that was asked for
  kResync = 4,  // S: a read or write of the recovery
  kRead = 8,    // R: a read
};

// Any thread.
class Legs {
 public:
  struct Leg {
    DeviceRef device;
    Sector start;  // where the mirror's sector 0 lies on it
  };

  // 2 to kLegsMax. Tells `host` of each leg's first error of a kind.
  Legs(std::vector<Leg> legs, TargetHost& host) : legs_(std::move(legs)), host_(host) {}

  size_t size() const { return legs_.size(); }
  LegSet all() const { return LegSet::FirstOf(legs_.size()); }
  const Leg& operator[](size_t leg) const { return legs_[leg]; }
  BlockLimits limits() const;

  // `request` in the mirror's addresses.
  Task<IoStatus> Submit(size_t leg, IoRequest request) const {
    if (request.op != IoOp::kFlush) request.first += legs_[leg].start.offset();
    return legs_[leg].device.device->Submit(request);
  }

  void NoteError(size_t leg, LegError error);
  void NoteErrors(LegSet legs, LegError error) {
    for (size_t leg : legs) NoteError(leg, error);
  }
  // Everything is in sync again.
  void ForgetErrors();

  // Whom of `candidates` to read from: the first in the table without an error; if all have one,
  // the first. REQUIRES: not empty.
  size_t ChooseForRead(LegSet candidates) const;

  // A letter for each leg.
  std::string Health() const;

 private:
  const std::vector<Leg> legs_;
  TargetHost& host_;
  std::array<std::atomic<uint8_t>, kLegsMax> errors_{};
};

}  // namespace sectormap::targets
