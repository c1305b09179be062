// SPDX-License-Identifier: Apache-2.0
// The database's tables, and the way from every older version to this one.
#pragma once

#include "absl/status/status.h"
#include "server/state/sqlite_database.h"

namespace sectormap::state {

// Brings the database to the newest version, in one transaction. FailedPrecondition: it was made by
// a newer Sectormap, or is not Sectormap's at all: it does not say its version, or lacks a table of
// it.
absl::Status MigrateSchema(SqliteDatabase& database);

}  // namespace sectormap::state
