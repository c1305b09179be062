// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/negotiation.h"

#include <algorithm>
#include <iterator>

#include "core/base/check.h"
#include "server/iscsi/pdu.h"

namespace sectormap::iscsi {

enum class Negotiation::Kind : uint8_t {
  kMinimum,         // a number; the smaller of both sides' holds
  kMaximum,         // a number; the larger holds
  kAnd,             // a boolean; Yes if both say so
  kOr,              // a boolean; Yes if one says so
  kList,            // the first of the initiator's list that is in `choices`
  kDeclaredNumber,  // a number that is told, not negotiated
  kIdentity,        // who logs in, told; login.cc reads it
  kSecurity,        // authentication; login.cc reads and answers it
  kTargetDeclares,  // only we may send it
  kMarker,          // §13.25: answered No
  kMarkerInterval,  // §13.25: answered Reject
  kSendTargets,     // text_exchange.cc answers it
};

struct Negotiation::Row {
  std::string_view name;
  Kind kind;
  uint8_t stages;
  bool normal_session_only = false;  // Irrelevant in a discovery session
  uint32_t smallest = 0, largest = 0;
  uint32_t ours = 0;
  std::string_view choices = {};
  void (*store)(SessionParameters&, uint32_t) = nullptr;
};

namespace {

constexpr uint8_t kSecurityStage = static_cast<uint8_t>(KeyStage::kSecurity);
constexpr uint8_t kOperationalStage = static_cast<uint8_t>(KeyStage::kOperational);
constexpr uint8_t kFullFeaturePhase = static_cast<uint8_t>(KeyStage::kFullFeature);
constexpr uint8_t kAnyLoginStage = kSecurityStage | kOperationalStage;
constexpr uint8_t kAnyStage = kAnyLoginStage | kFullFeaturePhase;

constexpr uint32_t kSmallestSegment = 512;  // §13.12-14
constexpr uint32_t kMaxSeconds = 3600;      // §13.15, §13.16

// §6.2: what an answer may be instead of a value.
constexpr std::string_view kNotUnderstood = "NotUnderstood";
constexpr std::string_view kIrrelevant = "Irrelevant";
constexpr std::string_view kReject = "Reject";

bool IsAnswerConstant(std::string_view value) {
  return value == kNotUnderstood || value == kIrrelevant || value == kReject;
}

absl::Status Refuse(const char* why) { return absl::InvalidArgumentError(why); }

}  // namespace

// §13 in the order of its sections, then §12.1. Keys of the leading connection only ("LO") and of a
// connection's start ("IO") are the same here, as a session has one connection.
const Negotiation::Row Negotiation::kRows[] = {
    {.name = "HeaderDigest",
     .kind = Kind::kList,
     .stages = kOperationalStage,
     .choices = "CRC32C,None",
     .store = [](SessionParameters& p, uint32_t choice) { p.header_digest = choice == 0; }},
    {.name = "DataDigest",
     .kind = Kind::kList,
     .stages = kOperationalStage,
     .choices = "CRC32C,None",
     .store = [](SessionParameters& p, uint32_t choice) { p.data_digest = choice == 0; }},
    {.name = "MaxConnections",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .smallest = 1,
     .largest = 65535,
     .ours = 1},
    {.name = "SendTargets", .kind = Kind::kSendTargets, .stages = kFullFeaturePhase},
    {.name = "TargetName", .kind = Kind::kIdentity, .stages = kAnyLoginStage},
    {.name = "InitiatorName", .kind = Kind::kIdentity, .stages = kAnyLoginStage},
    {.name = "TargetAlias", .kind = Kind::kTargetDeclares, .stages = kAnyStage},
    {.name = "InitiatorAlias", .kind = Kind::kIdentity, .stages = kAnyStage},
    {.name = "TargetAddress", .kind = Kind::kTargetDeclares, .stages = kAnyStage},
    {.name = "TargetPortalGroupTag", .kind = Kind::kTargetDeclares, .stages = kAnyLoginStage},
    {.name = "InitialR2T",
     .kind = Kind::kOr,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .ours = false,
     .store = [](SessionParameters& p, uint32_t yes) { p.initial_r2t = yes != 0; }},
    {.name = "ImmediateData",
     .kind = Kind::kAnd,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .ours = true,
     .store = [](SessionParameters& p, uint32_t yes) { p.immediate_data = yes != 0; }},
    {.name = "MaxRecvDataSegmentLength",
     .kind = Kind::kDeclaredNumber,
     .stages = kOperationalStage | kFullFeaturePhase,
     .smallest = kSmallestSegment,
     .largest = kMaxDataSegmentLength,
     .store = [](SessionParameters& p, uint32_t bytes) { p.max_send_segment_bytes = bytes; }},
    {.name = "MaxBurstLength",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .smallest = kSmallestSegment,
     .largest = kMaxDataSegmentLength,
     .ours = kOurMaxBurstBytes,
     .store = [](SessionParameters& p, uint32_t bytes) { p.max_burst_bytes = bytes; }},
    {.name = "FirstBurstLength",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .smallest = kSmallestSegment,
     .largest = kMaxDataSegmentLength,
     .ours = kOurFirstBurstBytes,
     .store = [](SessionParameters& p, uint32_t bytes) { p.first_burst_bytes = bytes; }},
    // A new session needs no pause, as the old one's tasks are gone when it is reinstated.
    {.name = "DefaultTime2Wait",
     .kind = Kind::kMaximum,
     .stages = kOperationalStage,
     .largest = kMaxSeconds,
     .ours = 0,
     .store = [](SessionParameters& p,
                 uint32_t seconds) { p.default_time2wait = static_cast<uint16_t>(seconds); }},
    {.name = "DefaultTime2Retain",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .largest = kMaxSeconds,
     .ours = 0,
     .store = [](SessionParameters& p,
                 uint32_t seconds) { p.default_time2retain = static_cast<uint16_t>(seconds); }},
    {.name = "MaxOutstandingR2T",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .smallest = 1,
     .largest = 65535,
     .ours = kOurMaxOutstandingR2t,
     .store = [](SessionParameters& p,
                 uint32_t count) { p.max_outstanding_r2t = static_cast<uint16_t>(count); }},
    {.name = "DataPDUInOrder",
     .kind = Kind::kOr,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .ours = true},
    {.name = "DataSequenceInOrder",
     .kind = Kind::kOr,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .ours = true},
    {.name = "ErrorRecoveryLevel",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .largest = 2,
     .ours = 0},
    {.name = "SessionType", .kind = Kind::kIdentity, .stages = kAnyLoginStage},
    {.name = "TaskReporting",
     .kind = Kind::kList,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .choices = "RFC3720"},
    // RFC 7143 §13.26 and RFC 7144 §7.1: 1 is RFC 7143.
    {.name = "iSCSIProtocolLevel",
     .kind = Kind::kMinimum,
     .stages = kOperationalStage,
     .normal_session_only = true,
     .largest = 31,
     .ours = 1},
    {.name = "IFMarker", .kind = Kind::kMarker, .stages = kOperationalStage},
    {.name = "OFMarker", .kind = Kind::kMarker, .stages = kOperationalStage},
    {.name = "IFMarkInt", .kind = Kind::kMarkerInterval, .stages = kOperationalStage},
    {.name = "OFMarkInt", .kind = Kind::kMarkerInterval, .stages = kOperationalStage},
    {.name = "AuthMethod", .kind = Kind::kSecurity, .stages = kSecurityStage},
    {.name = "CHAP_A", .kind = Kind::kSecurity, .stages = kSecurityStage},
    {.name = "CHAP_I", .kind = Kind::kSecurity, .stages = kSecurityStage},
    {.name = "CHAP_C", .kind = Kind::kSecurity, .stages = kSecurityStage},
    {.name = "CHAP_N", .kind = Kind::kSecurity, .stages = kSecurityStage},
    {.name = "CHAP_R", .kind = Kind::kSecurity, .stages = kSecurityStage},
};

const Negotiation::Row* Negotiation::Find(std::string_view name) {
  static_assert(std::size(kRows) <= kMaxKnownKeys);
  const auto found = std::find_if(std::begin(kRows), std::end(kRows),
                                  [name](const Row& row) { return row.name == name; });
  return found == std::end(kRows) ? nullptr : found;
}

absl::Status Negotiation::Answer(std::span<const TextKey> keys, KeyStage stage, SessionType type,
                                 TextKeyWriter& answers) {
  if (const TextKey* key = FindKey(keys, "MaxBurstLength"); key != nullptr) {
    const uint64_t offer = ParseNumber(key->value).value_or(kOurMaxBurstBytes);
    if (offer >= kSmallestSegment && offer < kOurMaxBurstBytes) {
      max_burst_offer_ = static_cast<uint32_t>(offer);
    }
  }
  for (const TextKey& key : keys) {
    if (absl::Status status = AnswerOne(key, stage, type, answers); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Negotiation::Check(const Row& row, const TextKey& key, KeyStage stage) {
  const bool long_value = row.kind == Kind::kSecurity;
  if (!long_value && key.value.size() > kMaxValueBytes) {
    return Refuse("a key's value is longer than 255 bytes");
  }
  if ((row.stages & static_cast<uint8_t>(stage)) == 0) {
    return Refuse("a key may not be used in this stage");
  }
  const size_t index = static_cast<size_t>(&row - kRows);
  if (seen_[index]) return Refuse("a key was negotiated before");
  seen_[index] = true;
  return absl::OkStatus();
}

absl::Status Negotiation::AnswerOne(const TextKey& key, KeyStage stage, SessionType type,
                                    TextKeyWriter& answers) {
  const Row* row = Find(key.name);
  if (row == nullptr) {
    answers.Add(key.name, kNotUnderstood);
    return absl::OkStatus();
  }
  // In full feature phase a negotiation that fails leaves the old value (§7.12), so that an answer
  // is enough; in the login phase it ends the login.
  if (stage == KeyStage::kFullFeature && (row->stages & kFullFeaturePhase) == 0) {
    answers.Add(key.name, kReject);
    return absl::OkStatus();
  }
  if (absl::Status status = Check(*row, key, stage); !status.ok()) return status;
  if (row->normal_session_only && type == SessionType::kDiscovery) {
    answers.Add(key.name, kIrrelevant);
    return absl::OkStatus();
  }
  switch (row->kind) {
    case Kind::kMinimum:
    case Kind::kMaximum:
      AnswerNumber(*row, key, answers);
      return absl::OkStatus();
    case Kind::kAnd:
    case Kind::kOr:
      AnswerBoolean(*row, key, answers);
      return absl::OkStatus();
    case Kind::kList:
      AnswerList(*row, key, answers);
      return absl::OkStatus();
    case Kind::kDeclaredNumber:
      return Declare(*row, key);
    case Kind::kTargetDeclares:
      // §6.2: the initiator may say that it did not understand our declaration.
      if (IsAnswerConstant(key.value)) return absl::OkStatus();
      return Refuse("only the target may send that key");
    case Kind::kMarker:
      answers.Add(key.name, "No");
      return absl::OkStatus();
    case Kind::kMarkerInterval:
      answers.Add(key.name, kReject);
      return absl::OkStatus();
    case Kind::kIdentity:
    case Kind::kSecurity:
    case Kind::kSendTargets:
      return absl::OkStatus();
  }
  CHECK(false);
}

absl::Status Negotiation::Declare(const Row& row, const TextKey& key) {
  const std::optional<uint64_t> number = ParseNumber(key.value);
  // §7.12: a declared value that is not acceptable is a failed negotiation; there is no answer that
  // would say so.
  if (!number || *number < row.smallest || *number > row.largest) {
    return Refuse("a declared number is out of range");
  }
  row.store(parameters_, static_cast<uint32_t>(*number));
  return absl::OkStatus();
}

void Negotiation::AnswerNumber(const Row& row, const TextKey& key, TextKeyWriter& answers) {
  const std::optional<uint64_t> offer = ParseNumber(key.value);
  if (!offer || *offer < row.smallest || *offer > row.largest) {
    answers.Add(key.name, kReject);
    return;
  }
  const uint32_t theirs = static_cast<uint32_t>(*offer);
  uint32_t result =
      row.kind == Kind::kMinimum ? std::min(theirs, row.ours) : std::max(theirs, row.ours);
  if (row.name == "FirstBurstLength") result = std::min(result, max_burst_offer_);
  if (row.store != nullptr) row.store(parameters_, result);
  answers.AddNumber(key.name, result);
}

void Negotiation::AnswerBoolean(const Row& row, const TextKey& key, TextKeyWriter& answers) {
  const std::optional<bool> offer = ParseBoolean(key.value);
  if (!offer) {
    answers.Add(key.name, kReject);
    return;
  }
  const bool ours = row.ours != 0;
  const bool result = row.kind == Kind::kAnd ? (*offer && ours) : (*offer || ours);
  if (row.store != nullptr) row.store(parameters_, result);
  answers.Add(key.name, result ? "Yes" : "No");
}

void Negotiation::AnswerList(const Row& row, const TextKey& key, TextKeyWriter& answers) {
  const std::vector<std::string_view> choices = SplitList(row.choices);
  for (std::string_view offer : SplitList(key.value)) {
    const auto choice = std::find(choices.begin(), choices.end(), offer);
    if (choice == choices.end()) continue;
    if (row.store != nullptr) {
      row.store(parameters_, static_cast<uint32_t>(choice - choices.begin()));
    }
    answers.Add(key.name, offer);
    return;
  }
  answers.Add(key.name, kReject);
}

SessionParameters Negotiation::agreed() const {
  SessionParameters result = parameters_;
  // §13.14: it must not exceed MaxBurstLength, whatever the initiator left at its default.
  result.first_burst_bytes = std::min(result.first_burst_bytes, result.max_burst_bytes);
  return result;
}

}  // namespace sectormap::iscsi
