// SPDX-License-Identifier: Apache-2.0
#include "core/map/table_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "core/map/table_error.h"

namespace sectormap {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TableSpec MustParse(std::string_view text) {
  absl::StatusOr<TableSpec> spec = TableSpec::Parse(text);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *std::move(spec) : TableSpec();
}

TEST(TableSpecTest, ReadsRowsCommentsAndBlankLines) {
  const TableSpec spec = MustParse(
      "# a comment\n"
      "\n"
      "  0 8192 linear /dev/vdd 0  \n"
      "8192 4096\tlinear /dev/vde 100 # the rest\r\n"
      "12288 8 error");
  const std::vector<TableRow> rows = spec.Rows();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].line, 3);
  EXPECT_EQ(rows[1].start, Sector(8192));
  EXPECT_EQ(rows[1].length, SectorCount(4096));
  EXPECT_EQ(rows[1].type, "linear");
  EXPECT_THAT(rows[1].args, ElementsAre("/dev/vde", "100"));
  EXPECT_THAT(rows[2].args, ElementsAre());
  EXPECT_EQ(spec.size(), SectorCount(12296));
}

TEST(TableSpecTest, BackslashQuotesTheNextCharacter) {
  const TableSpec spec = MustParse("0 8 linear /dev/a\\ b\\#c\\\\d 0");
  EXPECT_THAT(spec.Rows()[0].args, ElementsAre("/dev/a b#c\\d", "0"));
}

TEST(TableSpecTest, QuotedWordsStandBesidePlainOnesInAnyLine) {
  const std::vector<TableRow> rows = MustParse(
                                         "0 8 linear /plain a\\ b c\\#d /end # \\x\n"
                                         "8 8 \\lin\\ear /plain\n"
                                         "16 8 linear \\ \\  x#no\n")
                                         .Rows();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_THAT(rows[0].args, ElementsAre("/plain", "a b", "c#d", "/end"));
  EXPECT_EQ(rows[1].type, "linear");
  EXPECT_THAT(rows[1].args, ElementsAre("/plain"));
  EXPECT_THAT(rows[2].args, ElementsAre("  ", "x"));
}

TEST(TableSpecTest, NumbersMayBeQuoted) {
  EXPECT_EQ(MustParse("\\0 1\\6 error").size(), SectorCount(16));
}

TEST(TableSpecTest, LinesLiveAsLongAsACopyOfTheSpec) {
  std::optional<TableSpec> first = MustParse("0 8 a b");
  const TableSpec copy = *first;
  const TableSpec moved = *std::move(first);
  first.reset();
  EXPECT_EQ(copy.ToText(), "0 8 a b\n");
  EXPECT_EQ(moved.ToText(), "0 8 a b\n");
}

TEST(TableSpecTest, KeepsNothingOfTheTextItWasGiven) {
  std::string text = "0 8 linear /dev/a 0\n";
  const TableSpec spec = MustParse(text);
  text.assign(text.size(), '#');
  EXPECT_EQ(spec.ToText(), "0 8 linear /dev/a 0\n");
}

TEST(WordSplitterTest, EachCallGivesItsOwnWords) {
  WordSplitter splitter;
  const auto words = [&](std::string_view text, Comments comments) {
    const auto split = splitter.Split(text, comments);
    return split.has_value() ? std::vector<std::string>(split->begin(), split->end())
                             : std::vector<std::string>{"refused"};
  };
  EXPECT_THAT(words("one t\\ wo", Comments::kNone), ElementsAre("one", "t wo"));
  EXPECT_THAT(words("a#b #c", Comments::kNone), ElementsAre("a#b", "#c"));
  EXPECT_THAT(words("a#b #c", Comments::kHash), ElementsAre("a"));
  EXPECT_THAT(words("  ", Comments::kNone), ElementsAre());
  EXPECT_THAT(words(std::string_view("a\0b", 3), Comments::kNone), ElementsAre("refused"));
  EXPECT_THAT(words(std::string_view("a\\\0b", 4), Comments::kNone), ElementsAre("refused"));
  EXPECT_THAT(words("a\\", Comments::kNone), ElementsAre("refused"));
  // Many quoted words, in memory that was made for a shorter text.
  std::string text;
  std::vector<std::string> expected;
  for (int i = 0; i < 1000; ++i) {
    text += "w\\ " + std::to_string(i) + " ";
    expected.push_back("w " + std::to_string(i));
  }
  EXPECT_EQ(words(text, Comments::kNone), expected);
}

// Words are looked through eight bytes at a time: what a byte is may depend neither on its place
// nor on its neighbours.
TEST(WordSplitterTest, EveryByteIsItselfWhereverItStands) {
  constexpr std::string_view kQuoted(" \t\r\f\v\\#\0", 8);
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes += static_cast<char>(byte);
  const std::string neighbours("a!\"$\x1f\n \\#\x5b\x5d\x01\x7f\x80\xa0\xa3\xdc\xff");
  WordSplitter splitter;
  for (const char byte : all_bytes) {
    for (const char neighbour : neighbours) {
      for (size_t place = 0; place <= 9; ++place) {
        const std::string word = std::string(place, 'x') + byte + neighbour + "after";
        std::string quoted;
        for (const char c : word) {
          if (kQuoted.find(c) != kQuoted.npos) quoted += '\\';
          quoted += c;
        }
        ASSERT_EQ(QuoteWord(word), quoted);
        const auto words = splitter.Split(quoted, Comments::kHash);
        ASSERT_EQ(words.has_value(), byte != '\0') << place;
        if (words.has_value()) ASSERT_THAT(*words, ElementsAre(word));
      }
    }
  }
}

TEST(FormatRowTest, NumbersAreWrittenWhole) {
  EXPECT_EQ(FormatRow(Sector(UINT64_MAX), SectorCount(0), "zero", "x"),
            "18446744073709551615 0 zero x");
}

TEST(TableSpecTest, TextReadsBackAsTheSameRows) {
  const TableSpec spec = MustParse("0 8 linear /x\\ y\\#\\\\ 0\n8 8 error\n");
  EXPECT_EQ(spec.ToText(), "0 8 linear /x\\ y\\#\\\\ 0\n8 8 error \n");
  EXPECT_EQ(MustParse(spec.ToText()).ToText(), spec.ToText());
}

TEST(TableSpecTest, AnEmptyTextHasNoRows) {
  EXPECT_TRUE(MustParse("").empty());
  EXPECT_TRUE(MustParse("\n \n# nothing\n").empty());
  EXPECT_EQ(MustParse("").size(), SectorCount(0));
}

struct Refusal {
  const char* name;
  const char* text;
  int line;
  const char* reason;
};

class TableSpecRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(TableSpecRefusalTest, NamesLineAndReason) {
  const absl::Status status = TableSpec::Parse(GetParam().text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::optional<TableViolation> violation = TableViolationIn(status);
  ASSERT_TRUE(violation.has_value()) << status;
  EXPECT_EQ(violation->line, GetParam().line);
  EXPECT_EQ(violation->reason, GetParam().reason);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    KernelTexts, TableSpecRefusalTest,
    testing::Values(
        Refusal{"Gap", "0 8 linear /d 0\n16 8 linear /d 8", 2, "Gap in table"},
        Refusal{"Overlap", "0 16 linear /d 0\n8 8 linear /d 8", 2, "Gap in table"},
        // The 2003 introduction says the next rule starts at start + length + 1: an erratum.
        Refusal{"OnePastTheEnd", "0 8 linear /d 0\n9 8 linear /d 8", 2, "Gap in table"},
        Refusal{"StartNotZero", "8 8 linear /d 0", 1, "Gap in table"},
        Refusal{"OutOfOrder", "8 8 linear /d 0\n0 8 linear /d 8", 1, "Gap in table"},
        Refusal{"ZeroLength", "0 8 linear /d 0\n\n8 0 linear /d 8", 3, "zero-length target"},
        Refusal{"Wraps", "0 18446744073709551615 linear /d 0", 1, "too large device"},
        Refusal{"TooLarge", "0 18014398509481984 error", 1, "too large device"},
        Refusal{"StartNotANumber", "a 8 linear /d 0", 1, "Invalid format on line 1"},
        Refusal{"LengthHex", "0 0x8 linear /d 0", 1, "Invalid format on line 1"},
        Refusal{"Negative", "0 -8 linear /d 0", 1, "Invalid format on line 1"},
        Refusal{"Plus", "+0 8 linear /d 0", 1, "Invalid format on line 1"},
        Refusal{"TooManyDigits", "0 99999999999999999999 error", 1, "Invalid format on line 1"},
        Refusal{"OnlyAStart", "0", 1, "Invalid format on line 1"},
        Refusal{"NoType", "0 8", 1, "Invalid format on line 1"},
        Refusal{"CommentCutsTheType", "0 8 # linear", 1, "Invalid format on line 1"},
        Refusal{"BackslashBeforeTheGap", "0 8 error\n16 8 linear /d\\\n24 8 error", 2,
                "couldn't split parameters"},
        Refusal{"BackslashInAComment", "0 8 error # \\\n16 8 error", 2, "Gap in table"},
        Refusal{"BackslashAtTheEnd", "0 8 linear /d\\", 1, "couldn't split parameters"}),
    [](const auto& info) { return info.param.name; });

TEST(TableSpecTest, RefusesMoreRowsThanTheKernel) {
  std::string text;
  for (size_t i = 0; i <= TableSpec::kRowsMax; ++i) {
    text += std::to_string(i) + " 1 error\n";
  }
  EXPECT_THAT(std::string(TableSpec::Parse(text).status().message()),
              HasSubstr("at most 1048576 rows"));
}

}  // namespace
}  // namespace sectormap
