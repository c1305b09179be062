// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/operation_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <prometheus/text_serializer.h>

#include "server/volumes/recipes.h"
#include "tests/server/volumes/volume_fixture.h"

namespace sectormap::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class OperationMetricsTest : public VolumeFixture {
 protected:
  void Make(const std::string& name, const std::string& table) {
    const auto made = volumes_->Create({.name = name, .table = table});
    ASSERT_TRUE(made.ok()) << made.status();
  }

  std::string MirrorFamilies() {
    volumes::Operations operations(*store_);
    volumes::MadeFiles files(*volumes_, backings_, scratch_.path().string());
    volumes::Recipes recipes(*volumes_, backings_, *reactors_, operations, files);
    const volumes::Mirrors mirrors(recipes);
    Families families;
    AddMirrorFamilies(*registry_, mirrors, families);
    return prometheus::TextSerializer().Serialize(families.Take());
  }
};

// Commands refuse the layer's name.
TEST_F(OperationMetricsTest, AMirrorUnderSnapshotsIsCountedForItsVolume) {
  Make("vol-real", "0 64 mirror core 2 8 nosync 2 /mem1 0 /mem2 0\n");
  Make("vol", "0 64 snapshot-origin vol-real\n");
  Make("plain", "0 64 mirror core 2 8 nosync 2 /mem3 0 /mem4 0\n");
  const std::string text = MirrorFamilies();
  for (const char* device : {"vol", "plain"}) {
    const std::string label = std::string("{device=\"") + device + "\"";
    EXPECT_THAT(text, HasSubstr("sectormap_mirror_in_sync_ratio" + label + "} 1\n"));
    EXPECT_THAT(text, HasSubstr("sectormap_mirror_leg_healthy" + label + ",leg="));
    EXPECT_THAT(text, HasSubstr("sectormap_mirror_degraded_total" + label + "} 0\n"));
  }
  EXPECT_THAT(text, Not(HasSubstr("vol-real")));
}

}  // namespace
}  // namespace sectormap::metrics
