// SPDX-License-Identifier: Apache-2.0
#include "server/control/device_messages.h"

#include <string>

#include "core/block/io_op_name.h"

namespace sectormap::control {
void FillDevice(const DeviceInfo& info, v1::Device& message) {
  message.set_name(info.name);
  message.set_uuid(info.uuid);
  message.set_identity(info.identity);
  message.set_suspended(info.suspended);
  message.set_read_only(info.read_only);
  message.set_has_live_table(info.has_live_table);
  message.set_has_inactive_table(info.has_inactive_table);
  message.set_deferred_remove(info.deferred_remove);
  message.set_open_count(info.open_count);
  message.set_event_number(info.event_number);
  message.set_target_count(info.target_count);
  message.set_size_sectors(info.size.value());
  message.set_error(info.error);
}

void FillStats(std::string_view device, const IoTotals& totals, v1::IoStats& message) {
  message.set_device(std::string(device));
  for (int op = 0; op < kIoOpCount; ++op) {
    v1::IoStats::PerOperation& row = *message.add_operations();
    row.set_operation(std::string(NameOf(static_cast<IoOp>(op))));
    row.set_requests(totals.ops[op].requests);
    row.set_bytes(totals.ops[op].bytes);
    row.set_errors(totals.ops[op].errors);
  }
}

TableSlot SlotOf(v1::TableSlot slot) {
  return slot == v1::TABLE_SLOT_INACTIVE ? TableSlot::kInactive : TableSlot::kLive;
}

}  // namespace sectormap::control
