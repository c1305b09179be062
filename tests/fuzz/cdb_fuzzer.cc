// SPDX-License-Identifier: Apache-2.0
// Feeds CDBs and parameter lists to a logical unit as two initiators would: the input is a sequence
// of commands, each a byte (who; how much data), 16 bytes of CDB and its data.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/async/reactor_pool.h"
#include "core/block/memory_device.h"
#include "server/scsi/logical_unit.h"

namespace sectormap::scsi {
namespace {

constexpr SectorCount kDiskSectors{1024};
constexpr int kNexuses = 2;

class NoTasks final : public NexusTasks {
 public:
  Task<void> AbortTasks(uint64_t) override { co_return; }
};

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "the unit broke its promise: %s\n", what);
  std::abort();
}

struct World {
  SteadyClock clock;
  std::unique_ptr<ReactorPool> pool = *ReactorPool::Start(1, clock);
  std::unique_ptr<MemoryDevice> disk = *MemoryDevice::Create(kDiskSectors);
};

Task<void> RunCommands(World& world, std::span<const uint8_t> input) {
  UnitBacking backing;
  backing.device = world.disk.get();
  backing.identity = "fuzzed";
  const std::shared_ptr<LogicalUnit> unit =
      *LogicalUnit::Create(std::move(backing), *world.pool, {});
  NoTasks tasks;
  std::vector<LunNexusPtr> nexuses;
  for (int i = 0; i < kNexuses; ++i) {
    NexusIdentity identity;
    identity.initiator_port = std::string(1, static_cast<char>('a' + i));
    identity.target_port = "t";
    nexuses.push_back(unit->Attach(identity, 0, false, &tasks));
    (void)unit->TakeAttention(*nexuses.back());
  }
  while (input.size() > kCdbBytes) {
    const uint8_t head = input[0];
    CdbBytes cdb;
    std::memcpy(cdb.data(), &input[1], kCdbBytes);
    input = input.subspan(1 + kCdbBytes);
    const CommandPlan plan = unit->Plan(cdb);
    Require(plan.bytes <= kMaxTransferBytes, "a plan above the limit");
    std::vector<std::byte> buffer(plan.bytes);
    if (plan.direction == DataDirection::kOut) {
      const size_t given = std::min<size_t>({plan.bytes, input.size(), (head >> 1) * 8u});
      std::memcpy(buffer.data(), input.data(), given);
      input = input.subspan(given);
      // Large transfers are zeros after the given bytes; short ones are short.
      if (plan.bytes <= 1024) buffer.resize(given);
    }
    AbortSignal abort;
    const ScsiResult result = co_await unit->Execute(*nexuses[head & 1], cdb, buffer, abort);
    Require(result.data_in_bytes <= buffer.size(), "more data than the buffer");
    Require((result.status == ScsiStatus::kCheckCondition) == (result.sense.length != 0),
            "sense data with another status");
  }
}

}  // namespace
}  // namespace sectormap::scsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* world = new sectormap::scsi::World;
  world->pool->RunOn(0, sectormap::scsi::RunCommands(*world, {data, size}));
  return 0;
}
