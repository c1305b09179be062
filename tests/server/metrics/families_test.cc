// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/families.h"

#include <gtest/gtest.h>

#include <cmath>

#include <prometheus/text_serializer.h>

namespace sectormap::metrics {
namespace {

std::string TextOf(Family family) {
  Families families;
  families.Add(std::move(family));
  return prometheus::TextSerializer().Serialize(families.Take());
}

TEST(FamiliesTest, ACounterHasItsLabelsAndValue) {
  Family family = Counter("x_total", "What it counts.");
  family.Add({{"op", "read"}, {"lun", "0"}}, uint64_t{12});
  EXPECT_EQ(TextOf(std::move(family)),
            "# HELP x_total What it counts.\n"
            "# TYPE x_total counter\n"
            "x_total{op=\"read\",lun=\"0\"} 12\n");
}

TEST(FamiliesTest, LabelValuesAreEscaped) {
  Family family = Gauge("x", "h");
  family.Add({{"device", "a\"b\\c\nd"}}, 1.0);
  EXPECT_NE(TextOf(std::move(family)).find("x{device=\"a\\\"b\\\\c\\nd\"} 1\n"), std::string::npos);
}

// Unicode 15, 3.9, table 3-7: the first and the last of each row, and what is just beside them.
TEST(FamiliesTest, BytesOfALabelThatAreNotUtf8AreWrittenAsNumbers) {
  const auto label = [](const std::string& value) {
    Family family = Gauge("x", "h");
    family.Add({{"backing", value}}, 1.0);
    Families families;
    families.Add(std::move(family));
    return families.Take().front().metric.front().label.front().value;
  };
  for (const char* good :
       {"", "/srv/\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(label(good), good);
  }
  EXPECT_EQ(label("/srv/\xe4.img"), "/srv/\\xe4.img");
  EXPECT_EQ(label("a\xc3\xa4\xc3"), "a\xc3\xa4\\xc3");
  EXPECT_EQ(label("\xe2\x82z"), "\\xe2\\x82z");
  EXPECT_EQ(label("\xc1\xbf\x80"), "\\xc1\\xbf\\x80");
  EXPECT_EQ(label("\xe0\x9f\xbf"), "\\xe0\\x9f\\xbf");
  EXPECT_EQ(label("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(label("\xf0\x8f\xbf\xbf"), "\\xf0\\x8f\\xbf\\xbf");
  EXPECT_EQ(label("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(label("\xf5\x80\x80\x80"), "\\xf5\\x80\\x80\\x80");
}

TEST(FamiliesTest, AHistogramsBucketsAreCumulativeAndEndInInfinity) {
  Family family = Histogram("x_seconds", "h");
  const double bounds[] = {0.25, 1};
  const uint64_t counts[] = {3, 2, 1};
  family.AddHistogram({{"op", "read"}}, bounds, counts, 4.5);
  EXPECT_EQ(TextOf(std::move(family)),
            "# HELP x_seconds h\n"
            "# TYPE x_seconds histogram\n"
            "x_seconds_count{op=\"read\"} 6\n"
            "x_seconds_sum{op=\"read\"} 4.5\n"
            "x_seconds_bucket{op=\"read\",le=\"0.25\"} 3\n"
            "x_seconds_bucket{op=\"read\",le=\"1\"} 5\n"
            "x_seconds_bucket{op=\"read\",le=\"+Inf\"} 6\n");
}

TEST(FamiliesTest, AFamilyWithoutSamplesIsLeftOut) {
  Families families;
  families.Add(Counter("x_total", "h"));
  EXPECT_TRUE(families.Take().empty());
}

}  // namespace
}  // namespace sectormap::metrics
