// SPDX-License-Identifier: Apache-2.0
// What every BlockDevice promises, as tests. A device's own test includes this file in one source
// and says how its devices are made:
//
//   INSTANTIATE_TEST_SUITE_P(Linear, BlockDeviceContractTest,
//                            testing::Values(ContractDevice{"OneRow", MakeLinear}), ContractName);
//
// The maker runs on the test's thread, not on a reactor, once for each test. It gives a device of
// kContractSectorsMin to kContractSectorsMax sectors that can be read and written, whatever is in
// it, and may call GTEST_SKIP() and give null. What the device stands on is kept by the pointer
// itself (a shared_ptr with a deleter or an aliasing one).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/async/gate.h"
#include "core/async/next_turn.h"
#include "core/async/reactor_pool.h"
#include "core/block/block_device.h"
#include "tests/support/random.h"

namespace sectormap {

inline constexpr SectorCount kContractSectorsMin{2048};   // 1 MiB
inline constexpr SectorCount kContractSectorsMax{65536};  // 32 MiB

struct ContractDevice {
  std::string name;  // letters and digits
  std::function<std::shared_ptr<BlockDevice>(ReactorPool&)> make;
};

inline std::string ContractName(const testing::TestParamInfo<ContractDevice>& info) {
  return info.param.name;
}
inline void PrintTo(const ContractDevice& device, std::ostream* out) { *out << device.name; }

class BlockDeviceContractTest : public testing::TestWithParam<ContractDevice> {
 protected:
  void SetUp() override {
    auto pool = ReactorPool::Start(2, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    device_ = GetParam().make(*pool_);
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_NE(device_, nullptr);
    ASSERT_GE(device_->size(), kContractSectorsMin);
    ASSERT_LE(device_->size(), kContractSectorsMax);
  }
  void TearDown() override { device_.reset(); }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  std::shared_ptr<BlockDevice> device_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockDeviceContractTest);

namespace contract {

inline uint64_t Length(SectorCount count) { return Bytes(count).value(); }

// Bytes at an address that is `skew` past a page's start, with guards on both sides that show
// whether anything outside was touched.
class Guarded {
 public:
  Guarded(size_t size, size_t skew)
      : bytes_(kPage + skew + size + kGuard, kGuardByte), size_(size) {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    start_ = (kGuard + address + kPage - 1) / kPage * kPage - address + skew;
    bytes_.resize(start_ + size + kGuard, kGuardByte);
  }
  std::span<std::byte> get() { return std::span(bytes_).subspan(start_, size_); }
  bool GuardsHold() const {
    auto is_guard = [](std::byte b) { return b == kGuardByte; };
    return std::all_of(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(start_), is_guard) &&
           std::all_of(bytes_.begin() + static_cast<ptrdiff_t>(start_ + size_), bytes_.end(),
                       is_guard);
  }

 private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kGuard = 64;
  static constexpr std::byte kGuardByte{0xA5};
  std::vector<std::byte> bytes_;
  size_t size_;
  size_t start_ = 0;
};

// What should be on the device.
class Shadow {
 public:
  explicit Shadow(BlockDevice& device) : device_(device), bytes_(Length(device.size())) {}

  std::span<std::byte> At(Sector first, SectorCount count) {
    return std::span(bytes_).subspan(ByteOffset(first).value(), Length(count));
  }
  // Fills the device with random bytes.
  Task<void> Start(Random& random) {
    random.Fill(bytes_);
    std::vector<std::byte> copy = bytes_;
    const IoStatus status = co_await device_.Submit(IoRequest::Write(Sector(0), copy));
    EXPECT_EQ(status, IoStatus::kOk);
  }
  Task<void> ExpectSame() {
    std::vector<std::byte> found(bytes_.size());
    const IoStatus status = co_await device_.Submit(IoRequest::Read(Sector(0), found));
    EXPECT_EQ(status, IoStatus::kOk);
    const auto difference = std::ranges::mismatch(found, bytes_).in1 - found.begin();
    EXPECT_TRUE(found == bytes_) << "first difference in sector "
                                 << static_cast<uint64_t>(difference) / kSectorBytes;
  }

 private:
  BlockDevice& device_;
  std::vector<std::byte> bytes_;
};

struct Range {
  Sector first;
  SectorCount count;
};

// Small ones mostly, now and then a long one; often at an edge.
inline Range AnyRange(Random& random, SectorCount size) {
  const uint64_t longest = random.OneIn(10) ? 1024 : 24;
  const uint64_t count = random.Between(1, std::min(longest, size.value()));
  const uint64_t last_start = size.value() - count;
  if (random.OneIn(12)) return {Sector(0), SectorCount(count)};
  if (random.OneIn(12)) return {Sector(last_start), SectorCount(count)};
  return {Sector(random.Between(0, last_start)), SectorCount(count)};
}

inline Task<void> WriteRandom(BlockDevice& device, Shadow& shadow, Range range, size_t skew,
                              Random& random, bool force_unit_access = false) {
  Guarded bytes(Length(range.count), skew);
  random.Fill(bytes.get());
  std::ranges::copy(bytes.get(), shadow.At(range.first, range.count).begin());
  const IoStatus status =
      co_await device.Submit(IoRequest::Write(range.first, bytes.get(), force_unit_access));
  EXPECT_EQ(status, IoStatus::kOk);
  EXPECT_TRUE(bytes.GuardsHold());
}

inline Task<void> ReadAndCompare(BlockDevice& device, Shadow& shadow, Range range, size_t skew) {
  Guarded bytes(Length(range.count), skew);
  const IoStatus status = co_await device.Submit(IoRequest::Read(range.first, bytes.get()));
  EXPECT_EQ(status, IoStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(bytes.get(), shadow.At(range.first, range.count)))
      << range.count << " sectors at " << range.first << ", skew " << skew;
  EXPECT_TRUE(bytes.GuardsHold()) << range.count << " sectors at " << range.first;
}

}  // namespace contract

TEST_P(BlockDeviceContractTest, LimitsMakeSense) {
  const BlockLimits limits = device_->limits();
  EXPECT_TRUE(std::has_single_bit(limits.logical_block_bytes));
  EXPECT_TRUE(std::has_single_bit(limits.physical_block_bytes));
  EXPECT_GE(limits.logical_block_bytes, kSectorBytes);
  EXPECT_GE(limits.physical_block_bytes, limits.logical_block_bytes);
  EXPECT_EQ(limits.can_discard, limits.discard_granularity_bytes != 0);
  EXPECT_TRUE(limits.can_discard || !limits.discard_zeroes);
}

TEST_P(BlockDeviceContractTest, EverySectorReadsWhatWasWritten) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, WhatIsLentIsWhatWasWritten) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    for (int i = 0; i < 200; ++i) {
      const contract::Range range = contract::AnyRange(random, device.size());
      const Loan loan = device.Lend(range.first, range.count);
      if (!loan) continue;
      EXPECT_TRUE(std::ranges::equal(loan.bytes, shadow.At(range.first, range.count)))
          << range.count << " sectors at " << range.first;
    }
  };
  pool_->RunOn(0, check(*device_));
}

// The bytes are gone after the call; what a device did not write is submitted.
TEST_P(BlockDeviceContractTest, AWriteAtOnceIsDoneWhenItSaysSo) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    for (int i = 0; i < 200; ++i) {
      const contract::Range range = contract::AnyRange(random, device.size());
      contract::Guarded bytes(contract::Length(range.count), random.Between(0, 63));
      random.Fill(bytes.get());
      std::ranges::copy(bytes.get(), shadow.At(range.first, range.count).begin());
      if (device.WriteAtOnce(range.first, bytes.get())) {
        std::ranges::fill(bytes.get(), std::byte{0xee});
        co_await contract::ReadAndCompare(device, shadow, range, 0);
      } else {
        const IoStatus status = co_await device.Submit(IoRequest::Write(range.first, bytes.get()));
        EXPECT_EQ(status, IoStatus::kOk);
      }
    }
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, TheFirstAndTheLastSectorStandAlone) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    const Sector last{device.size().value() - 1};
    for (Sector sector : {Sector(0), last}) {
      const contract::Range one{sector, SectorCount(1)};
      co_await contract::WriteRandom(device, shadow, one, 0, random);
      co_await contract::ReadAndCompare(device, shadow, one, 0);
    }
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, EveryStartAndLengthAroundABlockWorks) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    for (uint64_t start = 0; start < 18; ++start) {
      for (uint64_t count = 1; count < 18; ++count) {
        const contract::Range range{Sector(1000 + start), SectorCount(count)};
        co_await contract::WriteRandom(device, shadow, range, 0, random);
        co_await contract::ReadAndCompare(device, shadow, range, 0);
      }
    }
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, AnyAddressInMemoryWorksAndNothingAroundItIsTouched) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    for (size_t skew : {1, 2, 3, 4, 7, 16, 48, 511, 512, 513, 1024, 4095}) {
      for (int i = 0; i < 4; ++i) {
        const contract::Range range = contract::AnyRange(random, device.size());
        co_await contract::WriteRandom(device, shadow, range, skew, random);
        co_await contract::ReadAndCompare(device, shadow, range, skew);
      }
    }
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, AWriteDoesNotChangeTheCallersBytes) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    for (size_t skew : {0, 5, 512}) {
      for (uint64_t count : {1, 3, 8, 700}) {
        contract::Guarded bytes(contract::Length(SectorCount(count)), skew);
        random.Fill(bytes.get());
        const std::vector<std::byte> before(bytes.get().begin(), bytes.get().end());
        const IoStatus status = co_await device.Submit(IoRequest::Write(Sector(3), bytes.get()));
        EXPECT_EQ(status, IoStatus::kOk);
        EXPECT_TRUE(std::ranges::equal(bytes.get(), before));
      }
    }
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, RandomRequestsOneByOneAgreeWithAShadow) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    for (int i = 0; i < 600; ++i) {
      const contract::Range range = contract::AnyRange(random, device.size());
      const size_t skew = random.OneIn(3) ? random.Below(4096) : 0;
      if (random.OneIn(2)) {
        co_await contract::WriteRandom(device, shadow, range, skew, random, random.OneIn(20));
      } else {
        co_await contract::ReadAndCompare(device, shadow, range, skew);
      }
    }
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

namespace contract {

// Reads and writes sectors `lane`, `lane + lanes`, ...: neighbours belong to others, who write at
// the same time.
inline Task<void> UseLane(BlockDevice& device, Shadow& shadow, uint64_t lane, uint64_t lanes,
                          uint64_t seed, Gate& gate) {
  Random random(seed + lane);
  for (int i = 0; i < 60; ++i) {
    const uint64_t row =
        random.OneIn(2) ? random.Below(4) : random.Below(device.size().value() / lanes);
    const Range range{Sector(row * lanes + lane), SectorCount(1)};
    if (random.Below(3) < 2) {
      co_await WriteRandom(device, shadow, range, 512 * random.Below(3), random);
    } else {
      co_await ReadAndCompare(device, shadow, range, 512 * random.Below(3));
    }
  }
  gate.Leave();
}

inline Task<void> UseLanes(BlockDevice& device, Shadow& shadow, uint64_t first, uint64_t step,
                           uint64_t lanes, uint64_t seed) {
  Gate gate;
  for (uint64_t lane = first; lane < lanes; lane += step) {
    CHECK(gate.TryEnter());
    Detach(UseLane(device, shadow, lane, lanes, seed, gate));
  }
  gate.Close();
  co_await gate.Drained();
}

}  // namespace contract

TEST_P(BlockDeviceContractTest, ConcurrentWritersOfNeighbouringSectorsDoNotHurtEachOther) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    co_await contract::UseLanes(device, shadow, 0, 1, 32, random.seed());
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, WritersOnTwoReactorsDoNotHurtEachOther) {
  auto start = [](contract::Shadow& shadow, Random& random) -> Task<void> {
    co_await shadow.Start(random);
  };
  auto check = [](contract::Shadow& shadow) -> Task<void> { co_await shadow.ExpectSame(); };
  Random random;
  contract::Shadow shadow(*device_);
  pool_->RunOn(0, start(shadow, random));
  std::thread other(
      [&] { pool_->RunOn(1, contract::UseLanes(*device_, shadow, 1, 2, 32, random.seed())); });
  pool_->RunOn(0, contract::UseLanes(*device_, shadow, 0, 2, 32, random.seed()));
  other.join();
  pool_->RunOn(0, check(shadow));
}

namespace contract {

inline Task<void> WriteMark(BlockDevice& device, Range range, uint8_t mark, Gate& gate) {
  std::vector<std::byte> bytes(Length(range.count), std::byte{mark});
  const IoStatus status = co_await device.Submit(IoRequest::Write(range.first, bytes));
  EXPECT_EQ(status, IoStatus::kOk);
  gate.Leave();
}

}  // namespace contract

// Also between whole blocks and parts of them: a read-modify-write must not bring back what another
// write has replaced.
TEST_P(BlockDeviceContractTest, OverlappingWritesLeaveTheBytesOfOneInEachSector) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    constexpr uint64_t kSectors = 24;
    for (int round = 0; round < 40; ++round) {
      Gate gate;
      std::vector<contract::Range> ranges{{Sector(0), SectorCount(kSectors)}};
      CHECK(gate.TryEnter());
      Detach(contract::WriteMark(device, ranges[0], 1, gate));
      for (int i = 0; i < 12; ++i) {
        const uint64_t first = random.Below(kSectors);
        ranges.push_back({Sector(first), SectorCount(random.Between(1, kSectors - first))});
        CHECK(gate.TryEnter());
        Detach(contract::WriteMark(device, ranges.back(), static_cast<uint8_t>(i + 2), gate));
      }
      gate.Close();
      co_await gate.Drained();
      std::vector<std::byte> found(kSectors * kSectorBytes);
      const IoStatus status = co_await device.Submit(IoRequest::Read(Sector(0), found));
      EXPECT_EQ(status, IoStatus::kOk);
      for (uint64_t sector = 0; sector < kSectors; ++sector) {
        const auto bytes = std::span(found).subspan(sector * kSectorBytes, kSectorBytes);
        const auto writer = static_cast<size_t>(bytes.front()) - 1;
        const bool alone = std::ranges::all_of(bytes, [&](auto b) { return b == bytes.front(); });
        EXPECT_TRUE(alone) << "sector " << sector << " is torn";
        if (writer >= ranges.size()) {
          ADD_FAILURE() << "sector " << sector << " has bytes of nobody of this round";
          continue;
        }
        const contract::Range range = ranges[writer];
        EXPECT_TRUE(Sector(sector) >= range.first && Sector(sector) < range.first + range.count)
            << "sector " << sector << " has bytes of a write to elsewhere";
      }
      std::vector<std::byte> nobody(kSectors * kSectorBytes);
      const IoStatus cleared = co_await device.Submit(IoRequest::Write(Sector(0), nobody));
      EXPECT_EQ(cleared, IoStatus::kOk);
    }
  };
  pool_->RunOn(0, check(*device_));
}

namespace contract {

// Two coroutines, each on a reactor of its own, go on together.
class Pair {
 public:
  Task<void> Meet() {
    const int came = come_.fetch_add(1) + 1;
    while (come_.load() < came + came % 2) co_await NextTurn();
  }

 private:
  std::atomic<int> come_ = 0;
};

// Changes [first, end) at the same time as another does, again and again; one of the two looks.
inline Task<void> Overwrite(BlockDevice& device, IoRequest request, Pair& pair, bool looks) {
  constexpr int kRounds = 100;
  std::vector<std::byte> found(Length(request.count));
  for (int round = 0; round < kRounds; ++round) {
    co_await pair.Meet();
    const IoStatus status = co_await device.Submit(request);
    EXPECT_EQ(status, IoStatus::kOk);
    co_await pair.Meet();
    if (!looks) continue;
    const IoStatus read = co_await device.Submit(IoRequest::Read(request.first, found));
    EXPECT_EQ(read, IoStatus::kOk);
    for (size_t sector = 0; sector < found.size(); sector += kSectorBytes) {
      const auto bytes = std::span(found).subspan(sector, kSectorBytes);
      const bool alone = std::ranges::all_of(bytes, [&](auto b) { return b == bytes.front(); });
      EXPECT_TRUE(alone) << "round " << round << ", byte " << sector << " of the range";
    }
  }
}

}  // namespace contract

// Of a write and of another write, then of a write and of zeroes.
TEST_P(BlockDeviceContractTest, WritersOnTwoReactorsLeaveTheBytesOfOneInEachSector) {
  constexpr Sector kFirst{5};
  constexpr SectorCount kCount{256};
  std::vector<std::byte> ones(contract::Length(kCount), std::byte{1});
  std::vector<std::byte> twos(contract::Length(kCount), std::byte{2});
  const IoRequest write = IoRequest::Write(kFirst, ones);
  for (const IoRequest& other :
       {IoRequest::Write(kFirst, twos), IoRequest::WriteZeroes(kFirst, kCount)}) {
    if (other.op == IoOp::kWriteZeroes && !device_->limits().can_write_zeroes) continue;
    contract::Pair pair;
    std::thread beside([&] { pool_->RunOn(1, contract::Overwrite(*device_, other, pair, false)); });
    pool_->RunOn(0, contract::Overwrite(*device_, write, pair, true));
    beside.join();
  }
}

TEST_P(BlockDeviceContractTest, FlushSucceedsAndKeepsWhatWasWritten) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    IoStatus status = co_await device.Submit(IoRequest::Flush());
    EXPECT_EQ(status, IoStatus::kOk);
    co_await shadow.Start(random);
    status = co_await device.Submit(IoRequest::Flush());
    EXPECT_EQ(status, IoStatus::kOk);
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

TEST_P(BlockDeviceContractTest, WritesWithForceUnitAccessArrive) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    for (uint64_t count : {1, 2, 8, 15, 16, 300}) {
      const contract::Range range{Sector(77), SectorCount(count)};
      co_await contract::WriteRandom(device, shadow, range, 0, random, true);
    }
    co_await shadow.ExpectSame();
  };
  pool_->RunOn(0, check(*device_));
}

namespace contract {

inline Task<void> ClearRandomRanges(BlockDevice& device, IoOp op, bool able, bool zeroes) {
  Random random;
  Shadow shadow(device);
  co_await shadow.Start(random);
  for (int i = 0; i < 60; ++i) {
    const Range range = AnyRange(random, device.size());
    const IoStatus status =
        co_await device.Submit(IoRequest{op, false, range.first, range.count, {}});
    EXPECT_EQ(status, able ? IoStatus::kOk : IoStatus::kNotSupported);
    std::vector<std::byte> found(Length(range.count));
    const IoStatus read = co_await device.Submit(IoRequest::Read(range.first, found));
    EXPECT_EQ(read, IoStatus::kOk);
    if (!able) continue;
    if (zeroes) {
      const bool clear = std::ranges::all_of(found, [](std::byte b) { return b == std::byte{0}; });
      EXPECT_TRUE(clear) << range.count << " sectors at " << range.first;
    }
    std::ranges::copy(found, shadow.At(range.first, range.count).begin());
  }
  co_await shadow.ExpectSame();
}

}  // namespace contract

TEST_P(BlockDeviceContractTest, DiscardTouchesItsRangeOnlyAndDoesWhatLimitsSay) {
  const BlockLimits limits = device_->limits();
  pool_->RunOn(0, contract::ClearRandomRanges(*device_, IoOp::kDiscard, limits.can_discard,
                                              limits.discard_zeroes));
}

TEST_P(BlockDeviceContractTest, WriteZeroesTouchesItsRangeOnlyAndDoesWhatLimitsSay) {
  const BlockLimits limits = device_->limits();
  pool_->RunOn(
      0, contract::ClearRandomRanges(*device_, IoOp::kWriteZeroes, limits.can_write_zeroes, true));
}

TEST_P(BlockDeviceContractTest, ExtentsCoverTheDeviceAndUnmappedOnesAreZero) {
  auto check = [](BlockDevice& device) -> Task<void> {
    Random random;
    contract::Shadow shadow(device);
    co_await shadow.Start(random);
    if (device.limits().can_discard) {
      const IoStatus status =
          co_await device.Submit(IoRequest::Discard(Sector(256), SectorCount(1024)));
      EXPECT_EQ(status, IoStatus::kOk);
    }
    Sector place{0};
    while (place.offset() < device.size()) {
      const Extent extent = co_await device.ExtentAt(place);
      EXPECT_EQ(extent.status, IoStatus::kOk);
      EXPECT_GT(extent.count, SectorCount(0));
      const SectorCount rest = device.size() - place.offset();
      EXPECT_LE(extent.count, rest);
      if (extent.count == SectorCount(0) || extent.count > rest) co_return;
      if (!extent.mapped) {
        std::vector<std::byte> found(contract::Length(extent.count));
        const IoStatus read = co_await device.Submit(IoRequest::Read(place, found));
        EXPECT_EQ(read, IoStatus::kOk);
        const bool clear =
            std::ranges::all_of(found, [](std::byte b) { return b == std::byte{0}; });
        EXPECT_TRUE(clear) << extent.count << " unmapped sectors at " << place;
      }
      place += extent.count;
    }
    const Extent last = co_await device.ExtentAt(Sector(device.size().value() - 1));
    EXPECT_EQ(last.status, IoStatus::kOk);
    EXPECT_EQ(last.count, SectorCount(1));
  };
  pool_->RunOn(0, check(*device_));
}

}  // namespace sectormap
