// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/text_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>
#include <vector>

#include "tests/server/iscsi/test_seed.h"

namespace sectormap::iscsi {
namespace {

using ::testing::ElementsAre;

std::string Key(std::string_view name, std::string_view value) {
  TextKeyWriter writer;
  writer.Add(name, value);
  return writer.Take();
}

TEST(ParseTextKeys, KeepsOrderAndBorrowsValues) {
  const std::string text = Key("InitiatorName", "iqn.x") + Key("Empty", "") + Key("X-a=b", "c=d");
  const auto keys = ParseTextKeys(text);
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 3u);
  EXPECT_EQ((*keys)[0].name, "InitiatorName");
  EXPECT_EQ((*keys)[0].value, "iqn.x");
  EXPECT_EQ((*keys)[1].value, "");
  EXPECT_EQ((*keys)[2].name, "X-a") << "the first '=' ends the name";
  EXPECT_EQ((*keys)[2].value, "b=c=d");
}

TEST(ParseTextKeys, NothingIsAnEmptyList) {
  const auto keys = ParseTextKeys("");
  ASSERT_TRUE(keys.ok());
  EXPECT_TRUE(keys->empty());
}

TEST(ParseTextKeys, NamesHaveAtMost63Bytes) {
  EXPECT_TRUE(ParseTextKeys(Key(std::string(63, 'K'), "v")).ok());
  for (size_t bytes : {64u, 255u, 256u, 8191u, 60000u}) {
    EXPECT_FALSE(ParseTextKeys(Key(std::string(bytes, 'K'), "v")).ok()) << bytes;
  }
}

TEST(ParseTextKeys, ValuesHaveAtMost8191Bytes) {
  EXPECT_TRUE(ParseTextKeys(Key("CHAP_C", std::string(8191, 'a'))).ok());
  EXPECT_FALSE(ParseTextKeys(Key("CHAP_C", std::string(8192, 'a'))).ok());
}

TEST(ParseTextKeys, MalformedListsAreRefused) {
  const std::vector<std::string> cases = {
      "a",                                            // neither '=' nor NUL
      "a=b",                                          // no NUL
      Key("a", "b") + "c=d",                          // the last has no NUL
      std::string("a\0", 2),                          // no '='
      std::string("\0", 1),                           // nothing
      std::string("=\0", 2),                          // no name
      std::string("=v\0", 3),                         // no name
      Key("a", "b") + std::string("\0", 1),           // a stray NUL
      Key("a b", "v"),                                // a space
      Key("a\x01", "v"),                              // a control character
      Key("a\xc3\xa4", "v"),                          // not ASCII
      Key("a%s", "v"),                                // a format, perhaps
      Key("a", "1") + Key("b", "2") + Key("a", "1"),  // twice
  };
  for (const std::string& text : cases) {
    EXPECT_FALSE(ParseTextKeys(text).ok()) << testing::PrintToString(text);
  }
}

TEST(ParseTextKeys, ExtensionKeysAreNames) {
  EXPECT_TRUE(ParseTextKeys(Key("X-com.example.a_b+c@d", "v")).ok());
  EXPECT_TRUE(ParseTextKeys(Key("X#NodeArchitecture", "v")).ok());
}

TEST(ParseTextKeys, TheNumberOfKeysIsBounded) {
  std::string text;
  for (size_t i = 0; i < kMaxKeysPerList; ++i) text += Key("K" + std::to_string(i), "");
  EXPECT_TRUE(ParseTextKeys(text).ok());
  text += Key("K", "");
  EXPECT_FALSE(ParseTextKeys(text).ok());
  for (int i = 0; i < 10000; ++i) text += Key("M" + std::to_string(i), "");
  EXPECT_FALSE(ParseTextKeys(text).ok());
}

TEST(ParseTextKeys, ReasonsRepeatNothingForeign) {
  for (const std::string& text :
       {Key("sekrit%s", "v"), Key(std::string(64, 'S'), "v"), std::string("sekrit=1")}) {
    EXPECT_THAT(
        std::string(ParseTextKeys(text).status().message()),
        testing::Not(testing::AnyOf(testing::HasSubstr("sekrit"), testing::HasSubstr("SSS"))));
  }
}

TEST(ParseTextKeys, RandomBytesAreSurvived) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 20000; ++round) {
    std::string text(random() % 200, '\0');
    for (char& c : text) c = "aA=\0\xff,0xb"[random() % 9];
    const auto keys = ParseTextKeys(text);
    if (!keys.ok()) continue;
    std::string rebuilt;
    for (const TextKey& key : *keys) rebuilt += Key(key.name, key.value);
    ASSERT_EQ(rebuilt, text) << "what is accepted is understood to the last byte";
  }
}

TEST(TextCollector, JoinsPiecesUpToItsBound) {
  TextCollector collector;
  EXPECT_TRUE(collector.Append("Max"));
  EXPECT_TRUE(collector.Append("Connections=1"));
  EXPECT_EQ(collector.Take(), "MaxConnections=1");
  EXPECT_TRUE(collector.empty());
  EXPECT_TRUE(collector.Append(std::string(kMaxListBytes, 'x')));
  EXPECT_FALSE(collector.Append("x"));
  EXPECT_EQ(collector.Take().size(), kMaxListBytes);
}

TEST(TextCollector, EmptyPiecesAreBoundedToo) {
  TextCollector collector;
  for (size_t i = 0; i < kMaxPdusPerList; ++i) ASSERT_TRUE(collector.Append(""));
  EXPECT_FALSE(collector.Append(""));
}

TEST(TextKeyWriter, WritesWhatTheParserReads) {
  TextKeyWriter writer;
  writer.AddNumber("MaxBurstLength", 1048576);
  writer.AddHex("CHAP_C", std::vector<uint8_t>{0x00, 0xff, 0x1a});
  EXPECT_EQ(writer.text(), std::string("MaxBurstLength=1048576\0CHAP_C=0x00ff1a\0", 39));
}

TEST(ParseBoolean, YesAndNoOnly) {
  EXPECT_EQ(ParseBoolean("Yes"), true);
  EXPECT_EQ(ParseBoolean("No"), false);
  for (std::string_view value : {"", "yes", "NO", "Yes ", "1", "true", "Yes,No"}) {
    EXPECT_EQ(ParseBoolean(value), std::nullopt) << value;
  }
}

TEST(ParseNumber, DecimalAndHex) {
  EXPECT_EQ(ParseNumber("0"), 0u);
  EXPECT_EQ(ParseNumber("262144"), 262144u);
  EXPECT_EQ(ParseNumber("0x40000"), 262144u);
  EXPECT_EQ(ParseNumber("0X4fF"), 0x4ffu);
  EXPECT_EQ(ParseNumber("18446744073709551615"), ~uint64_t{0});
  for (std::string_view value :
       {"", "-1", "+1", " 1", "1 ", "1e3", "0x", "0x-1", "0xg", "0b12", "x10", "1,2",
        "18446744073709551616", "0x10000000000000000", "99999999999999999999999999999"}) {
    EXPECT_EQ(ParseNumber(value), std::nullopt) << value;
  }
}

std::optional<std::vector<uint8_t>> Decode(std::string_view value, size_t capacity = 64) {
  std::vector<uint8_t> bytes(capacity);
  const auto length = DecodeBinary(value, bytes);
  if (!length) return std::nullopt;
  bytes.resize(*length);
  return bytes;
}

using Bytes = std::vector<uint8_t>;

TEST(DecodeBinary, Hex) {
  EXPECT_EQ(Decode("0x00ff1A"), (Bytes{0x00, 0xff, 0x1a}));
  EXPECT_EQ(Decode("0XaB"), (Bytes{0xab}));
  EXPECT_EQ(Decode("0xabc"), (Bytes{0x0a, 0xbc})) << "an odd count has a leading zero";
  EXPECT_EQ(Decode("0x0"), (Bytes{0x00}));
}

// RFC 4648 §10.
TEST(DecodeBinary, Base64) {
  EXPECT_EQ(Decode("0bZg=="), (Bytes{'f'}));
  EXPECT_EQ(Decode("0bZm8="), (Bytes{'f', 'o'}));
  EXPECT_EQ(Decode("0BZm9v"), (Bytes{'f', 'o', 'o'}));
  EXPECT_EQ(Decode("0bZm9vYmFy"), (Bytes{'f', 'o', 'o', 'b', 'a', 'r'}));
  EXPECT_EQ(Decode("0b+/+/"), (Bytes{0xfb, 0xff, 0xbf}));
}

TEST(DecodeBinary, MalformedValuesAreRefused) {
  for (std::string_view value :
       {"",       "0",      "0x",      "0X",     "0b",      "0B",     "x00",     "00ff",
        "123",    "0c00",   "0xgg",    "0x0g",   "0x 0",    "0x00 ",  "0x-1",    "0bZ",
        "0bZg",   "0bZg=",  "0bZg===", "0b====", "0b=Zg=",  "0bZ=g=", "0bZm9v=", "0bZm9v====",
        "0bZh==", "0bZm9=", "0bZm9-",  "0bZm 9", "0bZm\n9v"}) {
    EXPECT_EQ(Decode(value), std::nullopt) << value;
  }
}

TEST(DecodeBinary, NothingIsWrittenPastTheBuffer) {
  for (size_t capacity = 0; capacity < 6; ++capacity) {
    EXPECT_EQ(Decode("0x001122334455", capacity), std::nullopt) << capacity;
    EXPECT_EQ(Decode("0bZm9vYmFy", capacity), std::nullopt) << capacity;
  }
  EXPECT_EQ(Decode("0x" + std::string(8000, 'a'), 1024), std::nullopt);
  EXPECT_EQ(Decode("0b" + std::string(8000, 'a'), 1024), std::nullopt);
  EXPECT_EQ(Decode("0x" + std::string(2048, 'a'), 1024), Bytes(1024, 0xaa));
}

TEST(SplitList, KeepsEmptyElements) {
  EXPECT_THAT(SplitList("CRC32C,None"), ElementsAre("CRC32C", "None"));
  EXPECT_THAT(SplitList(""), ElementsAre(""));
  EXPECT_THAT(SplitList(",a,"), ElementsAre("", "a", ""));
}

TEST(PrintableUtf8, KeepsTextAndReplacesTheRest) {
  EXPECT_EQ(PrintableUtf8("host-1 (b\xc3\xbcro)"), "host-1 (b\xc3\xbcro)");
  EXPECT_EQ(PrintableUtf8("a\x1b[31m\n"), "a?[31m?");
  EXPECT_EQ(PrintableUtf8("\xff\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xc3"), "???????????");
  EXPECT_EQ(PrintableUtf8("\xe2\x82\xac\xf0\x9f\x92\xbe"), "\xe2\x82\xac\xf0\x9f\x92\xbe");
  EXPECT_EQ(PrintableUtf8(std::string(300, 'a')).size(), kMaxValueBytes);
}

}  // namespace
}  // namespace sectormap::iscsi
