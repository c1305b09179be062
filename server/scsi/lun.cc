// SPDX-License-Identifier: Apache-2.0
// Lun::Create: joins a logical unit to the MappedDevice it is made over.
#include "server/scsi/lun.h"

#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {
namespace {

struct Keeper {
  std::shared_ptr<MappedDevice> device;
  DeviceRef hold;
};

}  // namespace

absl::StatusOr<std::shared_ptr<Lun>> Lun::Create(std::shared_ptr<MappedDevice> device,
                                                 DeviceRef hold, ReactorPool& reactors,
                                                 LunOptions options) {
  UnitBacking backing;
  backing.device = device.get();
  backing.mapped = device.get();
  backing.identity = device->identity();
  MappedDevice* mapped = device.get();
  backing.read_only = [mapped] { return mapped->read_only(); };
  backing.has_medium = [mapped] { return mapped->has_medium(); };
  backing.add_observer = [mapped](DeviceObserver* observer) { mapped->AddObserver(observer); };
  backing.remove_observer = [mapped](DeviceObserver* observer) {
    mapped->RemoveObserver(observer);
  };
  backing.hold = std::make_shared<Keeper>(Keeper{std::move(device), std::move(hold)});
  return LogicalUnit::Create(std::move(backing), reactors, std::move(options));
}

}  // namespace sectormap::scsi
