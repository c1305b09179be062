// SPDX-License-Identifier: Apache-2.0
// Mapped devices over every built-in target keep the BlockDevice contract, stacked too.
#include <map>
#include <memory>
#include <string>

#include "core/block/memory_device.h"
#include "core/map/mapped_device.h"
#include "targets/builtin_targets.h"
#include "tests/core/block/block_device_contract.h"

namespace sectormap {
namespace {

constexpr const char* kIdentity = "00000000000000000000000000000001";

// A mapped device with all that it stands on. Names in its table: a, b and c are disks of memory,
// `lower` a mapped device over them.
class Stack final : public DeviceResolver {
 public:
  Stack(ReactorPool& reactors, const std::string& table, const std::string& lower_table) {
    targets::AddBuiltinTargets(types_);
    for (const char* name : {"a", "b", "c"}) {
      devices_[name] = *MemoryDevice::Create(kContractSectorsMax);
    }
    if (!lower_table.empty()) devices_["lower"] = Make(reactors, lower_table);
    top_ = Make(reactors, table);
  }
  // As the registry does: targets with work of their own end it.
  ~Stack() override { top_->Retire(); }

  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode) override {
    return DeviceRef{devices_.at(std::string(name)), std::string(name), name == "lower"};
  }

  MappedDevice* top() { return top_.get(); }

 private:
  std::shared_ptr<MappedDevice> Make(ReactorPool& reactors, const std::string& text) {
    auto spec = TableSpec::Parse(text);
    EXPECT_TRUE(spec.ok()) << spec.status();
    auto device = std::make_shared<MappedDevice>("d", "", kIdentity, reactors);
    auto table = MappingTable::Build(*spec, /*read_only=*/false, types_, *this, *device);
    EXPECT_TRUE(table.ok()) << table.status();
    device->Load(*table);
    const absl::Status resumed = device->Resume();
    EXPECT_TRUE(resumed.ok()) << resumed;
    return device;
  }

  TargetRegistry types_;
  std::map<std::string, std::shared_ptr<BlockDevice>> devices_;
  std::shared_ptr<MappedDevice> top_;
};

ContractDevice Mapped(std::string name, std::string table, std::string lower_table = "") {
  return {std::move(name), [table, lower_table](ReactorPool& reactors) {
            auto stack = std::make_shared<Stack>(reactors, table, lower_table);
            return std::shared_ptr<BlockDevice>(stack, stack->top());
          }};
}

INSTANTIATE_TEST_SUITE_P(
    MappedDevice, BlockDeviceContractTest,
    testing::Values(
        Mapped("OneRow", "0 4096 linear a 100"),
        Mapped("RowsOfOddLengths",
               "0 7 linear a 0\n7 1 linear b 9\n8 2041 linear c 3\n2049 3000 linear a 4096"),
        Mapped("Striped", "0 6144 striped 3 8 a 0 b 16 c 1"),
        Mapped("StripedByAnOddChunk", "0 4158 striped 2 7 a 0 b 5"),
        Mapped("Delay", "0 4096 delay a 3 1 a 3 1"),
        Mapped("FlakeyWhileUp", "0 4096 flakey a 100 1 0"),
        Mapped("MirrorInSync", "0 4096 mirror core 2 64 nosync 2 a 100 b 7"),
        Mapped("MirrorOfThreeThatSyncs", "0 4000 mirror core 1 128 3 a 0 b 64 c 1"),
        Mapped("MirrorWithADiskLog", "0 4096 mirror disk 2 c 32 2 a 100 b 7 1 handle_errors"),
        Mapped("LinearOverStriped", "0 1000 linear lower 3000\n1000 3000 linear lower 0",
               "0 6144 striped 3 8 a 0 b 16 c 1")),
    ContractName);

}  // namespace
}  // namespace sectormap
