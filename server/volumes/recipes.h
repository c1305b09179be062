// SPDX-License-Identifier: Apache-2.0
// What recipes on live devices share.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor_pool.h"
#include "core/block/backing_source.h"
#include "server/volumes/made_files.h"
#include "server/volumes/operations.h"
#include "server/volumes/volume_catalog.h"
#include "server/volumes/volume_tree.h"

namespace sectormap::volumes {

struct Recipes {
  VolumeCatalog& volumes;
  BackingSource& backings;
  ReactorPool& reactors;
  Operations& operations;
  MadeFiles& files;

  // Held by a recipe from when it reads the tables until it has replaced them; not while it copies.
  absl::Mutex structure;

  // Who waits for the structure's lock and must not wait for long: a recipe that has it may be
  // waiting for I/O that a mirror holds until it gets another table. Such a wait is given up then.
  std::atomic<int> urgent = 0;
  class ABSL_SCOPED_LOCKABLE UrgentTurn {
   public:
    explicit UrgentTurn(Recipes& recipes) ABSL_EXCLUSIVE_LOCK_FUNCTION(recipes.structure)
        : recipes_(recipes) {
      ++recipes_.urgent;
      recipes_.structure.Lock();
      --recipes_.urgent;
    }
    UrgentTurn(const UrgentTurn&) = delete;
    UrgentTurn& operator=(const UrgentTurn&) = delete;
    ~UrgentTurn() ABSL_UNLOCK_FUNCTION() { recipes_.structure.Unlock(); }

   private:
    Recipes& recipes_;
  };
  // For VolumeCatalog::SetPatience.
  absl::Status Patience() const;

  // Where a running move will write, which no table says yet. By operation.
  struct Claim {
    std::string name;  // as the table of the move has it
    std::shared_ptr<BlockDevice> device;
    Sector start;
    SectorCount count;
  };
  std::map<int64_t, Claim> claims ABSL_GUARDED_BY(structure);
  // True if a running move writes there. By name: a disk that has failed may not be opened again.
  bool IsClaimed(const std::string& name, Sector sector) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(structure);

  // A file or block device, or a mapped device, as tables name them. Writable.
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(const std::string& name);
  // FailedPrecondition: I/O to it would wait for somebody's resume, and with it every other recipe.
  absl::Status CheckAwake(const std::string& name) const;
  // FailedPrecondition: the volume, or the layer with its table, is to be removed when it is
  // closed.
  absl::Status CheckStays(const Volume& volume) const;
  // FailedPrecondition, with who uses it, if a table or a running move does.
  absl::Status CheckFree(const std::shared_ptr<BlockDevice>& device, const std::string& name,
                         Sector start, SectorCount count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(structure);
};

// A TogetherRequest under construction, in which each device stands once.
class Restack {
 public:
  void Create(const std::string& name, std::string table, bool read_only);
  void Replace(const std::string& name, std::string table);
  void Remove(const std::string& name);
  // Suspended with the writers, before `when_quiet`.
  void Still(const std::string& name);
  // Before a snapshot is loaded or unloaded, what writes to its origin is suspended
  // (Documentation/admin-guide/device-mapper/snapshot.rst). `base` is the body it lies on.
  void StillAbove(const VolumeTree& tree, const std::string& base);
  // See TogetherRequest::leading_legs.
  void Lead(const std::string& device, Sector row, size_t leg);
  // What a volume without snapshots has: its own table, and no layer.
  void DropLayer(const VolumeTree& tree, const Volume& volume);

  // FailedPrecondition: two changes of one device.
  absl::StatusOr<TogetherRequest> Take();

 private:
  TogetherRequest request_;
  std::multiset<std::string> changed_;
  std::set<std::string> still_;
};

}  // namespace sectormap::volumes
