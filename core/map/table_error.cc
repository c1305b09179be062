// SPDX-License-Identifier: Apache-2.0
#include "core/map/table_error.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"

namespace sectormap {
namespace {

// Takes `<number> ` off the front of `text`.
template <typename Number>
bool TakeNumber(std::string_view& text, Number& value) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest == end || *rest != ' ') return false;
  text.remove_prefix(static_cast<size_t>(rest - text.data()) + 1);
  return true;
}

}  // namespace

// The payload is `<line> <bytes of type> <type><reason>`: a type or reason may hold any byte.
absl::Status TableError(int line, std::string_view type, std::string_view reason,
                        std::string_view advice, absl::StatusCode code) {
  std::string message;
  if (line != 0) absl::StrAppend(&message, "line ", line, ": ");
  if (!type.empty()) absl::StrAppend(&message, Absl(type), ": ");
  absl::StrAppend(&message, Absl(reason));
  if (!advice.empty()) absl::StrAppend(&message, "; ", Absl(advice));
  absl::Status status(code, message);
  const std::string payload = absl::StrCat(line, " ", type.size(), " ", Absl(type), Absl(reason));
  status.SetPayload(Absl(kTableViolationUrl), absl::Cord(absl::string_view(payload)));
  return status;
}

absl::Status TableErrorAt(int line, std::string_view type, const absl::Status& refusal,
                          std::string_view advice) {
  const std::string_view message(refusal.message().data(), refusal.message().size());
  const std::optional<TableViolation> own = TableViolationIn(refusal);
  if (!own) return TableError(line, type, message, advice, refusal.code());
  // Made without a line or type, so the message is the reason and perhaps "; advice".
  std::string_view own_advice = message.substr(std::min(own->reason.size(), message.size()));
  if (own_advice.substr(0, 2) == "; ") own_advice.remove_prefix(2);
  return TableError(line, type, own->reason, own_advice.empty() ? advice : own_advice,
                    refusal.code());
}

std::optional<TableViolation> TableViolationIn(const absl::Status& status) {
  const auto payload = status.GetPayload(Absl(kTableViolationUrl));
  if (!payload) return std::nullopt;
  const std::string text(*payload);
  std::string_view rest = text;
  TableViolation violation;
  size_t type_bytes = 0;
  if (!TakeNumber(rest, violation.line) || !TakeNumber(rest, type_bytes) ||
      type_bytes > rest.size()) {
    return std::nullopt;
  }
  violation.type = rest.substr(0, type_bytes);
  violation.reason = rest.substr(type_bytes);
  return violation;
}

}  // namespace sectormap
