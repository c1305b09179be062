// SPDX-License-Identifier: Apache-2.0
// Any bytes as an initiator's: the first one says whether they come before or after a login, with
// which digests and in how small pieces; the rest is sent as it is. A whole connection runs, over a
// unit of memory, until the bytes end.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/async/reactor_pool.h"
#include "core/base/check.h"
#include "core/block/memory_device.h"
#include "server/iscsi/connection.h"
#include "server/scsi/logical_unit.h"
#include "tests/support/fake_initiator.h"
#include "tests/support/memory_stream.h"

namespace sectormap::iscsi {
namespace {

constexpr char kTarget[] = "iqn.2026-11.io.sectormap:disk";

struct World {
  World() : memory(16 * 1024 * 1024) {
    pool = *ReactorPool::Start(1, clock);
    disk = *MemoryDevice::Create(SectorCount(8192));
    scsi::UnitBacking backing;
    backing.device = disk.get();
    backing.identity = "disk";
    CHECK(directory.AddTarget(kTarget).ok());
    auto unit = scsi::LogicalUnit::Create(std::move(backing), *pool, {});
    CHECK(directory.AddLun(kTarget, 0, *std::move(unit), false).ok());
  }
  // Lives as long as the process: libFuzzer never ends it in order.
  static World& Get() {
    static World* const world = new World();
    return *world;
  }

  SteadyClock clock;
  TargetDirectory directory;
  CommandMemory memory;
  PortalAddresses portals;
  SessionLog log;
  std::unique_ptr<MemoryDevice> disk;
  std::unique_ptr<ReactorPool> pool;
};

struct Ends {
  int left = 0;
  WaitQueue changed;
  void One() {
    --left;
    changed.WakeAll();
  }
};

Task<void> Serve(World& world, std::unique_ptr<ByteStream> stream, Ends& ends) {
  Connection::Context context{.reactor = Reactor::Current(),
                              .directory = world.directory,
                              .memory = world.memory,
                              .portals = world.portals,
                              .log = world.log,
                              .on_login_end = [] {}};
  std::function<void(std::shared_ptr<ConnectionHandle>)> on_start = [](auto) {};
  co_await Connection::Serve(std::move(context), std::move(stream), std::move(on_start));
  ends.One();
}

Task<void> Drain(FakeInitiator& peer, Ends& ends) {
  std::optional<FakeInitiator::Pdu> pdu = co_await peer.Receive();
  while (pdu) pdu = co_await peer.Receive();
  ends.One();
}

Task<void> Run(World& world, uint8_t how, std::span<const std::byte> bytes) {
  MemoryStreamOptions options;
  if ((how & 8) != 0) options.read_max = 7;
  auto [ours, theirs] = MemoryStream::MakePair(options);
  FakeInitiator peer(std::move(theirs));
  Ends ends;
  ends.left = 2;
  Detach(Serve(world, std::move(ours), ends));
  if ((how & 1) != 0) {
    InitiatorOptions login;
    login.header_digest = (how & 2) != 0;
    login.data_digest = (how & 4) != 0;
    login.first_cmd_sn = 0;
    co_await peer.Login(login);
  }
  Detach(Drain(peer, ends));
  co_await peer.SendBytes(bytes);
  peer.Shutdown();
  while (ends.left != 0) co_await ends.changed.Wait();
}

}  // namespace
}  // namespace sectormap::iscsi

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  sectormap::iscsi::World& world = sectormap::iscsi::World::Get();
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  world.pool->RunOn(0, sectormap::iscsi::Run(world, data[0], bytes));
  return 0;
}
