// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/pdu.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

namespace sectormap::iscsi {
namespace {

// A header whose byte i is i, so that a field's value names its place.
std::array<uint8_t, kHeaderBytes> CountingBytes() {
  std::array<uint8_t, kHeaderBytes> bytes;
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  return bytes;
}

template <typename Header>
Header Counting() {
  return std::bit_cast<Header>(CountingBytes());
}

constexpr uint32_t At(uint32_t place) {
  return place << 24 | (place + 1) << 16 | (place + 2) << 8 | (place + 3);
}

TEST(BigEndian, KeepsAValueInNetworkOrder) {
  const Big24 field = 0x123456;
  EXPECT_EQ(field.value(), 0x123456u);
  const Big48 isid = 0x0123456789abull;
  EXPECT_EQ(isid.value(), 0x0123456789abull);
  const auto bytes = std::bit_cast<std::array<uint8_t, 6>>(isid);
  EXPECT_EQ(bytes[0], 0x01);
  EXPECT_EQ(bytes[5], 0xab);
}

TEST(BigEndian, KeepsTheLowBytesOfAValueThatIsTooLarge) {
  const Big24 field = 0xff123456;
  EXPECT_EQ(field.value(), 0x123456u);
}

TEST(Pdu, FieldsAreWhereTheRfcDrawsThem) {
  const auto basic = Counting<BasicHeader>();
  EXPECT_EQ(basic.total_ahs_length, 4);
  EXPECT_EQ(basic.ahs_bytes(), 16u);
  EXPECT_EQ(basic.data_segment_length, 0x050607u);
  EXPECT_EQ(basic.lun[0], 8);
  EXPECT_EQ(basic.initiator_task_tag, At(16));

  const auto command = HeaderAs<ScsiCommandHeader>(basic);
  EXPECT_EQ(command.expected_data_transfer_length, At(20));
  EXPECT_EQ(command.cmd_sn, At(24));
  EXPECT_EQ(command.exp_stat_sn, At(28));
  EXPECT_EQ(command.cdb[0], 32);

  const auto response = HeaderAs<ScsiResponseHeader>(basic);
  EXPECT_EQ(static_cast<int>(response.response), 2);
  EXPECT_EQ(static_cast<int>(response.status), 3);
  EXPECT_EQ(response.snack_tag, At(20));
  EXPECT_EQ(response.stat_sn, At(24));
  EXPECT_EQ(response.exp_cmd_sn, At(28));
  EXPECT_EQ(response.max_cmd_sn, At(32));
  EXPECT_EQ(response.exp_data_sn, At(36));
  EXPECT_EQ(response.bidi_read_residual_count, At(40));
  EXPECT_EQ(response.residual_count, At(44));

  const auto task = HeaderAs<TaskManagementRequestHeader>(basic);
  EXPECT_EQ(task.referenced_task_tag, At(20));
  EXPECT_EQ(task.ref_cmd_sn, At(32));
  EXPECT_EQ(task.exp_data_sn, At(36));
  EXPECT_EQ(HeaderAs<TaskManagementResponseHeader>(basic).max_cmd_sn, At(32));

  const auto out = HeaderAs<DataOutHeader>(basic);
  EXPECT_EQ(out.target_transfer_tag, At(20));
  EXPECT_EQ(out.exp_stat_sn, At(28));
  EXPECT_EQ(out.data_sn, At(36));
  EXPECT_EQ(out.buffer_offset, At(40));

  const auto in = HeaderAs<DataInHeader>(basic);
  EXPECT_EQ(static_cast<int>(in.status), 3);
  EXPECT_EQ(in.target_transfer_tag, At(20));
  EXPECT_EQ(in.data_sn, At(36));
  EXPECT_EQ(in.buffer_offset, At(40));
  EXPECT_EQ(in.residual_count, At(44));

  const auto r2t = HeaderAs<ReadyToTransferHeader>(basic);
  EXPECT_EQ(r2t.target_transfer_tag, At(20));
  EXPECT_EQ(r2t.r2t_sn, At(36));
  EXPECT_EQ(r2t.buffer_offset, At(40));
  EXPECT_EQ(r2t.desired_data_transfer_length, At(44));
}

TEST(Pdu, FieldsOfSessionPdusAreWhereTheRfcDrawsThem) {
  const auto basic = Counting<BasicHeader>();
  const auto async = HeaderAs<AsyncMessageHeader>(basic);
  EXPECT_EQ(static_cast<int>(async.async_event), 36);
  EXPECT_EQ(async.async_vcode, 37);
  EXPECT_EQ(async.parameter1, 38 << 8 | 39);
  EXPECT_EQ(async.parameter3, 42 << 8 | 43);

  const auto login = HeaderAs<LoginRequestHeader>(basic);
  EXPECT_EQ(login.version_max, 2);
  EXPECT_EQ(login.version_min, 3);
  EXPECT_EQ(login.isid, 0x08090a0b0c0dull);
  EXPECT_EQ(login.tsih, 0x0e0f);
  EXPECT_EQ(login.cid, 0x1415);
  EXPECT_EQ(login.cmd_sn, At(24));
  EXPECT_EQ(login.exp_stat_sn, At(28));

  const auto answer = HeaderAs<LoginResponseHeader>(basic);
  EXPECT_EQ(answer.version_active, 3);
  EXPECT_EQ(answer.stat_sn, At(24));
  EXPECT_EQ(static_cast<int>(answer.status()), 0x2425);

  const auto logout = HeaderAs<LogoutRequestHeader>(basic);
  EXPECT_EQ(logout.cid, 0x1415);
  EXPECT_EQ(logout.cmd_sn, At(24));
  const auto logged_out = HeaderAs<LogoutResponseHeader>(basic);
  EXPECT_EQ(logged_out.time2wait, 40 << 8 | 41);
  EXPECT_EQ(logged_out.time2retain, 42 << 8 | 43);

  const auto snack = HeaderAs<SnackRequestHeader>(basic);
  EXPECT_EQ(snack.exp_stat_sn, At(28));
  EXPECT_EQ(snack.beg_run, At(40));
  EXPECT_EQ(snack.run_length, At(44));
  const auto reject = HeaderAs<RejectHeader>(basic);
  EXPECT_EQ(static_cast<int>(reject.reason), 2);
  EXPECT_EQ(reject.data_sn, At(36));
  EXPECT_EQ(HeaderAs<NopOutHeader>(basic).exp_stat_sn, At(28));
  EXPECT_EQ(HeaderAs<NopInHeader>(basic).max_cmd_sn, At(32));
  EXPECT_EQ(HeaderAs<TextRequestHeader>(basic).target_transfer_tag, At(20));
  EXPECT_EQ(HeaderAs<TextResponseHeader>(basic).max_cmd_sn, At(32));
}

template <typename Header>
void ExpectOpcode(uint8_t byte0, uint8_t byte1) {
  const Header header;
  EXPECT_EQ(header.bytes()[0], byte0);
  EXPECT_EQ(header.bytes()[1], byte1);
}

TEST(Pdu, AFreshHeaderHasItsOpcodeAndWhatIsAlwaysSet) {
  ExpectOpcode<NopOutHeader>(0x00, 0x80);
  ExpectOpcode<ScsiCommandHeader>(0x01, 0x00);
  ExpectOpcode<TaskManagementRequestHeader>(0x02, 0x80);
  ExpectOpcode<LoginRequestHeader>(0x43, 0x00);
  ExpectOpcode<TextRequestHeader>(0x04, 0x00);
  ExpectOpcode<DataOutHeader>(0x05, 0x00);
  ExpectOpcode<LogoutRequestHeader>(0x06, 0x80);
  ExpectOpcode<SnackRequestHeader>(0x10, 0x80);
  ExpectOpcode<NopInHeader>(0x20, 0x80);
  ExpectOpcode<ScsiResponseHeader>(0x21, 0x80);
  ExpectOpcode<TaskManagementResponseHeader>(0x22, 0x80);
  ExpectOpcode<LoginResponseHeader>(0x23, 0x00);
  ExpectOpcode<TextResponseHeader>(0x24, 0x00);
  ExpectOpcode<DataInHeader>(0x25, 0x00);
  ExpectOpcode<LogoutResponseHeader>(0x26, 0x80);
  ExpectOpcode<ReadyToTransferHeader>(0x31, 0x80);
  ExpectOpcode<AsyncMessageHeader>(0x32, 0x80);
  ExpectOpcode<RejectHeader>(0x3f, 0x80);
}

TEST(Pdu, OpcodeIgnoresTheImmediateAndTheReservedBit) {
  BasicHeader header;
  header.opcode_byte = 0xc1;
  EXPECT_EQ(header.opcode(), Opcode::kScsiCommand);
  EXPECT_TRUE(header.immediate());
  header.opcode_byte = 0x01;
  EXPECT_FALSE(header.immediate());
}

TEST(Pdu, LoginFlagsAreStagesAndBits) {
  LoginRequestHeader request;
  request.flags = 0x87;
  EXPECT_TRUE(request.transit());
  EXPECT_FALSE(request.continues());
  EXPECT_EQ(request.current_stage(), LoginStage::kOperational);
  EXPECT_EQ(request.next_stage(), LoginStage::kFullFeature);
  LoginResponseHeader response;
  response.set_status(LoginStatus::kSessionDoesNotExist);
  EXPECT_EQ(response.bytes()[36], 0x02);
  EXPECT_EQ(response.bytes()[37], 0x0a);
}

TEST(Pdu, PaddingFillsWords) {
  EXPECT_EQ(PaddingBytes(0), 0u);
  EXPECT_EQ(PaddingBytes(1), 3u);
  EXPECT_EQ(PaddingBytes(4), 0u);
  EXPECT_EQ(PaddedLength(kMaxDataSegmentLength), 0x1000000u);
}

TEST(AdditionalHeaders, NoneIsFine) {
  const auto none = ParseAdditionalHeaders({});
  ASSERT_TRUE(none.has_value());
  EXPECT_TRUE(none->extended_cdb.empty());
  EXPECT_FALSE(none->bidi_read_length.has_value());
}

TEST(AdditionalHeaders, ExtendedCdbAndBidirectionalLength) {
  // A CDB of 20 bytes: AHSLength = 20 - 15; then a read length of 4096.
  const std::vector<uint8_t> bytes = {0, 5, 1, 0, 0xa, 0xb, 0xc, 0xd, 0, 5, 2, 0, 0, 0, 0x10, 0};
  const auto parsed = ParseAdditionalHeaders(bytes);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(std::vector<uint8_t>(parsed->extended_cdb.begin(), parsed->extended_cdb.end()),
            (std::vector<uint8_t>{0xa, 0xb, 0xc, 0xd}));
  EXPECT_EQ(parsed->bidi_read_length, 4096u);
}

TEST(AdditionalHeaders, ExtendedCdbIsPaddedToWords) {
  const std::vector<uint8_t> bytes = {0, 2, 1, 0, 0xa, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 1};
  const auto parsed = ParseAdditionalHeaders(bytes);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->extended_cdb.size(), 1u);
  EXPECT_EQ(parsed->bidi_read_length, 1u);
}

TEST(AdditionalHeaders, MalformedOnesAreRefused) {
  const std::vector<std::vector<uint8_t>> cases = {
      {0, 0, 1, 0},                                      // no length
      {0, 1, 1, 0},                                      // only the reserved byte
      {0, 5, 1, 0},                                      // passes the end
      {0xff, 0xff, 1, 0, 0, 0, 0, 0},                    // passes the end by far
      {0, 5, 3, 0, 0, 0, 0, 0},                          // an unknown kind
      {0, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0},              // a read length of 5 bytes
      {0, 5, 2, 0, 0, 0, 0, 1, 0, 5, 2, 0, 0, 0, 0, 1},  // twice
      {0, 5, 1, 0, 1, 2, 3, 4, 0, 5, 1, 0, 1, 2, 3, 4},  // twice
      {0, 5, 2},                                         // cut
  };
  for (const auto& bytes : cases) {
    EXPECT_FALSE(ParseAdditionalHeaders(bytes).has_value()) << testing::PrintToString(bytes);
  }
}

// TotalAHSLength is one byte: every length, of every kind, filled with every byte.
TEST(AdditionalHeaders, AnyLengthIsSurvived) {
  for (size_t words = 0; words <= 255; ++words) {
    for (int fill : {0x00, 0x01, 0x02, 0x05, 0xff}) {
      const std::vector<uint8_t> bytes(words * kAhsWordBytes, static_cast<uint8_t>(fill));
      const auto parsed = ParseAdditionalHeaders(bytes);
      // 0101h + 3 bytes are 65 words: an extended CDB of that length.
      const bool well_formed = words == 0 || (fill == 1 && words == 65);
      EXPECT_EQ(parsed.has_value(), well_formed) << words << " words of " << fill;
    }
  }
}

}  // namespace
}  // namespace sectormap::iscsi
