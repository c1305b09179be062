// SPDX-License-Identifier: Apache-2.0
#include "core/map/target_registry.h"

#include "core/base/check.h"

namespace sectormap {
namespace {
constexpr size_t kTypeNameMax = 15;  // DM_MAX_TYPE_NAME less the NUL (uapi/linux/dm-ioctl.h)
}

void TargetRegistry::Add(const TargetType& type) {
  CHECK(type.name.size() <= kTypeNameMax && Find(type.name) == nullptr);
  types_.push_back(&type);
}

const TargetType* TargetRegistry::Find(std::string_view name) const {
  for (const TargetType* type : types_) {
    if (type->name == name) return type;
  }
  return nullptr;
}

}  // namespace sectormap
