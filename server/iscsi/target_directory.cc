// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/target_directory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "server/iscsi/iscsi_name.h"

namespace sectormap::iscsi {
namespace {

absl::Status NoTarget(std::string_view iqn) {
  return absl::NotFoundError(absl::StrCat("there is no target '", Absl(iqn), "'"));
}

absl::Status CheckCredentials(const ChapCredentials& chap, std::string_view what) {
  const std::string name(what);
  if (chap.user.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " needs a user name"));
  }
  // A text value ends at a zero byte (RFC 7143 §6.1).
  if (chap.user.size() > kChapUserBytesMax || chap.user.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(name, " user: give at most ", kChapUserBytesMax,
                                                   " bytes, without zero bytes"));
  }
  if (chap.secret.size() < kChapSecretBytesMin || chap.secret.size() > kChapSecretBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " secret has ", chap.secret.size(), " bytes; give ", kChapSecretBytesMin, " to ",
        kChapSecretBytesMax,
        " (RFC 7143 asks for 96 random bits at least; Windows takes no more than 16 bytes), for "
        "example: openssl rand -hex 8"));
  }
  return absl::OkStatus();
}

// Also brings its names into the form in which they are compared.
absl::Status CheckPolicy(AccessPolicy& policy) {
  for (std::string& name : policy.allowed_initiators) {
    ASSIGN_OR_RETURN(name, NormalInitiatorName(name));
  }
  return CheckChap(policy);
}

// Counts down from any thread; a control thread waits for zero, for a while.
class ReleaseLatch {
 public:
  explicit ReleaseLatch(size_t count) : left_(count) {}
  void Release() {
    absl::MutexLock lock(&mutex_);
    --left_;
  }
  void Wait(absl::Duration at_most) {
    absl::MutexLock lock(&mutex_);
    auto none_left = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return left_ == 0; };
    mutex_.AwaitWithTimeout(absl::Condition(&none_left), at_most);
  }

 private:
  absl::Mutex mutex_;
  size_t left_ ABSL_GUARDED_BY(mutex_);
};

std::shared_ptr<ReleaseLatch> TellLunsChanged(
    const std::vector<std::shared_ptr<SessionControl>>& sessions) {
  auto latch = std::make_shared<ReleaseLatch>(sessions.size());
  for (const auto& session : sessions) session->OnLunsChanged([latch] { latch->Release(); });
  return latch;
}

}  // namespace

absl::Status CheckChap(const AccessPolicy& policy) {
  if (policy.chap) RETURN_IF_ERROR(CheckCredentials(*policy.chap, "CHAP"));
  if (!policy.mutual_chap) return absl::OkStatus();
  RETURN_IF_ERROR(CheckCredentials(*policy.mutual_chap, "mutual CHAP"));
  if (!policy.chap) {
    return absl::InvalidArgumentError(
        "mutual CHAP without CHAP: an initiator asks the target to prove itself only while it "
        "proves itself; give CHAP credentials too");
  }
  // RFC 7143 §9.2.1: one secret for both directions would let a peer answer with our own response.
  if (policy.mutual_chap->secret == policy.chap->secret) {
    return absl::InvalidArgumentError("CHAP and mutual CHAP must have different secrets");
  }
  return absl::OkStatus();
}

bool TargetView::Allows(std::string_view initiator_name) const {
  const auto& allowed = policy.allowed_initiators;
  return allowed.empty() ||
         std::find(allowed.begin(), allowed.end(), initiator_name) != allowed.end();
}

std::shared_ptr<const LunMap> TargetLuns::map() const {
  absl::MutexLock lock(&mutex_);
  return map_;
}

void TargetLuns::Set(LunMap map) {
  {
    absl::MutexLock lock(&mutex_);
    map_ = std::make_shared<const LunMap>(std::move(map));
  }
  generation_.fetch_add(1, std::memory_order_release);
}

TargetDirectory::TargetDirectory() = default;

TargetDirectory::~TargetDirectory() {
  absl::MutexLock lock(&mutex_);
  CHECK(sessions_.empty());
}

absl::Status TargetDirectory::AddTarget(std::string_view iqn) {
  ASSIGN_OR_RETURN(std::string name, NormalTargetName(iqn));
  if (name != iqn) {
    return absl::InvalidArgumentError(
        absl::StrCat("target '", Absl(iqn), "' is to be added in lower case"));
  }
  absl::MutexLock lock(&mutex_);
  auto [place, added] = targets_.try_emplace(name);
  if (!added) return absl::AlreadyExistsError(absl::StrCat("target '", name, "' exists already"));
  place->second.view = std::make_shared<const TargetView>(TargetView{std::move(name), {}});
  return absl::OkStatus();
}

absl::Status TargetDirectory::SetAccess(std::string_view iqn, AccessPolicy policy) {
  RETURN_IF_ERROR(CheckPolicy(policy));
  std::vector<std::shared_ptr<SessionControl>> refused;
  {
    absl::MutexLock lock(&mutex_);
    auto place = targets_.find(iqn);
    if (place == targets_.end()) return NoTarget(iqn);
    auto view = std::make_shared<const TargetView>(TargetView{std::string(iqn), std::move(policy)});
    place->second.view = view;
    for (const auto& [id, session] : sessions_) {
      if (session.key.target_name == iqn && !view->Allows(session.key.initiator_name)) {
        refused.push_back(session.control);
      }
    }
  }
  for (const auto& session : refused) session->Drop(DropReason::kTargetRemoved);
  return absl::OkStatus();
}

absl::Status TargetDirectory::AddLun(std::string_view iqn, uint64_t lun_number,
                                     std::shared_ptr<scsi::Lun> lun, bool read_only) {
  CHECK(lun != nullptr);
  if (lun_number > kMaxLunNumber) {
    return absl::InvalidArgumentError(
        absl::StrCat("LUN ", lun_number, " is too large: numbers go from 0 to ", kMaxLunNumber));
  }
  std::vector<std::shared_ptr<SessionControl>> sessions;
  {
    absl::MutexLock lock(&mutex_);
    auto place = targets_.find(iqn);
    if (place == targets_.end()) return NoTarget(iqn);
    LunMap map = *place->second.luns->map();
    auto at = std::lower_bound(map.begin(), map.end(), lun_number,
                               [](const LunEntry& entry, uint64_t n) { return entry.number < n; });
    if (at != map.end() && at->number == lun_number) {
      return absl::AlreadyExistsError(
          absl::StrCat("target '", Absl(iqn), "' has a LUN ", lun_number, " already"));
    }
    map.insert(at, LunEntry{lun_number, std::move(lun), read_only,
                            std::make_shared<scsi::CommandCounters>()});
    place->second.luns->Set(std::move(map));
    sessions = SessionsOf(iqn);
  }
  TellLunsChanged(sessions);
  return absl::OkStatus();
}

absl::Status TargetDirectory::RemoveLun(std::string_view iqn, uint64_t lun_number) {
  std::vector<std::shared_ptr<SessionControl>> sessions;
  {
    absl::MutexLock lock(&mutex_);
    auto place = targets_.find(iqn);
    if (place == targets_.end()) return NoTarget(iqn);
    LunMap map = *place->second.luns->map();
    if (std::erase_if(map, [&](const LunEntry& entry) { return entry.number == lun_number; }) ==
        0) {
      return absl::NotFoundError(absl::StrCat("target '", Absl(iqn), "' has no LUN ", lun_number));
    }
    place->second.luns->Set(std::move(map));
    sessions = SessionsOf(iqn);
  }
  CHECK(Reactor::CurrentOrNull() == nullptr);
  TellLunsChanged(sessions)->Wait(absl::FromChrono(kReleaseWait));
  return absl::OkStatus();
}

absl::Status TargetDirectory::RemoveTarget(std::string_view iqn) {
  CHECK(Reactor::CurrentOrNull() == nullptr);
  const std::string name(iqn);
  absl::MutexLock lock(&mutex_);
  auto place = targets_.find(iqn);
  if (place == targets_.end()) return NoTarget(iqn);
  // Its sessions keep the LUN map until they end; the record, and so new logins, end here.
  targets_.erase(place);
  // A session only posts to its reactor, so it may be told under the lock.
  for (const auto& session : SessionsOf(name)) session->AskLogout(DropReason::kTargetRemoved);
  auto all_gone = [this, &name]()
                      ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return SessionsOf(name).empty(); };
  mutex_.AwaitWithTimeout(absl::Condition(&all_gone),
                          absl::FromChrono(kLogoutGrace + kReleaseWait));
  return absl::OkStatus();
}

std::shared_ptr<const TargetView> TargetDirectory::Find(std::string_view iqn) const {
  absl::MutexLock lock(&mutex_);
  auto place = targets_.find(iqn);
  return place == targets_.end() ? nullptr : place->second.view;
}

std::vector<std::string> TargetDirectory::VisibleTo(std::string_view initiator_name) const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> names;
  for (const auto& [iqn, target] : targets_) {
    if (target.view->Allows(initiator_name)) names.push_back(iqn);
  }
  return names;
}

std::vector<std::string> TargetDirectory::targets() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> names;
  for (const auto& [iqn, target] : targets_) names.push_back(iqn);
  return names;
}

LunMap TargetDirectory::luns(std::string_view iqn) const {
  absl::MutexLock lock(&mutex_);
  auto place = targets_.find(iqn);
  return place == targets_.end() ? LunMap() : *place->second.luns->map();
}

std::vector<SessionInfo> TargetDirectory::sessions() const {
  absl::MutexLock lock(&mutex_);
  std::vector<SessionInfo> infos;
  for (const auto& [id, session] : sessions_) infos.push_back(session.info);
  return infos;
}

uint16_t TargetDirectory::TakeTsih() {
  absl::MutexLock lock(&mutex_);
  if (tsihs_.size() >= kMaxConnections) return 0;
  do {
    if (++last_tsih_ == 0) ++last_tsih_;
  } while (!tsihs_.insert(last_tsih_).second);
  return last_tsih_;
}

void TargetDirectory::ReleaseTsih(uint16_t tsih) {
  absl::MutexLock lock(&mutex_);
  tsihs_.erase(tsih);
}

TargetDirectory::Registration TargetDirectory::Register(const NexusKey& key, SessionInfo info,
                                                        std::shared_ptr<SessionControl> session,
                                                        bool replace) {
  absl::MutexLock lock(&mutex_);
  Registration registration;
  auto target = targets_.find(key.target_name);
  // The login may have seen it with another policy, or not seen it go.
  if (target == targets_.end() || !target->second.view->Allows(key.initiator_name)) {
    return registration;
  }
  auto previous = session_by_key_.find(key);
  if (previous != session_by_key_.end() && !replace) {
    registration.result = Registration::Result::kPortInUse;
    registration.previous = sessions_.at(previous->second).control;
    return registration;
  }
  registration.result = Registration::Result::kDone;
  registration.id = info.id = ++last_session_id_;
  registration.luns = target->second.luns;
  session_by_key_[key] = info.id;
  sessions_.emplace(info.id, SessionRecord{key, std::move(info), std::move(session)});
  return registration;
}

void TargetDirectory::Unregister(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  auto place = sessions_.find(id);
  CHECK(place != sessions_.end());
  auto by_key = session_by_key_.find(place->second.key);
  // It is another's if this session was replaced.
  if (by_key != session_by_key_.end() && by_key->second == id) session_by_key_.erase(by_key);
  sessions_.erase(place);
}

void TargetDirectory::DropSessions(std::string_view iqn, DropReason reason) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, session] : sessions_) {
    if (session.key.target_name == iqn) session.control->Drop(reason);
  }
}

std::vector<std::shared_ptr<SessionControl>> TargetDirectory::SessionsOf(
    std::string_view iqn) const {
  std::vector<std::shared_ptr<SessionControl>> found;
  for (const auto& [id, session] : sessions_) {
    if (session.key.target_name == iqn) found.push_back(session.control);
  }
  return found;
}

}  // namespace sectormap::iscsi
