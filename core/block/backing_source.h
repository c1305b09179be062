// SPDX-License-Identifier: Apache-2.0
// BackingSource: where table rows get what is not a mapped device.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/block/block_device.h"

namespace sectormap {

// Opens files and block devices below --device-root, and mem:SIZE. Implemented by
// core/block/backing_opener.h. The same file opened twice is the same device.
class BackingSource {
 public:
  virtual ~BackingSource() = default;
  virtual absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name,
                                                            bool read_only) = 0;
};

}  // namespace sectormap
