// SPDX-License-Identifier: Apache-2.0
// BackingSource: where table rows get what is not a mapped device.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/status.h"
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

  // Files of the daemon's own, below --device-root. Each is durable when it returns.
  // A sparse file of `size`. AlreadyExists, PermissionDenied, NotFound (its directory),
  // InvalidArgument (a name or size that the file system does not take), ResourceExhausted.
  virtual absl::Status MakeFile(std::string_view name, SectorCount size);
  // Makes a regular file this large, if it is smaller, also for those who have it open.
  // FailedPrecondition: a block device. Else as MakeFile.
  virtual absl::Status GrowFile(std::string_view name, SectorCount size);
  // OK if there is none. Who has it open keeps it until he closes it.
  virtual absl::Status RemoveFile(std::string_view name);
};

}  // namespace sectormap
