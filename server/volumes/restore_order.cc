// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>
#include <string_view>

#include "core/map/table_spec.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {
namespace {

constexpr std::string_view kMapperPrefix = "/dev/mapper/";

// Any word of a row may be a device: only its target type knows. Taking one too many for a device
// costs nothing but an order that was not needed.
class Orderer {
 public:
  explicit Orderer(const std::vector<state::DeviceRecord>& records) {
    for (const state::DeviceRecord& record : records) by_name_[record.name] = &record;
    for (const state::DeviceRecord& record : records) Visit(record);
  }
  std::vector<const state::DeviceRecord*> order() && { return std::move(order_); }

 private:
  void Visit(const state::DeviceRecord& record) {
    if (!seen_.insert(&record).second) return;
    // The live tables form no cycle, so they go first; an inactive one may close a cycle of words.
    VisitWords(record.live_table);
    VisitWords(record.inactive_table);
    order_.push_back(&record);
  }

  void VisitWords(const std::optional<std::string>& table) {
    if (!table.has_value()) return;
    const absl::StatusOr<TableSpec> spec = TableSpec::Parse(*table);
    if (!spec.ok()) return;  // the registry will say why
    for (const TableRow& row : spec->rows()) {
      for (std::string_view word : row.args) {
        if (word.starts_with(kMapperPrefix)) word.remove_prefix(kMapperPrefix.size());
        const auto found = by_name_.find(word);
        if (found != by_name_.end()) Visit(*found->second);
      }
    }
  }

  std::map<std::string_view, const state::DeviceRecord*> by_name_;
  std::set<const state::DeviceRecord*> seen_;
  std::vector<const state::DeviceRecord*> order_;
};

}  // namespace

std::vector<const state::DeviceRecord*> RestoreOrder(
    const std::vector<state::DeviceRecord>& records) {
  return Orderer(records).order();
}

}  // namespace sectormap::volumes
