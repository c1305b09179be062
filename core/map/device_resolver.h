// SPDX-License-Identifier: Apache-2.0
// How a table row gets at the devices it names.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/block/block_device.h"

namespace sectormap {

// A counted hold on a device that a table uses. Copies share the hold; the device stays open, and
// its open count raised, until the last is gone. Equal `device` pointers are the same device.
struct DeviceRef {
  std::shared_ptr<BlockDevice> device;
  std::string name;     // as the table gave it; `table` prints it again
  bool mapped = false;  // another mapped device, not a backing device
};

enum class OpenMode { kReadOnly, kReadWrite };

class DeviceResolver {
 public:
  virtual ~DeviceResolver() = default;

  // `name` is an absolute path, /dev/mapper/NAME, the bare NAME of a mapped device, or mem:SIZE.
  // NotFound, PermissionDenied (outside every --device-root), InvalidArgument (the name's form).
  // Control threads only: it may block.
  virtual absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode mode) = 0;
};

}  // namespace sectormap
