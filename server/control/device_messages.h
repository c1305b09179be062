// SPDX-License-Identifier: Apache-2.0
// The device mapper's values as messages of sectormap.v1.
#pragma once

#include <string_view>

#include "core/block/io_counters.h"
#include "core/map/mapped_device.h"
#include "sectormap/v1/device_mapper.pb.h"

namespace sectormap::control {

void FillDevice(const DeviceInfo& info, v1::Device& message);
void FillStats(std::string_view device, const IoTotals& totals, v1::IoStats& message);

TableSlot SlotOf(v1::TableSlot slot);

}  // namespace sectormap::control
