// SPDX-License-Identifier: Apache-2.0
#include "server/control/status.h"

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/map/table_error.h"
#include "google/rpc/status.pb.h"
#include "sectormap/v1/errors.pb.h"

namespace sectormap::control {
namespace {

// Clients take 8 KiB of metadata (GRPC_ARG_MAX_METADATA_SIZE) and lose the code with what is more.
// One text goes there percent-encoded and up to three in base64, which makes 4 bytes of 3.
constexpr size_t kTextBytesMax = 1280;

// What a byte takes percent-encoded (gRPC over HTTP/2, Status-Message).
size_t EncodedBytes(char c) { return c < ' ' || c > '~' || c == '%' ? 3 : 1; }

bool ContinuesCharacter(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// A long text loses its middle: the beginning says what, the end why and what to do.
std::string Shortened(std::string_view text) {
  size_t head = 0;
  for (size_t room = kTextBytesMax / 2; head < text.size() && EncodedBytes(text[head]) <= room;) {
    room -= EncodedBytes(text[head++]);
  }
  size_t tail = text.size();
  for (size_t room = kTextBytesMax / 2; tail > head && EncodedBytes(text[tail - 1]) <= room;) {
    room -= EncodedBytes(text[--tail]);
  }
  if (head == tail) return std::string(text);
  while (head > 0 && ContinuesCharacter(text[head])) --head;
  while (tail < text.size() && ContinuesCharacter(text[tail])) ++tail;
  return absl::StrCat(Absl(text.substr(0, head)), " ... ", Absl(text.substr(tail)));
}

// As a message may carry it.
std::string Fitting(std::string_view text) { return Shortened(ToUtf8(text)); }

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // The numbers are the same by design: absl's codes are gRPC's.
  const auto code = static_cast<grpc::StatusCode>(status.raw_code());
  const std::string message = Fitting({status.message().data(), status.message().size()});
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  if (const std::optional<TableViolation> violation = TableViolationIn(status)) {
    v1::TableViolation detail;
    detail.set_line(static_cast<uint32_t>(violation->line));
    detail.set_target_type(Fitting(violation->type));
    detail.set_reason(Fitting(violation->reason));
    details.add_details()->PackFrom(detail);
  }
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace sectormap::control
