// SPDX-License-Identifier: Apache-2.0
// info, ls, table, status, deps, targets, stats.
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/dm_forms.h"
#include "cli/verbs.h"

namespace sectormap::cli {
namespace {

using DeviceMapper = v1::DeviceMapper::Stub;

constexpr absl::string_view kNoDevices = "No devices found\n";

ExitCode ListDevices(Session& session, absl::string_view verb, std::vector<v1::Device>* devices) {
  v1::ListResponse response;
  const ExitCode code = session.Call(verb, &DeviceMapper::List, v1::ListRequest(), &response);
  devices->assign(response.devices().begin(), response.devices().end());
  return code;
}

// The devices named, or all of them.
ExitCode GetDevices(Session& session, absl::string_view verb, const std::vector<std::string>& names,
                    std::vector<v1::Device>* devices) {
  if (names.empty()) return ListDevices(session, verb, devices);
  ExitCode first_failure = ExitCode::kOk;
  for (const std::string& name : names) {
    v1::GetRequest request;
    request.set_name(name);
    v1::Device device;
    const ExitCode code =
        session.Call(absl::StrCat(verb, " ", name), &DeviceMapper::Get, request, &device);
    if (code == ExitCode::kOk) devices->push_back(device);
    if (first_failure == ExitCode::kOk) first_failure = code;
  }
  return first_failure;
}

void PrintDevicesJson(Session& session, const std::vector<v1::Device>& devices, bool one) {
  if (one) {
    if (!devices.empty()) session.PrintJson(devices.front());
    return;
  }
  std::vector<std::string> elements;
  for (const v1::Device& device : devices) elements.push_back(JsonOf(device));
  session.PrintJson(elements);
}

void AddInfo(Verbs& verbs) {
  struct Options {
    std::vector<std::string> names;
    bool columns = false, no_headings = false;
    std::string fields, separator;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      verbs.Add("info", "Show the state of devices",
                "sectormap info vol\n  sectormap info -c --fields name,open,size --noheadings",
                [options](Session& session) {
                  std::vector<v1::Device> devices;
                  const ExitCode code = GetDevices(session, "info", options->names, &devices);
                  if (session.json()) {
                    if (code == ExitCode::kOk || !devices.empty()) {
                      PrintDevicesJson(session, devices, options->names.size() == 1);
                    }
                    return code;
                  }
                  if (code == ExitCode::kOk && devices.empty()) session.out() << kNoDevices;
                  if (!options->columns) {
                    for (const v1::Device& device : devices) session.out() << InfoBlock(device);
                    return code;
                  }
                  if (devices.empty()) return code;
                  const auto text = InfoColumns(devices, {.fields = options->fields,
                                                          .headings = !options->no_headings,
                                                          .separator = options->separator});
                  if (!text.ok()) {
                    return session.ShowError(ExitCode::kUsage,
                                             absl::StrCat("info: ", text.status().message()));
                  }
                  session.out() << *text;
                  return code;
                });
  verb->add_option("name", options->names, "The devices; all unless given");
  CLI::Option* columns = verb->add_flag("-c,-C,--columns", options->columns, "One line a device");
  verb->add_option("--fields", options->fields,
                   "Which columns: name, attr, open, segments, events, uuid, size (in sectors), "
                   "suspended, readonly, identity, error")
      ->needs(columns);
  verb->add_flag("--noheadings", options->no_headings, "Without the line of headings")
      ->needs(columns);
  verb->add_option("--separator", options->separator,
                   "Between the columns, which are not aligned then")
      ->needs(columns);
}

// Every device with what its live table is made of.
ExitCode GetGraph(Session& session, absl::string_view verb,
                  std::map<std::string, Dependencies>* graph) {
  std::vector<v1::Device> devices;
  ExitCode code = ListDevices(session, verb, &devices);
  if (code != ExitCode::kOk) return code;
  for (const v1::Device& device : devices) {
    v1::GetDependenciesRequest request;
    request.set_name(device.name());
    v1::GetDependenciesResponse response;
    code = session.CallUnlessGone(verb, &DeviceMapper::GetDependencies, request, &response);
    if (code == ExitCode::kNotFound) continue;
    if (code != ExitCode::kOk) return code;
    (*graph)[device.name()].assign(response.dependencies().begin(), response.dependencies().end());
  }
  return ExitCode::kOk;
}

std::string GraphJson(const std::map<std::string, Dependencies>& graph) {
  std::vector<std::string> elements;
  for (const auto& [name, below] : graph) {
    v1::GetDependenciesResponse response;
    response.mutable_dependencies()->Assign(below.begin(), below.end());
    elements.push_back(JsonWithName(name, response));
  }
  return JsonArray(elements) + "\n";
}

void AddLs(Verbs& verbs) {
  auto tree = std::make_shared<bool>(false);
  CLI::App* verb =
      verbs.Add("ls", "List the devices", "sectormap ls --tree", [tree](Session& session) {
        if (*tree) {
          std::map<std::string, Dependencies> graph;
          const ExitCode code = GetGraph(session, "ls", &graph);
          if (code != ExitCode::kOk) return code;
          if (session.json()) {
            session.out() << GraphJson(graph);
          } else {
            session.out() << (graph.empty() ? std::string(kNoDevices) : Tree(graph));
          }
          return code;
        }
        std::vector<v1::Device> devices;
        const ExitCode code = ListDevices(session, "ls", &devices);
        if (code != ExitCode::kOk) return code;
        if (session.json()) {
          PrintDevicesJson(session, devices, false);
        } else {
          session.out() << (devices.empty() ? std::string(kNoDevices) : LsLines(devices));
        }
        return code;
      });
  verb->add_flag("--tree", *tree, "Show what each device is made of");
}

struct TextOptions {
  std::vector<std::string> names;
  bool inactive = false;
  std::string type;
};

// `table`, `status` and `deps` differ in the call and in what of the answer is shown.
struct TextVerb {
  std::string name;
  std::string description;
  bool of_rows;          // shows each row by itself, or only those of a target type
  bool of_built_tables;  // refused while the live table could not be built
  ExitCode (*get)(Session& session, absl::string_view what, const std::string& device,
                  const TextOptions& options, std::string* text, std::string* json);
};

// For all devices, one that has gone since they were listed shows nothing.
template <typename Response, typename Request>
ExitCode Fetch(Session& session, absl::string_view what,
               grpc::Status (DeviceMapper::*method)(grpc::ClientContext*, const Request&,
                                                    Response*),
               const std::string& device, const TextOptions& options, Response* response) {
  Request request;
  request.set_name(device);
  request.set_slot(options.inactive ? v1::TABLE_SLOT_INACTIVE : v1::TABLE_SLOT_LIVE);
  return options.names.empty() ? session.CallUnlessGone(what, method, request, response)
                               : session.Call(what, method, request, response);
}

template <typename Response, typename Request>
ExitCode GetText(Session& session, absl::string_view what,
                 grpc::Status (DeviceMapper::*method)(grpc::ClientContext*, const Request&,
                                                      Response*),
                 std::string* (Response::*field)(), const std::string& device,
                 const TextOptions& options, std::string* text, std::string* json) {
  Response response;
  const ExitCode code = Fetch(session, what, method, device, options, &response);
  std::string& rows = *(response.*field)();
  *text = rows;
  if (!options.type.empty()) rows = RowLines(rows, "", options.type);
  *json = JsonWithName(device, response);
  return code;
}

ExitCode GetTable(Session& session, absl::string_view what, const std::string& device,
                  const TextOptions& options, std::string* text, std::string* json) {
  return GetText(session, what, &DeviceMapper::GetTable, &v1::GetTableResponse::mutable_table,
                 device, options, text, json);
}

ExitCode GetStatus(Session& session, absl::string_view what, const std::string& device,
                   const TextOptions& options, std::string* text, std::string* json) {
  return GetText(session, what, &DeviceMapper::GetStatus, &v1::GetStatusResponse::mutable_status,
                 device, options, text, json);
}

ExitCode GetDeps(Session& session, absl::string_view what, const std::string& device,
                 const TextOptions& options, std::string* text, std::string* json) {
  v1::GetDependenciesResponse response;
  const ExitCode code =
      Fetch(session, what, &DeviceMapper::GetDependencies, device, options, &response);
  *text = DepsLine({response.dependencies().begin(), response.dependencies().end()});
  *json = JsonWithName(device, response);
  return code;
}

ExitCode ShowText(Session& session, const TextVerb& verb, const TextOptions& options) {
  std::vector<std::string> names = options.names;
  std::map<std::string, std::string> unbuilt;  // why; of all devices, these are no failure
  if (names.empty()) {
    std::vector<v1::Device> devices;
    const ExitCode code = ListDevices(session, verb.name, &devices);
    if (code != ExitCode::kOk) return code;
    if (devices.empty() && !session.json()) session.out() << kNoDevices;
    for (const v1::Device& device : devices) {
      names.push_back(device.name());
      if (device.error().empty() || !verb.of_built_tables || options.inactive) continue;
      unbuilt[device.name()] = device.error();
    }
  }
  const bool bare = options.names.size() == 1;
  ExitCode first_failure = ExitCode::kOk;
  std::vector<std::string> elements;
  for (const std::string& name : names) {
    if (const auto why = unbuilt.find(name); why != unbuilt.end()) {
      elements.push_back(absl::StrCat("{\"name\":", JsonQuoted(name),
                                      ",\"error\":", JsonQuoted(why->second), "}"));
      if (!session.json()) session.out() << name << ": Error: " << why->second << '\n';
      continue;
    }
    std::string text, json;
    const ExitCode code = verb.get(session, verb.name + " " + name, name, options, &text, &json);
    if (code == ExitCode::kNotFound && options.names.empty()) continue;
    if (first_failure == ExitCode::kOk) first_failure = code;
    if (code != ExitCode::kOk) continue;
    elements.push_back(json);
    if (!session.json()) {
      session.out() << RowLines(text, bare ? "" : name + ": ", options.type);
    }
  }
  if (session.json() && !bare) {
    session.PrintJson(elements);
  } else if (session.json() && !elements.empty()) {
    session.out() << elements.front() << '\n';
  }
  return first_failure;
}

void AddTextVerbs(Verbs& verbs) {
  const TextVerb kinds[] = {{"table", "Show tables, as `create` takes them", true, false, GetTable},
                            {"status", "Show the status of each row", true, true, GetStatus},
                            {"deps", "Show the devices that a table uses", false, false, GetDeps}};
  for (const TextVerb& kind : kinds) {
    auto options = std::make_shared<TextOptions>();
    CLI::App* verb =
        verbs.Add(kind.name, kind.description, "sectormap " + kind.name + " vol",
                  [options, kind](Session& session) { return ShowText(session, kind, *options); });
    verb->add_option("name", options->names, "The devices; all unless given");
    verb->add_flag("--inactive", options->inactive, "Of the inactive table");
    if (!kind.of_rows) continue;
    verb->add_option("--target", options->type, "Only rows of this target type");
  }
}

void AddTargets(Verbs& verbs) {
  auto usage = std::make_shared<bool>(false);
  verbs
      .Add("targets", "List the target types that tables may use", "sectormap targets --usage",
           [usage](Session& session) {
             v1::ListTargetTypesResponse response;
             const ExitCode code = session.Call("targets", &DeviceMapper::ListTargetTypes,
                                                v1::ListTargetTypesRequest(), &response);
             if (code != ExitCode::kOk) return code;
             if (session.json()) {
               std::vector<std::string> elements;
               for (const v1::TargetType& type : response.types()) elements.push_back(JsonOf(type));
               session.PrintJson(elements);
             } else if (*usage) {
               for (const v1::TargetType& type : response.types()) {
                 session.out() << "START LENGTH " << type.name()
                               << (type.usage().empty() ? "" : " ") << type.usage() << "\n    "
                               << type.summary() << '\n';
               }
             } else {
               session.out() << TargetsLines(response);
             }
             return code;
           })
      ->add_flag("--usage", *usage, "Show what each takes and does");
}

void AddStats(Verbs& verbs) {
  auto name = std::make_shared<std::string>();
  verbs
      .Add("stats", "Show the I/O of a device and of what is below it", "sectormap stats vol",
           [name](Session& session) {
             v1::GetStatsRequest request;
             request.set_name(*name);
             v1::GetStatsResponse response;
             const ExitCode code =
                 session.Call("stats " + *name, &DeviceMapper::GetStats, request, &response);
             if (code != ExitCode::kOk) return code;
             if (session.json()) {
               session.PrintJson(response);
             } else {
               session.out() << StatsTable(response);
             }
             return code;
           })
      ->add_option("name", *name, "The device")
      ->required();
}

}  // namespace

void AddQueryVerbs(Verbs& verbs) {
  verbs.Group("Looking at devices");
  AddInfo(verbs);
  AddLs(verbs);
  AddTextVerbs(verbs);
  AddTargets(verbs);
  AddStats(verbs);
}

}  // namespace sectormap::cli
