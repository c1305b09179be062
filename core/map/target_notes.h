// SPDX-License-Identifier: Apache-2.0
// TargetNotes: what a target must not forget at the daemon's end, and could not write to the
// devices below it, as they had failed.
#pragma once

#include <string>

#include "core/async/task.h"

namespace sectormap {

// A note is one line, which begins with what kind it is.
class TargetNotes {
 public:
  virtual ~TargetNotes() = default;

  // Any thread. What Put was given, in this life or one before, and Remove was not.
  virtual bool Has(const std::string& note) const = 0;

  // On a reactor. They end when that is durable; or if it cannot be had now: then it is tried again
  // until the daemon ends.
  virtual Task<void> Put(std::string note) = 0;
  virtual Task<void> Remove(std::string note) = 0;
};

}  // namespace sectormap
