// SPDX-License-Identifier: Apache-2.0
// How a table row gets at the devices it names.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "core/block/block_device.h"

namespace sectormap {

// A counted hold on a device that a table uses. Copies share the hold, and with it the name: a
// million rows may have one each. The device stays open, and its open count raised, until the last
// is gone. Equal `device` pointers are the same device.
class DeviceRef {
 public:
  DeviceRef() = default;
  // `name` is as the table gave it; `mapped`: another mapped device, not a backing device.
  DeviceRef(std::shared_ptr<BlockDevice> opened, std::string name, bool mapped) {
    auto named = std::make_shared<Named>(Named{std::move(opened), std::move(name), mapped});
    named_ = named.get();
    device = std::shared_ptr<BlockDevice>(std::move(named), named_->device.get());
  }

  // What `table` prints again. REQUIRES: a device.
  const std::string& name() const { return named_->name; }
  bool mapped() const { return named_->mapped; }

  // Not to be set to another one: the name goes with it.
  std::shared_ptr<BlockDevice> device;

 private:
  struct Named {
    std::shared_ptr<BlockDevice> device;
    std::string name;
    bool mapped;
  };
  const Named* named_ = nullptr;  // lives as long as `device`, which owns it
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
