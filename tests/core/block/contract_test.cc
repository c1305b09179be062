// SPDX-License-Identifier: Apache-2.0
// The BlockDevice contract over every backing device of this machine.
#include "core/block/file_device.h"
#include "core/block/memory_device.h"
#include "tests/core/block/block_device_contract.h"
#include "tests/support/loop_device.h"
#include "tests/support/test_directory.h"

namespace sectormap {
namespace {

constexpr SectorCount kSize{16384};
constexpr const char* kTmpfs = "/dev/shm";

std::shared_ptr<BlockDevice> MakeMemory(ReactorPool&) {
  auto device = MemoryDevice::Create(kSize);
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

// A device that keeps what it lies on.
template <typename Below>
std::shared_ptr<BlockDevice> OpenOn(std::shared_ptr<Below> below, const std::string& path,
                                    const FileDevice::Options& options) {
  auto device = FileDevice::Open(path, false, options);
  EXPECT_TRUE(device.ok()) << device.status();
  if (!device.ok()) return nullptr;
  struct Holder {
    std::shared_ptr<Below> below;
    std::unique_ptr<FileDevice> device;
  };
  auto holder = std::make_shared<Holder>(std::move(below), *std::move(device));
  return {holder, holder->device.get()};
}

std::shared_ptr<BlockDevice> MakeMemoryInHugePages(ReactorPool&) {
  auto device = MemoryDevice::Create(kSize, 0);
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

ContractDevice OnFile(const std::string& name, const std::filesystem::path& parent,
                      const FileDevice::Options& options) {
  return {name, [parent, options](ReactorPool&) {
            auto directory = std::make_shared<TestDirectory>(parent);
            const std::string path = directory->MakeFile("disk", Bytes(kSize).value());
            return OpenOn(directory, path, options);
          }};
}

struct LoopOnDisk {
  TestDirectory directory;
  LoopDevice device{directory.MakeFile("disk", Bytes(kSize).value()), 4096};
};

void SkipWithoutLoop() { GTEST_SKIP() << "no loop device: not root, or none in this container"; }

ContractDevice OnLoop(const std::string& name, FileDevice::Mode mode) {
  return {name, [mode](ReactorPool&) -> std::shared_ptr<BlockDevice> {
            auto loop = std::make_shared<LoopOnDisk>();
            if (!loop->device.is_there()) {
              SkipWithoutLoop();
              return nullptr;
            }
            return OpenOn(loop, loop->device.path(), {.mode = mode});
          }};
}

constexpr FileDevice::Mode kWriteback = FileDevice::Mode::kWriteback;
constexpr FileDevice::Mode kDirect = FileDevice::Mode::kDirect;

INSTANTIATE_TEST_SUITE_P(Memory, BlockDeviceContractTest,
                         testing::Values(ContractDevice{"Memory", MakeMemory},
                                         ContractDevice{"MemoryInHugePages",
                                                        MakeMemoryInHugePages}),
                         ContractName);

INSTANTIATE_TEST_SUITE_P(
    File, BlockDeviceContractTest,
    testing::Values(OnFile("WritebackOnDisk", std::filesystem::current_path(),
                           {.mode = kWriteback}),
                    OnFile("WritebackInMemory", kTmpfs, {.mode = kWriteback}),
                    OnFile("DirectOnDisk", std::filesystem::current_path(), {.mode = kDirect}),
                    OnFile("DirectIn4096Blocks", std::filesystem::current_path(),
                           {.mode = kDirect, .direct_block_bytes = 4096})),
    ContractName);

INSTANTIATE_TEST_SUITE_P(Loop, BlockDeviceContractTest,
                         testing::Values(OnLoop("Direct", kDirect),
                                         OnLoop("Writeback", kWriteback)),
                         ContractName);

}  // namespace
}  // namespace sectormap
