// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/text_keys.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_set>
#include <utility>

#include "absl/strings/ascii.h"

namespace sectormap::iscsi {
namespace {

constexpr std::string_view kBase64Alphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t kNoDigit = 0xff;

constexpr std::array<uint8_t, 256> MakeBase64Digits() {
  std::array<uint8_t, 256> digits{};
  digits.fill(kNoDigit);
  for (size_t i = 0; i < kBase64Alphabet.size(); ++i) {
    digits[static_cast<uint8_t>(kBase64Alphabet[i])] = static_cast<uint8_t>(i);
  }
  return digits;
}
constexpr std::array<uint8_t, 256> kBase64Digits = MakeBase64Digits();

uint8_t HexDigit(char c) {
  if (c >= '0' && c <= '9') return static_cast<uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint8_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<uint8_t>(c - 'A' + 10);
  return kNoDigit;
}

// §6.1 key-name: letters, digits, . - + @ _; '#' for the X#, Y# and Z# extensions.
bool IsKeyNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         std::string_view(".-+@_#").find(c) != std::string_view::npos;
}

bool HasPrefix(std::string_view value, char kind) {
  return value.size() >= 2 && value[0] == '0' && (value[1] | 0x20) == kind;
}

std::optional<size_t> DecodeHex(std::string_view digits, std::span<uint8_t> out) {
  const size_t bytes = (digits.size() + 1) / 2;
  if (digits.empty() || bytes > out.size()) return std::nullopt;
  size_t nibble = digits.size() % 2;  // an odd count: the first nibble is an implied zero
  std::fill_n(out.begin(), bytes, uint8_t{0});
  for (char c : digits) {
    const uint8_t digit = HexDigit(c);
    if (digit == kNoDigit) return std::nullopt;
    uint8_t& byte = out[nibble / 2];
    byte = static_cast<uint8_t>((byte << 4) | digit);
    ++nibble;
  }
  return bytes;
}

std::optional<size_t> DecodeBase64(std::string_view digits, std::span<uint8_t> out) {
  if (digits.empty() || digits.size() % 4 != 0) return std::nullopt;
  const size_t padding = digits.ends_with("==") ? 2 : digits.ends_with("=") ? 1 : 0;
  const size_t bytes = digits.size() / 4 * 3 - padding;
  if (bytes > out.size()) return std::nullopt;
  uint32_t pending = 0;
  int pending_bits = 0;
  size_t length = 0;
  for (char c : digits.substr(0, digits.size() - padding)) {
    const uint8_t digit = kBase64Digits[static_cast<uint8_t>(c)];
    if (digit == kNoDigit) return std::nullopt;
    pending = (pending << 6) | digit;
    pending_bits += 6;
    if (pending_bits >= 8) {
      pending_bits -= 8;
      out[length++] = static_cast<uint8_t>(pending >> pending_bits);
      pending &= (1u << pending_bits) - 1;
    }
  }
  if (pending != 0) return std::nullopt;  // bits that no byte holds
  return length;
}

absl::Status CheckKey(const TextKey& key) {
  if (key.name.empty()) return absl::InvalidArgumentError("a key has no name");
  if (key.name.size() > kMaxKeyNameBytes) {
    return absl::InvalidArgumentError("a key's name is longer than 63 bytes");
  }
  if (!std::all_of(key.name.begin(), key.name.end(), IsKeyNameCharacter)) {
    return absl::InvalidArgumentError("a key's name has characters that names may not have");
  }
  if (key.value.size() > kMaxLongValueBytes) {
    return absl::InvalidArgumentError("a key's value is longer than 8191 bytes");
  }
  return absl::OkStatus();
}

// The bytes of the UTF-8 sequence at the start of `text`; 0 if there is none. Refuses overlong
// forms, surrogates and what is above U+10FFFF (RFC 3629 §4).
size_t Utf8SequenceBytes(std::string_view text) {
  const auto byte = [text](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const auto continues = [byte](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;
    if (lead == 0xed && byte(1) > 0x9f) return 0;
    return continues(1) && continues(2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (lead == 0xf0 && byte(1) < 0x90) return 0;
    if (lead == 0xf4 && byte(1) > 0x8f) return 0;
    return continues(1) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::vector<TextKey>> ParseTextKeys(std::string_view text) {
  std::vector<TextKey> keys;
  std::unordered_set<std::string_view> names;
  while (!text.empty()) {
    const size_t end = text.find('\0');
    if (end == std::string_view::npos) {
      return absl::InvalidArgumentError("the last key does not end with a NUL");
    }
    const std::string_view item = text.substr(0, end);
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos) {
      return absl::InvalidArgumentError("a key has no '='");
    }
    const TextKey key{.name = item.substr(0, equals), .value = item.substr(equals + 1)};
    if (absl::Status status = CheckKey(key); !status.ok()) return status;
    if (keys.size() == kMaxKeysPerList) return absl::InvalidArgumentError("too many keys");
    if (!names.insert(key.name).second) {
      return absl::InvalidArgumentError("a key comes twice");
    }
    keys.push_back(key);
    text.remove_prefix(end + 1);
  }
  return keys;
}

const TextKey* FindKey(std::span<const TextKey> keys, std::string_view name) {
  const auto found = std::find_if(keys.begin(), keys.end(),
                                  [name](const TextKey& key) { return key.name == name; });
  return found == keys.end() ? nullptr : &*found;
}

bool TextCollector::Append(std::string_view piece) {
  if (pieces_ == kMaxPdusPerList || piece.size() > kMaxListBytes - text_.size()) return false;
  ++pieces_;
  text_.append(piece);
  return true;
}

std::string TextCollector::Take() {
  pieces_ = 0;
  return std::exchange(text_, {});
}

void TextKeyWriter::Add(std::string_view name, std::string_view value) {
  text_.append(name).append("=").append(value);
  text_.push_back('\0');
}

void TextKeyWriter::AddNumber(std::string_view name, uint64_t value) {
  Add(name, std::to_string(value));
}

void TextKeyWriter::AddHex(std::string_view name, std::span<const uint8_t> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string value = "0x";
  for (uint8_t byte : bytes) {
    value.push_back(kDigits[byte >> 4]);
    value.push_back(kDigits[byte & 0xf]);
  }
  Add(name, value);
}

std::optional<bool> ParseBoolean(std::string_view value) {
  if (value == "Yes") return true;
  if (value == "No") return false;
  return std::nullopt;
}

std::optional<uint64_t> ParseNumber(std::string_view value) {
  const bool hex = HasPrefix(value, 'x');
  if (hex) value.remove_prefix(2);
  uint64_t number = 0;
  const auto [end, error] =
      std::from_chars(value.data(), value.data() + value.size(), number, hex ? 16 : 10);
  if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
  return number;
}

std::optional<size_t> DecodeBinary(std::string_view value, std::span<uint8_t> out) {
  if (HasPrefix(value, 'x')) return DecodeHex(value.substr(2), out);
  if (HasPrefix(value, 'b')) return DecodeBase64(value.substr(2), out);
  return std::nullopt;
}

std::vector<std::string_view> SplitList(std::string_view value) {
  std::vector<std::string_view> elements;
  while (true) {
    const size_t comma = value.find(',');
    elements.push_back(value.substr(0, comma));
    if (comma == std::string_view::npos) return elements;
    value.remove_prefix(comma + 1);
  }
}

std::string LowerCase(std::string_view name) {
  std::string result(name);
  absl::AsciiStrToLower(&result);
  return result;
}

std::string PrintableUtf8(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t bytes = Utf8SequenceBytes(text);
    if (result.size() + std::max<size_t>(bytes, 1) > kMaxValueBytes) break;
    const bool printable =
        bytes > 1 || (bytes == 1 && absl::ascii_isprint(static_cast<unsigned char>(text[0])));
    if (printable) {
      result.append(text.substr(0, bytes));
    } else {
      result.push_back('?');
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return result;
}

}  // namespace sectormap::iscsi
