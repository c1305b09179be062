// SPDX-License-Identifier: Apache-2.0
// BackingOpener: opens what tables name and is not a mapped device.
//
//   /srv/disks/a.img     a regular file or a block device; after all links are followed it must lie
//                        below one of the device roots
//   mem:64M              RAM, gone with its last user; K, M, G, T are powers of 1024, s is sectors,
//                        without a suffix bytes
//   mem:64M@scratch      another one of the same size: the whole text is its name
//
// The same file, block device or text opened twice is the same device while somebody holds it, by
// whatever path it was found and whether for reading or for writing. A block device is claimed as
// long: meanwhile it cannot be mounted (device_claims.h).
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/block/backing_source.h"
#include "core/block/counted_device.h"
#include "core/block/device_claims.h"
#include "core/block/file_device.h"

namespace sectormap {

// Control threads only. Thread-safe.
class BackingOpener final : public BackingSource {
 public:
  struct Options {
    // Absolute directories (--device-root). One that does not exist (yet) holds nothing.
    std::vector<std::string> device_roots = {};
    // How regular files and block devices are used; empty: as FileDevice chooses.
    std::optional<FileDevice::Mode> file_mode = std::nullopt;
    std::optional<FileDevice::Mode> block_device_mode = std::nullopt;
  };

  // InvalidArgument: a root that is not an absolute path.
  static absl::StatusOr<std::unique_ptr<BackingOpener>> Create(Options options);

  // InvalidArgument: the name's form or length, a loop of links, not a file or block device, or too
  // small.
  // NotFound: nothing there. PermissionDenied: outside the roots, or not for this user.
  // ResourceExhausted: it would take one of the reserved descriptors. FailedPrecondition: a block
  // device that is mounted, or claimed by others.
  absl::StatusOr<std::shared_ptr<BlockDevice>> Open(std::string_view name, bool read_only) override;

  absl::Status MakeFile(std::string_view name, SectorCount size) override;
  absl::Status GrowFile(std::string_view name, SectorCount size) override;
  absl::Status RemoveFile(std::string_view name) override;

  // From now on, for what is opened; what is open stays so. InvalidArgument, with nothing changed:
  // a root that is not an absolute path.
  absl::Status SetDeviceRoots(std::vector<std::string> roots);

  // Those that somebody holds, in order of name, for metrics. A file's name is its path without
  // links.
  struct Backing {
    std::string name;
    std::shared_ptr<CountedDevice> device;
  };
  std::vector<Backing> List();

 private:
  // Entries of what is closed are looked for when there are so many, and then when there are twice
  // as many as were left: so that opening ten thousand files does not look through all each time.
  static constexpr size_t kForgetAtLeast = 64;

  // What makes two devices the same.
  struct Identity {
    std::string memory{};  // its name; else it is a file
    bool block_device = false;
    dev_t device = 0;  // st_rdev of a block device, st_dev of a file
    ino_t inode = 0;   // of a file
    bool operator==(const Identity&) const = default;
    template <typename H>
    friend H AbslHashValue(H hash, const Identity& one) {
      return H::combine(std::move(hash), one.memory, one.block_device, one.device, one.inode);
    }
  };
  struct Entry {
    std::string name;
    std::weak_ptr<CountedDevice> device;
  };
  // An open descriptor that lies below a root, and of a block device the claim.
  struct Opened;

  explicit BackingOpener(Options options)
      : options_(std::move(options)), device_roots_(options_.device_roots) {}

  absl::StatusOr<std::shared_ptr<BlockDevice>> OpenMemory(const std::string& name);
  absl::StatusOr<std::shared_ptr<BlockDevice>> OpenFile(const std::string& name, bool read_only);
  absl::StatusOr<Opened> OpenBelowRoots(const std::string& name, bool read_only);
  // The first device root that `path`, without links, lies below: as it was given, and without
  // links. `name` is for the refusal.
  struct Root;
  absl::StatusOr<Root> RootOf(const std::string& name, const std::string& path) const;
  // The directory of `name`, which lies below a root, and the rest of the name.
  struct Place;
  absl::StatusOr<Place> FindPlace(std::string_view name) const;
  static absl::Status OutsideRoots(const std::string& name, const std::string& path,
                                   const std::vector<std::string>& roots);
  // Null: it is not open.
  std::shared_ptr<CountedDevice> FindOpen(const Identity& identity) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remember(const Identity& identity, const std::string& name,
                const std::shared_ptr<CountedDevice>& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetUnused() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  DeviceClaims claims_;
  const Options options_;  // but for its device_roots, which are only the first ones
  mutable absl::Mutex mutex_;
  std::vector<std::string> device_roots_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Identity, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  size_t forget_at_ ABSL_GUARDED_BY(mutex_) = kForgetAtLeast;  // entries
};

}  // namespace sectormap
