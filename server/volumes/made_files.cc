// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/made_files.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_spec.h"

namespace sectormap::volumes {
namespace {

constexpr int kNumbersMax = 10'000;

}  // namespace

void MadeFiles::Restore(const std::vector<std::string>& paths) {
  absl::MutexLock hold(&mutex_);
  paths_.insert(paths.begin(), paths.end());
}

void MadeFiles::SetDirectory(std::string directory) {
  absl::MutexLock hold(&mutex_);
  directory_ = std::move(directory);
}

absl::StatusOr<std::string> MadeFiles::NewPath(std::string_view stem,
                                               std::string_view suffix) const {
  std::string directory;
  {
    absl::MutexLock hold(&mutex_);
    directory = directory_;
  }
  for (int number = 0; number < kNumbersMax; ++number) {
    std::string path = absl::StrCat(directory, "/", Absl(stem));
    if (number != 0) absl::StrAppend(&path, ".", number);
    absl::StrAppend(&path, ".", Absl(suffix));
    const absl::Status there = backings_.Open(path, true).status();
    if (absl::IsNotFound(there)) return path;
    if (!there.ok() && !absl::IsInvalidArgument(there)) return there;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("there are too many files called ", Absl(stem), " in ", directory));
}

absl::Status MadeFiles::Make(const std::string& path, SectorCount size) {
  state::Changes changes;
  changes.put_made_files.push_back(path);
  RETURN_IF_ERROR(volumes_.Keep(changes));
  const absl::Status made = backings_.MakeFile(path, size);
  absl::MutexLock hold(&mutex_);
  if (made.ok()) {
    paths_.insert(path);
    return made;
  }
  if (!paths_.contains(path)) {
    // Somebody else's file, perhaps: it must not be taken for ours.
    state::Changes undo;
    undo.delete_made_files.push_back(path);
    volumes_.Keep(undo).IgnoreError();
  }
  return made;
}

bool MadeFiles::Made(const std::string& path) const {
  absl::MutexLock hold(&mutex_);
  return paths_.contains(path);
}

void MadeFiles::Sweep() {
  std::set<std::string> unused;
  {
    absl::MutexLock hold(&mutex_);
    unused = paths_;
  }
  const DeviceRegistry& registry = volumes_.registry();
  for (const DeviceInfo& info : registry.List()) {
    for (const TableSlot slot : {TableSlot::kLive, TableSlot::kInactive}) {
      const absl::StatusOr<std::string> text = registry.Table(info.name, slot);
      const absl::StatusOr<TableSpec> spec = TableSpec::Parse(text.ok() ? *text : "");
      if (!spec.ok()) continue;
      for (const TableRow& row : spec->Rows()) {
        for (const std::string& word : row.args) unused.erase(word);
      }
    }
  }
  for (const std::string& path : unused) {
    if (!backings_.RemoveFile(path).ok()) continue;  // the next sweep tries again
    state::Changes changes;
    changes.delete_made_files.push_back(path);
    if (!volumes_.Keep(changes).ok()) continue;
    absl::MutexLock hold(&mutex_);
    paths_.erase(path);
  }
}

}  // namespace sectormap::volumes
