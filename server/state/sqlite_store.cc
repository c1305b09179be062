// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/status_macros.h"
#include "server/state/schema.h"
#include "server/state/sqlite_database.h"
#include "server/state/state_lock.h"
#include "server/state/state_store.h"

namespace sectormap::state {
namespace {

constexpr char kDatabaseName[] = "sectormap.db";

// Of a new database; one that exists keeps its own. A table of a million rows fills 50 MiB of
// pages, each of which is a write into the log, two more calls at the checkpoint and an entry in
// the log's index. (A small change writes a few pages, and waits for the medium longer than for
// them.)
constexpr int kPageBytes = 16 * 1024;

class SqliteStore final : public StateStore {
 public:
  SqliteStore(StateLock lock, std::unique_ptr<SqliteDatabase> database)
      : lock_(std::move(lock)), database_(std::move(database)) {}

  absl::StatusOr<Contents> LoadAll() override;
  absl::Status PutDevice(const DeviceRecord& device) override;
  absl::Status DeleteDevice(std::string_view identity) override;
  absl::Status PutExport(const TargetRecord& target, const ExportRecord& entry) override;
  absl::Status DeleteExports(std::span<const ExportKey> exports) override;
  absl::Status PutReservation(std::string_view device_identity, std::string_view record) override;
  absl::Status PutBlockBytes(std::string_view device_identity, uint32_t bytes) override;
  absl::Status Apply(const Changes& changes) override;
  absl::StatusOr<std::vector<std::string>> UnusedFiles() override;
  absl::StatusOr<std::string> Reservation(std::string_view device_identity) override;
  absl::StatusOr<uint32_t> BlockBytes(std::string_view device_identity) override;

 private:
  absl::StatusOr<std::vector<DeviceRecord>> LoadDevices() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<TargetRecord>> LoadTargets() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<ExportRecord>> LoadExports() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<SnapshotRecord>> LoadSnapshots() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<MadeFileRecord>> LoadMadeFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<OperationRecord>> LoadOperations()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<std::string>> LoadNotes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PutDeviceRow(const DeviceRecord& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PutSnapshotRow(const SnapshotRecord& snapshot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PutOperationRow(const OperationRecord& operation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DeleteTargetsWithoutExports() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PutTarget(const TargetRecord& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const StateLock lock_;
  absl::Mutex mutex_;
  const std::unique_ptr<SqliteDatabase> database_ ABSL_PT_GUARDED_BY(mutex_);
};

absl::StatusOr<std::vector<DeviceRecord>> SqliteStore::LoadDevices() {
  std::vector<DeviceRecord> devices;
  SqliteStatement rows(*database_,
                       "SELECT identity, name, uuid, live_table, live_read_only, inactive_table, "
                       "inactive_read_only, suspended, deferred_remove FROM device ORDER BY name");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return devices;
    devices.push_back({.identity = rows.Text(0),
                       .name = rows.Text(1),
                       .uuid = rows.Text(2),
                       .live_table = rows.OptionalText(3),
                       .inactive_table = rows.OptionalText(5),
                       .live_read_only = rows.Truth(4),
                       .inactive_read_only = rows.Truth(6),
                       .suspended = rows.Truth(7),
                       .deferred_remove = rows.Truth(8)});
  }
}

std::optional<ChapRecord> ChapAt(const SqliteStatement& row, int column) {
  std::optional<std::string> user = row.OptionalText(column);
  if (!user.has_value()) return std::nullopt;
  return ChapRecord{*std::move(user), row.Text(column + 1)};
}

absl::StatusOr<std::vector<TargetRecord>> SqliteStore::LoadTargets() {
  std::vector<TargetRecord> targets;
  SqliteStatement rows(*database_,
                       "SELECT iqn, chap_user, chap_secret, mutual_chap_user, mutual_chap_secret "
                       "FROM target ORDER BY iqn");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return targets;
    TargetRecord& target = targets.emplace_back();
    target.iqn = rows.Text(0);
    target.chap = ChapAt(rows, 1);
    target.mutual_chap = ChapAt(rows, 3);
    SqliteStatement initiators(
        *database_, "SELECT initiator FROM target_initiator WHERE iqn = ? ORDER BY place");
    initiators.Bind(target.iqn);
    while (true) {
      ASSIGN_OR_RETURN(const bool another, initiators.Step());
      if (!another) break;
      target.allowed_initiators.push_back(initiators.Text(0));
    }
  }
}

absl::StatusOr<std::vector<ExportRecord>> SqliteStore::LoadExports() {
  std::vector<ExportRecord> exports;
  SqliteStatement rows(*database_,
                       "SELECT iqn, lun, device, read_only FROM export ORDER BY iqn, lun");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return exports;
    exports.push_back({.iqn = rows.Text(0),
                       .lun_number = static_cast<uint64_t>(rows.Number(1)),
                       .device_identity = rows.Text(2),
                       .read_only = rows.Truth(3)});
  }
}

absl::StatusOr<std::vector<SnapshotRecord>> SqliteStore::LoadSnapshots() {
  std::vector<SnapshotRecord> snapshots;
  SqliteStatement rows(*database_,
                       "SELECT device, origin, store, created, grow_at_percent, grow_by_percent, "
                       "limit_sectors FROM snapshot ORDER BY device");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return snapshots;
    snapshots.push_back({.device_identity = rows.Text(0),
                         .origin_identity = rows.Text(1),
                         .store = rows.Text(2),
                         .created_unix_seconds = rows.Number(3),
                         .grow_at_percent = rows.Number(4),
                         .grow_by_percent = rows.Number(5),
                         .limit_sectors = rows.Number(6)});
  }
}

absl::StatusOr<std::vector<MadeFileRecord>> SqliteStore::LoadMadeFiles() {
  std::vector<MadeFileRecord> files;
  SqliteStatement rows(*database_, "SELECT path, in_table FROM made_file ORDER BY path");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return files;
    files.push_back({.path = rows.Text(0), .in_table = rows.Truth(1)});
  }
}

absl::StatusOr<std::vector<OperationRecord>> SqliteStore::LoadOperations() {
  std::vector<OperationRecord> operations;
  SqliteStatement rows(*database_,
                       "SELECT id, kind, device, state, plan, done_bytes, total_bytes, started, "
                       "ended, error, cancelled FROM operation ORDER BY id");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return operations;
    operations.push_back({.id = rows.Number(0),
                          .kind = rows.Text(1),
                          .device = rows.Text(2),
                          .state = rows.Text(3),
                          .plan = rows.Text(4),
                          .done_bytes = rows.Number(5),
                          .total_bytes = rows.Number(6),
                          .started_unix_seconds = rows.Number(7),
                          .ended_unix_seconds = rows.Number(8),
                          .error = rows.Text(9),
                          .cancelled = rows.Truth(10)});
  }
}

absl::StatusOr<std::vector<std::string>> SqliteStore::LoadNotes() {
  std::vector<std::string> notes;
  SqliteStatement rows(*database_, "SELECT note FROM target_note ORDER BY note");
  while (true) {
    ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return notes;
    notes.push_back(rows.Text(0));
  }
}

absl::StatusOr<Contents> SqliteStore::LoadAll() {
  absl::MutexLock hold(&mutex_);
  Contents contents;
  ASSIGN_OR_RETURN(contents.devices, LoadDevices());
  ASSIGN_OR_RETURN(contents.targets, LoadTargets());
  ASSIGN_OR_RETURN(contents.exports, LoadExports());
  ASSIGN_OR_RETURN(contents.snapshots, LoadSnapshots());
  ASSIGN_OR_RETURN(contents.made_files, LoadMadeFiles());
  ASSIGN_OR_RETURN(contents.operations, LoadOperations());
  ASSIGN_OR_RETURN(contents.notes, LoadNotes());
  return contents;
}

// Upserts, never REPLACE: that would delete the old row, and with it what refers to the row.
absl::Status SqliteStore::PutDevice(const DeviceRecord& device) {
  absl::MutexLock hold(&mutex_);
  return PutDeviceRow(device);
}

absl::Status SqliteStore::PutDeviceRow(const DeviceRecord& device) {
  return SqliteStatement(*database_,
                         "INSERT INTO device (identity, name, uuid, live_table, live_read_only, "
                         "inactive_table, inactive_read_only, suspended, deferred_remove) "
                         "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                         "ON CONFLICT (identity) DO UPDATE SET name = excluded.name, "
                         "uuid = excluded.uuid, live_table = excluded.live_table, "
                         "live_read_only = excluded.live_read_only, "
                         "inactive_table = excluded.inactive_table, "
                         "inactive_read_only = excluded.inactive_read_only, "
                         "suspended = excluded.suspended, "
                         "deferred_remove = excluded.deferred_remove")
      .Bind(device.identity)
      .Bind(device.name)
      .Bind(device.uuid)
      .BindInPlace(device.live_table)
      .Bind(device.live_read_only)
      .BindInPlace(device.inactive_table)
      .Bind(device.inactive_read_only)
      .Bind(device.suspended)
      .Bind(device.deferred_remove)
      .Run();
}

absl::Status SqliteStore::DeleteDevice(std::string_view identity) {
  absl::MutexLock hold(&mutex_);
  SqliteTransaction transaction(*database_);
  RETURN_IF_ERROR(transaction.status());
  RETURN_IF_ERROR(
      SqliteStatement(*database_, "DELETE FROM device WHERE identity = ?").Bind(identity).Run());
  RETURN_IF_ERROR(DeleteTargetsWithoutExports());
  return transaction.Commit();
}

absl::Status SqliteStore::DeleteTargetsWithoutExports() {
  return database_->Execute("DELETE FROM target WHERE iqn NOT IN (SELECT iqn FROM export)");
}

absl::Status SqliteStore::PutSnapshotRow(const SnapshotRecord& snapshot) {
  return SqliteStatement(*database_,
                         "INSERT INTO snapshot (device, origin, store, created, grow_at_percent, "
                         "grow_by_percent, limit_sectors) VALUES (?, ?, ?, ?, ?, ?, ?) "
                         "ON CONFLICT (device) DO UPDATE SET origin = excluded.origin, "
                         "store = excluded.store, created = excluded.created, "
                         "grow_at_percent = excluded.grow_at_percent, "
                         "grow_by_percent = excluded.grow_by_percent, "
                         "limit_sectors = excluded.limit_sectors")
      .Bind(snapshot.device_identity)
      .Bind(snapshot.origin_identity)
      .Bind(snapshot.store)
      .Bind(snapshot.created_unix_seconds)
      .Bind(snapshot.grow_at_percent)
      .Bind(snapshot.grow_by_percent)
      .Bind(snapshot.limit_sectors)
      .Run();
}

absl::Status SqliteStore::PutOperationRow(const OperationRecord& operation) {
  return SqliteStatement(*database_,
                         "INSERT INTO operation (id, kind, device, state, plan, done_bytes, "
                         "total_bytes, started, ended, error, cancelled) "
                         "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                         "ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, "
                         "device = excluded.device, state = excluded.state, "
                         "plan = excluded.plan, done_bytes = excluded.done_bytes, "
                         "total_bytes = excluded.total_bytes, started = excluded.started, "
                         "ended = excluded.ended, error = excluded.error, "
                         "cancelled = max(cancelled, excluded.cancelled)")
      .Bind(operation.id)
      .Bind(operation.kind)
      .Bind(operation.device)
      .Bind(operation.state)
      .Bind(operation.plan)
      .Bind(operation.done_bytes)
      .Bind(operation.total_bytes)
      .Bind(operation.started_unix_seconds)
      .Bind(operation.ended_unix_seconds)
      .Bind(operation.error)
      .Bind(operation.cancelled)
      .Run();
}

absl::Status SqliteStore::Apply(const Changes& changes) {
  absl::MutexLock hold(&mutex_);
  SqliteTransaction transaction(*database_);
  RETURN_IF_ERROR(transaction.status());
  const auto run = [&](const char* sql, const auto& value) {
    return SqliteStatement(*database_, sql).Bind(value).Run();
  };
  for (const std::string& identity : changes.delete_devices) {
    RETURN_IF_ERROR(run("DELETE FROM device WHERE identity = ?", identity));
  }
  for (const DeviceRecord& device : changes.put_devices) RETURN_IF_ERROR(PutDeviceRow(device));
  for (const SnapshotRecord& row : changes.put_snapshots) RETURN_IF_ERROR(PutSnapshotRow(row));
  for (const std::string& path : changes.put_made_files) {
    RETURN_IF_ERROR(
        run("INSERT INTO made_file (path, in_table) VALUES (?, 0) "
            "ON CONFLICT (path) DO UPDATE SET in_table = 0",
            path));
  }
  for (const std::string& path : changes.use_made_files) {
    RETURN_IF_ERROR(run("UPDATE made_file SET in_table = 1 WHERE path = ?", path));
  }
  for (const std::string& path : changes.retire_made_files) {
    RETURN_IF_ERROR(run("UPDATE made_file SET in_table = 0 WHERE path = ?", path));
  }
  for (const std::string& path : changes.delete_made_files) {
    RETURN_IF_ERROR(run("DELETE FROM made_file WHERE path = ?", path));
  }
  for (const OperationRecord& row : changes.put_operations) RETURN_IF_ERROR(PutOperationRow(row));
  for (const int64_t id : changes.delete_operations) {
    RETURN_IF_ERROR(run("DELETE FROM operation WHERE id = ?", id));
  }
  for (const std::string& note : changes.put_notes) {
    RETURN_IF_ERROR(
        run("INSERT INTO target_note (note) VALUES (?) ON CONFLICT (note) DO NOTHING", note));
  }
  for (const std::string& note : changes.delete_notes) {
    RETURN_IF_ERROR(run("DELETE FROM target_note WHERE note = ?", note));
  }
  if (!changes.delete_devices.empty()) RETURN_IF_ERROR(DeleteTargetsWithoutExports());
  return transaction.Commit();
}

absl::Status SqliteStore::PutTarget(const TargetRecord& target) {
  SqliteStatement upsert(*database_,
                         "INSERT INTO target (iqn, chap_user, chap_secret, mutual_chap_user, "
                         "mutual_chap_secret) VALUES (?, ?, ?, ?, ?) "
                         "ON CONFLICT (iqn) DO UPDATE SET chap_user = excluded.chap_user, "
                         "chap_secret = excluded.chap_secret, "
                         "mutual_chap_user = excluded.mutual_chap_user, "
                         "mutual_chap_secret = excluded.mutual_chap_secret");
  upsert.Bind(target.iqn);
  for (const std::optional<ChapRecord>& chap : {target.chap, target.mutual_chap}) {
    upsert.Bind(chap ? std::optional(chap->user) : std::nullopt);
    upsert.Bind(chap ? std::optional(chap->secret) : std::nullopt);
  }
  RETURN_IF_ERROR(upsert.Run());
  RETURN_IF_ERROR(SqliteStatement(*database_, "DELETE FROM target_initiator WHERE iqn = ?")
                      .Bind(target.iqn)
                      .Run());
  int64_t place = 0;
  for (const std::string& initiator : target.allowed_initiators) {
    RETURN_IF_ERROR(
        SqliteStatement(*database_,
                        "INSERT INTO target_initiator (iqn, place, initiator) VALUES (?, ?, ?)")
            .Bind(target.iqn)
            .Bind(place++)
            .Bind(initiator)
            .Run());
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::PutExport(const TargetRecord& target, const ExportRecord& entry) {
  absl::MutexLock hold(&mutex_);
  SqliteTransaction transaction(*database_);
  RETURN_IF_ERROR(transaction.status());
  RETURN_IF_ERROR(PutTarget(target));
  RETURN_IF_ERROR(
      SqliteStatement(*database_,
                      "INSERT INTO export (iqn, lun, device, read_only) VALUES (?, ?, ?, ?) "
                      "ON CONFLICT (iqn, lun) DO UPDATE SET device = excluded.device, "
                      "read_only = excluded.read_only")
          .Bind(entry.iqn)
          .Bind(static_cast<int64_t>(entry.lun_number))
          .Bind(entry.device_identity)
          .Bind(entry.read_only)
          .Run());
  return transaction.Commit();
}

absl::Status SqliteStore::DeleteExports(std::span<const ExportKey> exports) {
  absl::MutexLock hold(&mutex_);
  SqliteTransaction transaction(*database_);
  RETURN_IF_ERROR(transaction.status());
  for (const ExportKey& key : exports) {
    RETURN_IF_ERROR(SqliteStatement(*database_, "DELETE FROM export WHERE iqn = ? AND lun = ?")
                        .Bind(key.iqn)
                        .Bind(static_cast<int64_t>(key.lun_number))
                        .Run());
  }
  RETURN_IF_ERROR(DeleteTargetsWithoutExports());
  return transaction.Commit();
}

absl::Status SqliteStore::PutReservation(std::string_view device_identity,
                                         std::string_view record) {
  absl::MutexLock hold(&mutex_);
  if (record.empty()) {
    return SqliteStatement(*database_, "DELETE FROM reservation WHERE device = ?")
        .Bind(device_identity)
        .Run();
  }
  return SqliteStatement(*database_,
                         "INSERT INTO reservation (device, record) VALUES (?, ?) "
                         "ON CONFLICT (device) DO UPDATE SET record = excluded.record")
      .Bind(device_identity)
      .BindBlob(record)
      .Run();
}

absl::StatusOr<std::vector<std::string>> SqliteStore::UnusedFiles() {
  absl::MutexLock hold(&mutex_);
  ASSIGN_OR_RETURN(const std::vector<MadeFileRecord> files, LoadMadeFiles());
  std::vector<std::string> unused;
  for (const MadeFileRecord& file : files) {
    if (!file.in_table) unused.push_back(file.path);
  }
  return unused;
}

absl::StatusOr<std::string> SqliteStore::Reservation(std::string_view device_identity) {
  absl::MutexLock hold(&mutex_);
  SqliteStatement row(*database_, "SELECT record FROM reservation WHERE device = ?");
  row.Bind(device_identity);
  ASSIGN_OR_RETURN(const bool found, row.Step());
  return found ? row.Text(0) : std::string();
}

absl::Status SqliteStore::PutBlockBytes(std::string_view device_identity, uint32_t bytes) {
  absl::MutexLock hold(&mutex_);
  return SqliteStatement(*database_,
                         "INSERT INTO unit (device, block_bytes) VALUES (?, ?) "
                         "ON CONFLICT (device) DO UPDATE SET block_bytes = excluded.block_bytes")
      .Bind(device_identity)
      .Bind(static_cast<int64_t>(bytes))
      .Run();
}

absl::StatusOr<uint32_t> SqliteStore::BlockBytes(std::string_view device_identity) {
  absl::MutexLock hold(&mutex_);
  SqliteStatement row(*database_, "SELECT block_bytes FROM unit WHERE device = ?");
  row.Bind(device_identity);
  ASSIGN_OR_RETURN(const bool found, row.Step());
  return found ? static_cast<uint32_t>(row.Number(0)) : 0;
}

absl::Status CheckUndamaged(SqliteDatabase& database) {
  SqliteStatement check(database, "PRAGMA quick_check(1)");
  ASSIGN_OR_RETURN(const bool found, check.Step());
  if (found && check.Text(0) == "ok") return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the state database is damaged: ", found ? check.Text(0) : "no answer", "; ",
                   kDamagedAdvice));
}

absl::Status LimitSize(SqliteDatabase& database, uint64_t bytes_max) {
  SqliteStatement page(database, "PRAGMA page_size");
  ASSIGN_OR_RETURN(const bool found, page.Step());
  if (!found || page.Number(0) <= 0) return absl::InternalError("SQLite tells no page size");
  return database.Execute(absl::StrCat("PRAGMA max_page_count=", bytes_max / page.Number(0)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateStore>> OpenSqliteStore(const std::string& directory,
                                                            const StoreOptions& options) {
  ASSIGN_OR_RETURN(StateLock lock, StateLock::Acquire(directory));
  ASSIGN_OR_RETURN(std::unique_ptr<SqliteDatabase> database,
                   SqliteDatabase::Open(absl::StrCat(directory, "/", kDatabaseName)));
  // FULL: in WAL mode, a commit is on the medium when it returns. secure_delete: a secret that was
  // taken away is not left in a free page.
  RETURN_IF_ERROR(database->Execute(
      absl::StrCat("PRAGMA page_size=", kPageBytes,
                   "; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
                   "PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON; PRAGMA trusted_schema=OFF")));
  RETURN_IF_ERROR(CheckUndamaged(*database));
  RETURN_IF_ERROR(MigrateSchema(*database));
  if (options.bytes_max != 0) RETURN_IF_ERROR(LimitSize(*database, options.bytes_max));
  return std::make_unique<SqliteStore>(std::move(lock), std::move(database));
}

}  // namespace sectormap::state
