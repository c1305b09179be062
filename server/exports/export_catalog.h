// SPDX-License-Identifier: Apache-2.0
// ExportCatalog: which device is which LUN of which target, made durable. It joins the state store,
// the target directory and one logical unit per device, shared by all exports of the device.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/async/reactor_pool.h"
#include "server/iscsi/target_directory.h"
#include "server/scsi/lun.h"
#include "server/state/state_store.h"
#include "server/volumes/volume_catalog.h"

namespace sectormap::exports {

// The access policy belongs to the target: what is given replaces the target's, what is not given
// leaves it as it is.
struct ExportRequest {
  std::string device;
  std::string iqn{};  // empty: DefaultIqn(device)
  uint64_t lun_number = 0;
  bool read_only = false;
  std::optional<state::ChapRecord> chap{}, mutual_chap{};
  std::vector<std::string> allowed_initiators{};
};

struct ExportInfo {
  std::string device;  // as it is called now
  std::string iqn;
  uint64_t lun_number = 0;
  bool read_only = false;                   // exported so, or the device's live table is read-only
  std::string chap_user, mutual_chap_user;  // empty: none
  std::vector<std::string> allowed_initiators;
  SectorCount size;
  uint32_t session_count = 0;
};

// Any control thread; changes run one after the other.
class ExportCatalog {
 public:
  // All outlive it. `unit_store` may be null: reservations then end with the daemon.
  ExportCatalog(volumes::VolumeCatalog& volumes, state::StateStore& store,
                iscsi::TargetDirectory& directory, ReactorPool& reactors,
                scsi::UnitStore* unit_store);
  // Lets every device go. REQUIRES: no portal is open.
  ~ExportCatalog();
  ExportCatalog(const ExportCatalog&) = delete;
  ExportCatalog& operator=(const ExportCatalog&) = delete;

  // At start, after the devices. Returns why exports could not be restored; they stay in the store
  // and keep their places and their targets' access rules, until they are unexported or exported
  // again.
  std::vector<absl::Status> Restore(const state::Contents& contents);

  // NotFound: no such device; AlreadyExists: the LUN is another device's; InvalidArgument: names,
  // numbers, secrets. The same export again succeeds.
  absl::StatusOr<ExportInfo> Export(const ExportRequest& request);

  // Takes every export of the device away, or those of one target, with one number, or both.
  // NotFound if there are none.
  absl::Status Unexport(std::string_view device, std::string_view iqn,
                        std::optional<uint64_t> lun_number);

  // By iqn and LUN.
  std::vector<ExportInfo> List() const;
  // Those of one device, for messages. Empty if it has none, or is none.
  std::vector<state::ExportKey> ExportsOf(std::string_view device) const;

 private:
  using Place = std::pair<std::string, uint64_t>;  // iqn, LUN
  struct Entry {
    state::ExportRecord record;
    std::shared_ptr<scsi::Lun> lun;
  };

  // AlreadyExists: a target that is called after this device is another's.
  absl::Status CheckOwnTarget(const std::string& iqn, const std::string& device_identity) const;
  absl::StatusOr<state::TargetRecord> TargetFor(const std::string& iqn,
                                                const ExportRequest& request) const;
  absl::StatusOr<std::shared_ptr<scsi::Lun>> LunFor(const std::string& device);
  absl::StatusOr<uint32_t> BlockBytesOf(const MappedDevice& device);
  absl::Status Publish(const state::TargetRecord& target, const state::ExportRecord& record,
                       const std::shared_ptr<scsi::Lun>& lun);
  absl::Status Withdraw(const state::ExportKey& key);
  absl::Status UndoStore(const std::optional<state::TargetRecord>& target,
                         const state::ExportRecord& record);
  ExportInfo Describe(const Entry& entry, const state::TargetRecord& target,
                      const std::map<std::string, uint32_t>& sessions) const;
  std::map<std::string, uint32_t> SessionCounts() const;
  // In a moment's picture of the catalog.
  std::optional<state::TargetRecord> FindTarget(const std::string& iqn) const;
  std::optional<Entry> FindEntry(const Place& place) const;
  struct Refused {
    state::ExportRecord record;
    state::TargetRecord target;
  };
  std::optional<Refused> FindRefused(const Place& place) const;
  void ForgetRefusedOfGone();

  volumes::VolumeCatalog& volumes_;
  state::StateStore& store_;
  iscsi::TargetDirectory& directory_;
  ReactorPool& reactors_;
  scsi::UnitStore* const unit_store_;

  // Held by Export, Unexport and Restore, which may wait for sessions; List never does.
  absl::Mutex verb_mutex_;
  // Units outlive their last export while a session still uses them; a new export must share them.
  std::map<std::string, std::weak_ptr<scsi::Lun>> luns_ ABSL_GUARDED_BY(verb_mutex_);

  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(verb_mutex_);
  std::map<std::string, state::TargetRecord> targets_ ABSL_GUARDED_BY(mutex_);
  std::map<Place, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::map<Place, Refused> refused_ ABSL_GUARDED_BY(mutex_);  // could not be restored
};

}  // namespace sectormap::exports
