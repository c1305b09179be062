// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/recipes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/volumes/backing_use.h"
#include "server/volumes/device_order.h"

namespace sectormap::volumes {

absl::StatusOr<std::shared_ptr<BlockDevice>> Recipes::Open(const std::string& name) {
  const std::string_view mapped = MappedDeviceName(name);
  if (mapped.empty()) return backings.Open(name, false);
  ASSIGN_OR_RETURN(DeviceRef ref, volumes.Open(mapped));
  return ref.device;
}

absl::Status Recipes::CheckAwake(const std::string& name) const {
  const std::string mapped(MappedDeviceName(name));
  if (mapped.empty() || !MeetsSuspended(volumes.registry(), mapped)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "device '", mapped,
      "' or one that it lies on is suspended or could not be restored; resume that one first"));
}

absl::Status Recipes::CheckStays(const Volume& volume) const {
  RETURN_IF_ERROR(volumes.CheckStays(volume.name));
  return volumes.CheckStays(volume.body);
}

bool Recipes::IsClaimed(const std::string& name, Sector sector) const {
  return std::ranges::any_of(claims, [&](const auto& entry) {
    const Claim& claim = entry.second;
    return claim.name == name && sector >= claim.start && sector < claim.start + claim.count;
  });
}

absl::Status Recipes::CheckFree(const std::shared_ptr<BlockDevice>& device, const std::string& name,
                                Sector start, SectorCount count) {
  for (const auto& [id, claim] : claims) {
    if (claim.device.get() != device.get() || claim.start >= start + count ||
        start >= claim.start + claim.count) {
      continue;
    }
    return absl::FailedPreconditionError(absl::StrCat("Device or resource busy: operation ", id,
                                                      " moves data to that part of '", name, "'"));
  }
  return BackingUse::Read(volumes.registry(), backings).CheckFree(device.get(), name, start, count);
}

absl::Status Recipes::Patience() const {
  if (operations.stopping()) return absl::UnavailableError("sectormapd is stopping");
  if (urgent == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "Device or resource busy: a leg of a mirror has failed and has to go first; nothing has been "
      "changed: try again");
}

void Restack::Create(const std::string& name, std::string table, bool read_only) {
  request_.create.push_back(
      {.name = name, .uuid = "", .table = std::move(table), .read_only = read_only});
  changed_.insert(name);
}

void Restack::Replace(const std::string& name, std::string table) {
  request_.replace.push_back({.name = name, .table = std::move(table)});
  changed_.insert(name);
}

void Restack::Remove(const std::string& name) {
  request_.remove.push_back(name);
  changed_.insert(name);
}

void Restack::Still(const std::string& name) { still_.insert(name); }

void Restack::StillAbove(const VolumeTree& tree, const std::string& base) {
  const Volume* above = tree.WithBody(base);
  if (above != nullptr) still_.insert(above->name);
}

void Restack::Lead(const std::string& device, Sector row, size_t leg) {
  request_.leading_legs[{device, row}] = leg;
}

void Restack::DropLayer(const VolumeTree& tree, const Volume& volume) {
  if (!volume.layered()) return;
  Replace(volume.name, volume.body_table);
  Remove(volume.body);
  Still(volume.name);
  if (volume.snapshot.has_value()) StillAbove(tree, volume.snapshot->base);
}

absl::StatusOr<TogetherRequest> Restack::Take() {
  for (const std::string& name : changed_) {
    if (changed_.count(name) < 2) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "'", name, "' would have to change in two ways at once: take one device after the other"));
  }
  for (const std::string& name : still_) {
    if (!changed_.contains(name)) request_.hold.push_back(name);
  }
  // New devices have nothing to suspend.
  request_.writers = still_;
  return std::move(request_);
}

}  // namespace sectormap::volumes
