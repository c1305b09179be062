// SPDX-License-Identifier: Apache-2.0
// Text of login and text PDUs (RFC 7143 §6.1): lists of key=value, each ended by a NUL, and the
// forms that values come in. Everything read here is foreign: it is checked once, here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace sectormap::iscsi {

inline constexpr size_t kMaxKeyNameBytes = 63;  // §6.1
// §6.1: a value that is not said to be longer.
inline constexpr size_t kMaxValueBytes = 255;
// CHAP's binary values are 1024 bytes decoded (§6.1), twice that in hex; nothing needs more than
// one login PDU holds.
inline constexpr size_t kMaxLongValueBytes = 8191;
// Initiators send about 25. With this many, the longest answers to one list (63 bytes of name and
// "=NotUnderstood") together with our own keys stay below the 8192 bytes of one login PDU.
inline constexpr size_t kMaxKeysPerList = 96;
// One list, over all PDUs that its C bits string together.
inline constexpr size_t kMaxListBytes = 64 * 1024;
// PDUs of one list: a list of kMaxListBytes in the smallest segments that make sense (512 bytes).
inline constexpr size_t kMaxPdusPerList = 128;

// Borrowed from the text it was parsed from.
struct TextKey {
  std::string_view name;
  std::string_view value;
};

// In the order of `text`. InvalidArgument, with words of ours only, if anything is malformed: no
// '=', no NUL at the end, a name that is empty, too long or has foreign characters, a name that
// comes twice, a value above kMaxLongValueBytes, too many keys.
absl::StatusOr<std::vector<TextKey>> ParseTextKeys(std::string_view text);

// Null if there is none.
const TextKey* FindKey(std::span<const TextKey> keys, std::string_view name);

// A list that comes in pieces (C bit, §6.2).
class TextCollector {
 public:
  // False, and the piece is not kept, beyond kMaxListBytes or kMaxPdusPerList.
  bool Append(std::string_view piece);
  std::string Take();
  bool empty() const { return pieces_ == 0; }

 private:
  std::string text_;
  size_t pieces_ = 0;
};

// Builds a list.
class TextKeyWriter {
 public:
  void Add(std::string_view name, std::string_view value);
  void AddNumber(std::string_view name, uint64_t value);
  void AddHex(std::string_view name, std::span<const uint8_t> bytes);
  const std::string& text() const { return text_; }
  std::string Take() { return std::exchange(text_, {}); }

 private:
  std::string text_;
};

// "Yes" or "No".
std::optional<bool> ParseBoolean(std::string_view value);
// A decimal or 0x constant that fits.
std::optional<uint64_t> ParseNumber(std::string_view value);
// A hex (0x) or base64 (0b) constant, into `out`. The number of bytes; empty if the value is
// malformed or longer than `out`. An odd number of hex digits has a leading zero implied, as in the
// number that it is; base64 must be padded and canonical.
std::optional<size_t> DecodeBinary(std::string_view value, std::span<uint8_t> out);

// The elements of a comma-separated list of values.
std::vector<std::string_view> SplitList(std::string_view value);

// `name` in lower case: iSCSI names are compared after that (RFC 3722 §4). Bytes above 7fh stay.
std::string LowerCase(std::string_view name);
// Printable UTF-8, cut to kMaxValueBytes: control characters and what is not UTF-8 become '?'. For
// an alias, which goes to logs, metrics and gRPC.
std::string PrintableUtf8(std::string_view text);

}  // namespace sectormap::iscsi
