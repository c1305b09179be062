// SPDX-License-Identifier: Apache-2.0
#include "core/base/utf8.h"

#include <gtest/gtest.h>

namespace sectormap {
namespace {

// Unicode 15, 3.9, table 3-7: the first and the last of each row, and what is just beside them.
TEST(Utf8Test, BytesThatAreNotOfACharacterAreWrittenAsNumbers) {
  for (const char* good :
       {"", "/srv/\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(ToUtf8(good), good);
  }
  EXPECT_EQ(ToUtf8("/srv/\xe4.img"), "/srv/\\xe4.img");
  EXPECT_EQ(ToUtf8("a\xc3\xa4\xc3"), "a\xc3\xa4\\xc3");
  EXPECT_EQ(ToUtf8("\xe2\x82z"), "\\xe2\\x82z");
  EXPECT_EQ(ToUtf8("\xc1\xbf\x80"), "\\xc1\\xbf\\x80");
  EXPECT_EQ(ToUtf8("\xe0\x9f\xbf"), "\\xe0\\x9f\\xbf");
  EXPECT_EQ(ToUtf8("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(ToUtf8("\xf0\x8f\xbf\xbf"), "\\xf0\\x8f\\xbf\\xbf");
  EXPECT_EQ(ToUtf8("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(ToUtf8("\xf5\x80\x80\x80"), "\\xf5\\x80\\x80\\x80");
}

}  // namespace
}  // namespace sectormap
