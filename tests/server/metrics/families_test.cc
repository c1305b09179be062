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

TEST(FamiliesTest, ALabelsValueIsUtf8) {
  Family family = Gauge("x", "h");
  family.Add({{"backing", "/srv/\xe4.img"}}, 1.0);
  EXPECT_NE(TextOf(std::move(family)).find("x{backing=\"/srv/\\\\xe4.img\"} 1\n"),
            std::string::npos);
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
