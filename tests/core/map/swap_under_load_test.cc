// SPDX-License-Identifier: Apache-2.0
// Tables are swapped under running I/O: nothing is lost, done twice or sent to the wrong place.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "tests/core/map/map_fixture.h"
#include "tests/support/random.h"

namespace sectormap {
namespace {

constexpr int kSwaps = 1000;
constexpr uint64_t kSectors = 1024;
constexpr int kWorkers = 6;
constexpr uint64_t kSectorsPerWorker = kSectors / kWorkers;

// A sector that says where it belongs and which write it is from.
struct Stamp {
  uint64_t sector, generation;
};

void PutStamp(std::span<std::byte> sector, Stamp stamp) {
  std::ranges::fill(sector, static_cast<std::byte>(stamp.generation));
  std::memcpy(sector.data(), &stamp, sizeof stamp);
}
Stamp StampOf(std::span<const std::byte> sector) {
  Stamp stamp;
  std::memcpy(&stamp, sector.data(), sizeof stamp);
  return stamp;
}

class SwapUnderLoadTest : public MapFixture {
 protected:
  // Writes and reads its own sectors, several at a time, until told to stop; every byte it reads
  // must be what it wrote last.
  struct Worker {
    Worker(uint64_t first_sector, uint64_t seed) : begin(first_sector), random(seed) {}
    const uint64_t begin;
    Random random;
    std::vector<uint64_t> written = std::vector<uint64_t>(kSectorsPerWorker);
    uint64_t requests = 0;
    absl::Notification done;
  };

  static Task<void> Work(MappedDevice& device, Worker& worker, const std::atomic<bool>& stop) {
    std::vector<std::byte> data(kSectorsPerWorker * kSectorBytes);
    while (!stop.load() || worker.requests < 100) {
      const uint64_t first = worker.random.Below(kSectorsPerWorker);
      const uint64_t count = worker.random.Between(1, kSectorsPerWorker - first);
      const std::span<std::byte> part = std::span(data).subspan(0, count * kSectorBytes);
      const Sector place(worker.begin + first);
      ++worker.requests;
      IoRequest request = IoRequest::Read(place, part);
      if (worker.random.OneIn(2)) {
        for (uint64_t i = 0; i < count; ++i) {
          worker.written[first + i] = worker.requests;
          PutStamp(part.subspan(i * kSectorBytes, kSectorBytes),
                   {place.value() + i, worker.requests});
        }
        request = IoRequest::Write(place, part, worker.random.OneIn(4));
      }
      const IoStatus status = co_await device.Submit(request);
      EXPECT_EQ(status, IoStatus::kOk);
      if (request.op == IoOp::kRead) CheckRead(worker, first, part);
      if (worker.random.OneIn(10)) {
        const IoStatus flushed = co_await device.Submit(IoRequest::Flush());
        EXPECT_EQ(flushed, IoStatus::kOk);
      }
      // Lets the other workers and the control thread's calls in, also over an immediate table.
      co_await Reactor::Current().Sleep(std::chrono::microseconds(worker.random.Below(30)));
    }
    worker.done.Notify();
  }

  static void CheckRead(const Worker& worker, uint64_t first, std::span<const std::byte> data) {
    for (uint64_t i = 0; i < data.size() / kSectorBytes; ++i) {
      if (worker.written[first + i] == 0) continue;
      std::vector<std::byte> expected(kSectorBytes);
      PutStamp(expected, {worker.begin + first + i, worker.written[first + i]});
      ASSERT_TRUE(std::ranges::equal(data.subspan(i * kSectorBytes, kSectorBytes), expected))
          << "sector " << worker.begin + first + i << " is of generation "
          << StampOf(data.subspan(i * kSectorBytes)).generation << ", not "
          << worker.written[first + i];
    }
  }

  // Runs workers on both reactors while `swap(i)` is called kSwaps times on this thread.
  template <typename Swap>
  uint64_t RunWorkers(MappedDevice& device, Random& random, Swap swap) {
    std::atomic<bool> stop{false};
    std::vector<std::unique_ptr<Worker>> workers;
    for (int i = 0; i < kWorkers; ++i) {
      workers.push_back(std::make_unique<Worker>(static_cast<uint64_t>(i) * kSectorsPerWorker,
                                                 random.generator()()));
      (*reactors_)[i % 2].Spawn(Work(device, *workers.back(), stop));
    }
    for (int i = 0; i < kSwaps; ++i) swap(i);
    stop = true;
    uint64_t requests = 0;
    for (auto& worker : workers) {
      worker->done.WaitForNotification();
      requests += worker->requests;
    }
    return requests;
  }

  // The device's sectors as many rows over the same sectors of `disk`.
  std::string Shattered(const std::string& disk, Random& random) {
    std::string text;
    for (uint64_t start = 0; start < kSectors;) {
      const uint64_t length = std::min(random.Between(1, 60), kSectors - start);
      text += std::to_string(start) + " " + std::to_string(length) + " linear " + disk + " " +
              std::to_string(start) + "\n";
      start += length;
    }
    return text;
  }
  std::string Whole(const std::string& disk) {
    return "0 " + std::to_string(kSectors) + " linear " + disk + " 0\n";
  }
};

TEST_F(SwapUnderLoadTest, TablesOfEqualMeaningAreSwappedUnnoticed) {
  Random random;
  const auto device = Make("x", Whole("/dev/a"));
  const uint64_t requests = RunWorkers(*device, random, [&](int i) {
    if (i == kSwaps / 2) a_->SuspendEveryRequest();
    ASSERT_TRUE(Load("x", i % 2 == 0 ? Shattered("/dev/a", random) : Whole("/dev/a")).ok());
    const SuspendMode mode = i % 3 == 0 ? SuspendMode::kNoFlush : SuspendMode::kFlush;
    if (i % 5 == 0) ASSERT_TRUE(registry().Suspend("x", mode).ok());
    ASSERT_TRUE(registry().Resume("x", mode).ok());
  });
  EXPECT_GE(requests, 100u * kWorkers);
  EXPECT_EQ(device->counters().Sum().ops[static_cast<int>(IoOp::kRead)].errors, 0u);
}

TEST_F(SwapUnderLoadTest, AStackedDeviceBelowIsSwappedUnnoticed) {
  Random random;
  Make("low", Whole("/dev/a"));
  Make("stripes", "0 " + std::to_string(kSectors) + " striped 2 16 low 0 low " +
                      std::to_string(kSectors / 2) + "\n");
  const auto device = Make("x", Whole("stripes"));
  a_->SuspendEveryRequest();
  RunWorkers(*device, random, [&](int i) {
    const std::string name = i % 2 == 0 ? "low" : "x";
    const std::string disk = i % 2 == 0 ? "/dev/a" : "stripes";
    ASSERT_TRUE(Load(name, i % 4 < 2 ? Shattered(disk, random) : Whole(disk)).ok());
    ASSERT_TRUE(registry().Resume(name).ok());
  });
}

// With two backings in turns, each request goes to one of them as a whole: to the one whose table
// is live when the request is mapped. When a swap has ended, nothing reaches the old one any more.
TEST_F(SwapUnderLoadTest, AfterASwapTheOldBackingIsLeftAlone) {
  const auto device = Make("x", Whole("/dev/a"));
  std::atomic<bool> stop{false};
  std::atomic<int> running{4};
  std::atomic<uint64_t> acknowledged{0};
  a_->SuspendEveryRequest();
  b_->SuspendEveryRequest();
  auto write_on = [](MappedDevice& to, Sector own, std::atomic<uint64_t>& ended,
                     std::atomic<int>& left, const std::atomic<bool>& stopped) -> Task<void> {
    std::vector<std::byte> data(kSectorBytes * 4);
    while (!stopped.load()) {
      const IoStatus status = co_await to.Submit(IoRequest::Write(own, data));
      EXPECT_EQ(status, IoStatus::kOk);
      ++ended;
    }
    --left;
  };
  for (int i = 0; i < 4; ++i) {
    const Sector own(static_cast<uint64_t>(i) * 8);
    (*reactors_)[i % 2].Spawn(write_on(*device, own, acknowledged, running, stop));
  }
  uint64_t reached = 0;
  for (int i = 0; i < kSwaps; ++i) {
    TestDisk& old_disk = i % 2 == 0 ? *a_ : *b_;
    ASSERT_TRUE(Load("x", Whole(i % 2 == 0 ? "/dev/b" : "/dev/a")).ok());
    ASSERT_TRUE(registry().Resume("x").ok());
    reached += static_cast<uint64_t>(old_disk.CountOf(IoOp::kWrite));
    old_disk.Forget();
    Settle();
    EXPECT_TRUE(old_disk.seen().empty());
  }
  stop = true;
  while (running.load() != 0) std::this_thread::yield();
  Settle();
  reached += static_cast<uint64_t>(a_->CountOf(IoOp::kWrite) + b_->CountOf(IoOp::kWrite));
  EXPECT_EQ(reached, acknowledged.load());  // none lost, none twice
}

TEST_F(SwapUnderLoadTest, AShrinkingAndGrowingDeviceAnswersOkOrOutOfRange) {
  const auto device = Make("x", Whole("/dev/a"));
  std::atomic<bool> stop{false};
  std::atomic<int> running{4};
  auto read_on = [](MappedDevice& from, std::atomic<int>& left,
                    const std::atomic<bool>& stopped) -> Task<void> {
    std::vector<std::byte> data(kSectorBytes * 100);
    while (!stopped.load()) {
      const IoStatus status = co_await from.Submit(IoRequest::Read(Sector(450), data));
      EXPECT_TRUE(status == IoStatus::kOk || status == IoStatus::kOutOfRange);
      co_await Reactor::Current().Sleep(std::chrono::microseconds(20));
    }
    --left;
  };
  for (int i = 0; i < 4; ++i) (*reactors_)[i % 2].Spawn(read_on(*device, running, stop));
  for (int i = 0; i < kSwaps; ++i) {
    ASSERT_TRUE(Load("x", i % 2 == 0 ? "0 512 linear /dev/a 0" : Whole("/dev/a")).ok());
    ASSERT_TRUE(registry().Resume("x").ok());
  }
  stop = true;
  while (running.load() != 0) std::this_thread::yield();
  Settle();
}

}  // namespace
}  // namespace sectormap
