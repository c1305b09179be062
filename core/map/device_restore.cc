// SPDX-License-Identifier: Apache-2.0
// DeviceRegistry's memory: what a device was as text, and all devices from that again.
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "core/base/status_macros.h"
#include "core/map/device_registry.h"

namespace sectormap {
namespace {

using Saved = DeviceRegistry::Saved;

// Which devices a device comes after, by their places in the list.
struct Before {
  std::unordered_set<size_t> named;              // by its table
  std::unordered_set<size_t> awaited;            // TargetType::waits_for
  std::unordered_set<size_t> named_by_inactive;  // which need not be there before
};

// Rows that wait and rows that are waited for: by their type and the device that they lie on.
class Waits {
 public:
  explicit Waits(const TargetRegistry& types) {
    for (const TargetType* type : types.all()) {
      if (!type->waits_for.empty()) waiting_types_.push_back(type);
    }
  }

  void Add(size_t device, const TableSpec::Line::Words& row) {
    for (const TargetType* type : waiting_types_) {
      if (row.type != type->name && row.type != type->waits_for) continue;
      Place place(type->waits_for, row.args.empty() ? "" : DeviceKey(row.args.front()));
      if (row.type == type->name) {
        waiting_.emplace_back(device, std::move(place));
      } else {
        awaited_[std::move(place)].insert(device);
      }
    }
  }

  void Tell(std::vector<Before>& before) const {
    for (const auto& [device, place] : waiting_) {
      const auto found = awaited_.find(place);
      if (found == awaited_.end()) continue;
      before[device].awaited.insert(found->second.begin(), found->second.end());
      before[device].awaited.erase(device);
    }
  }

 private:
  using Place = std::pair<std::string_view, std::string>;

  std::vector<const TargetType*> waiting_types_;
  std::vector<std::pair<size_t, Place>> waiting_;
  std::map<Place, std::unordered_set<size_t>> awaited_;
};

// Any word of a row that is a device's name counts: which words are devices, only a target knows.
std::vector<Before> ReadTables(const std::vector<Saved>& all, const TargetRegistry& types) {
  std::unordered_map<std::string_view, size_t> index;
  for (size_t i = 0; i < all.size(); ++i) index[all[i].name] = i;
  std::vector<Before> before(all.size());
  Waits waits(types);
  const auto read = [&](size_t i, const std::optional<std::string>& table, auto&& on_row) {
    std::unordered_set<size_t> named;
    const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table.value_or(""));
    if (!spec.ok()) return named;
    WordSplitter splitter;
    for (const TableSpec::Line& line : spec->lines()) {
      const TableSpec::Line::Words row = line.Split(splitter);
      on_row(row);
      for (const std::string_view word : row.args) {
        const auto found = index.find(MappedDeviceName(word));
        if (found != index.end() && found->second != i) named.insert(found->second);
      }
    }
    return named;
  };
  for (size_t i = 0; i < all.size(); ++i) {
    before[i].named =
        read(i, all[i].live_table, [&](const TableSpec::Line::Words& row) { waits.Add(i, row); });
    before[i].named_by_inactive =
        read(i, all[i].inactive_table, [](const TableSpec::Line::Words&) {});
  }
  waits.Tell(before);
  return before;
}

// If words make a loop, its members come last, in any order.
std::vector<size_t> BuildOrder(const std::vector<Before>& all) {
  std::vector<std::vector<size_t>> users(all.size());
  std::vector<size_t> waits_for(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    std::unordered_set<size_t> before = all[i].named;
    before.insert(all[i].awaited.begin(), all[i].awaited.end());
    waits_for[i] = before.size();
    for (const size_t j : before) users[j].push_back(i);
  }
  std::vector<size_t> order;
  std::vector<bool> placed(all.size());
  const auto place = [&](size_t i) {
    placed[i] = true;
    order.push_back(i);
  };
  for (size_t i = 0; i < all.size(); ++i) {
    if (waits_for[i] == 0) place(i);
  }
  for (size_t next = 0; next < order.size(); ++next) {
    for (const size_t user : users[order[next]]) {
      if (--waits_for[user] == 0) place(user);
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    if (!placed[i]) place(i);
  }
  return order;
}

}  // namespace

MappedDevice::UnbuiltTable DeviceRegistry::Unbuilt(const std::string& text, bool read_only,
                                                   DeviceNode& node,
                                                   const std::vector<std::string>& named) {
  MappedDevice::UnbuiltTable table;
  table.text = text;
  table.read_only = read_only;
  table.error = "the table has not been built yet";
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(text);
  if (spec.ok()) {
    table.size = spec->size();
    table.rows = spec->lines().size();
  }
  for (const std::string& name : named) {
    absl::StatusOr<DeviceRef> lower = graph_->OpenForTable(name, node);
    // Refused: a word that only looks like a device's name would close a loop.
    if (lower.ok()) table.named.push_back(*std::move(lower));
  }
  return table;
}

// True if there was none, or it lives now.
bool DeviceRegistry::RestoreLive(const Saved& saved) {
  const absl::StatusOr<NodePtr> node = graph_->Find(saved.name);
  if (!saved.live_table.has_value() || !node.ok()) return true;
  if (!BuildUnbuilt(**node, TableSlot::kLive).ok()) return false;
  return (*node)->device->Resume().ok();
}

void DeviceRegistry::RestoreInactive(const Saved& saved, const std::vector<std::string>& named) {
  const absl::StatusOr<NodePtr> node = graph_->Find(saved.name);
  if (!saved.inactive_table.has_value() || !node.ok()) return;
  (*node)->device->SetUnbuilt(
      TableSlot::kInactive,
      Unbuilt(*saved.inactive_table, saved.inactive_read_only, **node, named));
  // A failure is told by Resume, which tries again; the text is kept until then.
  static_cast<void>(BuildUnbuilt(**node, TableSlot::kInactive));
}

absl::Status DeviceRegistry::RestoreAll(std::vector<Saved> all) {
  absl::Status first_refusal;
  std::vector<Saved> restored;
  for (Saved& saved : all) {
    absl::Status status =
        Create(saved.name, CreateOptions{.uuid = saved.uuid, .identity = saved.identity});
    if (!status.ok()) {
      first_refusal.Update(status);
      continue;
    }
    restored.push_back(std::move(saved));
  }
  const std::vector<Before> before_each = ReadTables(restored, types_);
  const auto names_of = [&restored](const std::unordered_set<size_t>& devices) {
    std::vector<std::string> names;
    for (const size_t j : devices) names.push_back(restored[j].name);
    return names;
  };
  // Every size is known before the first table is built on it.
  for (size_t i = 0; i < restored.size(); ++i) {
    const Saved& saved = restored[i];
    if (!saved.live_table.has_value()) continue;
    DeviceNode& node = **graph_->Find(saved.name);
    MappedDevice::UnbuiltTable table =
        Unbuilt(*saved.live_table, saved.live_read_only, node, names_of(before_each[i].named));
    for (const size_t j : before_each[i].awaited) table.after.push_back(Find(restored[j].name));
    node.device->SetUnbuilt(TableSlot::kLive, std::move(table));
  }
  std::vector<size_t> to_build = BuildOrder(before_each);
  // A round more as long as one helps: see BuildOrder.
  for (size_t before = to_build.size() + 1; to_build.size() < before && !to_build.empty();) {
    before = to_build.size();
    std::erase_if(to_build, [&](size_t i) { return RestoreLive(restored[i]); });
  }
  for (size_t i = 0; i < restored.size(); ++i) {
    RestoreInactive(restored[i], names_of(before_each[i].named_by_inactive));
  }
  for (const Saved& saved : restored) {
    const NodePtr node = *graph_->Find(saved.name);
    // Not before, or one whose removal was put off would go when a table that could not be built
    // lets it go.
    graph_->SetDeferredRemove(*node, saved.deferred_remove);
    if (saved.suspended) {
      // Cannot fail: nothing is in flight yet and nothing is flushed.
      static_cast<void>(node->device->Suspend(SuspendMode::kNoFlush));
    }
    Tell(Change::kChanged, *node);
  }
  return first_refusal;
}

absl::StatusOr<DeviceRegistry::Saved> DeviceRegistry::Snapshot(std::string_view name) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  return SavedOf(*node);
}

absl::StatusOr<DeviceRegistry::Saved> DeviceRegistry::SnapshotAfterResume(
    std::string_view name) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  return SavedAfterResume(*node);
}

DeviceRegistry::Saved DeviceRegistry::SavedOf(const DeviceNode& node) const {
  Saved saved = SavedWithoutTables(node);
  const auto save = [&](TableSlot slot, std::optional<std::string>& text, bool& read_only) {
    if (const auto table = node.device->table(slot)) {
      text = table->TableText();
      read_only = table->read_only();
    } else if (const auto unbuilt = node.device->unbuilt(slot)) {
      text = unbuilt->text;
      read_only = unbuilt->read_only;
    }
  };
  save(TableSlot::kLive, saved.live_table, saved.live_read_only);
  save(TableSlot::kInactive, saved.inactive_table, saved.inactive_read_only);
  return saved;
}

DeviceRegistry::Saved DeviceRegistry::SavedAfterResume(const DeviceNode& node) const {
  Saved saved = SavedWithoutTables(node);
  saved.suspended = false;
  for (const TableSlot slot : {TableSlot::kInactive, TableSlot::kLive}) {
    if (const auto table = node.device->table(slot)) {
      saved.live_table = table->TableTextToKeep();
      saved.live_read_only = table->read_only();
      break;
    }
    if (const auto unbuilt = node.device->unbuilt(slot)) {
      saved.live_table = unbuilt->text;
      saved.live_read_only = unbuilt->read_only;
      break;
    }
  }
  return saved;
}

DeviceRegistry::Saved DeviceRegistry::SavedWithoutTables(const DeviceNode& node) const {
  const DeviceInfo info = InfoOf(node);
  Saved saved;
  saved.name = info.name;
  saved.uuid = info.uuid;
  saved.identity = info.identity;
  saved.suspended = info.suspended;
  saved.deferred_remove = info.deferred_remove;
  return saved;
}

}  // namespace sectormap
