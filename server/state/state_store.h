// SPDX-License-Identifier: Apache-2.0
// StateStore: what must survive `kill -9` and a reboot. Every call is one transaction, durable when
// it returns. Control threads only: it blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sectormap::state {

struct DeviceRecord {
  std::string identity;  // the key: never changes
  std::string name;
  std::string uuid;
  std::optional<std::string> live_table, inactive_table;
  bool live_read_only = false, inactive_read_only = false;
  bool suspended = false;
  bool deferred_remove = false;
};

// CHAP secrets stand here in clear, as CHAP needs them; the database's mode is 0600.
struct ChapRecord {
  std::string user, secret;
};

struct TargetRecord {
  std::string iqn;
  std::vector<std::string> allowed_initiators;
  std::optional<ChapRecord> chap, mutual_chap;
};

struct ExportRecord {
  std::string iqn;
  uint64_t lun_number = 0;
  std::string device_identity;
  bool read_only = false;
};

struct Contents {
  std::vector<DeviceRecord> devices;
  std::vector<TargetRecord> targets;
  std::vector<ExportRecord> exports;
};

// Codes: ResourceExhausted (disk full), Unavailable (locked by another daemon), DataLoss (damaged),
// FailedPrecondition (made by a newer version), Internal.
class StateStore {
 public:
  virtual ~StateStore() = default;

  virtual absl::StatusOr<Contents> LoadAll() = 0;

  virtual absl::Status PutDevice(const DeviceRecord& device) = 0;   // insert or replace
  virtual absl::Status DeleteDevice(std::string_view identity) = 0;  // and its reservation
  virtual absl::Status PutTarget(const TargetRecord& target) = 0;
  virtual absl::Status DeleteTarget(std::string_view iqn) = 0;  // and its exports
  virtual absl::Status PutExport(const ExportRecord& entry) = 0;
  virtual absl::Status DeleteExport(std::string_view iqn, uint64_t lun_number) = 0;

  // Persistent reservations (APTPL); an empty record deletes.
  virtual absl::Status PutReservation(std::string_view device_identity, std::string_view record) = 0;
  virtual absl::StatusOr<std::string> Reservation(std::string_view device_identity) = 0;
};

// Opens or makes `directory`/sectormap.db (mode 0600, WAL, synchronous=FULL) and holds it against
// other daemons. The directory (mode 0700) is made if missing.
absl::StatusOr<std::unique_ptr<StateStore>> OpenSqliteStore(const std::string& directory);

}  // namespace sectormap::state
