// SPDX-License-Identifier: Apache-2.0
#include "server/control/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/escaping.h"
#include "core/map/table_error.h"
#include "google/rpc/status.pb.h"
#include "sectormap/v1/errors.pb.h"

namespace sectormap::control {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr size_t kClientMetadataBytesMax = 8192;  // GRPC_ARG_MAX_METADATA_SIZE unless changed
constexpr size_t kOtherMetadataBytes = 512;       // status, content type and what proxies add

google::rpc::Status DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

v1::TableViolation ViolationOf(const grpc::Status& status) {
  const google::rpc::Status details = DetailsOf(status);
  v1::TableViolation violation;
  EXPECT_TRUE(details.details_size() == 1 && details.details(0).UnpackTo(&violation));
  return violation;
}

// What the two texts take in the metadata.
size_t SentBytes(const grpc::Status& status) {
  size_t bytes = absl::Base64Escape(status.error_details()).size();
  for (const char c : status.error_message()) bytes += c < ' ' || c > '~' || c == '%' ? 3 : 1;
  return bytes;
}

TEST(ToGrpcTest, EveryRefusalHasDetailsWithItsCodeAndMessage) {
  const grpc::Status status = ToGrpc(absl::UnavailableError("the database is locked"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the database is locked");
  const google::rpc::Status details = DetailsOf(status);
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::UNAVAILABLE));
  EXPECT_EQ(details.message(), "the database is locked");
  EXPECT_EQ(details.details_size(), 0);
  EXPECT_EQ(ToGrpc(absl::OkStatus()).error_details(), "");
}

TEST(ToGrpcTest, ALongTextKeepsItsBeginningAndItsEndAndFitsAClient) {
  for (const std::string& unit : {std::string("x"), std::string("\xc3\xa9"), std::string("%")}) {
    std::string name;
    while (name.size() < 100'000) name += unit;
    const grpc::Status status = ToGrpc(TableError(7, name, name + ": No such file"));
    EXPECT_LT(SentBytes(status) + kOtherMetadataBytes, kClientMetadataBytesMax) << unit;
    EXPECT_THAT(status.error_message(),
                AllOf(StartsWith("line 7: " + unit), HasSubstr(unit + " ... " + unit),
                      EndsWith(unit + ": No such file")));
    const v1::TableViolation violation = ViolationOf(status);
    EXPECT_EQ(violation.line(), 7u);
    EXPECT_THAT(violation.reason(), EndsWith(": No such file"));
    EXPECT_EQ(DetailsOf(status).message(), status.error_message());
  }
}

TEST(ToGrpcTest, ACharacterIsNotCutInTwo) {
  // Characters of three bytes, of which nine take 27: the limit falls on each of their bytes.
  for (const std::string& first : {std::string(), std::string("x"), std::string("xx")}) {
    std::string text = first;
    while (text.size() < 10'000) text += "\xe2\x82\xac";
    const std::string sent = ToGrpc(absl::InternalError(text + first)).error_message();
    const size_t gap = sent.find(" ... ");
    ASSERT_NE(gap, std::string::npos);
    EXPECT_EQ((gap - first.size()) % 3, 0u);
    EXPECT_EQ((sent.size() - gap - 5 - first.size()) % 3, 0u);
  }
}

TEST(ToGrpcTest, BytesThatAreNoUtf8AreWritten) {
  const grpc::Status status = ToGrpc(TableError(1, "linear", "'/srv/\xff.\xc3' is missing"));
  EXPECT_EQ(status.error_message(), "line 1: linear: '/srv/\\xff.\\xc3' is missing");
  EXPECT_EQ(ViolationOf(status).reason(), "'/srv/\\xff.\\xc3' is missing");
}

}  // namespace
}  // namespace sectormap::control
