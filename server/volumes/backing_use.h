// SPDX-License-Identifier: Apache-2.0
// BackingUse: which parts of backing and mapped devices tables lie on, so that nothing is copied
// over what is in use.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/block/backing_source.h"
#include "core/map/device_registry.h"
#include "core/map/table_spec.h"

namespace sectormap::volumes {

struct DevicePart {
  std::string device;  // the word that names it
  Sector start;
  SectorCount count;  // of a device whose use is not known in detail: all of it
};

// What one row lies on. Words that are no devices may be among those of types that are not known
// here; nobody opens them.
std::vector<DevicePart> PartsOf(const TableRow& row);

class BackingUse {
 public:
  // Live and inactive tables of all devices, as they are now. Control threads.
  static BackingUse Read(const DeviceRegistry& registry, BackingSource& backings);

  // FailedPrecondition, with who uses it, if a table lies on a part of [start, start + count) of
  // `device`. `name` is its word, for tables that could not be built.
  absl::Status CheckFree(const BlockDevice* device, std::string_view name, Sector start,
                         SectorCount count) const;

 private:
  struct Use {
    std::shared_ptr<const BlockDevice> device;  // null if it cannot be opened
    DevicePart part;
    std::string user;
  };
  std::vector<Use> uses_;
};

}  // namespace sectormap::volumes
