// SPDX-License-Identifier: Apache-2.0
// TargetRegistry: the target types a table may name.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "core/map/target.h"

namespace sectormap {

// Filled at start (targets/builtin_targets.h), immutable after: any thread may read it.
class TargetRegistry {
 public:
  // REQUIRES: the name is not taken and at most 15 characters long.
  void Add(const TargetType& type);

  // Null if there is none.
  const TargetType* Find(std::string_view name) const;

  std::span<const TargetType* const> all() const { return types_; }

 private:
  std::vector<const TargetType*> types_;
};

}  // namespace sectormap
