// SPDX-License-Identifier: Apache-2.0
// TargetHost: what a target may ask of the mapped device whose table it is a row of.
#pragma once

#include "core/async/reactor_pool.h"
#include "core/map/target_notes.h"

namespace sectormap {

// Outlives every target that was given it.
class TargetHost {
 public:
  virtual ~TargetHost() = default;

  // For background work, and for the clock that they share.
  virtual ReactorPool& reactors() = 0;

  // Something that `status` shows has changed and somebody may be waiting for it (dm's event_nr):
  // a leg failed, a snapshot filled up. Any thread; never blocks on I/O.
  virtual void RaiseEvent() = 0;

  // Null: none are kept. They outlive the host.
  virtual TargetNotes* notes() { return nullptr; }
};

}  // namespace sectormap
