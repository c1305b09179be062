// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "tests/support/manual_clock.h"
#include "tests/targets/target_fixture.h"

namespace sectormap::targets {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

class FlakeyTest : public TargetFixture {
 protected:
  const Clock& clock() override { return manual_; }
  void Advance(nanoseconds time) { manual_.Advance(time, *reactors_); }
  IoStatus Read(Target& target, uint64_t sector = 0) {
    return Run(target, IoRequest::Read(Sector(sector), back_));
  }
  IoStatus Write(Target& target, uint64_t sector = 0, bool fua = false) {
    return Run(target, IoRequest::Write(Sector(sector), data_, fua));
  }
  // How many bytes of the sector on the disk differ from what was written.
  ptrdiff_t Differences(uint64_t sector) {
    const auto found = disk("/dev/vdd").bytes().subspan(sector * 512, 512);
    ptrdiff_t count = 0;
    for (size_t i = 0; i < 512; ++i) count += found[i] != data_[i];
    return count;
  }

  ManualClock manual_;
  std::vector<std::byte> data_ = std::vector<std::byte>(512, std::byte{7});
  std::vector<std::byte> back_ = std::vector<std::byte>(512);
};

TEST_F(FlakeyTest, PrintsTableAndStatusAsTheKernel) {
  const auto printed = [this](std::string_view words) {
    return TargetOf("0 1000 flakey " + std::string(words)).TableArgs();
  };
  EXPECT_EQ(printed("/dev/vdd 0 5 3"), "/dev/vdd 0 5 3 0 ");
  EXPECT_EQ(printed("/dev/vdd 0 5 3 1 drop_writes"), "/dev/vdd 0 5 3 1 drop_writes ");
  EXPECT_EQ(printed("/dev/vdd 0 5 3 1 error_writes"), "/dev/vdd 0 5 3 1 error_writes ");
  EXPECT_EQ(printed("/dev/vdd 0 5 3 5 corrupt_bio_byte 32 r 1 0"),
            "/dev/vdd 0 5 3 5 corrupt_bio_byte 32 r 1 0 ");
  EXPECT_EQ(printed("/dev/vdd 0 5 3 6 random_write_corrupt 7 Error_Reads drop_writes "
                    "random_read_corrupt 5"),
            "/dev/vdd 0 5 3 6 error_reads drop_writes random_read_corrupt 5 random_write_corrupt "
            "7 ");
  EXPECT_EQ(TargetOf("0 1000 flakey /dev/vdd 0 5 3").StatusArgs(), "");
}

TEST_F(FlakeyTest, RefusesBadArgumentsInTheKernelsWords) {
  const auto refusal = [this](std::string_view words) {
    return Refusal("0 8 flakey " + std::string(words));
  };
  EXPECT_THAT(refusal("/dev/vdd 0 1"), HasSubstr("line 1: flakey: Invalid argument count"));
  EXPECT_THAT(refusal("/dev/vdd 0 0 0"), HasSubstr("Total (up + down) interval is zero"));
  EXPECT_THAT(refusal("/dev/vdd x 1 1"), HasSubstr("Invalid device sector"));
  EXPECT_THAT(refusal("/dev/vdd 0 x 1"), HasSubstr("Invalid up interval"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 x"), HasSubstr("Invalid down interval"));
  EXPECT_THAT(refusal("/dev/vdd 0 4294967295 1"), HasSubstr("Interval overflow"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 12"), HasSubstr("Invalid number of feature args"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 2 drop_writes"), HasSubstr("Invalid number of feature args"));
  EXPECT_THAT(refusal("/dev/nowhere 0 1 1"), HasSubstr("Device lookup failed"));
  EXPECT_THAT(refusal("/dev/vdd 16380 1 1"), HasSubstr("too small for target"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 1 foo"), HasSubstr("Unrecognised flakey feature requested"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 2 drop_writes drop_writes"),
              HasSubstr("Feature drop_writes duplicated"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 2 drop_writes error_writes"),
              HasSubstr("Feature error_writes conflicts with feature drop_writes"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 2 error_writes drop_writes"),
              HasSubstr("Feature drop_writes conflicts with feature error_writes"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 4 corrupt_bio_byte 1 r 1"),
              HasSubstr("Feature corrupt_bio_byte requires 4 parameters"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 5 corrupt_bio_byte 0 r 1 0"),
              HasSubstr("Invalid corrupt bio byte"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 5 corrupt_bio_byte 1 x 1 0"),
              HasSubstr("Invalid corrupt bio direction (r or w)"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 5 corrupt_bio_byte 1 r 256 0"),
              HasSubstr("Invalid corrupt value to write into bio byte (0-255)"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 6 drop_writes corrupt_bio_byte 1 w 1 0"),
              HasSubstr("drop_writes is incompatible with corrupt_bio_byte with the WRITE flag"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 1 random_read_corrupt"),
              HasSubstr("Feature random_read_corrupt requires a parameter"));
  EXPECT_THAT(refusal("/dev/vdd 0 1 1 2 random_read_corrupt 1000000001"),
              HasSubstr("Invalid random corrupt argument"));
}

TEST_F(FlakeyTest, IsUpThenDownThenUpCountedFromTheLoad) {
  Target& target = TargetOf("0 1000 flakey /dev/vdd 0 5 3");
  Advance(milliseconds(4999));
  EXPECT_EQ(Read(target), IoStatus::kOk);
  EXPECT_EQ(Write(target), IoStatus::kOk);
  Advance(milliseconds(1));
  EXPECT_EQ(Read(target), IoStatus::kIoError);
  EXPECT_EQ(Write(target), IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::Flush()), IoStatus::kIoError);
  EXPECT_EQ(Run(target, IoRequest::Discard(Sector(0), SectorCount(8))), IoStatus::kIoError);
  Advance(seconds(3));
  EXPECT_EQ(Read(target), IoStatus::kOk);
  Advance(seconds(5));
  EXPECT_EQ(Read(target), IoStatus::kIoError);
}

TEST_F(FlakeyTest, UpZeroIsAlwaysDownAndDownZeroAlwaysUp) {
  Target& down = TargetOf("0 1000 flakey /dev/vdd 0 0 1");
  Target& up = TargetOf("0 1000 flakey /dev/vdd 0 1 0");
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Read(down), IoStatus::kIoError);
    EXPECT_EQ(Read(up), IoStatus::kOk);
    Advance(milliseconds(700));
  }
}

TEST_F(FlakeyTest, DropsWritesAndReadsOn) {
  Target& target = TargetOf("0 1000 flakey /dev/vdd 8 0 1 1 drop_writes");
  EXPECT_EQ(Write(target, 1), IoStatus::kOk);
  EXPECT_EQ(Run(target, IoRequest::Flush()), IoStatus::kOk);
  EXPECT_EQ(disk("/dev/vdd").bytes()[9 * 512], std::byte{0});
  disk("/dev/vdd").bytes()[9 * 512] = std::byte{1};
  EXPECT_EQ(Read(target, 1), IoStatus::kOk);
  EXPECT_EQ(back_[0], std::byte{1});
}

TEST_F(FlakeyTest, ErrorReadsAndErrorWritesHitTheirKindOnly) {
  Target& reads = TargetOf("0 1000 flakey /dev/vdd 0 0 1 1 error_reads");
  EXPECT_EQ(Read(reads), IoStatus::kIoError);
  EXPECT_EQ(Write(reads), IoStatus::kOk);
  Target& writes = TargetOf("0 1000 flakey /dev/vdd 0 0 1 1 error_writes");
  EXPECT_EQ(Read(writes), IoStatus::kOk);
  EXPECT_EQ(Write(writes), IoStatus::kIoError);
  EXPECT_EQ(Run(writes, IoRequest::Flush()), IoStatus::kIoError);
}

TEST_F(FlakeyTest, CorruptsTheNamedByteOfAReadAfterReadingIt) {
  Target& target = TargetOf("0 1000 flakey /dev/vdd 0 0 1 5 corrupt_bio_byte 32 r 90 0");
  EXPECT_EQ(Write(target, 3), IoStatus::kOk);
  EXPECT_EQ(Differences(3), 0);
  EXPECT_EQ(Read(target, 3), IoStatus::kOk);
  EXPECT_EQ(back_[31], std::byte{90});
  back_[31] = std::byte{7};
  EXPECT_EQ(back_, data_);
}

TEST_F(FlakeyTest, CorruptsACopyOfAWrite) {
  Target& target = TargetOf("0 1000 flakey /dev/vdd 0 0 1 5 corrupt_bio_byte 512 w 90 0");
  EXPECT_EQ(Write(target, 3), IoStatus::kOk);
  EXPECT_EQ(Differences(3), 1);
  EXPECT_EQ(disk("/dev/vdd").bytes()[3 * 512 + 511], std::byte{90});
  EXPECT_TRUE(std::ranges::all_of(data_, [](std::byte b) { return b == std::byte{7}; }));
}

TEST_F(FlakeyTest, AByteBeyondTheRequestIsNotThere) {
  Target& target = TargetOf("0 1000 flakey /dev/vdd 0 0 1 5 corrupt_bio_byte 513 w 90 0");
  EXPECT_EQ(Write(target, 3), IoStatus::kOk);
  EXPECT_EQ(Differences(3), 0);
}

TEST_F(FlakeyTest, TheFlagsMaskPicksRequests) {
  // 131072 is the kernel's REQ_FUA.
  Target& target = TargetOf("0 1000 flakey /dev/vdd 0 0 1 5 corrupt_bio_byte 1 w 90 131072");
  EXPECT_EQ(Write(target, 3), IoStatus::kOk);
  EXPECT_EQ(Differences(3), 0);
  EXPECT_EQ(Write(target, 3, /*fua=*/true), IoStatus::kOk);
  EXPECT_EQ(Differences(3), 1);
}

TEST_F(FlakeyTest, RandomCorruptionAlwaysChangesAByteWhenItIsCertain) {
  Target& target = TargetOf("0 1000 flakey /dev/vdd 0 0 1 2 random_write_corrupt 1000000000");
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Write(target, 3), IoStatus::kOk);
    EXPECT_EQ(Differences(3), 1);
  }
  Target& reads = TargetOf("0 1000 flakey /dev/vdd 0 0 1 2 random_read_corrupt 1000000000");
  std::ranges::copy(data_, disk("/dev/vdd").bytes().subspan(3 * 512).begin());
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Read(reads, 3), IoStatus::kOk);
    EXPECT_EQ(std::ranges::count(back_, std::byte{7}), 511);
  }
  EXPECT_EQ(Differences(3), 0);
}

}  // namespace
}  // namespace sectormap::targets
