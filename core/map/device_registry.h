// SPDX-License-Identifier: Apache-2.0
// DeviceRegistry: every mapped device by name, who holds it open, and the graph they form. The
// verbs of dmsetup, without durability (server/volumes adds that).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/block/backing_source.h"
#include "core/map/mapped_device.h"

namespace sectormap {

struct CreateOptions {
  std::string uuid;      // dmsetup's; may be empty
  std::string identity;  // empty: derived from uuid, or random without one
};

struct RemoveOptions {
  bool force = false;     // first swap in an error table, so that backing devices are let go
  bool deferred = false;  // if open: remove when the last opener closes
};

// Any control thread; verbs on different devices run side by side. Codes: NotFound (`Device does not
// exist.`), AlreadyExists (name or uuid taken), FailedPrecondition (`Device or resource busy`, with
// who holds it), InvalidArgument (names, uuids, tables).
class DeviceRegistry {
 public:
  // All outlive it.
  DeviceRegistry(ReactorPool& reactors, const TargetRegistry& types, BackingSource& backings);
  ~DeviceRegistry();

  // Names: 1..127 bytes, no '/', not `control`, `.` or `..`. UUIDs: at most 128 bytes.
  absl::Status Create(std::string_view name, const CreateOptions& options);
  // Refuses a table that would make the graph of devices cyclic.
  absl::Status Load(std::string_view name, const TableSpec& spec, bool read_only);
  absl::Status Clear(std::string_view name);
  absl::Status Suspend(std::string_view name, SuspendMode mode);
  // Builds the live table again first, if it could not be built at start.
  absl::Status Resume(std::string_view name);
  absl::Status Remove(std::string_view name, RemoveOptions options);
  absl::Status Rename(std::string_view name, std::string_view new_name);
  // Once only: `Unable to change uuid of mapped device NAME because uuid is already set to U`.
  absl::Status SetUuid(std::string_view name, std::string_view uuid);

  absl::StatusOr<DeviceInfo> Info(std::string_view name) const;
  std::vector<DeviceInfo> List() const;  // by name
  absl::StatusOr<std::string> Table(std::string_view name, TableSlot slot) const;
  absl::StatusOr<std::string> Status(std::string_view name, TableSlot slot) const;
  absl::StatusOr<std::vector<DeviceRef>> Dependencies(std::string_view name, TableSlot slot) const;
  absl::StatusOr<std::string> Message(std::string_view name, Sector sector, std::string_view text);
  absl::StatusOr<uint32_t> WaitEvent(std::string_view name, uint32_t seen,
                                     const std::function<bool()>& cancelled);

  // Holds a device open, as a LUN does. The hold's last copy may be dropped on any thread.
  absl::StatusOr<DeviceRef> Open(std::string_view name);
  std::shared_ptr<MappedDevice> Find(std::string_view name) const;

  // At start: a device as it was. A live table that cannot be built (a file has gone) makes the
  // device answer kUnavailable and Info().error say why; its text is kept and printed by Table().
  struct Saved {
    std::string name, uuid, identity;
    std::optional<std::string> live_table, inactive_table;
    bool live_read_only = false, inactive_read_only = false, suspended = false;
    bool deferred_remove = false;
  };
  absl::Status Restore(const Saved& saved);
  // What Restore needs; the tables as text.
  absl::StatusOr<Saved> Snapshot(std::string_view name) const;

  // Told, on a control thread, that a deferred removal has happened.
  void OnDeferredRemoval(std::function<void(const std::string& name)> call);
};

}  // namespace sectormap
