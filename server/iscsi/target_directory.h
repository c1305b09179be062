// SPDX-License-Identifier: Apache-2.0
// TargetDirectory: the iSCSI targets that can be logged in to: names, LUNs, who may, and the
// sessions that did. Changed by control threads, read by logins and by sessions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/scsi/lun.h"

namespace sectormap::iscsi {

// A user name and its secret. Never logged, never read back. Mutual: what the target proves itself
// with.
struct ChapCredentials {
  std::string user;
  std::string secret;
};

// Who may log in to a target. Empty lists and no CHAP: everybody.
struct AccessPolicy {
  std::vector<std::string> allowed_initiators;
  std::optional<ChapCredentials> chap;
  std::optional<ChapCredentials> mutual_chap;  // only together with chap
};

// RFC 7143 §10.4.5: one portal group; every portal reaches every target.
inline constexpr uint16_t kPortalGroupTag = 1;

// A target as a login sees it: a snapshot, unchanged while it is held.
struct TargetView {
  std::string iqn;
  AccessPolicy policy;
  bool Allows(std::string_view initiator_name) const;
};

struct SessionInfo {
  uint64_t id = 0;
  std::string initiator_name, initiator_alias, target_name;
  std::string isid;  // 12 hex digits
  uint16_t tsih = 0;
  std::string local_address, peer_address;
  int reactor = 0;
  bool header_digest = false, data_digest = false;
  int64_t login_unix_seconds = 0;
};

// Any thread.
class TargetDirectory {
 public:
  TargetDirectory();
  ~TargetDirectory();

  // iSCSI names as RFC 7143 §4.2.7: iqn., eui. or naa., at most 223 bytes, lower case. LUN numbers
  // 0..16383 (flat space). Codes: InvalidArgument, AlreadyExists, NotFound.
  absl::Status AddTarget(std::string_view iqn);
  absl::Status SetAccess(std::string_view iqn, AccessPolicy policy);
  // Sessions of the target hear REPORTED LUNS DATA HAS CHANGED.
  absl::Status AddLun(std::string_view iqn, uint64_t lun_number, std::shared_ptr<scsi::Lun> lun,
                      bool read_only);
  absl::Status RemoveLun(std::string_view iqn, uint64_t lun_number);
  // Asks the sessions to log out, then drops them.
  absl::Status RemoveTarget(std::string_view iqn);

  // Null if there is none.
  std::shared_ptr<const TargetView> Find(std::string_view iqn) const;
  // What SendTargets=All lists to that initiator, in order.
  std::vector<std::string> VisibleTo(std::string_view initiator_name) const;

  std::vector<SessionInfo> sessions() const;
};

// REQUIRES: nothing; the name may come from anybody. Says what is wrong with it.
absl::Status CheckIscsiName(std::string_view name);

}  // namespace sectormap::iscsi
