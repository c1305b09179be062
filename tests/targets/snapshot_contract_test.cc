// SPDX-License-Identifier: Apache-2.0
// The snapshot family keeps the BlockDevice contract: an origin that is being copied from, a
// snapshot that shares some of it, a merge under way, and a member of a chain.
#include "tests/core/block/block_device_contract.h"
#include "tests/targets/snapshot_fixture.h"

namespace sectormap::targets {
namespace {

// Not a multiple of a chunk.
constexpr uint64_t kSectors = 4099;

std::string Row(std::string_view words) { return absl::StrCat("0 ", kSectors, " ", Absl(words)); }

// A machine with `/o`, stores `/c0` to `/c2` and devices made in this order; the last is tested.
ContractDevice Over(std::string name, std::vector<std::pair<std::string, std::string>> rows) {
  return {std::move(name), [rows](ReactorPool& reactors) {
            auto host = std::make_shared<SnapshotHost>(reactors);
            host->AddMemory("/o", Pattern("ORG", Sector(0), SectorCount(kSectors)));
            for (const char* store : {"/c0", "/c1", "/c2"}) host->AddMemory(store, 32768);
            for (const auto& [device, words] : rows) host->Make(device, Row(words));
            return std::shared_ptr<BlockDevice>(host,
                                                host->registry().Find(rows.back().first).get());
          }};
}

INSTANTIATE_TEST_SUITE_P(
    Snapshot, BlockDeviceContractTest,
    testing::Values(Over("Origin", {{"s", "snapshot /o /c0 P 8"},
                                    {"t", "snapshot /o /c1 P 64"},
                                    {"o", "snapshot-origin /o"}}),
                    Over("OriginWithoutSnapshots", {{"o", "snapshot-origin /o"}}),
                    Over("Persistent", {{"s", "snapshot /o /c0 P 8"}}),
                    Over("PersistentWithChunksOfASector", {{"s", "snapshot /o /c0 P 1"}}),
                    Over("PersistentWithLargeChunks", {{"s", "snapshot /o /c0 PO 256"}}),
                    Over("Transient", {{"s", "snapshot /o /c0 N 16"}}),
                    Over("WithDiscards",
                         {{"s",
                           "snapshot /o /c0 P 8 2 discard_zeroes_cow discard_passdown_origin"}}),
                    Over("Merge", {{"m", "snapshot-merge /o /c0 P 8"}}),
                    Over("MemberOfAChain", {{"s2-real", "snapshot /o /c0 P 16"},
                                            {"s1-real", "snapshot s2-real /c1 P 8"},
                                            {"s0-real", "snapshot s1-real /c2 P 4"},
                                            {"s1", "snapshot-origin s1-real"}})),
    ContractName);

}  // namespace
}  // namespace sectormap::targets
