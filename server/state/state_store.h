// SPDX-License-Identifier: Apache-2.0
// StateStore: what must survive `kill -9` and a reboot. Every call is one transaction, durable when
// it returns. Any control thread, several at a time: calls are serialised inside, and block.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sectormap::state {

struct DeviceRecord {
  std::string identity;  // the key: never changes
  std::string name;
  std::string uuid{};
  std::optional<std::string> live_table{}, inactive_table{};
  bool live_read_only = false, inactive_read_only = false;
  bool suspended = false;
  bool deferred_remove = false;

  bool operator==(const DeviceRecord&) const = default;
};

// CHAP secrets stand here in clear, as CHAP needs them; the database's mode is 0600.
struct ChapRecord {
  std::string user, secret;
};

struct TargetRecord {
  std::string iqn;
  std::vector<std::string> allowed_initiators{};
  std::optional<ChapRecord> chap{}, mutual_chap{};
};

struct ExportRecord {
  std::string iqn;
  uint64_t lun_number = 0;
  std::string device_identity;
  bool read_only = false;
};

struct ExportKey {
  std::string iqn;
  uint64_t lun_number = 0;
};

// What the daemon knows of a snapshot beyond its table. Goes with its device.
struct SnapshotRecord {
  std::string device_identity;
  std::string origin_identity;  // of the device it was taken of, which may have gone
  std::string store;            // as the table names it
  int64_t created_unix_seconds = 0;
  // A store that is a file grows by `grow_by_percent` of its size when `grow_at_percent` of it are
  // in use, up to `limit_sectors`. 0: it does not grow.
  int64_t grow_at_percent = 0, grow_by_percent = 0, limit_sectors = 0;

  bool operator==(const SnapshotRecord&) const = default;
};

// A file that the daemon made for a recipe. The recipe's own transaction says whether it is in a
// table: what no recipe has put into one yet, or one has taken out again, is to be deleted.
struct MadeFileRecord {
  std::string path;
  bool in_table = false;

  bool operator==(const MadeFileRecord&) const = default;
};

// Long work on a live device. What its kind, state and plan mean, server/volumes knows.
struct OperationRecord {
  int64_t id = 0;  // from 1, never used again while it is kept
  std::string kind, device, state;
  std::string plan;
  int64_t done_bytes = 0, total_bytes = 0;
  int64_t started_unix_seconds = 0, ended_unix_seconds = 0;
  std::string error{};
  bool cancelled = false;  // somebody wants it to end; once put, it stays

  bool operator==(const OperationRecord&) const = default;
};

struct Contents {
  std::vector<DeviceRecord> devices;        // by name
  std::vector<TargetRecord> targets;        // by iqn
  std::vector<ExportRecord> exports;        // by iqn and LUN
  std::vector<SnapshotRecord> snapshots;    // by device
  std::vector<MadeFileRecord> made_files;   // by path
  std::vector<OperationRecord> operations;  // by id
  std::vector<std::string> notes;           // TargetNotes, in order
};

// Several records at once; deletions of devices happen first.
struct Changes {
  std::vector<std::string> delete_devices;  // identities; all that is kept of them goes too
  std::vector<DeviceRecord> put_devices;
  std::vector<SnapshotRecord> put_snapshots;
  // Paths. Those that are put are in no table; of the next two, only what is a made file counts.
  std::vector<std::string> put_made_files;
  std::vector<std::string> use_made_files, retire_made_files;  // now in a table; in none any more
  std::vector<std::string> delete_made_files;                  // the records
  std::vector<OperationRecord> put_operations;
  std::vector<int64_t> delete_operations;
  std::vector<std::string> put_notes{}, delete_notes{};
};

// Codes: ResourceExhausted (disk full), Unavailable (locked by another daemon), PermissionDenied,
// DataLoss (damaged), FailedPrecondition (made by a newer version), NotFound (what a record refers
// to), Internal. A failed call has changed nothing.
class StateStore {
 public:
  virtual ~StateStore() = default;

  virtual absl::StatusOr<Contents> LoadAll() = 0;

  // Inserts or replaces. AlreadyExists: another identity has the name or the uuid.
  virtual absl::Status PutDevice(const DeviceRecord& device) = 0;
  // And its exports, its unit and its reservation. OK if there is none.
  virtual absl::Status DeleteDevice(std::string_view identity) = 0;

  // Inserts or replaces both. NotFound: no such device.
  virtual absl::Status PutExport(const TargetRecord& target, const ExportRecord& entry) = 0;
  // All or none; a target that has no export left goes too. OK for those that are not there.
  virtual absl::Status DeleteExports(std::span<const ExportKey> exports) = 0;

  // Persistent reservations (APTPL); an empty record deletes. NotFound: no such device.
  virtual absl::Status PutReservation(std::string_view device_identity,
                                      std::string_view record) = 0;
  // The logical block of the unit that the device is exported as. NotFound: no such device.
  virtual absl::Status PutBlockBytes(std::string_view device_identity, uint32_t bytes) = 0;
  // All of it or nothing. AlreadyExists: as PutDevice. NotFound: a snapshot's device.
  virtual absl::Status Apply(const Changes& changes) = 0;

  // Paths of the made files that are in no table.
  virtual absl::StatusOr<std::vector<std::string>> UnusedFiles() = 0;
  // Empty if there is none.
  virtual absl::StatusOr<std::string> Reservation(std::string_view device_identity) = 0;
  // 0 if it was never put.
  virtual absl::StatusOr<uint32_t> BlockBytes(std::string_view device_identity) = 0;
};

struct StoreOptions {
  // The database grows no further; 0: as far as the disk has room.
  uint64_t bytes_max = 0;
};

// Opens or makes `directory`/sectormap.db (mode 0600, WAL, synchronous=FULL) and holds it against
// other daemons by locks on `directory` and on sectormapd.pid in it. The directory (mode 0700) is
// made if missing, and its parents.
absl::StatusOr<std::unique_ptr<StateStore>> OpenSqliteStore(const std::string& directory,
                                                            const StoreOptions& options = {});

}  // namespace sectormap::state
