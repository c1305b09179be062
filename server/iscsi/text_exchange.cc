// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/text_exchange.h"

#include <algorithm>
#include <span>
#include <utility>

#include "server/iscsi/iscsi_name.h"
#include "server/iscsi/negotiation.h"
#include "server/iscsi/text_keys.h"

namespace sectormap::iscsi {
namespace {

// What the longest entry of our answers takes, and the smallest MaxRecvDataSegmentLength allows
// (§13.12), so that every piece of an answer can end with a whole key.
constexpr size_t kSmallestPieceBytes = 512;

}  // namespace

class TextExchange::State {
 public:
  State(const TargetDirectory& directory, const LoginResult& login,
        std::vector<std::string> portal_addresses)
      : directory_(directory), login_(login), portal_addresses_(std::move(portal_addresses)) {}

  std::optional<Reply> OnRequest(const TextRequestHeader& request, std::string_view text,
                                 SessionParameters& parameters);

 private:
  // An exchange from its first request to the response with F=1.
  struct Exchange {
    explicit Exchange(const SessionParameters& start) : negotiation(start) {}
    uint32_t initiator_task_tag = 0;
    uint32_t target_transfer_tag = 0;  // what the next request must carry
    TextCollector collector;
    Negotiation negotiation;
    std::string answer;  // what is still to be sent
    size_t sent = 0;     // of `answer`
  };

  bool Accept(const TextRequestHeader& request, std::string_view text,
              const SessionParameters& parameters);
  bool AnswerList();
  bool SendTargets(std::string_view which, TextKeyWriter& answers) const;
  void List(std::string_view target, TextKeyWriter& answers) const;
  Reply SendPiece(const TextRequestHeader& request, SessionParameters& parameters);
  uint32_t NextTransferTag();

  const TargetDirectory& directory_;
  const LoginResult& login_;
  const std::vector<std::string> portal_addresses_;
  std::optional<Exchange> exchange_;
  uint32_t last_transfer_tag_ = 0;
};

std::optional<TextExchange::Reply> TextExchange::State::OnRequest(const TextRequestHeader& request,
                                                                  std::string_view text,
                                                                  SessionParameters& parameters) {
  if (!Accept(request, text, parameters)) {
    exchange_.reset();
    return std::nullopt;
  }
  return SendPiece(request, parameters);
}

// False if the request breaks the protocol.
bool TextExchange::State::Accept(const TextRequestHeader& request, std::string_view text,
                                 const SessionParameters& parameters) {
  if (request.continues() && request.final()) return false;  // §11.10.1
  if (request.initiator_task_tag == kReservedTag) return false;
  if (request.target_transfer_tag == kReservedTag) {
    // §11.10.4: a new exchange; one that was left half-way is forgotten.
    exchange_.emplace(parameters);
    exchange_->initiator_task_tag = request.initiator_task_tag;
  } else if (!exchange_ || exchange_->initiator_task_tag != request.initiator_task_tag ||
             exchange_->target_transfer_tag != request.target_transfer_tag) {
    return false;
  }
  if (exchange_->sent < exchange_->answer.size()) {
    // §6.2: while an answer is being continued the requests that fetch it are empty.
    return text.empty() && !request.continues();
  }
  if (!exchange_->collector.Append(text)) return false;
  return request.continues() || AnswerList();
}

// The list is complete.
bool TextExchange::State::AnswerList() {
  const std::string list = exchange_->collector.Take();
  const auto keys = ParseTextKeys(list);
  if (!keys.ok()) return false;
  TextKeyWriter answers;
  for (const TextKey& key : *keys) {
    if (!exchange_->negotiation
             .Answer(std::span(&key, 1), KeyStage::kFullFeature, login_.type, answers)
             .ok()) {
      return false;
    }
    if (key.name == "SendTargets" && !SendTargets(key.value, answers)) {
      answers.Add(key.name, "Reject");
    }
  }
  exchange_->answer = answers.Take();
  exchange_->sent = 0;
  return true;
}

// RFC 7143 Appendix C. False if the value is to be rejected. In a normal session only the session's
// own target is told, whatever was asked: All is meant for discovery, but initiators use it.
bool TextExchange::State::SendTargets(std::string_view which, TextKeyWriter& answers) const {
  const std::string name = LowerCase(which);
  if (login_.type == SessionType::kNormal) {
    if (!which.empty() && which != "All" && name != login_.target->iqn) return false;
    List(login_.target->iqn, answers);
    return true;
  }
  if (which == "All") {
    for (const std::string& target : directory_.VisibleTo(login_.initiator_name)) {
      List(target, answers);
    }
    return true;
  }
  if (!NormalTargetName(which).ok()) return false;
  // A target that is hidden from the initiator looks like one that does not exist.
  const std::shared_ptr<const TargetView> target = directory_.Find(name);
  if (target != nullptr && target->Allows(login_.initiator_name)) List(name, answers);
  return true;
}

void TextExchange::State::List(std::string_view target, TextKeyWriter& answers) const {
  answers.Add("TargetName", target);
  for (const std::string& address : portal_addresses_) {
    answers.Add("TargetAddress", address + "," + std::to_string(kPortalGroupTag));
  }
}

TextExchange::Reply TextExchange::State::SendPiece(const TextRequestHeader& request,
                                                   SessionParameters& parameters) {
  const std::string_view rest = std::string_view(exchange_->answer).substr(exchange_->sent);
  const size_t limit = std::max<size_t>(parameters.max_send_segment_bytes, kSmallestPieceBytes);
  std::string_view piece = rest.substr(0, limit);
  // A piece ends with a whole key where it can: some initiators read each response by itself.
  if (piece.size() < rest.size()) {
    if (const size_t end = piece.rfind('\0'); end != std::string_view::npos) {
      piece = piece.substr(0, end + 1);
    }
  }
  exchange_->sent += piece.size();

  Reply reply;
  reply.text = std::string(piece);
  reply.header.data_segment_length = static_cast<uint32_t>(piece.size());
  reply.header.initiator_task_tag = request.initiator_task_tag;
  if (piece.size() < rest.size()) reply.header.flags = kContinueBit;
  if (request.final() && piece.size() == rest.size()) {
    reply.header.flags = kFinalBit;
    reply.header.target_transfer_tag = kReservedTag;
    // §6.2: what was negotiated holds from here on.
    parameters = exchange_->negotiation.agreed();
    exchange_.reset();
    return reply;
  }
  exchange_->target_transfer_tag = NextTransferTag();
  reply.header.target_transfer_tag = exchange_->target_transfer_tag;
  return reply;
}

uint32_t TextExchange::State::NextTransferTag() {
  if (++last_transfer_tag_ == kReservedTag) ++last_transfer_tag_;
  return last_transfer_tag_;
}

TextExchange::TextExchange(const TargetDirectory& directory, const LoginResult& login,
                           std::vector<std::string> portal_addresses)
    : state_(std::make_unique<State>(directory, login, std::move(portal_addresses))) {}

TextExchange::~TextExchange() = default;

std::optional<TextExchange::Reply> TextExchange::OnRequest(const TextRequestHeader& request,
                                                           std::string_view text,
                                                           SessionParameters& parameters) {
  return state_->OnRequest(request, text, parameters);
}

}  // namespace sectormap::iscsi
