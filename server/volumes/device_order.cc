// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/device_order.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/map/table_spec.h"

namespace sectormap::volumes {
namespace {

// Who waits for whom, by name, and how long the longest way down is.
class Graph {
 public:
  void AddEdge(const std::string& upper, const std::string& lower) { below_[upper].insert(lower); }

  int Height(const std::string& name) {
    const auto known = heights_.find(name);
    if (known != heights_.end()) return known->second;
    // Tables cannot form a loop; with the origins' edges one could only come from a snapshot that
    // is used by what it is a snapshot of. Such a device counts as low while it is being asked.
    heights_[name] = 0;
    int height = 0;
    for (const std::string& lower : below_[name]) height = std::max(height, Height(lower) + 1);
    return heights_[name] = height;
  }

 private:
  std::map<std::string, std::set<std::string>> below_;
  std::map<std::string, int> heights_;
};

// The device of the row whose chunks are copied.
std::string OriginKey(const TableRow& row) {
  return row.args.empty() ? "" : DeviceKey(row.args[0]);
}

}  // namespace

std::vector<std::string> SuspendOrder(const DeviceRegistry& registry,
                                      const std::set<std::string>& names) {
  Graph graph;
  std::map<std::string, std::set<std::string>> origins, snapshots;  // by what they lie on
  for (const DeviceInfo& info : registry.List()) {
    for (const TableSlot slot : {TableSlot::kLive, TableSlot::kInactive}) {
      const auto below = registry.Dependencies(info.name, slot);
      if (!below.ok()) continue;
      for (const DeviceRef& lower : *below) {
        if (lower.mapped()) graph.AddEdge(info.name, std::string(MappedDeviceName(lower.name())));
      }
      const absl::StatusOr<std::string> text = registry.Table(info.name, slot);
      if (!text.ok()) continue;
      const absl::StatusOr<TableSpec> spec = TableSpec::Parse(*text);
      if (!spec.ok()) continue;
      for (const TableRow& row : spec->Rows()) {
        if (row.type == "snapshot-origin" || row.type == "snapshot-merge") {
          origins[OriginKey(row)].insert(info.name);
        } else if (row.type == "snapshot") {
          snapshots[OriginKey(row)].insert(info.name);
        }
      }
    }
  }
  for (const auto& [key, uppers] : origins) {
    for (const std::string& upper : uppers) {
      for (const std::string& lower : snapshots[key]) {
        if (upper != lower) graph.AddEdge(upper, lower);
      }
    }
  }
  std::vector<std::string> order(names.begin(), names.end());
  std::ranges::sort(order, [&](const std::string& a, const std::string& b) {
    return std::pair(-graph.Height(a), a) < std::pair(-graph.Height(b), b);
  });
  return order;
}

bool MeetsSuspended(const DeviceRegistry& registry, const std::string& name) {
  const auto info = registry.Info(name);
  if (!info.ok() || info->suspended) return true;
  const auto below = registry.Dependencies(name, TableSlot::kLive);
  if (!below.ok()) return true;
  return std::ranges::any_of(*below, [&registry](const DeviceRef& lower) {
    return lower.mapped() && MeetsSuspended(registry, std::string(MappedDeviceName(lower.name())));
  });
}

}  // namespace sectormap::volumes
