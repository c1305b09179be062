// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/operation_metrics.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/units.h"

namespace sectormap::metrics {
namespace {

double ToBytes(uint64_t sectors) {
  return static_cast<double>(Bytes(SectorCount(sectors)).value());
}

bool HasMirrorRows(const DeviceRegistry& devices, const std::string& name) {
  const auto device = devices.Find(name);
  const auto table = device == nullptr ? nullptr : device->table(TableSlot::kLive);
  if (table == nullptr) return false;
  for (const MappingTable::Row& row : table->rows()) {
    if (row.type->name == "mirror") return true;
  }
  return false;
}

}  // namespace

void AddSnapshotFamilies(const volumes::Snapshots& snapshots, Families& families) {
  using State = volumes::SnapshotStatus::State;
  Family used = Gauge("sectormap_snapshot_used_bytes",
                      "What of the snapshot's store is in use, its metadata among it.");
  Family size = Gauge("sectormap_snapshot_size_bytes", "Size of the snapshot's store.");
  Family ratio = Gauge("sectormap_snapshot_used_ratio",
                       "Share of the store in use, from 0 to 1; 0 while nothing has been copied.");
  Family valid = Gauge("sectormap_snapshot_valid",
                       "1 while the snapshot can be read; 0 when it is lost or full.");
  Family merging = Gauge("sectormap_snapshot_merging",
                         "1 for a device that is being rolled back; its used bytes fall to the "
                         "metadata alone.");
  for (const volumes::SnapshotInfo& info : snapshots.List()) {
    const Labels labels = {{"snapshot", info.name}, {"device", info.origin}};
    const bool is_valid = info.available && info.status.state == State::kValid;
    valid.Add(labels, is_valid ? 1.0 : 0.0);
    merging.Add(labels, info.merging ? 1.0 : 0.0);
    if (!is_valid) continue;
    used.Add(labels, ToBytes(info.status.allocated));
    size.Add(labels, ToBytes(info.status.total));
    ratio.Add(labels, info.status.percent() / 100);
  }
  for (Family* family : {&used, &size, &ratio, &valid, &merging}) {
    families.Add(std::move(*family));
  }
}

void AddMirrorFamilies(const DeviceRegistry& devices, const volumes::Mirrors& mirrors,
                       Families& families) {
  Family in_sync = Gauge("sectormap_mirror_in_sync_ratio",
                         "Share of the mirror's regions that all legs have, from 0 to 1.");
  Family legs = Gauge("sectormap_mirror_leg_healthy",
                      "1 while the leg works; 0 after a failure, whose kind `sectormap status` "
                      "says (D write, F flush, S copy, R read).");
  Family degraded = Counter("sectormap_mirror_degraded_total",
                            "How often failed legs were taken out of the device's table.");
  std::map<std::string, uint64_t> counts = mirrors.DegradedCounts();
  const volumes::VolumeTree tree = volumes::VolumeTree::Read(devices);
  for (const DeviceInfo& device : devices.List()) {
    if (!HasMirrorRows(devices, device.name)) continue;
    const std::string volume = tree.NameOver(device.name);
    counts.try_emplace(volume, 0);
    uint64_t part = 0;
    uint64_t whole = 0;
    std::map<std::string, bool> healthy;  // a leg may stand in several rows
    for (const volumes::MirrorStatus& row : volumes::ReadMirrorStatus(devices, device.name)) {
      part += row.in_sync;
      whole += row.total;
      for (size_t i = 0; i < row.legs.size() && i < row.health.size(); ++i) {
        auto& leg = healthy.try_emplace(row.legs[i], true).first->second;
        leg = leg && row.health[i] == 'A';
      }
    }
    if (whole != 0) {
      in_sync.Add({{"device", volume}}, static_cast<double>(part) / static_cast<double>(whole));
    }
    for (const auto& [leg, works] : healthy) {
      legs.Add({{"device", volume}, {"leg", leg}}, works ? 1.0 : 0.0);
    }
  }
  for (const auto& [device, count] : counts) degraded.Add({{"device", device}}, count);
  for (Family* family : {&in_sync, &legs, &degraded}) families.Add(std::move(*family));
}

void AddOperationFamilies(const volumes::Operations& operations, Families& families) {
  Family counts = Gauge("sectormap_operations",
                        "Operations that run, and ended ones that are still remembered.");
  Family done = Gauge("sectormap_operation_done_bytes", "How far a running operation is.");
  Family total = Gauge("sectormap_operation_total_bytes",
                       "How much a running operation has to do; 0 while it is not known.");
  std::map<volumes::OperationState, uint64_t> by_state = {{volumes::OperationState::kRunning, 0},
                                                          {volumes::OperationState::kDone, 0},
                                                          {volumes::OperationState::kFailed, 0},
                                                          {volumes::OperationState::kCancelled, 0}};
  for (const volumes::OperationInfo& info : operations.List()) {
    ++by_state[info.state];
    if (info.ended()) continue;
    const std::string id = absl::StrCat(info.id);
    const Labels labels = {{"id", id}, {"kind", info.kind}, {"device", info.device}};
    done.Add(labels, static_cast<double>(info.done_bytes));
    total.Add(labels, static_cast<double>(info.total_bytes));
  }
  for (const auto& [state, count] : by_state) {
    counts.Add({{"state", volumes::NameOf(state)}}, count);
  }
  for (Family* family : {&counts, &done, &total}) families.Add(std::move(*family));
}

}  // namespace sectormap::metrics
