// SPDX-License-Identifier: Apache-2.0
// Negotiation: answers the keys that an initiator offers (RFC 7143 §6.2, §13) from one table, a row
// per key, and keeps what was agreed. Knows no PDUs and no stages' transitions: login.cc and
// text_exchange.cc do.
#pragma once

#include <bitset>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "server/iscsi/session_parameters.h"
#include "server/iscsi/text_keys.h"

namespace sectormap::iscsi {

// When keys come. Bits, so that a row can name several.
enum class KeyStage : uint8_t {
  kSecurity = 1,
  kOperational = 2,
  kFullFeature = 4,
};

// More than the table's rows.
inline constexpr size_t kMaxKnownKeys = 48;

class Negotiation {
 public:
  // `start` is what holds now: the defaults at login.
  explicit Negotiation(const SessionParameters& start) : parameters_(start) {}

  // Answers one complete list: every key that wants an answer gets exactly one, in the order of
  // `keys`. Declarations, identity (InitiatorName, ...) and security keys (AuthMethod, CHAP_*) are
  // checked but not answered; the caller reads them from `keys`. InvalidArgument, in words of ours
  // only: the list breaks the protocol, and the login must be rejected with "initiator error"
  // (§6.3): a key that this stage or this sender may not use, or that came before.
  absl::Status Answer(std::span<const TextKey> keys, KeyStage stage, SessionType type,
                      TextKeyWriter& answers);

  // What holds if the negotiation ends now.
  SessionParameters agreed() const;

 private:
  struct Row;
  enum class Kind : uint8_t;
  static const Row kRows[];
  static const Row* Find(std::string_view name);

  absl::Status Check(const Row& row, const TextKey& key, KeyStage stage);
  absl::Status AnswerOne(const TextKey& key, KeyStage stage, SessionType type,
                         TextKeyWriter& answers);
  absl::Status Declare(const Row& row, const TextKey& key);
  void AnswerNumber(const Row& row, const TextKey& key, TextKeyWriter& answers);
  void AnswerBoolean(const Row& row, const TextKey& key, TextKeyWriter& answers);
  void AnswerList(const Row& row, const TextKey& key, TextKeyWriter& answers);

  SessionParameters parameters_;
  std::bitset<kMaxKnownKeys> seen_;
  // The smaller of ours and what the list being answered offers: FirstBurstLength stays below it
  // whichever of the two comes first.
  uint32_t max_burst_offer_ = kOurMaxBurstBytes;
};

}  // namespace sectormap::iscsi
