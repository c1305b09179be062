// SPDX-License-Identifier: Apache-2.0
// TargetDirectory: the iSCSI targets that can be logged in to: names, LUNs, who may, and the
// sessions that did. Changed by control threads, read by logins and by sessions.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/iscsi/iscsi_counters.h"
#include "server/scsi/command_counters.h"
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

// RFC 7143 §9.2.1 asks for 96 bits at least, §6.1 lets a text value have 255 bytes at most.
inline constexpr size_t kChapSecretBytesMin = 12;
inline constexpr size_t kChapSecretBytesMax = 255;
inline constexpr size_t kChapUserBytesMax = 255;

// What CHAP a target may ask for: the one place that says so, for whoever wants to know before
// anything is written down, and for SetAccess. InvalidArgument with advice, never with a secret.
absl::Status CheckChap(const AccessPolicy& policy);

// RFC 7143 §10.4.5: one portal group; every portal reaches every target.
inline constexpr uint16_t kPortalGroupTag = 1;

// SAM-5 §4.7.7: the flat address method has 14 bits.
inline constexpr uint64_t kMaxLunNumber = 16383;

// Connections that may be open at once, with those in login: at about 64 KiB each after they were
// busy, half a gigabyte.
inline constexpr size_t kMaxConnections = 8192;

// A session that was asked to log out is given this long, then it is dropped.
inline constexpr auto kLogoutGrace = std::chrono::seconds(2);

// The longest that taking away a LUN or a target waits for the sessions that use it, after their
// grace: what is stuck in a backing device longer than this keeps its device open until it ends, as
// does what a device has lent and a peer is slow to take.
inline constexpr auto kReleaseWait = std::chrono::seconds(5);

// A target as a login sees it: a snapshot, unchanged while it is held.
struct TargetView {
  std::string iqn;
  AccessPolicy policy;
  // As NormalInitiatorName() gives it.
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

struct LunEntry {
  uint64_t number = 0;
  std::shared_ptr<scsi::Lun> lun;
  bool read_only = false;
  std::shared_ptr<scsi::CommandCounters> counters;  // of this export, all its sessions together
};

// By number, ascending.
using LunMap = std::vector<LunEntry>;

// A target's LUNs as its sessions see them: they compare generations at each command (one load) and
// fetch the map only if it changed.
class TargetLuns {
 public:
  TargetLuns() : map_(std::make_shared<const LunMap>()) {}

  // Any thread.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  std::shared_ptr<const LunMap> map() const;

 private:
  friend class TargetDirectory;
  void Set(LunMap map);

  mutable absl::Mutex mutex_;
  std::shared_ptr<const LunMap> map_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> generation_{1};
};

// What the directory may do to a session that is registered with it. Implemented by the connection
// that carries the session; every call returns at once and may come from any thread.
class SessionControl {
 public:
  virtual ~SessionControl() = default;

  // Asynchronous Message 1 (logout requested), then Drop after kLogoutGrace. Once is enough.
  virtual void AskLogout(DropReason reason) = 0;
  virtual void Drop(DropReason reason) = 0;
  // The target's LUN map changed. `released` is called (on any thread) when the session no longer
  // uses what left the map, or when the session ends.
  virtual void OnLunsChanged(absl::AnyInvocable<void()> released) = 0;
  // Calls `ended` (on any thread) when the session has ended, also if that was long ago.
  virtual void WhenEnded(absl::AnyInvocable<void()> ended) = 0;
};

// What makes two sessions the same one (RFC 7143 §4.4.3.1): an initiator port at a target.
struct NexusKey {
  std::string initiator_name;
  uint64_t isid = 0;
  std::string target_name;
  auto operator<=>(const NexusKey&) const = default;
};

// Any thread.
class TargetDirectory {
 public:
  TargetDirectory();
  ~TargetDirectory();
  TargetDirectory(const TargetDirectory&) = delete;
  TargetDirectory& operator=(const TargetDirectory&) = delete;

  // Target names are as NormalTargetName() gives them, in every call. LUN numbers 0..16383 (flat
  // space). Codes: InvalidArgument, AlreadyExists, NotFound.
  absl::Status AddTarget(std::string_view iqn);
  // Initiators may be listed in any case. Sessions of those that are no longer listed are dropped;
  // CHAP counts at the next login.
  absl::Status SetAccess(std::string_view iqn, AccessPolicy policy);
  // Sessions of the target hear REPORTED LUNS DATA HAS CHANGED.
  absl::Status AddLun(std::string_view iqn, uint64_t lun_number, std::shared_ptr<scsi::Lun> lun,
                      bool read_only);
  // Commands in flight are aborted. Returns when no session uses the LUN, after kReleaseWait at the
  // latest. REQUIRES: not on a reactor's thread.
  absl::Status RemoveLun(std::string_view iqn, uint64_t lun_number);
  // Asks the sessions to log out, then drops them. Returns when they are gone, after kLogoutGrace +
  // kReleaseWait at the latest. REQUIRES: not on a reactor's thread.
  absl::Status RemoveTarget(std::string_view iqn);

  // Null if there is none.
  std::shared_ptr<const TargetView> Find(std::string_view iqn) const;
  // What SendTargets=All lists to that initiator, in order.
  std::vector<std::string> VisibleTo(std::string_view initiator_name) const;

  std::vector<std::string> targets() const;
  // Empty if there is no such target.
  LunMap luns(std::string_view iqn) const;
  std::vector<SessionInfo> sessions() const;
  // Discovery sessions, which are at no target and not among sessions().
  int discoveries() const { return discoveries_; }
  IscsiTotals totals() const { return counters_.Sum(); }

  // --- For connections ---

  IscsiCounters& counters() { return counters_; }

  // A target session identifying handle that nobody has: never 0 (RFC 7143 §11.13.2); 0 if
  // kMaxConnections are taken. Given back by ReleaseTsih.
  uint16_t TakeTsih();
  void ReleaseTsih(uint16_t tsih);

  struct Registration {
    enum class Result {
      kDone,        // registered: `luns` and `id` are set
      kPortInUse,   // another session has the same NexusKey: `previous` is that one
      kTargetGone,  // the target went away during the login
    };
    Result result = Result::kTargetGone;
    uint64_t id = 0;
    std::shared_ptr<TargetLuns> luns;
    std::shared_ptr<SessionControl> previous;
  };
  // Makes the session known. With `replace` a previous session of the same key loses its place (it
  // stays registered until it ends): for when it would not end in time.
  Registration Register(const NexusKey& key, SessionInfo info,
                        std::shared_ptr<SessionControl> session, bool replace);
  // The last thing a registered session does.
  void Unregister(uint64_t id);
  void BeginDiscovery() { ++discoveries_; }
  void EndDiscovery() { --discoveries_; }
  // Every registered session of the target is dropped: TARGET COLD RESET.
  void DropSessions(std::string_view iqn, DropReason reason);

 private:
  struct TargetRecord {
    std::shared_ptr<const TargetView> view;
    std::shared_ptr<TargetLuns> luns = std::make_shared<TargetLuns>();
  };
  struct SessionRecord {
    NexusKey key;
    SessionInfo info;
    std::shared_ptr<SessionControl> control;
  };

  std::vector<std::shared_ptr<SessionControl>> SessionsOf(std::string_view iqn) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  IscsiCounters counters_;
  std::atomic<int> discoveries_ = 0;
  mutable absl::Mutex mutex_;
  std::map<std::string, TargetRecord, std::less<>> targets_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, SessionRecord> sessions_ ABSL_GUARDED_BY(mutex_);
  std::map<NexusKey, uint64_t> session_by_key_ ABSL_GUARDED_BY(mutex_);
  std::set<uint16_t> tsihs_ ABSL_GUARDED_BY(mutex_);
  uint16_t last_tsih_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_session_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sectormap::iscsi
