// SPDX-License-Identifier: Apache-2.0
#include "core/base/io_status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string_view>

namespace sectormap {
namespace {

TEST(IoStatusTest, NamesEveryStatusDifferently) {
  std::set<std::string_view> names;
  for (int status = 0; status < kIoStatusCount; ++status) {
    names.insert(ToString(static_cast<IoStatus>(status)));
  }
  EXPECT_EQ(names.size(), kIoStatusCount);
  EXPECT_FALSE(names.contains("unknown"));
}

TEST(IoStatusTest, TellsAFullStoreFromAFailedMedium) {
  EXPECT_EQ(FromErrno(ENOSPC), IoStatus::kNoSpace);
  EXPECT_EQ(FromErrno(EDQUOT), IoStatus::kNoSpace);
  EXPECT_EQ(FromErrno(EIO), IoStatus::kIoError);
}

TEST(IoStatusTest, TellsWhatCannotBeDoneFromWhatFailed) {
  EXPECT_EQ(FromErrno(EOPNOTSUPP), IoStatus::kNotSupported);
  EXPECT_EQ(FromErrno(EROFS), IoStatus::kReadOnly);
  EXPECT_EQ(FromErrno(ENODEV), IoStatus::kUnavailable);
  EXPECT_EQ(FromErrno(ECANCELED), IoStatus::kAborted);
}

TEST(IoStatusTest, TakesNoErrnoForSuccess) {
  for (int error = 1; error < 200; ++error) EXPECT_NE(FromErrno(error), IoStatus::kOk) << error;
}

}  // namespace
}  // namespace sectormap
