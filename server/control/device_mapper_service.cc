// SPDX-License-Identifier: Apache-2.0
#include "server/control/device_mapper_service.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/block/counted_device.h"
#include "core/map/table_spec.h"
#include "server/control/call_log.h"
#include "server/control/caller.h"
#include "server/control/device_messages.h"
#include "server/control/device_watch.h"
#include "server/control/status.h"
#include "server/volumes/backing_use.h"

namespace sectormap::control {
namespace {

grpc::Status Answer(const absl::StatusOr<DeviceInfo>& info, v1::Device& response) {
  if (!info.ok()) return ToGrpc(info.status());
  FillDevice(*info, response);
  return grpc::Status::OK;
}

grpc::Status AnswerChange(std::string_view verb, const std::string& device,
                          const absl::StatusOr<DeviceInfo>& info, v1::Device& response) {
  LogChange(verb, device, info.status());
  return Answer(info, response);
}

grpc::ServerUnaryReactor* FinishAtOnce(grpc::CallbackServerContext* context,
                                       const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

class RefusedWatch final : public grpc::ServerWriteReactor<v1::WatchResponse> {
 public:
  explicit RefusedWatch(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// The counters of what a table names: another mapped device's, or a backing device's.
const IoCounters* CountersOf(const BlockDevice& device) {
  if (const auto* mapped = dynamic_cast<const MappedDevice*>(&device)) return &mapped->counters();
  if (const auto* counted = dynamic_cast<const CountedDevice*>(&device)) {
    return &counted->counters();
  }
  return nullptr;
}

void AddDependency(const std::string& name, bool mapped, v1::GetDependenciesResponse& response) {
  v1::Dependency& dependency = *response.add_dependencies();
  dependency.set_name(name);
  dependency.set_mapped(mapped);
}

// The devices that a table's text names, each once, in the order of first use.
std::vector<std::string> NamesIn(const std::string& table) {
  std::vector<std::string> names;
  const absl::StatusOr<TableSpec> spec = TableSpec::Parse(table);
  if (!spec.ok()) return names;
  std::set<std::string> seen;
  for (const TableRow& row : spec->Rows()) {
    for (const volumes::DevicePart& part : volumes::PartsOf(row)) {
      if (seen.insert(part.device).second) names.push_back(part.device);
    }
  }
  return names;
}

}  // namespace

DeviceMapperService::DeviceMapperService(volumes::VolumeCatalog& volumes,
                                         const TargetRegistry& types, ChangeFeed& feed,
                                         HolderAdvice holders)
    : volumes_(volumes), types_(types), feed_(feed), holders_(std::move(holders)) {}

grpc::Status DeviceMapperService::Create(grpc::ServerContext* context,
                                         const v1::CreateRequest* request, v1::Device* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  volumes::CreateRequest create{.name = request->name(),
                                .uuid = request->uuid(),
                                .table = std::nullopt,
                                .read_only = request->read_only()};
  if (request->has_table()) create.table = request->table();
  return AnswerChange("create", request->name(), volumes_.Create(create, CallerHasGone(context)),
                      *response);
}

grpc::Status DeviceMapperService::Load(grpc::ServerContext* context, const v1::LoadRequest* request,
                                       v1::Device* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  return AnswerChange("load", request->name(),
                      volumes_.Load(request->name(), request->table(), request->read_only(),
                                    CallerHasGone(context)),
                      *response);
}

grpc::Status DeviceMapperService::Clear(grpc::ServerContext* context,
                                        const v1::ClearRequest* request, v1::Device* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  return AnswerChange("clear", request->name(),
                      volumes_.Clear(request->name(), CallerHasGone(context)), *response);
}

grpc::Status DeviceMapperService::Suspend(grpc::ServerContext* context,
                                          const v1::SuspendRequest* request, v1::Device* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  const SuspendMode mode = request->no_flush() ? SuspendMode::kNoFlush : SuspendMode::kFlush;
  return AnswerChange("suspend", request->name(),
                      volumes_.Suspend(request->name(), mode, CallerHasGone(context)), *response);
}

grpc::Status DeviceMapperService::Resume(grpc::ServerContext* context,
                                         const v1::ResumeRequest* request, v1::Device* response) {
  const WaitingCalls::One call(changes_, kResumesMax);
  if (!call.status().ok()) return call.status();
  return AnswerChange("resume", request->name(),
                      volumes_.Resume(request->name(), CallerHasGone(context)), *response);
}

grpc::Status DeviceMapperService::Replace(grpc::ServerContext* context,
                                          const v1::ReplaceRequest* request, v1::Device* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  const SuspendMode mode = request->no_flush() ? SuspendMode::kNoFlush : SuspendMode::kFlush;
  return AnswerChange("replace", request->name(),
                      volumes_.Replace(request->name(), request->table(), request->read_only(),
                                       mode, CallerHasGone(context)),
                      *response);
}

grpc::Status DeviceMapperService::Remove(grpc::ServerContext* context,
                                         const v1::RemoveRequest* request,
                                         v1::RemoveResponse* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  const absl::StatusOr<volumes::VolumeCatalog::Removed> removed =
      volumes_.Remove(request->name(), {.force = request->force(), .deferred = request->deferred()},
                      CallerHasGone(context));
  LogChange("remove", request->name(), removed.status());
  if (removed.ok()) {
    response->set_deferred(removed->deferred);
    return grpc::Status::OK;
  }
  if (absl::IsNotFound(removed.status()) && request->allow_missing()) return grpc::Status::OK;
  if (absl::IsFailedPrecondition(removed.status())) {
    const std::string advice = holders_(request->name());
    if (!advice.empty()) {
      return ToGrpc(
          absl::FailedPreconditionError(absl::StrCat(removed.status().message(), "; ", advice)));
    }
  }
  return ToGrpc(removed.status());
}

grpc::Status DeviceMapperService::Rename(grpc::ServerContext* context,
                                         const v1::RenameRequest* request, v1::Device* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  if (request->new_name().empty() == request->new_uuid().empty()) {
    return ToGrpc(absl::InvalidArgumentError("give either new_name or new_uuid"));
  }
  if (!request->new_uuid().empty()) {
    return AnswerChange(
        "set_uuid", request->name(),
        volumes_.SetUuid(request->name(), request->new_uuid(), CallerHasGone(context)), *response);
  }
  return AnswerChange("rename", request->name(),
                      volumes_.Rename(request->name(), request->new_name(), CallerHasGone(context)),
                      *response);
}

grpc::Status DeviceMapperService::GetTable(grpc::ServerContext*, const v1::GetTableRequest* request,
                                           v1::GetTableResponse* response) {
  absl::StatusOr<std::string> text = registry().Table(request->name(), SlotOf(request->slot()));
  if (text.ok()) response->set_table(*std::move(text));
  return ToGrpc(text.status());
}

grpc::Status DeviceMapperService::GetStatus(grpc::ServerContext*,
                                            const v1::GetStatusRequest* request,
                                            v1::GetStatusResponse* response) {
  absl::StatusOr<std::string> text = registry().Status(request->name(), SlotOf(request->slot()));
  if (text.ok()) response->set_status(*std::move(text));
  return ToGrpc(text.status());
}

grpc::Status DeviceMapperService::GetDependencies(grpc::ServerContext*,
                                                  const v1::GetDependenciesRequest* request,
                                                  v1::GetDependenciesResponse* response) {
  const TableSlot slot = SlotOf(request->slot());
  const absl::StatusOr<std::vector<DeviceRef>> devices =
      registry().Dependencies(request->name(), slot);
  if (devices.ok()) {
    for (const DeviceRef& device : *devices)
      AddDependency(device.name(), device.mapped(), *response);
    return grpc::Status::OK;
  }
  // Nothing is open then, but what is missing may be just what is asked for.
  const absl::StatusOr<std::string> unbuilt = registry().Table(request->name(), slot);
  if (!unbuilt.ok()) return ToGrpc(unbuilt.status());
  for (const std::string& name : NamesIn(*unbuilt)) {
    AddDependency(name, !MappedDeviceName(name).empty(), *response);
  }
  return grpc::Status::OK;
}

grpc::Status DeviceMapperService::Get(grpc::ServerContext*, const v1::GetRequest* request,
                                      v1::Device* response) {
  return Answer(registry().Info(request->name()), *response);
}

grpc::Status DeviceMapperService::List(grpc::ServerContext*, const v1::ListRequest*,
                                       v1::ListResponse* response) {
  for (const DeviceInfo& info : registry().List()) FillDevice(info, *response->add_devices());
  return grpc::Status::OK;
}

grpc::Status DeviceMapperService::Message(grpc::ServerContext* context,
                                          const v1::MessageRequest* request,
                                          v1::MessageResponse* response) {
  const WaitingCalls::One call(changes_);
  if (!call.status().ok()) return call.status();
  absl::StatusOr<std::string> answer = volumes_.Message(request->name(), Sector(request->sector()),
                                                        request->message(), CallerHasGone(context));
  LogChange("message", request->name(), answer.status());
  if (!answer.ok()) return ToGrpc(answer.status());
  response->set_answer(*std::move(answer));
  return grpc::Status::OK;
}

grpc::Status DeviceMapperService::ListTargetTypes(grpc::ServerContext*,
                                                  const v1::ListTargetTypesRequest*,
                                                  v1::ListTargetTypesResponse* response) {
  for (const TargetType* type : types_.all()) {
    v1::TargetType& row = *response->add_types();
    row.set_name(std::string(type->name));
    row.set_version(std::string(type->version));
    row.set_usage(std::string(type->usage));
    row.set_summary(std::string(type->summary));
  }
  return grpc::Status::OK;
}

grpc::Status DeviceMapperService::GetStats(grpc::ServerContext*, const v1::GetStatsRequest* request,
                                           v1::GetStatsResponse* response) {
  const std::shared_ptr<MappedDevice> device = registry().Find(request->name());
  if (device == nullptr) return ToGrpc(absl::NotFoundError("Device does not exist."));
  FillStats(request->name(), device->counters().Sum(), *response->mutable_device());
  const absl::StatusOr<std::vector<DeviceRef>> backings =
      registry().Dependencies(request->name(), TableSlot::kLive);
  // The table could not be built, or the device has gone since: nothing is below it.
  if (!backings.ok()) return grpc::Status::OK;
  for (const DeviceRef& backing : *backings) {
    const IoCounters* counters = CountersOf(*backing.device);
    if (counters != nullptr) FillStats(backing.name(), counters->Sum(), *response->add_backings());
  }
  return grpc::Status::OK;
}

grpc::ServerUnaryReactor* DeviceMapperService::Wait(grpc::CallbackServerContext* context,
                                                    const v1::WaitRequest* request,
                                                    v1::Device* response) {
  absl::StatusOr<DeviceInfo> info = registry().Info(request->name());
  if (!info.ok()) return FinishAtOnce(context, ToGrpc(info.status()));
  return StartWait(feed_, std::move(info->identity), request->event_number(), response);
}

grpc::ServerWriteReactor<v1::WatchResponse>* DeviceMapperService::Watch(
    grpc::CallbackServerContext*, const v1::WatchRequest* request) {
  if (request->name().empty()) return StartWatch(feed_, "");
  absl::StatusOr<DeviceInfo> info = registry().Info(request->name());
  if (!info.ok()) return new RefusedWatch(ToGrpc(info.status()));
  return StartWatch(feed_, std::move(info->identity));
}

}  // namespace sectormap::control
