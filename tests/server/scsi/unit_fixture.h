// SPDX-License-Identifier: Apache-2.0
// A logical unit over a disk of memory, with as many nexuses as a test asks for, driven as a
// transport would: Plan, a buffer of that size, Execute on the nexus's reactor.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/block/memory_device.h"
#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {

inline constexpr uint32_t kTestBlockBytes = 512;

// Seeds are printed with a failure and can be given back.
inline uint64_t TestSeed() {
  const char* given = std::getenv("SECTORMAP_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
}

// A memory disk whose answers and limits a test can bend, and that can really suspend.
class BendableDisk final : public BlockDevice {
 public:
  explicit BendableDisk(SectorCount size) : disk_(*MemoryDevice::Create(size)), size_(size) {
    limits_ = disk_->limits();
  }

  SectorCount size() const override { return size_; }
  BlockLimits limits() const override { return limits_; }
  Task<IoStatus> Submit(IoRequest request) override {
    ++submitted[static_cast<int>(request.op)];
    if (request.op == IoOp::kWrite && request.force_unit_access) ++fua_writes;
    if (status != IoStatus::kOk) return IoStatus(status);
    if (request.op == IoOp::kWriteZeroes && write_zeroes_status != IoStatus::kOk) {
      return IoStatus(write_zeroes_status);
    }
    if (request.op == IoOp::kDiscard && !limits_.can_discard) return IoStatus::kNotSupported;
    if (request.op == IoOp::kDiscard && discard_only_frees) {
      limits_.discard_zeroes = false;
      return IoStatus::kOk;
    }
    if (!suspends) return Touch(request);
    return Later(request);
  }
  Loan Lend(Sector first, SectorCount count) override {
    return lends ? disk_->Lend(first, count) : Loan();
  }
  bool WriteAtOnce(Sector first, std::span<const std::byte> bytes) override {
    std::lock_guard lock(mutex_);
    return writes_at_once && disk_->WriteAtOnce(first, bytes);
  }
  Task<Extent> ExtentAt(Sector first) override {
    // Alternating runs of `extent` sectors, mapped first.
    if (extent == 0) return Extent{IoStatus::kOk, true, size_ - first.offset()};
    const uint64_t run = first.value() / extent;
    const uint64_t end = std::min((run + 1) * extent, size_.value());
    return Extent{IoStatus::kOk, run % 2 == 0, SectorCount(end - first.value())};
  }

  std::span<std::byte> bytes() { return disk_->bytes(); }
  void set_size(SectorCount size) { size_ = size; }
  void set_limits(BlockLimits limits) { limits_ = limits; }

  std::atomic<IoStatus> status{IoStatus::kOk};
  std::atomic<IoStatus> write_zeroes_status{IoStatus::kOk};
  // The next discard finds a new table, which no more than frees blocks.
  std::atomic<bool> discard_only_frees{false};
  std::atomic<bool> suspends{false};
  std::atomic<bool> lends{false};
  std::atomic<bool> writes_at_once{false};
  std::atomic<uint64_t> extent{0};
  std::array<std::atomic<int>, kIoOpCount> submitted{};
  std::atomic<int> fua_writes{0};

 private:
  Task<IoStatus> Later(IoRequest request) {
    co_await Reactor::Current().Sleep(std::chrono::microseconds(20));
    co_return Touch(request);
  }
  // A read beside a write is legal for initiators, and for disks; only RAM calls it a race.
  IoStatus Touch(IoRequest request) {
    std::lock_guard lock(mutex_);
    return disk_->Submit(request).await_resume();
  }

  std::mutex mutex_;

  std::unique_ptr<MemoryDevice> disk_;
  SectorCount size_;
  BlockLimits limits_;
};

struct Answer {
  ScsiStatus status = ScsiStatus::kGood;
  SenseData sense;
  std::vector<uint8_t> data;

  bool good() const { return status == ScsiStatus::kGood; }
  uint64_t Number(size_t at, size_t width) const {
    return BigEndian(std::span<const uint8_t>(data), at, width);
  }
  std::string Text(size_t at, size_t length) const {
    return std::string(data.begin() + at, data.begin() + at + length);
  }
  SenseCode code() const {
    if (sense.length == 0) return kNoAdditionalSense;
    const auto& bytes = sense.bytes;
    if ((bytes[0] & 0x7f) == 0x72) {
      return {static_cast<SenseKey>(bytes[1] & 0xf), bytes[2], bytes[3]};
    }
    return {static_cast<SenseKey>(bytes[2] & 0xf), bytes[12], bytes[13]};
  }
  bool FailedWith(SenseCode expected) const {
    return status == ScsiStatus::kCheckCondition && code() == expected;
  }
};

inline std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  const SenseCode code = answer.code();
  return out << "status " << static_cast<int>(answer.status) << " sense " << std::hex
             << static_cast<int>(code.key) << "/" << static_cast<int>(code.asc) << "/"
             << static_cast<int>(code.ascq) << std::dec << " with " << answer.data.size()
             << " bytes";
}

#define EXPECT_GOOD(expression)                              \
  do {                                                       \
    const Answer answer_ = (expression);                     \
    EXPECT_EQ(answer_.status, ScsiStatus::kGood) << answer_; \
  } while (false)
#define EXPECT_FAILS(expression, sense_code)                \
  do {                                                      \
    const Answer answer_ = (expression);                    \
    EXPECT_TRUE(answer_.FailedWith(sense_code)) << answer_; \
  } while (false)
#define EXPECT_CONFLICT(expression)                                         \
  do {                                                                      \
    const Answer answer_ = (expression);                                    \
    EXPECT_EQ(answer_.status, ScsiStatus::kReservationConflict) << answer_; \
  } while (false)

using Bytes8 = std::vector<uint8_t>;

// CDBs, as an initiator builds them.
inline CdbBytes Cdb(std::initializer_list<int> bytes) {
  CdbBytes cdb{};
  size_t at = 0;
  for (int byte : bytes) cdb[at++] = static_cast<uint8_t>(byte);
  return cdb;
}
inline void SetField(CdbBytes& cdb, size_t at, size_t width, uint64_t value) {
  for (size_t i = 0; i < width; ++i)
    cdb[at + i] = static_cast<uint8_t>(value >> (8 * (width - 1 - i)));
}
inline CdbBytes Cdb10(int opcode, int byte1, uint32_t lba, uint16_t blocks) {
  CdbBytes cdb = Cdb({opcode, byte1});
  SetField(cdb, 2, 4, lba);
  SetField(cdb, 7, 2, blocks);
  return cdb;
}
inline CdbBytes Cdb12(int opcode, int byte1, uint32_t lba, uint32_t blocks) {
  CdbBytes cdb = Cdb({opcode, byte1});
  SetField(cdb, 2, 4, lba);
  SetField(cdb, 6, 4, blocks);
  return cdb;
}
inline CdbBytes Cdb16(int opcode, int byte1, uint64_t lba, uint32_t blocks) {
  CdbBytes cdb = Cdb({opcode, byte1});
  SetField(cdb, 2, 8, lba);
  SetField(cdb, 10, 4, blocks);
  return cdb;
}
inline CdbBytes CompareAndWriteCdb(uint64_t lba, uint8_t blocks, int byte1 = 0) {
  CdbBytes cdb = Cdb({0x89, byte1});
  SetField(cdb, 2, 8, lba);
  cdb[13] = blocks;
  return cdb;
}

// Ends a nexus's tasks: here, it only takes note.
class NoteAborts final : public NexusTasks {
 public:
  Task<void> AbortTasks(uint64_t lun_number) override {
    ++calls;
    last_lun = lun_number;
    co_return;
  }
  std::atomic<int> calls{0};
  std::atomic<uint64_t> last_lun{0};
};

// Keeps what a unit saves, or refuses it with `status`.
class NoteSaves final : public UnitStore {
 public:
  Task<absl::Status> SaveReservations(std::string device_identity, std::string record) override {
    co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
    if (!status.ok()) co_return status;
    identity = std::move(device_identity);
    saved = std::move(record);
    ++saves;
    co_return absl::OkStatus();
  }
  Task<absl::Status> SaveBlockBytes(std::string device_identity, uint32_t bytes) override {
    co_await Reactor::Current().Sleep(std::chrono::microseconds(50));
    if (!status.ok()) co_return status;
    identity = std::move(device_identity);
    block_bytes = bytes;
    co_return absl::OkStatus();
  }
  absl::Status status;
  std::string identity, saved;
  int saves = 0;
  std::atomic<uint32_t> block_bytes{0};
};

class UnitTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 4096;

  void SetUp() override {
    auto pool = ReactorPool::Start(2, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    disk_ = std::make_unique<BendableDisk>(SectorCount(kBlocks));
    MakeUnit({});
  }
  void TearDown() override {
    initiators_.clear();
    unit_.reset();
    // Calls that a hold's end posted.
    if (pool_) pool_->OnEach([](Reactor&) {});
  }

  void MakeUnit(LunOptions options) {
    UnitBacking backing;
    backing.device = disk_.get();
    backing.identity = "a device";
    backing.read_only = [this] { return disk_read_only_.load(); };
    backing.has_medium = [this] { return has_medium_.load(); };
    auto unit = LogicalUnit::Create(std::move(backing), *pool_, std::move(options));
    ASSERT_TRUE(unit.ok()) << unit.status();
    unit_ = *std::move(unit);
  }

  struct Initiator {
    int reactor = 0;
    NoteAborts aborts;
    LunNexusPtr nexus;
  };

  // Names differ by number; the unit attention of power on is taken unless asked for.
  Initiator& Login(int number, int reactor = 0, bool read_only = false,
                   bool keep_attention = false) {
    auto initiator = std::make_unique<Initiator>();
    initiator->reactor = reactor;
    NexusIdentity identity;
    identity.initiator_name = "iqn.2026-11.test:i" + std::to_string(number);
    identity.initiator_port = identity.initiator_name + ",i,0x00023d000001";
    identity.target_port = "iqn.2026-11.io.sectormap:disk,t,0x0001";
    pool_->RunOn(reactor, AttachOn(*initiator, identity, read_only));
    initiators_.push_back(std::move(initiator));
    Initiator& made = *initiators_.back();
    if (!keep_attention) (void)unit_->TakeAttention(*made.nexus);
    return made;
  }
  void Logout(Initiator& initiator) {
    std::erase_if(initiators_, [&](const auto& other) { return other.get() == &initiator; });
  }

  Answer Run(Initiator& initiator, const CdbBytes& cdb, const Bytes8& data = {}) {
    return pool_->RunOn(initiator.reactor, RunOn(*initiator.nexus, cdb, data));
  }

  // As a session would: on its reactor.
  Task<Answer> RunOn(LunNexus& nexus, CdbBytes cdb, Bytes8 data) {
    const CommandPlan plan = unit_->Plan(cdb);
    EXPECT_LE(plan.bytes, kMaxTransferBytes);
    Answer answer;
    Loan loan;
    if (const std::optional<ScsiResult> lent = unit_->ReadInPlace(nexus, cdb, loan)) {
      ++in_place_;
      answer.status = lent->status;
      answer.sense = lent->sense;
      EXPECT_EQ(lent->data_in_bytes, loan.bytes.size());
      const auto* bytes = reinterpret_cast<const uint8_t*>(loan.bytes.data());
      answer.data.assign(bytes, bytes + loan.bytes.size());
      co_return answer;
    }
    std::vector<std::byte> buffer(plan.bytes, std::byte{0xee});
    if (plan.direction == DataDirection::kOut) {
      const bool fits = !plan.exact || data.size() == plan.bytes;
      buffer.resize(fits ? std::min<size_t>(plan.bytes, data.size()) : 0);
      if (!buffer.empty()) std::memcpy(buffer.data(), data.data(), buffer.size());
      if (const std::optional<ScsiResult> wrote = unit_->WriteAtOnce(nexus, cdb, buffer)) {
        ++in_place_;
        std::ranges::fill(buffer, std::byte{0xee});
        answer.status = wrote->status;
        answer.sense = wrote->sense;
        co_return answer;
      }
    }
    AbortSignal abort;
    const ScsiResult result = co_await unit_->Execute(nexus, cdb, buffer, abort);
    answer.status = result.status;
    answer.sense = result.sense;
    EXPECT_LE(result.data_in_bytes, buffer.size());
    if (plan.direction != DataDirection::kIn) {
      EXPECT_EQ(result.data_in_bytes, 0u);
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(buffer.data());
    answer.data.assign(bytes, bytes + result.data_in_bytes);
    co_return answer;
  }

  static Bytes8 Fill(size_t blocks, uint8_t value) {
    return Bytes8(blocks * kTestBlockBytes, value);
  }
  uint8_t ByteOnDisk(uint64_t block, size_t offset = 0) {
    return static_cast<uint8_t>(disk_->bytes()[block * kTestBlockBytes + offset]);
  }

  SteadyClock clock_;
  std::unique_ptr<ReactorPool> pool_;
  std::unique_ptr<BendableDisk> disk_;
  std::atomic<bool> disk_read_only_{false};
  std::atomic<bool> has_medium_{true};
  std::shared_ptr<LogicalUnit> unit_;
  std::vector<std::unique_ptr<Initiator>> initiators_;
  std::atomic<int> in_place_{0};  // commands that needed no buffer

 private:
  Task<void> AttachOn(Initiator& initiator, NexusIdentity identity, bool read_only) {
    initiator.nexus = unit_->Attach(identity, 0, read_only, &initiator.aborts);
    co_return;
  }
};

}  // namespace sectormap::scsi
