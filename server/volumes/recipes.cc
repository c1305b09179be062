// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/recipes.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sectormap::volumes {

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
