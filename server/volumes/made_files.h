// SPDX-License-Identifier: Apache-2.0
// MadeFiles: files that the daemon made for stores and logs. They are on record before they are
// made. One that a recipe has put into a table is deleted when a recipe takes it out again, and
// never before: whoever takes a table away by hand may bring it back. One that never came into a
// table is deleted when its recipe fails, also by the start after a kill.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/block/backing_source.h"
#include "server/volumes/backing_use.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {

// Any control thread.
class MadeFiles {
 public:
  using Log = std::function<void(const std::string& path, const std::string& what)>;

  // All outlive it. `directory` lies below a device root. `log` is told of every file that is
  // deleted, or cannot be.
  MadeFiles(VolumeCatalog& volumes, BackingSource& backings, std::string directory,
            Log log = nullptr)
      : volumes_(volumes),
        backings_(backings),
        log_(std::move(log)),
        directory_(std::move(directory)) {}

  // Of the files that are made from now on.
  void SetDirectory(std::string directory);

  // DIRECTORY/STEM.SUFFIX, or with a number if there is such a file.
  absl::StatusOr<std::string> NewPath(std::string_view stem, std::string_view suffix) const;
  // As BackingSource::MakeFile. It goes with the next Sweep() unless ReplaceTogether has put it
  // into a table by then.
  absl::Status Make(const std::string& path, SectorCount size);
  // There is a file, and a user has named it: it is his, even if one of ours had the path before.
  absl::Status Disown(const std::string& path);

  // Deletes what recipes have not put into a table, or taken out of theirs. What a table names
  // nevertheless, by whatever path, or cannot be deleted, is left to the user. REQUIRES: nobody is
  // between Make() and the table for it.
  void Sweep();

 private:
  absl::Status Delete(const std::string& path, const BackingUse& use);

  VolumeCatalog& volumes_;
  BackingSource& backings_;
  const Log log_;
  mutable absl::Mutex mutex_;
  std::string directory_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::volumes
