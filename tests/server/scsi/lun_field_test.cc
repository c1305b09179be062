// SPDX-License-Identifier: Apache-2.0
#include "server/scsi/lun_field.h"

#include <gtest/gtest.h>

namespace sectormap::scsi {
namespace {

TEST(LunFieldTest, DecodesWhatItEncodes) {
  for (uint64_t lun = 0; lun <= 16383; ++lun) ASSERT_EQ(DecodeLun(EncodeLun(lun)), lun);
}

TEST(LunFieldTest, PeripheralAddressingBelow256AndFlatSpaceAbove) {
  EXPECT_EQ(EncodeLun(255), (LunField{0x00, 0xff}));
  EXPECT_EQ(EncodeLun(256), (LunField{0x41, 0x00}));
  EXPECT_EQ(EncodeLun(16383), (LunField{0x7f, 0xff}));
}

TEST(LunFieldTest, FlatSpaceIsUnderstoodForSmallNumbersToo) {
  EXPECT_EQ(DecodeLun({0x40, 0x05}), 5u);
}

TEST(LunFieldTest, OtherAddressesNameNoUnit) {
  EXPECT_EQ(DecodeLun({0x01, 0x00}), std::nullopt) << "bus 1";
  EXPECT_EQ(DecodeLun({0x80, 0x00}), std::nullopt) << "logical unit addressing";
  EXPECT_EQ(DecodeLun({0xc1, 0x01}), std::nullopt) << "well known";
  EXPECT_EQ(DecodeLun({0xd2, 0x00, 0x00, 0x01}), std::nullopt) << "extended flat space";
  for (size_t i = 2; i < 8; ++i) {
    LunField field{};
    field[i] = 1;
    EXPECT_EQ(DecodeLun(field), std::nullopt) << "a second level in byte " << i;
  }
}

}  // namespace
}  // namespace sectormap::scsi
