// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/volume_tree.h"

#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"

namespace sectormap::volumes {
namespace {

std::string MappedOrPath(const std::string& word) {
  const std::string_view mapped = MappedDeviceName(word);
  return mapped.empty() ? word : std::string(mapped);
}

// One device's live table, if it is one row of a kind that matters here.
struct DeviceTable {
  std::string name, text;
  SectorCount length;
  bool read_only = false;
  std::string layer_below;  // of a snapshot-origin or snapshot-merge
  std::optional<SnapshotRow> snapshot, merge;
};

std::optional<SnapshotRow> ReadSnapshotRow(const TableRow& row) {
  SnapshotRow words;
  if (row.args.size() < 4 || !absl::SimpleAtoi(row.args[3], &words.chunk_sectors)) {
    return std::nullopt;
  }
  words.base = MappedOrPath(row.args[0]);
  words.store = row.args[1];
  words.persistence = row.args[2];
  if (row.args.size() > 5) words.features.assign(row.args.begin() + 5, row.args.end());
  return words;
}

std::optional<DeviceTable> ReadDevice(const DeviceRegistry& registry, const DeviceInfo& info) {
  const absl::StatusOr<std::string> text = registry.Table(info.name, TableSlot::kLive);
  if (!text.ok() || text->empty()) return std::nullopt;
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(*text);
  if (!spec.ok() || spec->empty()) return std::nullopt;
  DeviceTable device{.name = info.name,
                     .text = *text,
                     .length = spec->size(),
                     .read_only = info.read_only,
                     .layer_below = LayerBelow(*spec),
                     .snapshot = std::nullopt,
                     .merge = std::nullopt};
  if (spec->lines().size() != 1) return device;
  const TableRow row = spec->Rows().front();
  if (row.type == "snapshot") device.snapshot = ReadSnapshotRow(row);
  if (row.type == "snapshot-merge") device.merge = ReadSnapshotRow(row);
  return device;
}

}  // namespace

std::string DeviceWord(std::string_view name) {
  return QuoteWord(absl::StrCat("/dev/mapper/", Absl(name)));
}

std::string OriginTable(std::string_view body, SectorCount length) {
  return FormatRow(Sector(0), length, "snapshot-origin", DeviceWord(body)) + "\n";
}

std::string LayerBelow(const TableSpec& table) {
  if (table.lines().size() != 1) return "";
  const TableRow row = table.Rows().front();
  if (row.type == "snapshot-origin" && !row.args.empty()) {
    return std::string(MappedDeviceName(row.args[0]));
  }
  const auto merge = row.type == "snapshot-merge" ? ReadSnapshotRow(row) : std::nullopt;
  return merge.has_value() ? merge->base : "";
}

std::string SnapshotRow::Table(std::string_view type, SectorCount length) const {
  std::string args = absl::StrCat(base.starts_with('/') ? QuoteWord(base) : DeviceWord(base), " ",
                                  QuoteWord(store), " ", persistence, " ", chunk_sectors);
  if (!features.empty()) absl::StrAppend(&args, " ", features.size());
  for (const std::string& feature : features) absl::StrAppend(&args, " ", feature);
  return FormatRow(Sector(0), length, type, args) + "\n";
}

VolumeTree VolumeTree::Read(const DeviceRegistry& registry) {
  std::map<std::string, DeviceTable> devices;
  std::set<std::string> layers;  // names of bodies below another device
  for (const DeviceInfo& info : registry.List()) {
    std::optional<DeviceTable> device = ReadDevice(registry, info);
    if (!device.has_value()) continue;
    layers.insert(device->layer_below);
    devices[info.name] = *std::move(device);
  }
  VolumeTree tree;
  for (const auto& [name, device] : devices) {
    if (layers.contains(name)) continue;
    const auto below = devices.find(device.layer_below);
    const DeviceTable& body = below == devices.end() ? device : below->second;
    tree.volumes_[name] = {.name = name,
                           .body = body.name,
                           .length = device.length,
                           .read_only = device.read_only,
                           .body_table = body.text,
                           .snapshot = body.snapshot,
                           .merge = device.merge};
    tree.name_of_body_[body.name] = name;
  }
  return tree;
}

absl::StatusOr<Volume> VolumeTree::Find(const std::string& name) const {
  const auto found = volumes_.find(name);
  if (found != volumes_.end()) return found->second;
  const auto above = name_of_body_.find(name);
  if (above != name_of_body_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", name, "' is the layer below '", above->second, "': name that one"));
  }
  return absl::NotFoundError(
      absl::StrCat("Device does not exist. There is no mapped device '", name, "' with a table"));
}

const Volume* VolumeTree::WithBody(const std::string& body) const {
  const auto name = name_of_body_.find(body);
  return name == name_of_body_.end() ? nullptr : &volumes_.at(name->second);
}

std::string VolumeTree::NameOver(const std::string& device) const {
  const Volume* volume = WithBody(device);
  return volume == nullptr ? device : volume->name;
}

std::vector<Volume> VolumeTree::SnapshotsOf(const std::string& body) const {
  std::vector<Volume> found;
  for (const auto& [name, volume] : volumes_) {
    if (volume.snapshot.has_value() && volume.snapshot->base == body) found.push_back(volume);
  }
  return found;
}

std::vector<const Volume*> VolumeTree::Above(const Volume& snapshot) const {
  std::vector<const Volume*> above;
  const Volume* at = &snapshot;
  while (at->snapshot.has_value() && above.size() <= volumes_.size()) {
    at = WithBody(at->snapshot->base);
    if (at == nullptr) break;
    above.push_back(at);
  }
  return above;
}

std::vector<Volume> VolumeTree::WayUp(const Volume& snapshot, const std::string& origin) const {
  std::vector<Volume> way;
  for (const Volume* volume : Above(snapshot)) {
    way.push_back(*volume);
    if (volume->name == origin) return way;
  }
  return {};
}

}  // namespace sectormap::volumes
