// SPDX-License-Identifier: Apache-2.0
// DeviceRegistry: every mapped device by name, who holds it open, and the graph they form. The
// verbs of dmsetup, without durability (server/volumes adds that).
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/block/backing_source.h"
#include "core/map/device_graph.h"
#include "core/map/mapped_device.h"

namespace sectormap {

struct CreateOptions {
  std::string uuid;      // dmsetup's; may be empty
  std::string identity;  // empty: derived from uuid, or random without one; 32 hex digits
};

struct RemoveOptions {
  bool force = false;     // first swap in an error table, so that backing devices are let go
  bool deferred = false;  // if open: remove when the last opener closes
};

// Any control thread; verbs on different devices run side by side, those on one device one after
// the other. Info, List, Table, Status, Dependencies and WaitEvent never wait for a verb. Codes:
// NotFound (`Device does not exist.`), AlreadyExists (name or uuid taken), FailedPrecondition
// (`Device or resource busy`, with who holds it), InvalidArgument (names, uuids, tables).
class DeviceRegistry {
 public:
  // All outlive it.
  DeviceRegistry(ReactorPool& reactors, const TargetRegistry& types, BackingSource& backings);
  // REQUIRES: no hold is left and no I/O is under way.
  ~DeviceRegistry();

  // TargetHost::notes() from now on; what they need outlives the registry. Once, before the first
  // device.
  void SetNotes(std::shared_ptr<TargetNotes> notes) { notes_ = std::move(notes); }

  // All of a device that outlives the daemon; the tables as text.
  struct Saved {
    std::string name, uuid, identity;
    std::optional<std::string> live_table, inactive_table;
    bool live_read_only = false, inactive_read_only = false, suspended = false;
    bool deferred_remove = false;
  };

  // Names: 1..127 bytes, no '/' or control character, not `control`, `.` or `..`. UUIDs: at most
  // 128 bytes.
  absl::Status Create(std::string_view name, const CreateOptions& options);
  // Refuses a table that would make the graph of devices cyclic.
  absl::Status Load(std::string_view name, const TableSpec& spec, bool read_only);
  absl::Status Clear(std::string_view name);
  // Lets tables be built on a device whose first table is loaded and not live yet.
  // FailedPrecondition for any other device.
  absl::Status AnnounceSize(std::string_view name);
  // Cancelled: it was given up, and I/O goes on as before.
  absl::Status Suspend(std::string_view name, SuspendMode mode, const GiveUp& give_up = nullptr);
  // Builds a table first that could not be built at start. If a device below has become too small
  // for the inactive table, drops that table and leaves the device suspended with the old one, as
  // the kernel does. `mode` is how it suspends, if it has to.
  //
  // `intent` is told what the device is about to become, by then either resumed or suspended as
  // above, once only a flush that fails or a target (PreResume) can refuse. Its error is the
  // answer, with nothing changed. Not called if there is no table to go on with.
  //
  // Cancelled: `give_up` ended the wait for I/O before a swap. The old table serves on, the new one
  // is in the inactive slot.
  using ResumeIntent = std::function<absl::Status(const Saved& next)>;
  absl::Status Resume(std::string_view name, SuspendMode mode = SuspendMode::kFlush,
                      const ResumeIntent& intent = nullptr, const GiveUp& give_up = nullptr);
  // OK with `deferred` may mean that the device is still there: Info().deferred_remove. Its name is
  // free when its tables have gone, for which work of their own (a mirror's recovery) has to end.
  // Cancelled: that, or with `force` the wait for I/O, was given up; the device is there as before,
  // or with the error table if that was in already.
  absl::Status Remove(std::string_view name, RemoveOptions options,
                      const GiveUp& give_up = nullptr);
  // Refused while another device's table names it.
  absl::Status Rename(std::string_view name, std::string_view new_name);
  // Once only: `Unable to change uuid of mapped device NAME because uuid is already set to U`.
  absl::Status SetUuid(std::string_view name, std::string_view uuid);
  // What SetUuid would say now.
  absl::Status CheckSetUuid(std::string_view name, std::string_view uuid) const;

  // FailedPrecondition, with who holds it, if anything but tables of `users` does.
  absl::Status CheckUsedOnlyBy(std::string_view name, const std::set<std::string>& users) const;

  absl::StatusOr<DeviceInfo> Info(std::string_view name) const;
  std::vector<DeviceInfo> List() const;  // by name
  bool HasIdentity(const std::string& identity) const { return graph_->HasIdentity(identity); }
  // One line per row; empty without a table.
  absl::StatusOr<std::string> Table(std::string_view name, TableSlot slot) const;
  // True if `spec` says, perhaps in other words, what the live table does. False without one.
  bool LiveTableIs(std::string_view name, const TableSpec& spec) const;
  absl::StatusOr<std::string> Status(std::string_view name, TableSlot slot) const;
  absl::StatusOr<std::vector<DeviceRef>> Dependencies(std::string_view name, TableSlot slot) const;
  // `@cancel_deferred_remove` is the device's own; all else goes to the live table.
  absl::StatusOr<std::string> Message(std::string_view name, Sector sector, std::string_view text);
  absl::StatusOr<uint32_t> WaitEvent(std::string_view name, uint32_t seen,
                                     const std::function<bool()>& cancelled);

  // Holds a device open, as a LUN does; `holder` is how `Device or resource busy` names it. The
  // hold's last copy may be dropped on any thread.
  absl::StatusOr<DeviceRef> Open(std::string_view name, std::string_view holder = "an export");
  std::shared_ptr<MappedDevice> Find(std::string_view name) const;

  // At start: devices as they were. A live table that cannot be built (a file has gone) makes its
  // device answer kUnavailable and Info().error say why; its text is kept and printed by Table().
  // So does a device that waits for one of these (TargetType::waits_for), until that is resumed,
  // gets another table or goes. In any order: devices are built after those that their tables name.
  // Goes on after a device that cannot be had at all (a bad or doubled name); the first such
  // refusal is the answer.
  absl::Status RestoreAll(std::vector<Saved> all);
  // At the daemon's end: what waits for a resume that will not come ends with kAborted. The
  // devices serve no more. Control threads only. REQUIRES: nobody keeps any more what they are
  // (Snapshot), since their tables go.
  void EndSuspended();
  // What RestoreAll needs.
  absl::StatusOr<Saved> Snapshot(std::string_view name) const;
  // As it would be after a resume, of the table what is to be kept of it from then on
  // (Target::TableArgsToKeep).
  absl::StatusOr<Saved> SnapshotAfterResume(std::string_view name) const;
  // After the exports are attached: removes devices marked for removal that nobody holds any more.
  void RemoveDeferred();

  // Told, on a control thread, that a deferred removal has happened. Set once, before the first.
  void OnDeferredRemoval(std::function<void(const std::string& name)> call);

  // Watching: called on a control thread after each verb that changed something and after events,
  // in order for one device, not for open counts. The call is cheap, does not change devices and
  // does not (un)subscribe. After Unsubscribe it is not called any more.
  enum class Change { kCreated, kChanged, kRemoved };
  using Watcher = std::function<void(Change change, const DeviceInfo& info)>;
  uint64_t Subscribe(Watcher watcher);
  void Unsubscribe(uint64_t id);

 private:
  using NodePtr = DeviceGraph::NodePtr;
  class TableDevices;
  class TurnHolder;

  absl::StatusOr<std::shared_ptr<const MappingTable>> Build(DeviceNode& node, std::string_view text,
                                                            bool read_only, bool restored);
  absl::StatusOr<std::shared_ptr<const MappingTable>> BuildRestored(
      DeviceNode& node, const MappedDevice::UnbuiltTable& unbuilt, TableSlot slot);
  absl::Status BuildUnbuilt(DeviceNode& node, TableSlot slot);
  absl::Status BuildAgainIfShrunk(DeviceNode& node);
  absl::Status DropInactive(DeviceNode& node, SuspendMode mode, const ResumeIntent& intent,
                            const GiveUp& give_up);
  absl::Status ReplaceByErrors(DeviceNode& node, const GiveUp& give_up);
  absl::StatusOr<TurnHolder> TakeTurn(std::string_view name, std::string_view verb) const;
  template <typename Call>
  absl::Status ChangeDevice(std::string_view name, std::string_view verb, Call call);
  DeviceInfo InfoOf(const DeviceNode& node) const;
  Saved SavedOf(const DeviceNode& node) const;
  Saved SavedAfterResume(const DeviceNode& node) const;
  Saved SavedWithoutTables(const DeviceNode& node) const;
  absl::Status FinishRemoval(DeviceNode& node, const GiveUp& give_up);
  void Tell(Change change, const DeviceNode& node) const;
  bool RestoreLive(const Saved& saved);
  void RestoreInactive(const Saved& saved, const std::vector<std::string>& named);
  MappedDevice::UnbuiltTable Unbuilt(const std::string& text, bool read_only, DeviceNode& node,
                                     const std::vector<std::string>& named);
  void TellOfEvents();
  void RemoveIdle();
  bool RemoveIfIdle(const NodePtr& node);

  ReactorPool& reactors_;
  const TargetRegistry& types_;
  BackingSource& backings_;
  std::shared_ptr<TargetNotes> notes_;
  const std::shared_ptr<DeviceGraph> graph_;

  mutable absl::Mutex watchers_mutex_;
  std::vector<std::pair<uint64_t, Watcher>> watchers_ ABSL_GUARDED_BY(watchers_mutex_);
  uint64_t next_watcher_ ABSL_GUARDED_BY(watchers_mutex_) = 1;

  // What happens on no verb's thread: deferred removals, as the last hold may drop on a reactor,
  // and telling the watchers of events, which targets raise anywhere. A thread for each of the two:
  // a removal may wait for a disk that does not answer.
  absl::Mutex errands_mutex_;
  std::deque<NodePtr> idle_ ABSL_GUARDED_BY(errands_mutex_);
  std::set<NodePtr> with_events_ ABSL_GUARDED_BY(errands_mutex_);
  bool stopping_ ABSL_GUARDED_BY(errands_mutex_) = false;
  std::function<void(const std::string&)> on_deferred_removal_ ABSL_GUARDED_BY(errands_mutex_);
  std::thread removals_;
  std::thread events_;
};

}  // namespace sectormap
