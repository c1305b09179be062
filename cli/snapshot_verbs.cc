// SPDX-License-Identifier: Apache-2.0
// snapshot create, ls, rm, rollback, export.
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "cli/completion.h"
#include "cli/dm_forms.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "cli/verbs.h"

namespace sectormap::cli {
namespace {

using Operations = v1::Operations::Stub;

// In capitals what somebody should look at.
std::string StateText(v1::Snapshot::State state) {
  const std::string name = v1::Snapshot::State_Name(state);
  const std::string word = absl::StrReplaceAll(absl::StripPrefix(name, "STATE_"), {{"_", " "}});
  const bool good = state == v1::Snapshot::STATE_VALID || state == v1::Snapshot::STATE_MERGING;
  return good ? absl::AsciiStrToLower(word) : word;
}

std::string TimeText(int64_t unix_seconds) {
  if (unix_seconds == 0) return "-";
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(unix_seconds),
                          absl::UTCTimeZone());
}

std::string SnapshotTable(const google::protobuf::RepeatedPtrField<v1::Snapshot>& snapshots) {
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "OF", "STATE", "USED", "SIZE", "USED%", "CHUNK", "CREATED", "STORE"}};
  for (const v1::Snapshot& snapshot : snapshots) {
    rows.push_back({snapshot.name(), snapshot.device().empty() ? "(gone)" : snapshot.device(),
                    StateText(snapshot.state()), HumanSize(snapshot.used_sectors()),
                    HumanSize(snapshot.total_sectors()),
                    absl::StrFormat("%.1f", snapshot.used_percent()),
                    HumanSize(snapshot.chunk_sectors()), TimeText(snapshot.created_unix_seconds()),
                    snapshot.store()});
  }
  return Columns(rows);
}

struct CreateOptions {
  std::string name, size, chunk, limit;
  std::vector<std::string> of, stores;
  uint32_t grow_at = 0, grow_by = 0;
  bool no_grow = false, overflow = false, existing_ok = false;
};

// One snapshot is called NAME, those of a group NAME-DEVICE.
absl::Status FillRequest(const CreateOptions& options, v1::CreateSnapshotsRequest& request) {
  if (options.stores.size() > 1 && options.stores.size() != options.of.size()) {
    return absl::InvalidArgumentError(
        "give one --store for each --of, or none for files of the "
        "daemon's own");
  }
  if (options.stores.size() == 1 && options.of.size() > 1 && options.stores[0] != "auto") {
    return absl::InvalidArgumentError("each snapshot needs a --store of its own");
  }
  for (size_t i = 0; i < options.of.size(); ++i) {
    v1::CreateSnapshotsRequest::Entry& entry = *request.add_entries();
    entry.set_name(options.of.size() == 1 ? options.name
                                          : absl::StrCat(options.name, "-", options.of[i]));
    entry.set_device(options.of[i]);
    if (options.stores.empty()) continue;
    const std::string& store = options.stores.size() == 1 ? options.stores[0] : options.stores[i];
    if (store != "auto") entry.set_store(store);
  }
  const auto sectors = [](const std::string& text, bool plain_is_sectors,
                          const auto& set) -> absl::Status {
    if (text.empty()) return absl::OkStatus();
    const absl::StatusOr<uint64_t> value = ParseSectors(text, plain_is_sectors);
    if (value.ok()) set(*value);
    return value.status();
  };
  absl::Status status =
      sectors(options.size, false, [&](uint64_t value) { request.set_store_sectors(value); });
  status.Update(
      sectors(options.chunk, true, [&](uint64_t value) { request.set_chunk_sectors(value); }));
  status.Update(sectors(options.limit, false, [&](uint64_t value) {
    request.mutable_growth()->set_limit_sectors(value);
  }));
  request.set_overflow_stays_valid(options.overflow);
  request.set_allow_existing(options.existing_ok);
  request.mutable_growth()->set_never(options.no_grow);
  request.mutable_growth()->set_at_percent(options.grow_at);
  request.mutable_growth()->set_by_percent(options.grow_by);
  return status;
}

void AddCreate(Verbs& verbs) {
  auto options = std::make_shared<CreateOptions>();
  CLI::App* verb = verbs.Add(
      "create", "Keep a device as it is now, under a name of its own",
      "sectormap snapshot create monday --of vol\n"
      "  sectormap snapshot create monday --of data --of log --chunk 128",
      [options](Session& session) {
        v1::CreateSnapshotsRequest request;
        const absl::Status filled = FillRequest(*options, request);
        if (!filled.ok()) {
          return session.ShowError(ExitCode::kUsage,
                                   absl::StrCat("snapshot create: ", filled.message()));
        }
        v1::CreateSnapshotsResponse response;
        const ExitCode code = session.Call("snapshot create " + options->name,
                                           &Operations::CreateSnapshots, request, &response);
        if (code != ExitCode::kOk) return code;
        if (session.json()) {
          std::vector<std::string> elements;
          for (const v1::Snapshot& one : response.snapshots()) elements.push_back(JsonOf(one));
          session.PrintJson(elements);
        } else {
          for (const v1::Snapshot& one : response.snapshots()) {
            session.out() << one.name() << " is a snapshot of " << one.device();
            if (options->existing_ok) {
              session.out() << ", taken " << TimeText(one.created_unix_seconds());
            }
            session.out() << '\n';
          }
        }
        return code;
      });
  verb->add_option("name", options->name, "The snapshot's name; of several, what it begins with")
      ->required();
  verb->add_option("--of", options->of,
                   "The device; repeat it for several at one instant (NAME-DEVICE each)")
      ->type_name(kDeviceType)
      ->required()
      ->allow_extra_args(false);
  verb->add_option("--store", options->stores,
                   "Where chunks go that change: a block device, a file (made if it is not there), "
                   "or auto: a file of the daemon's own")
      ->allow_extra_args(false);
  verb->add_option("--size", options->size,
                   "Of a file that is made, as 20G; enough for every chunk unless given (the file "
                   "is sparse)");
  verb->add_option("--chunk", options->chunk,
                   "What is copied at a time: sectors, or as 64K; 32 sectors unless given");
  verb->add_option("--grow-at", options->grow_at,
                   "Grow the store's file at this percentage in use; 70 unless given")
      ->check(CLI::Range(1, 99));
  verb->add_option("--grow-by", options->grow_by, "By this percentage; 20 unless given")
      ->check(CLI::Range(1, 1000));
  verb->add_option("--limit", options->limit,
                   "Grow no further than this, as 100G; a store that is full loses its snapshot "
                   "and the older ones");
  verb->add_flag(
      "--no-grow", options->no_grow,
      "Let the store stay as large as it is; full, it loses its snapshot and the older ones");
  verb->add_flag("--existing-ok", options->existing_ok,
                 "Succeed if the same snapshots are there, valid, of whatever time");
  verb->add_flag("--overflow", options->overflow,
                 "When the store is full, refuse writes to the snapshot and keep it readable (PO)");
}

void AddLs(Verbs& verbs) {
  auto device = std::make_shared<std::string>();
  verbs
      .Add("ls", "List snapshots: how full their stores are, and whether they are valid",
           "sectormap snapshot ls vol",
           [device](Session& session) {
             v1::ListSnapshotsRequest request;
             request.set_device(*device);
             v1::ListSnapshotsResponse response;
             const ExitCode code =
                 session.Call(absl::StrCat("snapshot ls", device->empty() ? "" : " ", *device),
                              &Operations::ListSnapshots, request, &response);
             if (code != ExitCode::kOk) return code;
             if (session.json()) {
               std::vector<std::string> elements;
               for (const v1::Snapshot& one : response.snapshots()) elements.push_back(JsonOf(one));
               session.PrintJson(elements);
             } else if (response.snapshots().empty()) {
               session.out() << "No snapshots found\n";
             } else {
               session.out() << SnapshotTable(response.snapshots());
             }
             return code;
           })
      ->add_option("name", *device, "Only of this device");
}

struct EndingOptions {
  std::string name;
  bool missing_ok = false, no_wait = false;
};

template <typename Request, typename Fill>
CLI::App* AddEnding(Verbs& verbs, const std::string& word, const std::string& description,
                    grpc::Status (Operations::*method)(grpc::ClientContext*, const Request&,
                                                       v1::Operation*),
                    const std::shared_ptr<EndingOptions>& options, Fill fill) {
  CLI::App* verb = verbs.Add(
      word, description, absl::StrCat("sectormap snapshot ", word, " monday"),
      [options, word, method, fill](Session& session) {
        Request request;
        fill(request, *options);
        v1::Operation operation;
        const ExitCode code = session.Call(absl::StrCat("snapshot ", word, " ", options->name),
                                           method, request, &operation);
        if (code != ExitCode::kOk) return code;
        return ShowStarted(session, operation, options->no_wait);
      });
  verb->add_option("name", options->name, "The snapshot")->required();
  verb->add_flag("--no-wait", options->no_wait, "Print the operation's number and go");
  return verb;
}

void AddRm(Verbs& verbs) {
  auto options = std::make_shared<EndingOptions>();
  AddEnding<v1::RemoveSnapshotRequest>(
      verbs, "rm", "Remove a snapshot; the others of its device stay as they are",
      &Operations::RemoveSnapshot, options,
      [](v1::RemoveSnapshotRequest& request, const EndingOptions& given) {
        request.set_name(given.name);
        request.set_allow_missing(given.missing_ok);
      })
      ->add_flag("--missing-ok", options->missing_ok, "Succeed if there is no such snapshot");
}

void AddRollBack(Verbs& verbs) {
  AddEnding<v1::RollBackRequest>(
      verbs, "rollback",
      "Make the device what the snapshot is, at once; the data follow in the background, and the "
      "snapshot is used up",
      &Operations::RollBack, std::make_shared<EndingOptions>(),
      [](v1::RollBackRequest& request, const EndingOptions& given) {
        request.set_snapshot(given.name);
      });
}

}  // namespace

void AddSnapshotVerbs(Verbs& verbs) {
  Verbs below = verbs.Under("snapshot", "Snapshots of devices in use: create, ls, rm, rollback",
                            "sectormap snapshot create monday --of vol");
  AddCreate(below);
  AddLs(below);
  AddRm(below);
  AddRollBack(below);
  AddExportVerb(below, "sectormap snapshot export monday");
}

}  // namespace sectormap::cli
