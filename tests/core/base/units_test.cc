// SPDX-License-Identifier: Apache-2.0
#include "core/base/units.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <sstream>
#include <type_traits>

#include "core/base/io_status.h"
#include "core/base/status_macros.h"

namespace sectormap {
namespace {

template <typename A, typename B>
concept CanAdd = requires(A a, B b) {
  a + b;
};
template <typename A, typename B>
concept CanSubtract = requires(A a, B b) {
  a - b;
};
template <typename A, typename B>
concept CanCompare = requires(A a, B b) {
  a < b;
};

TEST(UnitsTest, UnitsDoNotMix) {
  static_assert(!CanAdd<Sector, Sector>);
  static_assert(!CanAdd<Sector, ByteCount>);
  static_assert(!CanAdd<SectorCount, ByteCount>);
  static_assert(!CanAdd<SectorCount, uint64_t>);
  static_assert(!CanSubtract<SectorCount, Sector>);
  static_assert(!CanCompare<Sector, SectorCount>);
  static_assert(!CanCompare<SectorCount, ByteCount>);
  static_assert(!std::is_convertible_v<uint64_t, Sector>);
  static_assert(!std::is_convertible_v<uint64_t, SectorCount>);
  static_assert(!std::is_convertible_v<SectorCount, uint64_t>);
}

TEST(UnitsTest, PlacesAndDistances) {
  EXPECT_EQ(Sector(8) + SectorCount(4), Sector(12));
  EXPECT_EQ(Sector(12) - SectorCount(4), Sector(8));
  EXPECT_EQ(Sector(12) - Sector(8), SectorCount(4));
  EXPECT_EQ(Sector(12).offset(), SectorCount(12));
  EXPECT_LT(Sector(3), Sector(4));
}

TEST(UnitsTest, ASectorIs512Bytes) {
  EXPECT_EQ(Bytes(SectorCount(3)), ByteCount(1536));
  EXPECT_EQ(ByteOffset(Sector(3)), ByteCount(1536));
  EXPECT_EQ(WholeSectors(ByteCount(1535)), SectorCount(2));
  EXPECT_EQ(WholeSectors(ByteCount(1536)), SectorCount(3));
}

TEST(UnitsTest, TheLargestDeviceHasACountableNumberOfBytes) {
  EXPECT_LE(Bytes(kMaxDeviceSectors).value(), uint64_t{INT64_MAX});
  EXPECT_GT(Bytes(kMaxDeviceSectors + SectorCount(1)).value(), uint64_t{INT64_MAX});
}

TEST(UnitsTest, RangeFitsAtTheEdges) {
  EXPECT_TRUE(RangeFits(Sector(0), SectorCount(8), SectorCount(8)));
  EXPECT_TRUE(RangeFits(Sector(7), SectorCount(1), SectorCount(8)));
  EXPECT_TRUE(RangeFits(Sector(8), SectorCount(0), SectorCount(8)));
  EXPECT_FALSE(RangeFits(Sector(8), SectorCount(1), SectorCount(8)));
  EXPECT_FALSE(RangeFits(Sector(9), SectorCount(0), SectorCount(8)));
  EXPECT_FALSE(RangeFits(Sector(0), SectorCount(9), SectorCount(8)));
  EXPECT_FALSE(RangeFits(Sector(0), SectorCount(1), SectorCount(0)));
}

TEST(UnitsTest, RangeFitsNeverWraps) {
  EXPECT_FALSE(RangeFits(Sector(UINT64_MAX), SectorCount(2), SectorCount(8)));
  EXPECT_FALSE(RangeFits(Sector(2), SectorCount(UINT64_MAX), SectorCount(8)));
  EXPECT_FALSE(RangeFits(Sector(UINT64_MAX), SectorCount(UINT64_MAX), SectorCount(UINT64_MAX)));
}

TEST(UnitsTest, PrintAsPlainNumbers) {
  std::ostringstream text;
  text << Sector(1) << ' ' << SectorCount(2) << ' ' << ByteCount(3);
  EXPECT_EQ(text.str(), "1 2 3");
}

TEST(IoStatusTest, ErrnosBecomeTheirMeaning) {
  EXPECT_EQ(FromErrno(ENOSPC), IoStatus::kNoSpace);
  EXPECT_EQ(FromErrno(EROFS), IoStatus::kReadOnly);
  EXPECT_EQ(FromErrno(EOPNOTSUPP), IoStatus::kNotSupported);
  EXPECT_EQ(FromErrno(ENXIO), IoStatus::kUnavailable);
  EXPECT_EQ(FromErrno(ECANCELED), IoStatus::kAborted);
  EXPECT_EQ(FromErrno(EIO), IoStatus::kIoError);
  EXPECT_EQ(FromErrno(12345), IoStatus::kIoError);
}

TEST(IoStatusTest, EveryStatusHasItsOwnWords) {
  for (int a = 0; a < kIoStatusCount; ++a) {
    for (int b = 0; b < a; ++b) {
      EXPECT_NE(ToString(static_cast<IoStatus>(a)), ToString(static_cast<IoStatus>(b)));
    }
  }
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}
absl::StatusOr<int> Quarter(int value) {
  ASSIGN_OR_RETURN(const int half, Half(value));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}
absl::Status CheckQuarter(int value) {
  RETURN_IF_ERROR(Quarter(value).status());
  return absl::OkStatus();
}

TEST(StatusMacrosTest, ReturnTheFirstErrorOrGoOn) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_TRUE(CheckQuarter(4).ok());
  EXPECT_FALSE(CheckQuarter(5).ok());
}

}  // namespace
}  // namespace sectormap
