// SPDX-License-Identifier: Apache-2.0
#include "core/block/device_claims.h"

#include <unistd.h>

#include <utility>

#include "core/base/status_macros.h"

namespace sectormap {

absl::StatusOr<std::shared_ptr<const DeviceClaims::Claim>> DeviceClaims::Take(
    dev_t number, absl::FunctionRef<absl::StatusOr<int>()> open) {
  std::shared_ptr<Device> device;
  {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<Device>& place = devices_[number];
    if (place == nullptr) place = std::make_shared<Device>();
    device = place;
  }
  {
    absl::MutexLock lock(&device->mutex);
    if (device->claims == 0) {
      ASSIGN_OR_RETURN(device->descriptor, open());
    }
    ++device->claims;
  }
  return std::make_shared<const Claim>(std::move(device));
}

DeviceClaims::Claim::~Claim() {
  absl::MutexLock lock(&device_->mutex);
  if (--device_->claims == 0) close(std::exchange(device_->descriptor, -1));
}

}  // namespace sectormap
