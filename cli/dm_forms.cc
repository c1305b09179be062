// SPDX-License-Identifier: Apache-2.0
#include "cli/dm_forms.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace sectormap::cli {
namespace {

// In characters, which is what a terminal shows: each begins with the one byte of it that is no
// continuation (RFC 3629 section 3).
size_t WidthOf(absl::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<uint8_t>(byte) & 0xc0) != 0x80;
  }));
}

std::string Attributes(const v1::Device& device) {
  return {device.has_live_table() ? 'L' : '-', device.has_inactive_table() ? 'I' : '-',
          device.suspended() ? 's' : '-', device.read_only() ? 'r' : 'w'};
}

// A column of `info -c`: dmsetup's field name, heading, least width and side.
struct Field {
  absl::string_view name;
  absl::string_view heading;
  int width;
  bool right;
  std::string (*value)(const v1::Device&);
};

constexpr absl::string_view kDefaultFields = "name,attr,open,segments,events,uuid";

const Field kFields[] = {
    {"name", "Name", 16, false, [](const v1::Device& d) { return d.name(); }},
    {"attr", "Stat", 4, false, Attributes},
    {"open", "Open", 4, true, [](const v1::Device& d) { return absl::StrCat(d.open_count()); }},
    {"segments", "Targ", 4, true,
     [](const v1::Device& d) { return absl::StrCat(d.target_count()); }},
    {"events", "Event", 6, true,
     [](const v1::Device& d) { return absl::StrCat(d.event_number()); }},
    {"uuid", "UUID", 32, false, [](const v1::Device& d) { return d.uuid(); }},
    {"size", "Size", 12, true, [](const v1::Device& d) { return absl::StrCat(d.size_sectors()); }},
    {"suspended", "Suspended", 9, false,
     [](const v1::Device& d) { return std::string(d.suspended() ? "Suspended" : "Active"); }},
    {"readonly", "L/RO", 9, false,
     [](const v1::Device& d) { return std::string(d.read_only() ? "Read-only" : "Writeable"); }},
    {"identity", "Identity", 32, false, [](const v1::Device& d) { return d.identity(); }},
    {"error", "Error", 5, false, [](const v1::Device& d) { return d.error(); }},
};

absl::StatusOr<std::vector<const Field*>> SelectFields(absl::string_view names) {
  std::vector<const Field*> chosen;
  for (absl::string_view name : absl::StrSplit(names, ',')) {
    const Field* found = std::find_if(std::begin(kFields), std::end(kFields),
                                      [&](const Field& field) { return field.name == name; });
    if (found == std::end(kFields)) {
      const auto field_name = [](std::string* out, const Field& field) {
        absl::StrAppend(out, field.name);
      };
      return absl::InvalidArgumentError(absl::StrCat("there is no field `", name,
                                                     "`; the fields are ",
                                                     absl::StrJoin(kFields, ", ", field_name)));
    }
    chosen.push_back(found);
  }
  return chosen;
}

// A mapped device goes by its bare name or below /dev/mapper.
absl::string_view BareName(absl::string_view name) {
  absl::ConsumePrefix(&name, "/dev/mapper/");
  return name;
}

class TreePrinter {
 public:
  explicit TreePrinter(const std::map<std::string, Dependencies>& devices) : devices_(devices) {}

  // `indent` stands before the branches below this device.
  void PrintBelow(absl::string_view name, const std::string& indent) {
    const auto found = devices_.find(std::string(name));
    if (found == devices_.end()) return;
    const Dependencies& below = found->second;
    for (size_t i = 0; i < below.size(); ++i) {
      const bool last = i + 1 == below.size();
      absl::StrAppend(&text_, indent, last ? " `-" : " |-");
      if (!below[i].mapped()) {
        absl::StrAppend(&text_, " (", below[i].name(), ")\n");
        continue;
      }
      absl::StrAppend(&text_, BareName(below[i].name()), "\n");
      // The daemon lets no cycle in; an answer put together while tables change might show one.
      if (indent.size() < 3 * devices_.size()) {
        PrintBelow(BareName(below[i].name()), indent + (last ? "   " : " | "));
      }
    }
  }

  void PrintRoot(absl::string_view name) {
    absl::StrAppend(&text_, name, "\n");
    PrintBelow(name, "");
  }

  std::string Take() { return std::move(text_); }

 private:
  const std::map<std::string, Dependencies>& devices_;
  std::string text_;
};

}  // namespace

std::string InfoBlock(const v1::Device& device) {
  std::string text;
  absl::StrAppendFormat(&text, "Name:              %s\n", device.name());
  absl::StrAppendFormat(&text, "State:             %s%s%s\n",
                        device.suspended() ? "SUSPENDED" : "ACTIVE",
                        device.read_only() ? " (READ-ONLY)" : "",
                        device.deferred_remove() ? " (DEFERRED REMOVE)" : "");
  // As dmsetup, which learns it from the block device: nothing without a live table. The daemon
  // never reads ahead; initiators do.
  if (device.has_live_table()) text += "Read Ahead:        0\n";
  const absl::string_view tables = device.has_live_table()
                                       ? (device.has_inactive_table() ? "LIVE & INACTIVE" : "LIVE")
                                       : (device.has_inactive_table() ? "INACTIVE" : "None");
  absl::StrAppendFormat(&text, "Tables present:    %s\n", tables);
  absl::StrAppendFormat(&text, "Open count:        %d\n", device.open_count());
  absl::StrAppendFormat(&text, "Event number:      %d\n", device.event_number());
  absl::StrAppendFormat(&text, "Number of targets: %d\n", device.target_count());
  if (!device.uuid().empty()) absl::StrAppendFormat(&text, "UUID: %s\n", device.uuid());
  if (!device.error().empty())
    absl::StrAppendFormat(&text, "Error:             %s\n", device.error());
  text += "\n";
  return text;
}

absl::StatusOr<std::string> InfoColumns(const std::vector<v1::Device>& devices,
                                        const InfoColumnsOptions& options) {
  absl::StatusOr<std::vector<const Field*>> fields =
      SelectFields(options.fields.empty() ? kDefaultFields : options.fields);
  if (!fields.ok()) return fields.status();

  std::vector<std::vector<std::string>> rows;
  for (const v1::Device& device : devices) {
    std::vector<std::string>& row = rows.emplace_back();
    for (const Field* field : *fields) row.push_back(field->value(device));
  }
  const bool aligned = options.separator.empty();
  std::vector<int> widths;
  for (size_t column = 0; column < fields->size(); ++column) {
    int width =
        std::max((*fields)[column]->width, static_cast<int>((*fields)[column]->heading.size()));
    for (const auto& row : rows) width = std::max(width, static_cast<int>(WidthOf(row[column])));
    widths.push_back(aligned ? width : 0);
  }

  const absl::string_view separator = aligned ? absl::string_view(" ") : options.separator;
  std::string text;
  if (options.headings) {
    for (size_t column = 0; column < fields->size(); ++column) {
      absl::StrAppendFormat(&text, "%s%-*s", column == 0 ? "" : separator, widths[column],
                            (*fields)[column]->heading);
    }
    text += '\n';
  }
  for (const auto& row : rows) {
    for (size_t column = 0; column < fields->size(); ++column) {
      const int left = std::max(0, widths[column] - static_cast<int>(WidthOf(row[column])));
      const std::string fill(static_cast<size_t>(left), ' ');
      const bool right = (*fields)[column]->right;
      absl::StrAppend(&text, column == 0 ? "" : separator, right ? fill : "", row[column],
                      right ? "" : fill);
    }
    text += '\n';
  }
  return text;
}

std::string LsLines(const std::vector<v1::Device>& devices) {
  std::string text;
  for (const v1::Device& device : devices) {
    absl::StrAppend(&text, device.name(), "\t(", device.name(), ")\n");
  }
  return text;
}

std::string DepsLine(const Dependencies& dependencies) {
  std::string text = absl::StrCat(dependencies.size(), " dependencies\t:");
  for (const v1::Dependency& dependency : dependencies) {
    absl::StrAppend(&text, " (", dependency.name(), ")");
  }
  text += '\n';
  return text;
}

std::string Tree(const std::map<std::string, Dependencies>& devices) {
  std::set<absl::string_view> used;
  for (const auto& [name, below] : devices) {
    for (const v1::Dependency& dependency : below) {
      if (dependency.mapped()) used.insert(BareName(dependency.name()));
    }
  }
  TreePrinter printer(devices);
  for (const auto& [name, below] : devices) {
    if (!used.contains(name)) printer.PrintRoot(name);
  }
  return printer.Take();
}

std::string RowLines(absl::string_view text, absl::string_view prefix, absl::string_view type) {
  absl::ConsumeSuffix(&text, "\n");
  std::string lines;
  for (absl::string_view row : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(row, absl::MaxSplits(' ', 3));
    if (!type.empty() && (words.size() < 3 || words[2] != type)) continue;
    absl::StrAppend(&lines, prefix, row, "\n");
  }
  return lines;
}

std::string TargetsLines(const v1::ListTargetTypesResponse& types) {
  std::string text;
  for (const v1::TargetType& type : types.types()) {
    absl::StrAppendFormat(&text, "%-16s v%s\n", type.name(), type.version());
  }
  return text;
}

std::string StatsTable(const v1::GetStatsResponse& stats) {
  std::vector<std::vector<std::string>> rows = {
      {"DEVICE", "OPERATION", "REQUESTS", "BYTES", "ERRORS"}};
  const auto add = [&rows](const v1::IoStats& device) {
    for (const v1::IoStats::PerOperation& operation : device.operations()) {
      rows.push_back({device.device(), operation.operation(), absl::StrCat(operation.requests()),
                      absl::StrCat(operation.bytes()), absl::StrCat(operation.errors())});
    }
  };
  add(stats.device());
  for (const v1::IoStats& backing : stats.backings()) add(backing);
  return Columns(rows);
}

std::string Columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], WidthOf(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - WidthOf(row[i]) + 2, ' ');
    }
    text += '\n';
  }
  return text;
}

std::string HumanSize(uint64_t sectors) {
  static constexpr absl::string_view kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(sectors) / 2;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.4g %s", value, kUnits[unit]);
}

}  // namespace sectormap::cli
