// SPDX-License-Identifier: Apache-2.0
#include "server/control/operations_service.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/control/call_log.h"
#include "server/control/caller.h"
#include "server/control/status.h"

namespace sectormap::control {
namespace {

// A watcher hears of progress twice a second: given_up is asked ten times a second.
constexpr int kPollsBetweenLooks = 5;

v1::Operation::State StateOf(volumes::OperationState state) {
  switch (state) {
    case volumes::OperationState::kRunning:
      return v1::Operation::STATE_RUNNING;
    case volumes::OperationState::kDone:
      return v1::Operation::STATE_DONE;
    case volumes::OperationState::kFailed:
      return v1::Operation::STATE_FAILED;
    case volumes::OperationState::kCancelled:
      return v1::Operation::STATE_CANCELLED;
  }
  return v1::Operation::STATE_UNSPECIFIED;
}

void Fill(const volumes::OperationInfo& info, v1::Operation& message) {
  message.set_id(info.id);
  message.set_kind(info.kind);
  message.set_device(info.device);
  message.set_state(StateOf(info.state));
  message.set_cancelling(info.cancelling);
  message.set_done_bytes(info.done_bytes);
  message.set_total_bytes(info.total_bytes);
  message.set_bytes_per_second(info.bytes_per_second);
  if (info.left_seconds.has_value()) message.set_left_seconds(*info.left_seconds);
  message.set_started_unix_seconds(info.started_unix_seconds);
  message.set_ended_unix_seconds(info.ended_unix_seconds);
  message.set_error(info.error);
}

v1::Snapshot::State StateOf(const volumes::SnapshotInfo& info) {
  using State = volumes::SnapshotStatus::State;
  if (!info.available) return v1::Snapshot::STATE_UNAVAILABLE;
  switch (info.status.state) {
    case State::kValid:
      return info.merging ? v1::Snapshot::STATE_MERGING : v1::Snapshot::STATE_VALID;
    case State::kInvalid:
      return v1::Snapshot::STATE_INVALID;
    case State::kOverflow:
      return v1::Snapshot::STATE_OVERFLOW;
    case State::kMergeFailed:
      return v1::Snapshot::STATE_MERGE_FAILED;
    case State::kUnknown:
      return v1::Snapshot::STATE_UNAVAILABLE;
  }
  return v1::Snapshot::STATE_UNSPECIFIED;
}

void Fill(const volumes::SnapshotInfo& info, v1::Snapshot& message) {
  message.set_name(info.name);
  message.set_device(info.origin);
  message.set_store(info.store);
  message.set_state(StateOf(info));
  message.set_chunk_sectors(info.chunk_sectors);
  message.set_used_sectors(info.status.allocated);
  message.set_total_sectors(info.status.total);
  message.set_metadata_sectors(info.status.metadata);
  message.set_used_percent(info.status.percent());
  message.set_created_unix_seconds(info.created_unix_seconds);
  message.set_newer(info.newer);
}

grpc::Status Answer(std::string_view verb, const std::string& device,
                    const absl::StatusOr<volumes::OperationInfo>& info, v1::Operation& response) {
  LogChange(verb, device, info.status());
  if (info.ok()) Fill(*info, response);
  return ToGrpc(info.status());
}

}  // namespace

grpc::Status OperationsService::CreateSnapshots(grpc::ServerContext* context,
                                                const v1::CreateSnapshotsRequest* request,
                                                v1::CreateSnapshotsResponse* response) {
  const WaitingCalls::One call(starts_);
  if (!call.status().ok()) return call.status();
  volumes::CreateSnapshots wanted;
  std::string names;
  for (const auto& entry : request->entries()) {
    wanted.entries.push_back(
        {.name = entry.name(), .device = entry.device(), .store = entry.store()});
    absl::StrAppend(&names, names.empty() ? "" : " ", entry.name());
  }
  wanted.store_sectors = request->store_sectors();
  wanted.chunk_sectors = request->chunk_sectors();
  wanted.overflow_stays_valid = request->overflow_stays_valid();
  wanted.never_grow = request->growth().never();
  wanted.grow_at_percent = request->growth().at_percent();
  wanted.grow_by_percent = request->growth().by_percent();
  wanted.limit_sectors = request->growth().limit_sectors();
  wanted.existing_ok = request->allow_existing();
  wanted.give_up = CallerHasGone(context);
  const auto made = snapshots_.Create(wanted);
  LogChange("snapshot_create", names, made.status());
  if (!made.ok()) return ToGrpc(made.status());
  for (const volumes::SnapshotInfo& info : *made) Fill(info, *response->add_snapshots());
  return grpc::Status::OK;
}

grpc::Status OperationsService::ListSnapshots(grpc::ServerContext*,
                                              const v1::ListSnapshotsRequest* request,
                                              v1::ListSnapshotsResponse* response) {
  absl::StatusOr<std::vector<volumes::SnapshotInfo>> infos = snapshots_.List();
  if (!request->device().empty()) infos = snapshots_.ListOf(request->device());
  if (!infos.ok()) return ToGrpc(infos.status());
  for (const volumes::SnapshotInfo& info : *infos) Fill(info, *response->add_snapshots());
  return grpc::Status::OK;
}

grpc::Status OperationsService::RemoveSnapshot(grpc::ServerContext*,
                                               const v1::RemoveSnapshotRequest* request,
                                               v1::Operation* response) {
  const WaitingCalls::One call(starts_);
  if (!call.status().ok()) return call.status();
  absl::StatusOr<volumes::OperationInfo> info = snapshots_.StartRemove(request->name());
  if (absl::IsNotFound(info.status()) && request->allow_missing()) {
    volumes::OperationInfo done;
    done.kind = "snapshot-remove";
    done.device = request->name();
    done.state = volumes::OperationState::kDone;
    info = std::move(done);
  }
  return Answer("snapshot_remove", request->name(), info, *response);
}

grpc::Status OperationsService::RollBack(grpc::ServerContext*, const v1::RollBackRequest* request,
                                         v1::Operation* response) {
  const WaitingCalls::One call(starts_);
  if (!call.status().ok()) return call.status();
  return Answer("rollback", request->snapshot(), snapshots_.StartRollBack(request->snapshot()),
                *response);
}

grpc::Status OperationsService::Move(grpc::ServerContext*, const v1::MoveRequest* request,
                                     v1::Operation* response) {
  const WaitingCalls::One call(starts_);
  if (!call.status().ok()) return call.status();
  return Answer("move", request->device(),
                moves_.Start({.device = request->device(),
                              .from = request->from(),
                              .to = request->to(),
                              .to_start = request->to_start(),
                              .piece_sectors = request->piece_sectors()}),
                *response);
}

grpc::Status OperationsService::AddMirrorLeg(grpc::ServerContext*,
                                             const v1::AddMirrorLegRequest* request,
                                             v1::Operation* response) {
  const WaitingCalls::One call(starts_);
  if (!call.status().ok()) return call.status();
  return Answer("mirror_add", request->device(),
                mirrors_.StartAdd({.device = request->device(),
                                   .leg = request->leg(),
                                   .leg_start = request->leg_start(),
                                   .log = request->log(),
                                   .region_sectors = request->region_sectors()}),
                *response);
}

grpc::Status OperationsService::RemoveMirrorLeg(grpc::ServerContext*,
                                                const v1::RemoveMirrorLegRequest* request,
                                                v1::Operation* response) {
  const WaitingCalls::One call(starts_);
  if (!call.status().ok()) return call.status();
  volumes::RemoveLegRequest remove{.device = request->device(), .leg = request->leg()};
  if (request->has_leg_start()) remove.leg_start = request->leg_start();
  return Answer("mirror_remove", request->device(), mirrors_.StartRemove(remove), *response);
}

grpc::Status OperationsService::ListOperations(grpc::ServerContext*,
                                               const v1::ListOperationsRequest*,
                                               v1::ListOperationsResponse* response) {
  for (const volumes::OperationInfo& info : operations_.List()) {
    Fill(info, *response->add_operations());
  }
  return grpc::Status::OK;
}

grpc::Status OperationsService::GetOperation(grpc::ServerContext*,
                                             const v1::GetOperationRequest* request,
                                             v1::Operation* response) {
  const auto info = operations_.Get(request->id());
  if (info.ok()) Fill(*info, *response);
  return ToGrpc(info.status());
}

grpc::Status OperationsService::WatchOperation(grpc::ServerContext* context,
                                               const v1::WatchOperationRequest* request,
                                               grpc::ServerWriter<v1::Operation>* writer) {
  const WaitingCalls::One call(waiters_);
  if (!call.status().ok()) return call.status();
  std::string told;
  while (!context->IsCancelled()) {
    int polls = told.empty() ? kPollsBetweenLooks : 0;
    const auto info = operations_.Wait(
        request->id(), [&] { return context->IsCancelled() || polls++ >= kPollsBetweenLooks; });
    if (!info.ok()) return ToGrpc(info.status());
    v1::Operation message;
    Fill(*info, message);
    std::string bytes = message.SerializeAsString();
    if (bytes != told && !writer->Write(message)) break;
    told = std::move(bytes);
    if (info->ended()) return grpc::Status::OK;
  }
  return grpc::Status::CANCELLED;
}

grpc::Status OperationsService::WaitOperation(grpc::ServerContext* context,
                                              const v1::WaitOperationRequest* request,
                                              v1::Operation* response) {
  const WaitingCalls::One call(waiters_);
  if (!call.status().ok()) return call.status();
  const auto info = operations_.Wait(request->id(), [context] { return context->IsCancelled(); });
  if (!info.ok()) return ToGrpc(info.status());
  if (!info->ended()) return grpc::Status::CANCELLED;
  Fill(*info, *response);
  return grpc::Status::OK;
}

grpc::Status OperationsService::CancelOperation(grpc::ServerContext*,
                                                const v1::CancelOperationRequest* request,
                                                v1::Operation* response) {
  const auto info = operations_.Cancel(request->id());
  return Answer("cancel", info.ok() ? info->device : "", info, *response);
}

}  // namespace sectormap::control
