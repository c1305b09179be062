// SPDX-License-Identifier: Apache-2.0
#include "server/volumes/made_files.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"

namespace sectormap::volumes {
namespace {

constexpr int kNumbersMax = 10'000;

}  // namespace

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
  // Somebody else's file, perhaps: it must not be taken for ours.
  if (!made.ok()) Disown(path).IgnoreError();
  return made;
}

absl::Status MadeFiles::Disown(const std::string& path) {
  state::Changes changes;
  changes.delete_made_files.push_back(path);
  return volumes_.Keep(changes);
}

void MadeFiles::Sweep() {
  const absl::StatusOr<std::vector<std::string>> unused = volumes_.UnusedFiles();
  if (!unused.ok() || unused->empty()) return;  // the next sweep asks again
  const BackingUse use = BackingUse::Read(volumes_.registry(), backings_);
  for (const std::string& path : *unused) {
    const absl::Status deleted = Delete(path, use);
    if (log_ != nullptr) {
      log_(path, deleted.ok() ? "deleted"
                              : absl::StrCat("not deleted, and left to you: ", deleted.message()));
    }
    // Not to be tried again: by then a user may have a file there.
    Disown(path).IgnoreError();
  }
}

absl::Status MadeFiles::Delete(const std::string& path, const BackingUse& use) {
  const absl::StatusOr<std::shared_ptr<BlockDevice>> file = backings_.Open(path, true);
  if (file.ok()) {
    RETURN_IF_ERROR(use.CheckFree(file->get(), path, Sector(0), kMaxDeviceSectors));
  } else if (!absl::IsInvalidArgument(file.status())) {  // too small to be a device of anybody's
    return file.status();
  }
  return backings_.RemoveFile(path);
}

}  // namespace sectormap::volumes
