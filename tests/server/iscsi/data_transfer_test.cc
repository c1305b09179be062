// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/data_transfer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "server/iscsi/command_window.h"

namespace sectormap::iscsi {
namespace {

SessionParameters Parameters(uint32_t burst, uint32_t first_burst, bool initial_r2t,
                             uint16_t requests = 1) {
  SessionParameters parameters;
  parameters.max_send_segment_bytes = 1000;
  parameters.max_burst_bytes = burst;
  parameters.first_burst_bytes = first_burst;
  parameters.initial_r2t = initial_r2t;
  parameters.max_outstanding_r2t = requests;
  return parameters;
}

DataOutHeader DataOut(uint32_t tag, uint32_t data_sn, uint32_t offset, bool final) {
  DataOutHeader header;
  header.flags = final ? kFinalBit : 0;
  header.target_transfer_tag = tag;
  header.data_sn = data_sn;
  header.buffer_offset = offset;
  return header;
}

TEST(DataInCutter, EndsABurstAtMaxBurstLengthAndAtTheEnd) {
  DataInCutter cutter(5200, Parameters(2500, 512, true));
  std::vector<std::tuple<uint32_t, uint32_t, bool, bool>> pieces;
  while (!cutter.done()) {
    const DataInCutter::Piece piece = cutter.Next();
    pieces.emplace_back(piece.offset, piece.bytes, piece.final, piece.last);
  }
  const decltype(pieces) expected = {
      {0, 1000, false, false},    {1000, 1000, false, false}, {2000, 500, true, false},
      {2500, 1000, false, false}, {3500, 1000, false, false}, {4500, 500, true, false},
      {5000, 200, true, true},
  };
  EXPECT_EQ(pieces, expected);
  EXPECT_EQ(cutter.pdus(), 7u);
}

TEST(DataOutTransfer, AsksForWhatDidNotComeByItself) {
  DataOutTransfer transfer(10000, 10000, 1000, false, Parameters(4096, 3000, false, 2));
  EXPECT_FALSE(transfer.MayRequest());
  const DataOutTransfer::Place place = transfer.Accept(DataOut(kReservedTag, 0, 1000, true), 2000);
  EXPECT_EQ(place.offset, 1000u);
  EXPECT_EQ(place.bytes, 2000u);
  ASSERT_TRUE(transfer.MayRequest());
  const DataOutTransfer::Request first = transfer.NextRequest(7);
  EXPECT_EQ(first.offset, 3000u);
  EXPECT_EQ(first.bytes, 4096u);
  const DataOutTransfer::Request second = transfer.NextRequest(8);
  EXPECT_EQ(second.offset, 7096u);
  EXPECT_EQ(second.bytes, 2904u);
  EXPECT_EQ(second.r2t_sn, 1u);
  EXPECT_FALSE(transfer.MayRequest());
  transfer.Accept(DataOut(8, 0, 7096, true), 2904);
  EXPECT_FALSE(transfer.done());
  transfer.Accept(DataOut(7, 0, 3000, true), 4096);
  EXPECT_TRUE(transfer.done());
  EXPECT_EQ(transfer.fault(), DataFault::kNone);
}

TEST(DataOutTransfer, KeepsNothingBeyondWhatTheCommandTakes) {
  DataOutTransfer transfer(4000, 512, 300, false, Parameters(4096, 4000, false));
  EXPECT_EQ(transfer.immediate_place().bytes, 300u);
  DataOutTransfer::Place place = transfer.Accept(DataOut(kReservedTag, 0, 300, false), 1000);
  EXPECT_EQ(place.bytes, 212u);
  place = transfer.Accept(DataOut(kReservedTag, 1, 1300, true), 1000);
  EXPECT_EQ(place.bytes, 0u);
  EXPECT_TRUE(transfer.done());
  EXPECT_EQ(transfer.fault(), DataFault::kNone);
}

TEST(DataOutTransfer, AFaultWaitsForTheEndOfItsBurst) {
  DataOutTransfer transfer(4096, 4096, 0, true, Parameters(4096, 512, true));
  transfer.NextRequest(1);
  DataOutTransfer::Place place = transfer.Accept(DataOut(1, 5, 0, false), 1000);
  EXPECT_EQ(place.bytes, 0u);
  EXPECT_EQ(transfer.fault(), DataFault::kServiceCrc);
  EXPECT_FALSE(transfer.done());
  place = transfer.Accept(DataOut(1, 6, 0xffff'fff0, true), 1000);
  EXPECT_EQ(place.bytes, 0u);
  EXPECT_TRUE(transfer.done());
}

TEST(DataOutTransfer, RefusesMoreThanFirstBurstLength) {
  EXPECT_EQ(DataOutTransfer(4096, 4096, 1000, true, Parameters(4096, 512, true)).fault(),
            DataFault::kIncorrectAmount);
  DataOutTransfer transfer(4096, 4096, 0, false, Parameters(4096, 512, false));
  transfer.Accept(DataOut(kReservedTag, 0, 0, true), 513);
  EXPECT_EQ(transfer.fault(), DataFault::kIncorrectAmount);
}

TEST(CommandWindow, NeverTakesBackWhatItTold) {
  CommandWindow window;
  window.Start(0xffff'ffff);
  EXPECT_TRUE(window.Contains(0xffff'ffff));
  EXPECT_TRUE(window.Contains(kCommandWindow - 2));
  EXPECT_FALSE(window.Contains(kCommandWindow - 1));
  EXPECT_FALSE(window.Contains(0xffff'fffe));
  for (uint32_t i = 0; i < kCommandWindow; ++i) {
    const uint32_t before = window.max();
    window.Begin();
    window.Advance();
    window.Update();
    EXPECT_EQ(window.max(), before);
  }
  EXPECT_EQ(window.max(), window.expected() - 1);
  window.End();
  window.Update();
  EXPECT_EQ(window.max(), window.expected());
}

TEST(CommandWindow, ANarrowOneOpensWhenFewerAreAtWork) {
  CommandWindow window;
  window.Start(1);
  const auto pass = [&] {
    window.Advance();
    window.Update();
  };
  for (int i = 0; i < 8; ++i) window.Begin();
  window.Narrow(4);
  for (uint32_t i = 0; i < kCommandWindow; ++i) pass();
  EXPECT_EQ(window.max(), window.expected() - 1) << "what was told is used up, and 8 are at work";
  for (int i = 0; i < 4; ++i) window.End();
  window.Update();
  EXPECT_EQ(window.max(), window.expected() - 1);
  window.End();
  window.Update();
  EXPECT_EQ(window.max(), window.expected());
  window.Widen();
  window.Update();
  EXPECT_EQ(window.max(), window.expected() + 1);
  window.Narrow(0);
  for (int i = 0; i < 3; ++i) window.End();
  for (int i = 0; i < 2; ++i) pass();
  EXPECT_EQ(window.max(), window.expected()) << "somebody is always let in";
  for (uint32_t i = 0; i < 2 * kCommandWindow; ++i) window.Widen();
  EXPECT_EQ(window.width(), kCommandWindow);
}

TEST(ResidualOf, TellsWhichWayAndHowMuch) {
  EXPECT_EQ(ResidualOf(512, 512).kind, Residual::Kind::kNone);
  EXPECT_EQ(ResidualOf(512, 0).kind, Residual::Kind::kUnderflow);
  EXPECT_EQ(ResidualOf(512, 0).count, 512u);
  EXPECT_EQ(ResidualOf(0, 4096).kind, Residual::Kind::kOverflow);
  EXPECT_EQ(ResidualOf(0, 4096).count, 4096u);
}

}  // namespace
}  // namespace sectormap::iscsi
