// SPDX-License-Identifier: Apache-2.0
// DeviceGraph: the mapped devices by name, and who holds whom open. The part of DeviceRegistry that
// is consulted while tables are built, and from any thread when a hold is dropped.
//
// A hold of a table (live, inactive or still being built) is an edge of the graph, for as long as
// the table lives. So a loop is found when the edge that would close it is asked for, whoever else
// is loading at the same time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/map/device_resolver.h"
#include "core/map/mapped_device.h"

namespace sectormap {

// Devices on top of one another: a request descends them on one stack.
inline constexpr int kNestingMax = 128;

// Verbs on one device take turns. Not a mutex, since a verb may wait for a stuck disk for ever and
// those behind it have to be told.
class VerbTurn {
 public:
  // False if another verb did not end within `wait`.
  bool Take(std::string_view verb, absl::Duration wait);
  void Give();
  std::string verb() const;  // the one that has the turn, or had it last

 private:
  mutable absl::Mutex mutex_;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
  std::string verb_ ABSL_GUARDED_BY(mutex_);
};

// A mapped device's place in the graph.
struct DeviceNode {
  DeviceNode(uint64_t node_id, std::shared_ptr<MappedDevice> mapped)
      : id(node_id), device(std::move(mapped)) {}

  const uint64_t id;  // from 1, never used again
  const std::shared_ptr<MappedDevice> device;

  VerbTurn verbs;

  // The rest is guarded by the graph's mutex.
  std::string name, uuid;
  bool leaving = false;  // between the two steps of a removal
  bool removed = false;
  bool deferred_remove = false;
  std::map<uint64_t, int> users;       // devices whose tables hold this one, with counts
  std::map<uint64_t, int> uses;        // the other direction
  std::map<std::string, int> holders;  // others that hold it: LUNs
  uint64_t open_count = 0;
};

class DeviceGraph : public std::enable_shared_from_this<DeviceGraph> {
 public:
  using NodePtr = std::shared_ptr<DeviceNode>;

  // `on_idle` is told, on the thread that dropped the last hold, of a device whose removal was
  // deferred; it must not block.
  explicit DeviceGraph(std::function<void(NodePtr)> on_idle) : on_idle_(std::move(on_idle)) {}

  // AlreadyExists: the name, uuid or identity is taken. InvalidArgument: not a name or uuid. The
  // caller has the first turn on the node, and gives it.
  absl::StatusOr<NodePtr> Add(const std::string& name, const std::string& uuid,
                              std::shared_ptr<MappedDevice> device);
  // NotFound.
  absl::StatusOr<NodePtr> Find(std::string_view name) const;
  std::vector<NodePtr> All() const;         // by name
  std::vector<NodePtr> UsersFirst() const;  // each before the devices that its tables hold

  // A removal has two steps, so that it can be given up: from the first to the last nobody can open
  // the device, which keeps its name, uuid and identity.
  //
  // FailedPrecondition, with who holds it, if it is held; then, if `defer`, marks it, and false is
  // the answer. True: it has begun, and one of the next two has to follow.
  absl::StatusOr<bool> BeginRemoval(DeviceNode& node, bool defer);
  // Takes it out of the name space.
  void EndRemoval(DeviceNode& node);
  // It stays what it was.
  void GiveUpRemoval(DeviceNode& node);
  // The first step of a deferred removal; false if it is held again or the removal was called off.
  bool BeginRemovalIfIdle(DeviceNode& node);
  // FailedPrecondition, with who holds it, if anything but tables of `users` does.
  absl::Status CheckUsedOnlyBy(const DeviceNode& node, const std::set<std::string>& users) const;
  absl::Status Rename(DeviceNode& node, const std::string& new_name);
  // What SetUuid would say. InvalidArgument: not a uuid, or it has another one already;
  // AlreadyExists: another device has this one.
  absl::Status CheckSetUuid(const DeviceNode& node, const std::string& uuid) const;
  absl::Status SetUuid(DeviceNode& node, const std::string& uuid);
  void SetDeferredRemove(DeviceNode& node, bool deferred);
  bool HasIdentity(const std::string& identity) const;
  bool removed(const DeviceNode& node) const;
  std::string name(const DeviceNode& node) const;
  // Its part of the device's info.
  void Describe(const DeviceNode& node, DeviceInfo& info) const;

  // A hold by something that is not a table; `holder` is how a refusal names it.
  absl::StatusOr<DeviceRef> Open(std::string_view name, std::string_view holder);
  // A hold by a table of `user`. InvalidArgument if that would close a loop or nest too deep.
  absl::StatusOr<DeviceRef> OpenForTable(std::string_view name, DeviceNode& user);

  // No more calls of on_idle.
  void Close();

 private:
  class Hold;

  absl::StatusOr<NodePtr> FindLocked(std::string_view name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckEdge(const DeviceNode& lower, const DeviceNode& user) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSetUuidLocked(const DeviceNode& node, const std::string& uuid) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckUuidIsFree(const std::string& uuid) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::string> WayDown(const DeviceNode& from, uint64_t to,
                                   const std::unordered_map<uint64_t, int>& above_to) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Reach(const DeviceNode& node, std::map<uint64_t, int> DeviceNode::*edges,
            std::unordered_map<uint64_t, int>& known) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // NotFound; FailedPrecondition if it is being removed.
  absl::StatusOr<NodePtr> FindToOpen(std::string_view name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Busy(const DeviceNode& node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(const Hold& hold);

  mutable absl::Mutex mutex_;
  std::function<void(NodePtr)> on_idle_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, NodePtr, std::less<>> by_name_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, NodePtr> by_id_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, NodePtr> by_uuid_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, NodePtr> by_identity_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

// Names: 1..127 bytes, no '/', no control characters, not `control`, `.` or `..`
// (uapi/linux/dm-ioctl.h). UUIDs: at most 128 bytes, no control characters.
absl::Status CheckDeviceName(std::string_view name);
absl::Status CheckDeviceUuid(std::string_view uuid);

// `/dev/mapper/NAME` and bare `NAME` mean a mapped device: its name, else empty.
std::string_view MappedDeviceName(std::string_view name_in_table);

// The same for all names that lead to one device: a mapped device's name, a path without symbolic
// links. A path that leads nowhere is itself. Reads directories.
std::string DeviceKey(std::string_view name_in_table);

}  // namespace sectormap
