// SPDX-License-Identifier: Apache-2.0
// When a device in memory takes memory and gives it back. What it reads and writes: contract_test.
#include "core/block/memory_device.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/async/when_all.h"

namespace sectormap {
namespace {

constexpr SectorCount kHugePage{kHugePageBytes / kSectorBytes};
constexpr uint64_t kPages = 4;
constexpr SectorCount kTail{24};  // in no huge page
constexpr SectorCount kSize{kPages * kHugePage.value() + kTail.value()};

class MemoryDeviceTest : public testing::Test {
 protected:
  MemoryDeviceTest() : pool_(*ReactorPool::Start(1, clock_)) {
    device_ = *MemoryDevice::Create(kSize, 0);
    data_.resize(kHugePageBytes, std::byte{0x5a});
  }

  std::span<std::byte> Data(SectorCount count) {
    return std::span(data_).first(Bytes(count).value());
  }
  IoStatus Submit(const IoRequest& request) {
    return pool_->RunOn(0, [&] { return device_->Submit(request); });
  }
  bool WriteAtOnce(Sector first, SectorCount count) {
    return pool_->RunOn(0, [&] { return Task<bool>(device_->WriteAtOnce(first, Data(count))); });
  }
  // Bytes of a huge page with memory behind them, as the kernel counts.
  size_t Resident(uint64_t page) {
    const auto unit = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> pages(kHugePageBytes / unit);
    std::byte* place = device_->bytes().data() + page * kHugePageBytes;
    EXPECT_EQ(mincore(place, kHugePageBytes, pages.data()), 0);
    return static_cast<size_t>(
               std::ranges::count_if(pages, [](unsigned char in) { return in & 1; })) *
           unit;
  }
  static Sector PageStart(uint64_t page) { return Sector(page * kHugePage.value()); }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  std::unique_ptr<MemoryDevice> device_;
  std::vector<std::byte> data_;
};

TEST_F(MemoryDeviceTest, AWriteTakesAHugePage) {
  EXPECT_EQ(Submit(IoRequest::Write(PageStart(1) + SectorCount(7), Data(SectorCount(1)))),
            IoStatus::kOk);
  EXPECT_EQ(Resident(1), kHugePageBytes);
  for (const uint64_t page : {0, 2, 3}) EXPECT_EQ(Resident(page), 0) << page;
}

TEST_F(MemoryDeviceTest, WrittenAtOnceIsWhereMemoryIs) {
  EXPECT_FALSE(WriteAtOnce(PageStart(2), SectorCount(8)));
  EXPECT_EQ(Resident(2), 0);
  EXPECT_EQ(Submit(IoRequest::Write(PageStart(2), Data(SectorCount(8)))), IoStatus::kOk);
  EXPECT_TRUE(WriteAtOnce(PageStart(2) + SectorCount(100), SectorCount(8)));
  // The next huge page has none yet; the bytes after the last are in none.
  EXPECT_FALSE(WriteAtOnce(PageStart(3) - SectorCount(4), SectorCount(8)));
  EXPECT_TRUE(WriteAtOnce(PageStart(kPages), kTail));
}

TEST_F(MemoryDeviceTest, AWriteAcrossHugePagesTakesThemAll) {
  const Sector first = PageStart(1) - SectorCount(1);
  EXPECT_EQ(Submit(IoRequest::Write(first, Data(kHugePage))), IoStatus::kOk);
  EXPECT_EQ(Resident(0) + Resident(1), 2 * kHugePageBytes);
  EXPECT_EQ(Resident(2), 0);
}

TEST_F(MemoryDeviceTest, WhatIsDiscardedGoesBackToTheSystem) {
  std::vector<std::byte> written(3 * kHugePageBytes, std::byte{0xc3});
  EXPECT_EQ(Submit(IoRequest::Write(Sector(0), written)), IoStatus::kOk);
  // All but the first and the last sector: a huge page whole, two but for a page.
  const SectorCount middle(3 * kHugePage.value() - 2);
  EXPECT_EQ(Submit(IoRequest::Discard(Sector(1), middle)), IoStatus::kOk);
  EXPECT_EQ(Resident(1), 0);
  EXPECT_LT(Resident(0) + Resident(2), kHugePageBytes);
  EXPECT_TRUE(WriteAtOnce(PageStart(2), SectorCount(8)));
  EXPECT_FALSE(WriteAtOnce(PageStart(1), SectorCount(8)));
  std::fill(written.begin() + kSectorBytes, written.end() - kSectorBytes, std::byte{0});
  std::ranges::copy(Data(SectorCount(8)), written.begin() + 2 * kHugePageBytes);
  EXPECT_TRUE(std::ranges::equal(device_->bytes().first(written.size()), written));
}

TEST_F(MemoryDeviceTest, ASmallOneIsWrittenAtOnceFromTheBeginning) {
  device_ = *MemoryDevice::Create(kSize);
  EXPECT_TRUE(WriteAtOnce(PageStart(2), SectorCount(8)));
}

// Each of the first 32 requests of a queue wants the same memory.
TEST_F(MemoryDeviceTest, WritersThatComeTogetherAllWrite) {
  constexpr uint64_t kWriters = 32;
  const SectorCount piece(kHugePage.value() / kWriters);
  const IoStatus status = pool_->RunOn(0, [&] {
    std::vector<Task<IoStatus>> writes;
    for (uint64_t i = 0; i < kWriters; ++i) {
      const Sector first = PageStart(1) + SectorCount(i * piece.value());
      writes.push_back(device_->Submit(IoRequest::Write(first, Data(piece))));
    }
    return WhenAll(std::move(writes));
  });
  EXPECT_EQ(status, IoStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(device_->bytes().subspan(kHugePageBytes, kHugePageBytes), data_));
}

}  // namespace
}  // namespace sectormap
