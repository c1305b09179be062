// SPDX-License-Identifier: Apache-2.0
#include "core/base/option_words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sectormap {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(OptionWordsTest, AnOptionThatEndsWithItsSignHasAnEmptyValue) {
  EXPECT_THAT(WithEmptyValues({"create", "--uuid=", "--readonly", "--table="}),
              ElementsAre("create", "--uuid", "", "--readonly", "--table", ""));
}

TEST(OptionWordsTest, OtherWordsStayAsTheyAre) {
  EXPECT_THAT(WithEmptyValues({}), IsEmpty());
  EXPECT_THAT(WithEmptyValues({"--uuid=a=", "--uuid=a", "-u=", "a=", "--=", "--"}),
              ElementsAre("--uuid=a=", "--uuid=a", "-u=", "a=", "--=", "--"));
}

TEST(OptionWordsTest, BehindTwoDashesStandsNoOption) {
  EXPECT_THAT(WithEmptyValues({"--uuid=", "--of=", "--", "--name="}),
              ElementsAre("--uuid", "", "--of", "", "--", "--name="));
}

}  // namespace
}  // namespace sectormap
