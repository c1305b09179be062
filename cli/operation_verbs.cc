// SPDX-License-Identifier: Apache-2.0
// move, mirror add and remove, operations ls, wait and cancel.
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/dm_forms.h"
#include "cli/progress.h"
#include "cli/size.h"
#include "cli/verbs.h"

namespace sectormap::cli {
namespace {

using Operations = v1::Operations::Stub;

constexpr char kNoWaitHelp[] = "Print the operation's number and go";

void AddMove(Verbs& verbs) {
  struct Options {
    std::string name, from, to, piece;
    bool no_wait = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add(
      "move", "Move what lies on one backing device to another, while the device is in use",
      "sectormap move vol --from /srv/old.img --to /srv/new.img", [options](Session& session) {
        const absl::StatusOr<Place> to = ParsePlace(options->to);
        const absl::StatusOr<uint64_t> piece =
            options->piece.empty() ? 0 : ParseSectors(options->piece, false);
        if (!to.ok() || !piece.ok()) {
          return session.ShowError(
              ExitCode::kUsage,
              absl::StrCat("move: ", to.ok() ? piece.status().message() : to.status().message()));
        }
        v1::MoveRequest request;
        request.set_device(options->name);
        request.set_from(options->from);
        request.set_to(to->path);
        request.set_to_start(to->start_sector.value_or(0));
        request.set_piece_sectors(*piece);
        v1::Operation operation;
        const ExitCode code =
            session.Call("move " + options->name, &Operations::Move, request, &operation);
        if (code != ExitCode::kOk) return code;
        return ShowStarted(session, operation, options->no_wait);
      });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("--from", options->from, "The file or block device that is to be left")
      ->required();
  verb->add_option("--to", options->to, "PATH[:START]: where to, from this sector on")->required();
  verb->add_option("--piece", options->piece,
                   "Copied at a time, and once more after a crash; 1G unless given");
  verb->add_flag("--no-wait", options->no_wait, kNoWaitHelp);
}

void AddMirrorAdd(Verbs& verbs) {
  struct Options {
    std::string name, leg, log, region;
    bool no_wait = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add(
      "add", "Give a device one more leg; ends when that has all data",
      "sectormap mirror add vol /srv/second.img", [options](Session& session) {
        const absl::StatusOr<Place> leg = ParsePlace(options->leg);
        const absl::StatusOr<uint64_t> region =
            options->region.empty() ? 0 : ParseSectors(options->region, true);
        if (!leg.ok() || !region.ok()) {
          return session.ShowError(ExitCode::kUsage,
                                   absl::StrCat("mirror add: ", leg.ok() ? region.status().message()
                                                                         : leg.status().message()));
        }
        v1::AddMirrorLegRequest request;
        request.set_device(options->name);
        request.set_leg(leg->path);
        request.set_leg_start(leg->start_sector.value_or(0));
        if (options->log != "auto") request.set_log(options->log);
        request.set_region_sectors(*region);
        v1::Operation operation;
        const ExitCode code = session.Call("mirror add " + options->name, &Operations::AddMirrorLeg,
                                           request, &operation);
        if (code != ExitCode::kOk) return code;
        return ShowStarted(session, operation, options->no_wait);
      });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("leg", options->leg, "PATH[:START]: a file, a block device or a mapped device")
      ->required();
  verb->add_option("--log", options->log,
                   "Where it is kept which regions are in sync: a path, core (in memory: after a "
                   "crash all is copied again), or auto: a file of the daemon's own");
  verb->add_option("--region", options->region, "Sectors, or as 1M; 1024 sectors unless given");
  verb->add_flag("--no-wait", options->no_wait, kNoWaitHelp);
}

void AddMirrorRemove(Verbs& verbs) {
  struct Options {
    std::string name, leg;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = verbs.Add(
      "remove", "Take a leg away; its data stay as they are at that moment",
      "sectormap mirror remove vol /srv/second.img", [options](Session& session) {
        const absl::StatusOr<Place> leg = ParsePlace(options->leg);
        if (!leg.ok()) {
          return session.ShowError(ExitCode::kUsage,
                                   absl::StrCat("mirror remove: ", leg.status().message()));
        }
        v1::RemoveMirrorLegRequest request;
        request.set_device(options->name);
        request.set_leg(leg->path);
        if (leg->start_sector.has_value()) request.set_leg_start(*leg->start_sector);
        v1::Operation operation;
        const ExitCode code = session.Call("mirror remove " + options->name,
                                           &Operations::RemoveMirrorLeg, request, &operation);
        if (code != ExitCode::kOk) return code;
        return ShowStarted(session, operation, false);
      });
  verb->add_option("name", options->name, "The device")->required();
  verb->add_option("leg", options->leg,
                   "PATH[:START]: the leg, as `sectormap table` names it; START is needed if two "
                   "lie on one device")
      ->required();
}

ExitCode ShowOperations(Session& session) {
  v1::ListOperationsResponse response;
  const ExitCode code = session.Call("operations", &Operations::ListOperations,
                                     v1::ListOperationsRequest(), &response);
  if (code != ExitCode::kOk) return code;
  if (session.json()) {
    std::vector<std::string> elements;
    for (const v1::Operation& one : response.operations()) elements.push_back(JsonOf(one));
    session.PrintJson(elements);
    return code;
  }
  if (response.operations().empty()) {
    session.out() << "No operations found\n";
    return code;
  }
  std::vector<std::vector<std::string>> rows = {
      {"ID", "KIND", "DEVICE", "STATE", "DONE%", "DONE", "TOTAL", "SPEED", "ERROR"}};
  for (const v1::Operation& one : response.operations()) {
    const auto done = static_cast<double>(one.done_bytes());
    const auto total = static_cast<double>(one.total_bytes());
    rows.push_back({absl::StrCat(one.id()), one.kind(), one.device(), StateText(one),
                    total == 0 ? "-" : absl::StrFormat("%.1f", 100 * done / total), BytesText(done),
                    BytesText(total),
                    one.bytes_per_second() > 0 ? BytesText(one.bytes_per_second()) + "/s" : "-",
                    one.error()});
  }
  session.out() << Columns(rows);
  return code;
}

void AddWait(Verbs& verbs) {
  auto id = std::make_shared<int64_t>();
  verbs
      .Add("wait", "Show an operation until it ends", "sectormap operations wait 12",
           [id](Session& session) {
             v1::GetOperationRequest request;
             request.set_id(*id);
             v1::Operation operation;
             const ExitCode code = session.Call(absl::StrCat("operations wait ", *id),
                                                &Operations::GetOperation, request, &operation);
             return code == ExitCode::kOk ? Follow(session, operation) : code;
           })
      ->add_option("id", *id, "Its number")
      ->required();
}

void AddCancel(Verbs& verbs) {
  auto id = std::make_shared<int64_t>();
  verbs
      .Add("cancel", "Ask an operation to end; what it has done so far stays whole",
           "sectormap operations cancel 12",
           [id](Session& session) {
             v1::CancelOperationRequest request;
             request.set_id(*id);
             v1::Operation operation;
             const ExitCode code = session.Call(absl::StrCat("operations cancel ", *id),
                                                &Operations::CancelOperation, request, &operation);
             if (code == ExitCode::kOk && session.json()) session.PrintJson(operation);
             return code;
           })
      ->add_option("id", *id, "Its number")
      ->required();
}

}  // namespace

void AddOperationVerbs(Verbs& verbs) {
  verbs.Group("Long work on devices in use");
  AddSnapshotVerbs(verbs);
  AddMove(verbs);
  Verbs mirror = verbs.Under("mirror", "Legs of a device in use: add, remove",
                             "sectormap mirror add vol /srv/second.img");
  AddMirrorAdd(mirror);
  AddMirrorRemove(mirror);
  Verbs operations = verbs.Under("operations", "Long work that runs or has ended: ls, wait, cancel",
                                 "sectormap operations ls");
  operations.Add("ls", "List operations", "sectormap operations ls", ShowOperations);
  AddWait(operations);
  AddCancel(operations);
}

}  // namespace sectormap::cli
