// SPDX-License-Identifier: Apache-2.0
// MadeFiles: files that the daemon made for stores and logs. They are on record before they are
// made, and deleted when no table names them any more, also by the start after a kill.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/block/backing_source.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::volumes {

// Any control thread.
class MadeFiles {
 public:
  // Both outlive it. `directory` lies below a device root.
  MadeFiles(VolumeCatalog& volumes, BackingSource& backings, std::string directory)
      : volumes_(volumes), backings_(backings), directory_(std::move(directory)) {}

  void Restore(const std::vector<std::string>& paths);
  // Of the files that are made from now on.
  void SetDirectory(std::string directory);

  // DIRECTORY/STEM.SUFFIX, or with a number if there is such a file.
  absl::StatusOr<std::string> NewPath(std::string_view stem, std::string_view suffix) const;
  // As BackingSource::MakeFile. It goes with the next Sweep() unless a table names it by then.
  absl::Status Make(const std::string& path, SectorCount size);
  bool Made(const std::string& path) const;

  // Deletes what no table names. REQUIRES: nobody is between Make() and the table for it.
  void Sweep();

 private:
  VolumeCatalog& volumes_;
  BackingSource& backings_;
  mutable absl::Mutex mutex_;
  std::string directory_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> paths_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sectormap::volumes
