// SPDX-License-Identifier: Apache-2.0
// DeviceClaims: block devices that the daemon has for itself, as the kernel's device mapper has
// those of its tables (block/bdev.c, bd_may_claim). What is mounted, or claimed by another program,
// cannot be had, and who has it keeps others from mounting it. The kernel counts each open file as
// a claimant of its own: so there is one for a device, whoever here uses it, for reading or
// writing.
#pragma once

#include <sys/types.h>

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace sectormap {

// Control threads only: it may wait for a disk, but never for another one than is asked for.
// Thread-safe.
class DeviceClaims {
 public:
  // A share of the daemon's claim; the last one's end gives the device back. Outlives DeviceClaims
  // if need be.
  class Claim;

  // `open` opens the device with O_EXCL and is called if the daemon does not have it yet; its error
  // is the answer.
  absl::StatusOr<std::shared_ptr<const Claim>> Take(dev_t device,
                                                    absl::FunctionRef<absl::StatusOr<int>()> open);

 private:
  struct Device {
    absl::Mutex mutex;  // held while it is opened or closed, so that the two never overlap
    int claims ABSL_GUARDED_BY(mutex) = 0;
    int descriptor ABSL_GUARDED_BY(mutex) = -1;
  };

  absl::Mutex mutex_;
  // Stay: there are no more than the machine has had block devices.
  absl::flat_hash_map<dev_t, std::shared_ptr<Device>> devices_ ABSL_GUARDED_BY(mutex_);
};

class DeviceClaims::Claim {
 public:
  // REQUIRES: counted in `device`.
  explicit Claim(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim();

 private:
  const std::shared_ptr<Device> device_;
};

}  // namespace sectormap
