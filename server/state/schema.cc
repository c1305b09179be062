// SPDX-License-Identifier: Apache-2.0
#include "server/state/schema.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace sectormap::state {
namespace {

// kMigrations[i] leads from version i to version i + 1. An entry that has been released is never
// changed; a new version is a new entry.
constexpr std::array kMigrations = {
    R"sql(
CREATE TABLE device (
  identity           TEXT    NOT NULL PRIMARY KEY,
  name               TEXT    NOT NULL UNIQUE,
  uuid               TEXT    NOT NULL,
  live_table         TEXT,
  live_read_only     INTEGER NOT NULL,
  inactive_table     TEXT,
  inactive_read_only INTEGER NOT NULL,
  suspended          INTEGER NOT NULL,
  deferred_remove    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX device_uuid ON device (uuid) WHERE uuid <> '';

CREATE TABLE target (
  iqn                TEXT    NOT NULL PRIMARY KEY,
  chap_user          TEXT,
  chap_secret        TEXT,
  mutual_chap_user   TEXT,
  mutual_chap_secret TEXT
) STRICT;

CREATE TABLE target_initiator (
  iqn                TEXT    NOT NULL REFERENCES target ON DELETE CASCADE,
  place              INTEGER NOT NULL,
  initiator          TEXT    NOT NULL,
  PRIMARY KEY (iqn, place)
) STRICT;

CREATE TABLE export (
  iqn                TEXT    NOT NULL REFERENCES target ON DELETE CASCADE,
  lun                INTEGER NOT NULL,
  device             TEXT    NOT NULL REFERENCES device ON DELETE CASCADE,
  read_only          INTEGER NOT NULL,
  PRIMARY KEY (iqn, lun)
) STRICT;
CREATE INDEX export_device ON export (device);

CREATE TABLE reservation (
  device             TEXT    NOT NULL PRIMARY KEY REFERENCES device ON DELETE CASCADE,
  record             BLOB    NOT NULL
) STRICT;
)sql",
    R"sql(
CREATE TABLE snapshot (
  device             TEXT    NOT NULL PRIMARY KEY REFERENCES device ON DELETE CASCADE,
  origin             TEXT    NOT NULL,
  store              TEXT    NOT NULL,
  created            INTEGER NOT NULL,
  grow_at_percent    INTEGER NOT NULL,
  grow_by_percent    INTEGER NOT NULL,
  limit_sectors      INTEGER NOT NULL
) STRICT;

CREATE TABLE made_file (
  path               TEXT    NOT NULL PRIMARY KEY
) STRICT;

CREATE TABLE operation (
  id                 INTEGER NOT NULL PRIMARY KEY,
  kind               TEXT    NOT NULL,
  device             TEXT    NOT NULL,
  state              TEXT    NOT NULL,
  plan               TEXT    NOT NULL,
  done_bytes         INTEGER NOT NULL,
  total_bytes        INTEGER NOT NULL,
  started            INTEGER NOT NULL,
  ended              INTEGER NOT NULL,
  error              TEXT    NOT NULL
) STRICT;
)sql",
    R"sql(
ALTER TABLE operation ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
)sql",
    R"sql(
CREATE TABLE unit (
  device             TEXT    NOT NULL PRIMARY KEY REFERENCES device ON DELETE CASCADE,
  block_bytes        INTEGER NOT NULL
) STRICT;
)sql",
    // Whether a recipe still needs a file was not kept before: none of those goes by itself.
    R"sql(
ALTER TABLE made_file ADD COLUMN in_table INTEGER NOT NULL DEFAULT 1;
)sql",
    R"sql(
CREATE TABLE target_note (
  note               TEXT    NOT NULL PRIMARY KEY
) STRICT;
)sql",
};
constexpr int64_t kVersion = kMigrations.size();

absl::StatusOr<int64_t> ReadNumber(SqliteDatabase& database, std::string_view sql) {
  SqliteStatement statement(database, sql);
  ASSIGN_OR_RETURN(const bool found, statement.Step());
  return found ? statement.Number(0) : 0;
}

absl::Status NotOurs(std::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("the state database is not Sectormap's, or damaged: ", std::string(why), "; ",
                   kDamagedAdvice));
}

// What the file says: one row with one number, which no version of ours left below 1.
absl::StatusOr<int64_t> ReadVersion(SqliteDatabase& database) {
  ASSIGN_OR_RETURN(const int64_t columns,
                   ReadNumber(database,
                              "SELECT count(*) FROM pragma_table_info('schema_version') "
                              "WHERE name = 'version'"));
  if (columns != 1) return NotOurs("it does not say its version");
  ASSIGN_OR_RETURN(const int64_t version,
                   ReadNumber(database,
                              "SELECT CASE WHEN count(*) = 1 AND typeof(max(version)) = 'integer' "
                              "THEN max(version) ELSE 0 END FROM schema_version"));
  if (version < 1) return NotOurs("it does not say its version");
  return version;
}

// Every table that the versions up to this one have made.
absl::Status CheckTables(SqliteDatabase& database, int64_t version) {
  constexpr std::string_view kCreate = "CREATE TABLE ";
  for (int64_t i = 0; i < version; ++i) {
    const std::string_view sql = kMigrations[i];
    for (size_t at = sql.find(kCreate); at != sql.npos; at = sql.find(kCreate, at + 1)) {
      const size_t start = at + kCreate.size();
      const std::string_view name = sql.substr(start, sql.find(' ', start) - start);
      SqliteStatement table(database,
                            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?");
      ASSIGN_OR_RETURN(const bool found, table.Bind(name).Step());
      if (!found) return NotOurs(absl::StrCat("it has no table '", std::string(name), "'"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MigrateSchema(SqliteDatabase& database) {
  SqliteTransaction transaction(database);
  RETURN_IF_ERROR(transaction.status());
  ASSIGN_OR_RETURN(const int64_t table_count,
                   ReadNumber(database, "SELECT count(*) FROM sqlite_schema"));
  int64_t version = 0;
  if (table_count == 0) {
    RETURN_IF_ERROR(
        database.Execute("CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT;"
                         "INSERT INTO schema_version VALUES (0)"));
  } else {
    ASSIGN_OR_RETURN(version, ReadVersion(database));
  }
  if (version > kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the state database was made by a newer Sectormap (version ", version, "; this one knows ",
        kVersion, "); start that one, or choose another --state-dir"));
  }
  RETURN_IF_ERROR(CheckTables(database, version));
  if (version == kVersion) return absl::OkStatus();
  for (; version < kVersion; ++version) RETURN_IF_ERROR(database.Execute(kMigrations[version]));
  RETURN_IF_ERROR(
      SqliteStatement(database, "UPDATE schema_version SET version = ?").Bind(version).Run());
  return transaction.Commit();
}

}  // namespace sectormap::state
