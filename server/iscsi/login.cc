// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/login.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "server/iscsi/chap.h"
#include "server/iscsi/iscsi_name.h"
#include "server/iscsi/negotiation.h"
#include "server/iscsi/text_keys.h"

namespace sectormap::iscsi {
namespace {

constexpr uint8_t kOurVersion = 0;  // §11.12.4: the only one there is

// Login Requests of one login. CHAP in three stages takes 5; a list may take kMaxPdusPerList.
constexpr int kMaxLoginRequests = 256;

// A step's outcome; the reason is for the log.
struct Verdict {
  LoginStatus status = LoginStatus::kSuccess;
  std::string reason = {};
  bool ok() const { return status == LoginStatus::kSuccess; }
};

Verdict Refuse(LoginStatus status, std::string reason) { return {status, std::move(reason)}; }

// What must not change from one Login Request of a login to the next (§6.3, §11.12).
struct Constants {
  uint64_t isid = 0;
  uint16_t tsih = 0;
  uint16_t cid = 0;
  uint32_t initiator_task_tag = 0;
  uint32_t cmd_sn = 0;
  bool operator==(const Constants&) const = default;
};

Constants ConstantsOf(const LoginRequestHeader& request) {
  return {.isid = request.isid,
          .tsih = request.tsih,
          .cid = request.cid,
          .initiator_task_tag = request.initiator_task_tag,
          .cmd_sn = request.cmd_sn};
}

bool Contains(std::string_view list, std::string_view element) {
  const std::vector<std::string_view> elements = SplitList(list);
  return std::find(elements.begin(), elements.end(), element) != elements.end();
}

std::string ClaimOf(const TextKey* name) {
  return name == nullptr ? "" : std::string(name->value.substr(0, kMaxIscsiNameBytes));
}

}  // namespace

class LoginNegotiator::State {
 public:
  State(const TargetDirectory& directory, Service service, uint16_t assigned_tsih)
      : directory_(directory), service_(service), assigned_tsih_(assigned_tsih) {}

  Reply OnRequest(const LoginRequestHeader& request, std::string_view text);
  const LoginClaim& claim() const { return claim_; }
  const LoginResult& result() const {
    CHECK(phase_ == Phase::kDone);
    return result_;
  }

 private:
  enum class Phase { kFirstRequest, kFirstList, kNegotiating, kDone, kRefused };
  enum class Authentication { kOpen, kAwaitingAlgorithm, kAwaitingResponse, kDone };

  Verdict CheckRequest(const LoginRequestHeader& request, std::string_view text);
  Verdict Start(const LoginRequestHeader& request);
  Verdict OnList(std::string_view text, TextKeyWriter& answers);
  Verdict Identify(std::span<const TextKey> keys);
  Verdict FindTarget(const TextKey* target_name);
  Verdict CheckSession() const;
  Verdict Authenticate(std::span<const TextKey> keys, TextKeyWriter& answers);
  Verdict ChooseMethod(std::string_view methods, TextKeyWriter& answers);
  Verdict VerifyChap(std::span<const TextKey> keys, TextKeyWriter& answers);
  Verdict CheckStageEnd() const;
  // True if the list that was just answered leaves nothing open in this stage.
  bool StageComplete() const;
  bool ChapRequired() const {
    return result_.target != nullptr && result_.target->policy.chap.has_value();
  }

  Reply MakeReply(const LoginRequestHeader& request);
  Reply RefuseWith(const LoginRequestHeader& request, Verdict verdict);
  Reply Advance(const LoginRequestHeader& request, std::string text);

  const TargetDirectory& directory_;
  const Service service_;
  const uint16_t assigned_tsih_;

  Phase phase_ = Phase::kFirstRequest;
  int requests_ = 0;
  Constants constants_;
  LoginStage stage_ = LoginStage::kSecurity;
  uint32_t stat_sn_ = 0;
  TextCollector collector_;
  Authentication authentication_ = Authentication::kOpen;
  std::optional<ChapTarget> chap_;
  Negotiation negotiation_{SessionParameters()};
  bool declared_ours_ = false;
  LoginClaim claim_;
  LoginResult result_;
};

LoginNegotiator::Reply LoginNegotiator::State::OnRequest(const LoginRequestHeader& request,
                                                         std::string_view text) {
  if (Verdict verdict = CheckRequest(request, text); !verdict.ok()) {
    return RefuseWith(request, std::move(verdict));
  }
  if (!collector_.Append(text)) {
    return RefuseWith(request, Refuse(LoginStatus::kInitiatorError,
                                      "a list of keys is longer than a login may have"));
  }
  // §11.12.3: until the list is complete every answer is empty.
  if (request.continues()) return MakeReply(request);

  TextKeyWriter answers;
  const std::string list = collector_.Take();
  Verdict verdict = OnList(list, answers);
  if (verdict.ok() && request.transit()) verdict = CheckStageEnd();
  if (!verdict.ok()) return RefuseWith(request, std::move(verdict));
  return Advance(request, answers.Take());
}

Verdict LoginNegotiator::State::CheckRequest(const LoginRequestHeader& request,
                                             std::string_view text) {
  // §11.13.4: any start will do; the value the initiator counts on suits those that do not look.
  if (phase_ == Phase::kFirstRequest) stat_sn_ = request.exp_stat_sn;
  if (phase_ == Phase::kDone || phase_ == Phase::kRefused) {
    return Refuse(LoginStatus::kInvalidDuringLogin, "a Login Request after the login's end");
  }
  if (service_ == Service::kUnavailable) {
    return Refuse(LoginStatus::kServiceUnavailable,
                  "the daemon starts, stops or has no room for another session");
  }
  if (request.version_min > kOurVersion) {
    return Refuse(LoginStatus::kUnsupportedVersion, "no common protocol version");
  }
  if (++requests_ > kMaxLoginRequests) {
    return Refuse(LoginStatus::kInitiatorError, "too many Login Requests");
  }
  if (!request.immediate() || request.total_ahs_length != 0 ||
      text.size() > kLoginMaxRecvDataSegmentBytes) {
    return Refuse(LoginStatus::kInitiatorError,
                  "a Login Request that is not immediate, has an AHS or is too long");
  }
  if (request.transit() && request.continues()) {
    return Refuse(LoginStatus::kInitiatorError, "T and C bits in one Login Request");
  }
  if (phase_ == Phase::kFirstRequest) {
    if (Verdict verdict = Start(request); !verdict.ok()) return verdict;
  } else if (ConstantsOf(request) != constants_) {
    return Refuse(LoginStatus::kInitiatorError,
                  "ISID, TSIH, CID, task tag or CmdSN changed during the login");
  }
  if (request.current_stage() != stage_) {
    return Refuse(LoginStatus::kInitiatorError, "a Login Request of another stage");
  }
  const LoginStage next = request.next_stage();
  const bool next_exists = next == LoginStage::kOperational || next == LoginStage::kFullFeature;
  if (request.transit() && (!next_exists || next <= stage_)) {
    return Refuse(LoginStatus::kInitiatorError, "a transition to a stage that does not follow");
  }
  return {};
}

Verdict LoginNegotiator::State::Start(const LoginRequestHeader& request) {
  constants_ = ConstantsOf(request);
  stage_ = request.current_stage();
  if (stage_ != LoginStage::kSecurity && stage_ != LoginStage::kOperational) {
    return Refuse(LoginStatus::kInitiatorError, "a login that starts in no stage there is");
  }
  result_.isid = constants_.isid;
  result_.cid = constants_.cid;
  result_.cmd_sn = constants_.cmd_sn;
  phase_ = Phase::kFirstList;
  return {};
}

// `list` is complete: every PDU of it has come.
Verdict LoginNegotiator::State::OnList(std::string_view list, TextKeyWriter& answers) {
  const auto keys = ParseTextKeys(list);
  if (!keys.ok()) {
    return Refuse(LoginStatus::kInitiatorError, std::string(keys.status().message()));
  }
  if (phase_ == Phase::kFirstList) {
    if (Verdict verdict = Identify(*keys); !verdict.ok()) return verdict;
    phase_ = Phase::kNegotiating;
    // §13.9: in the first response that may have it, in either type of session.
    if (FindKey(*keys, "TargetName") != nullptr)
      answers.AddNumber("TargetPortalGroupTag", kPortalGroupTag);
  } else if (FindKey(*keys, "SessionType") != nullptr || FindKey(*keys, "TargetName") != nullptr) {
    return Refuse(LoginStatus::kInitiatorError, "SessionType or TargetName after the first list");
  }
  if (const TextKey* alias = FindKey(*keys, "InitiatorAlias"); alias != nullptr) {
    result_.initiator_alias = PrintableUtf8(alias->value);
  }
  const bool security = stage_ == LoginStage::kSecurity;
  const absl::Status negotiated = negotiation_.Answer(
      *keys, security ? KeyStage::kSecurity : KeyStage::kOperational, result_.type, answers);
  if (!negotiated.ok()) {
    return Refuse(LoginStatus::kInitiatorError, std::string(negotiated.message()));
  }
  if (security) return Authenticate(*keys, answers);
  if (!declared_ours_) {
    declared_ours_ = true;
    answers.AddNumber("MaxRecvDataSegmentLength", kOurMaxRecvDataSegmentBytes);
  }
  return {};
}

// The first list says who wants what (§6.3.1).
Verdict LoginNegotiator::State::Identify(std::span<const TextKey> keys) {
  const TextKey* initiator_name = FindKey(keys, "InitiatorName");
  const TextKey* target_name = FindKey(keys, "TargetName");
  claim_ = {ClaimOf(initiator_name), ClaimOf(target_name)};
  if (initiator_name == nullptr) {
    return Refuse(LoginStatus::kMissingParameter, "no InitiatorName");
  }
  absl::StatusOr<std::string> name = NormalInitiatorName(initiator_name->value);
  if (!name.ok()) return Refuse(LoginStatus::kInitiatorError, std::string(name.status().message()));
  result_.initiator_name = *std::move(name);
  const TextKey* session_type = FindKey(keys, "SessionType");
  if (session_type != nullptr && session_type->value == "Discovery") {
    result_.type = SessionType::kDiscovery;
  } else if (session_type != nullptr && session_type->value != "Normal") {
    return Refuse(LoginStatus::kSessionTypeNotSupported, "SessionType is not Normal or Discovery");
  }
  if (Verdict verdict = FindTarget(target_name); !verdict.ok()) return verdict;
  return CheckSession();
}

Verdict LoginNegotiator::State::FindTarget(const TextKey* target_name) {
  if (result_.type == SessionType::kDiscovery) return {};
  if (target_name == nullptr) {
    return Refuse(LoginStatus::kMissingParameter, "no TargetName in a normal session");
  }
  std::shared_ptr<const TargetView> target = directory_.Find(LowerCase(target_name->value));
  if (target == nullptr) return Refuse(LoginStatus::kNotFound, "no target of that name");
  if (!target->Allows(result_.initiator_name)) {
    return Refuse(LoginStatus::kAuthorizationFailure, "the target does not allow the initiator");
  }
  result_.target = std::move(target);
  // §6.3.1: who begins with the operational stage wants no authentication.
  if (stage_ != LoginStage::kSecurity && ChapRequired()) {
    return Refuse(LoginStatus::kAuthenticationFailure, "the target wants CHAP; none was offered");
  }
  return {};
}

// The table of §6.3.1. TSIH 0 makes a session, or reinstates the one with the same ISID (its owner
// sees to that). MaxConnections is 1, so no connection can join a session.
Verdict LoginNegotiator::State::CheckSession() const {
  if (constants_.tsih == 0) return {};
  const std::string isid = absl::StrFormat("%012x", constants_.isid);
  for (const SessionInfo& session : directory_.sessions()) {
    if (session.tsih != constants_.tsih) continue;
    const bool same_port = session.initiator_name == result_.initiator_name &&
                           session.isid == isid && result_.target != nullptr &&
                           session.target_name == result_.target->iqn;
    if (same_port) return Refuse(LoginStatus::kTooManyConnections, "one connection per session");
    return Refuse(LoginStatus::kSessionDoesNotExist, "TSIH of another initiator port's session");
  }
  return Refuse(LoginStatus::kSessionDoesNotExist, "TSIH of no session");
}

Verdict LoginNegotiator::State::Authenticate(std::span<const TextKey> keys,
                                             TextKeyWriter& answers) {
  const bool has_chap_answer = std::any_of(keys.begin(), keys.end(), [](const TextKey& key) {
    return key.name == "CHAP_N" || key.name == "CHAP_R" || key.name == "CHAP_I" ||
           key.name == "CHAP_C";
  });
  const TextKey* methods = FindKey(keys, "AuthMethod");
  const TextKey* algorithms = FindKey(keys, "CHAP_A");
  const Verdict out_of_turn = Refuse(LoginStatus::kInitiatorError, "a security key out of turn");
  switch (authentication_) {
    case Authentication::kOpen:
      if (algorithms != nullptr || has_chap_answer) return out_of_turn;
      return methods == nullptr ? Verdict() : ChooseMethod(methods->value, answers);
    case Authentication::kAwaitingAlgorithm: {
      if (has_chap_answer) return out_of_turn;
      if (algorithms == nullptr) return {};
      chap_.emplace(result_.target->policy);
      const LoginStatus status = chap_->Challenge(algorithms->value, answers);
      authentication_ = Authentication::kAwaitingResponse;
      return {status, "CHAP: no common algorithm, or no random numbers"};
    }
    case Authentication::kAwaitingResponse:
      return has_chap_answer ? VerifyChap(keys, answers) : Verdict();
    case Authentication::kDone:
      return algorithms != nullptr || has_chap_answer ? out_of_turn : Verdict();
  }
  CHECK(false);
}

// §12: the initiator's list is in its order of preference, but the target's policy leaves one
// choice.
Verdict LoginNegotiator::State::ChooseMethod(std::string_view methods, TextKeyWriter& answers) {
  if (ChapRequired()) {
    if (!Contains(methods, "CHAP")) {
      return Refuse(LoginStatus::kAuthenticationFailure, "the target wants CHAP; none was offered");
    }
    answers.Add("AuthMethod", "CHAP");
    authentication_ = Authentication::kAwaitingAlgorithm;
    return {};
  }
  if (!Contains(methods, "None")) {
    return Refuse(LoginStatus::kAuthenticationFailure,
                  "the initiator insists on authentication; no CHAP user is set up for it");
  }
  answers.Add("AuthMethod", "None");
  authentication_ = Authentication::kDone;
  return {};
}

Verdict LoginNegotiator::State::VerifyChap(std::span<const TextKey> keys, TextKeyWriter& answers) {
  const TextKey* name = FindKey(keys, "CHAP_N");
  const TextKey* response = FindKey(keys, "CHAP_R");
  if (name == nullptr || response == nullptr) {
    return Refuse(LoginStatus::kMissingParameter, "CHAP_N and CHAP_R come together");
  }
  ChapTarget::Response given;
  given.name = name->value;
  given.response = response->value;
  if (const TextKey* key = FindKey(keys, "CHAP_I"); key != nullptr) given.identifier = key->value;
  if (const TextKey* key = FindKey(keys, "CHAP_C"); key != nullptr) given.challenge = key->value;
  const LoginStatus status = chap_->Verify(given, answers);
  authentication_ = Authentication::kDone;
  return {status, "CHAP: wrong user or secret, or a proof asked of us that we cannot give"};
}

bool LoginNegotiator::State::StageComplete() const {
  return stage_ != LoginStage::kSecurity || authentication_ == Authentication::kDone ||
         authentication_ == Authentication::kOpen;
}

// The initiator wants to leave the stage with the list that was just answered.
Verdict LoginNegotiator::State::CheckStageEnd() const {
  if (stage_ == LoginStage::kSecurity && authentication_ == Authentication::kOpen &&
      ChapRequired()) {
    return Refuse(LoginStatus::kAuthenticationFailure, "the target wants CHAP; none was offered");
  }
  return {};
}

LoginNegotiator::Reply LoginNegotiator::State::MakeReply(const LoginRequestHeader& request) {
  Reply reply;
  reply.header.version_max = kOurVersion;
  reply.header.version_active = kOurVersion;
  reply.header.isid = request.isid;
  reply.header.tsih = request.tsih;
  reply.header.initiator_task_tag = request.initiator_task_tag;
  reply.header.stat_sn = stat_sn_++;
  reply.header.flags =
      static_cast<uint8_t>(static_cast<uint8_t>(stage_) << LoginResponseHeader::kCurrentStageShift);
  reply.next = Reply::Next::kContinue;
  return reply;
}

LoginNegotiator::Reply LoginNegotiator::State::RefuseWith(const LoginRequestHeader& request,
                                                          Verdict verdict) {
  phase_ = Phase::kRefused;
  chap_.reset();
  Reply reply = MakeReply(request);
  reply.header.flags = 0;  // §6.3.1: T, CSG and NSG are reserved in a rejection
  reply.header.set_status(verdict.status);
  reply.next = Reply::Next::kClose;
  reply.reason = std::move(verdict.reason);
  return reply;
}

LoginNegotiator::Reply LoginNegotiator::State::Advance(const LoginRequestHeader& request,
                                                       std::string text) {
  Reply reply = MakeReply(request);
  CHECK(text.size() <= kLoginMaxRecvDataSegmentBytes);
  reply.text = std::move(text);
  reply.header.data_segment_length = static_cast<uint32_t>(reply.text.size());
  if (!request.transit() || !StageComplete()) return reply;

  stage_ = request.next_stage();
  reply.header.flags |= static_cast<uint8_t>(kFinalBit | static_cast<uint8_t>(stage_));
  if (stage_ != LoginStage::kFullFeature) return reply;

  reply.header.tsih = assigned_tsih_;
  reply.next = Reply::Next::kFullFeature;
  result_.parameters = negotiation_.agreed();
  result_.next_stat_sn = stat_sn_;
  chap_.reset();
  phase_ = Phase::kDone;
  return reply;
}

LoginNegotiator::LoginNegotiator(const TargetDirectory& directory, Service service,
                                 uint16_t assigned_tsih)
    : state_(std::make_unique<State>(directory, service, assigned_tsih)) {}

LoginNegotiator::~LoginNegotiator() = default;

LoginNegotiator::Reply LoginNegotiator::OnRequest(const LoginRequestHeader& request,
                                                  std::string_view text) {
  return state_->OnRequest(request, text);
}

const LoginClaim& LoginNegotiator::claim() const { return state_->claim(); }

const LoginResult& LoginNegotiator::result() const { return state_->result(); }

}  // namespace sectormap::iscsi
