// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/device_metrics.h"

#include <map>
#include <set>
#include <string>

#include "server/metrics/io_families.h"

namespace sectormap::metrics {
namespace {

// The states of one device, each a gauge of 0 or 1 or a number.
class StateFamilies {
 public:
  void Add(const DeviceInfo& device) {
    const Labels labels = {{"device", device.name}};
    size_.Add(labels, Bytes(device.size).value());
    suspended_.Add(labels, device.suspended ? 1.0 : 0.0);
    read_only_.Add(labels, device.read_only ? 1.0 : 0.0);
    error_.Add(labels, device.error.empty() ? 0.0 : 1.0);
    open_count_.Add(labels, device.open_count);
    events_.Add(labels, static_cast<double>(device.event_number));
  }

  void MoveTo(Families& families) {
    for (Family* family : {&size_, &suspended_, &read_only_, &error_, &open_count_, &events_}) {
      families.Add(std::move(*family));
    }
  }

 private:
  Family size_ = Gauge("sectormap_device_size_bytes", "Size of the device's live table.");
  Family suspended_ = Gauge("sectormap_device_suspended", "1 while the device holds all I/O back.");
  Family read_only_ = Gauge("sectormap_device_read_only", "1 if the live table refuses writes.");
  Family error_ = Gauge("sectormap_device_error",
                        "1 if the live table could not be built, so that every I/O fails; "
                        "`sectormap info` says why.");
  Family open_count_ =
      Gauge("sectormap_device_openers", "LUNs and other devices' tables that use the device.");
  Family events_ = Counter("sectormap_device_events_total",
                           "The device's event number: leg failures, snapshots lost, renames.");
};

}  // namespace

void AddDeviceFamilies(const DeviceRegistry& devices, Families& families) {
  StateFamilies states;
  IoFamilies io("sectormap_device", "the mapped device");
  Family backing_info = Gauge("sectormap_device_backing_info",
                              "1 for each device or backing device that a live table uses.");
  for (const DeviceInfo& device : devices.List()) {
    states.Add(device);
    if (const auto mapped = devices.Find(device.name)) {
      io.Add("device", device.name, mapped->counters().Sum());
    }
    const auto below = devices.Dependencies(device.name, TableSlot::kLive);
    if (!below.ok()) continue;        // removed since
    std::set<std::string_view> seen;  // a series may stand once only
    for (const DeviceRef& backing : *below) {
      if (!seen.insert(backing.name()).second) continue;
      backing_info.Add({{"device", device.name},
                        {"backing", backing.name()},
                        {"mapped", backing.mapped() ? "true" : "false"}},
                       1.0);
    }
  }
  states.MoveTo(families);
  io.MoveTo(families);
  families.Add(std::move(backing_info));
}

void AddBackingFamilies(BackingOpener& backings, Families& families) {
  IoFamilies io("sectormap_backing", "the backing device");
  // A file that was replaced while it is open has the name of its heir, and a series may stand once
  // only.
  std::map<std::string, IoTotals> by_name;
  for (const BackingOpener::Backing& backing : backings.List()) {
    by_name[backing.name] += backing.device->counters().Sum();
  }
  for (const auto& [name, totals] : by_name) io.Add("backing", name, totals);
  io.MoveTo(families);
}

}  // namespace sectormap::metrics
