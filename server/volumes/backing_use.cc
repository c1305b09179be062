// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/backing_use.h"

#include <algorithm>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"

namespace sectormap::volumes {
namespace {

constexpr SectorCount kAllOfIt = kMaxDeviceSectors;

DevicePart All(const std::string& device) { return {device, Sector(0), kAllOfIt}; }

// `args[at]` is a device and `args[at + 1]` where it begins there. All of it if that is no number.
DevicePart PartAt(const TableRow& row, size_t at, SectorCount count) {
  uint64_t start = 0;
  if (at + 1 >= row.args.size() || !absl::SimpleAtoi(row.args[at + 1], &start)) {
    return All(row.args[at]);
  }
  return {row.args[at], Sector(start), count};
}

// linear, flakey: one device; delay: one to three, each followed by a place and a time.
std::vector<DevicePart> PartsInSteps(const TableRow& row, size_t first, size_t step, size_t end,
                                     SectorCount count) {
  std::vector<DevicePart> parts;
  for (size_t at = first; at < end && at < row.args.size(); at += step) {
    parts.push_back(PartAt(row, at, count));
  }
  return parts;
}

std::vector<DevicePart> MirrorParts(const TableRow& row) {
  size_t log_args = 0;
  size_t legs = 0;
  std::vector<DevicePart> parts;
  if (row.args.size() < 3 || !absl::SimpleAtoi(row.args[1], &log_args)) return parts;
  if (row.args[0] == "disk") parts.push_back(All(row.args[2]));
  const size_t count_at = 2 + log_args;
  if (count_at >= row.args.size() || !absl::SimpleAtoi(row.args[count_at], &legs)) return parts;
  for (const DevicePart& leg :
       PartsInSteps(row, count_at + 1, 2, count_at + 1 + 2 * legs, row.length)) {
    parts.push_back(leg);
  }
  return parts;
}

// Null for what is not a device.
std::shared_ptr<const BlockDevice> Resolve(const DeviceRegistry& registry, BackingSource& backings,
                                           const std::string& word) {
  const std::string_view mapped = MappedDeviceName(word);
  if (!mapped.empty()) return registry.Find(mapped);
  if (!word.starts_with('/')) return nullptr;
  const absl::StatusOr<std::shared_ptr<BlockDevice>> opened = backings.Open(word, true);
  return opened.ok() ? *opened : nullptr;
}

}  // namespace

std::vector<DevicePart> PartsOf(const TableRow& row) {
  uint64_t stripes = 0;
  if (row.type == "linear" || row.type == "flakey") return PartsInSteps(row, 0, 2, 1, row.length);
  if (row.type == "delay") return PartsInSteps(row, 0, 3, row.args.size(), row.length);
  if (row.type == "mirror") return MirrorParts(row);
  if (row.type == "striped" && !row.args.empty() && absl::SimpleAtoi(row.args[0], &stripes) &&
      stripes > 0) {
    return PartsInSteps(row, 2, 2, row.args.size(), SectorCount(row.length.value() / stripes));
  }
  size_t devices = row.args.size();
  if (row.type == "snapshot-origin") devices = 1;
  if (row.type == "snapshot" || row.type == "snapshot-merge") devices = 2;
  std::vector<DevicePart> parts;
  for (size_t i = 0; i < std::min(devices, row.args.size()); ++i) parts.push_back(All(row.args[i]));
  return parts;
}

BackingUse BackingUse::Read(const DeviceRegistry& registry, BackingSource& backings) {
  BackingUse all;
  for (const DeviceInfo& info : registry.List()) {
    for (const TableSlot slot : {TableSlot::kLive, TableSlot::kInactive}) {
      const absl::StatusOr<std::string> text = registry.Table(info.name, slot);
      const absl::StatusOr<TableSpec> spec = TableSpec::Parse(text.ok() ? *text : "");
      if (!spec.ok()) continue;
      std::map<std::string, std::shared_ptr<const BlockDevice>> devices;
      const auto opened = registry.Dependencies(info.name, slot);
      if (opened.ok()) {
        for (const DeviceRef& ref : *opened) devices[ref.name()] = ref.device;
      }
      for (const TableRow& row : spec->Rows()) {
        for (DevicePart& part : PartsOf(row)) {
          auto known = devices.find(part.device);
          // A device that the table names in two ways, or one of a table that was not built.
          if (known == devices.end()) {
            known = devices.emplace(part.device, Resolve(registry, backings, part.device)).first;
          }
          all.uses_.push_back({known->second, std::move(part), info.name});
        }
      }
    }
  }
  return all;
}

absl::Status BackingUse::CheckFree(const BlockDevice* device, std::string_view name, Sector start,
                                   SectorCount count) const {
  for (const Use& use : uses_) {
    const bool same = use.device != nullptr ? use.device.get() == device : use.part.device == name;
    if (!same) continue;
    const uint64_t use_end = use.part.start.value() + use.part.count.value();
    if (use.part.start.value() >= start.value() + count.value() || start.value() >= use_end) {
      continue;
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "Device or resource busy: '", use.user, "' lies on '", Absl(name), "' ",
        use.part.count == kAllOfIt
            ? std::string("as a whole")
            : absl::StrCat("from sector ", use.part.start.value(), " to ", use_end - 1),
        ", which overlaps sectors ", start.value(), " to ", start.value() + count.value() - 1));
  }
  return absl::OkStatus();
}

}  // namespace sectormap::volumes
