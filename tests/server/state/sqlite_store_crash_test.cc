// SPDX-License-Identifier: Apache-2.0
// A child process changes the store in a loop and says after each call that it has returned; it is
// killed at a random moment. What it said is there afterwards, and nothing is half there.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>

#include "server/state/state_store.h"
#include "tests/support/test_directory.h"

namespace sectormap::state {
namespace {

constexpr int kRounds = 15;
constexpr int kNames = 5;

// What one round's child did, in order; the last may not have been acknowledged.
struct Report {
  int32_t device;
  int32_t version;  // of its table; 0: deleted
};

DeviceRecord Record(int device, int version) {
  return {.identity = "id-" + std::to_string(device),
          .name = "d" + std::to_string(device),
          .live_table = std::to_string(version)};
}

std::string Iqn(int device) { return "iqn.2026-11.io.sectormap:d" + std::to_string(device); }

[[noreturn]] void RunChild(const std::string& directory, uint64_t seed, int pipe) {
  auto store = OpenSqliteStore(directory);
  if (!store.ok()) _exit(1);
  std::minstd_rand random(static_cast<uint32_t>(seed));
  for (int32_t version = 1;; ++version) {
    const Report report{static_cast<int32_t>(random() % kNames), random() % 4 == 0 ? 0 : version};
    const DeviceRecord record = Record(report.device, report.version);
    absl::Status status =
        report.version == 0 ? (*store)->DeleteDevice(record.identity) : (*store)->PutDevice(record);
    if (status.ok() && report.version != 0) {
      status = (*store)->PutExport(
          {.iqn = Iqn(report.device)},
          {.iqn = Iqn(report.device), .lun_number = 0, .device_identity = record.identity});
    }
    if (!status.ok() || write(pipe, &report, sizeof report) != sizeof report) _exit(1);
  }
}

class Shadow {
 public:
  void Apply(const Report& report) { versions_[report.device] = report.version; }

  // The child may have done one step more than it could tell.
  void Check(const Contents& contents) {
    int differing = 0;
    std::map<int, int> found;
    for (const DeviceRecord& device : contents.devices) {
      found[std::stoi(device.name.substr(1))] = std::stoi(device.live_table.value());
    }
    for (int device = 0; device < kNames; ++device) {
      if (found[device] != versions_[device]) ++differing;
      versions_[device] = found[device];
    }
    EXPECT_LE(differing, 1);
    // A device of the last, unacknowledged step may not have been exported yet.
    EXPECT_LE(contents.devices.size() - contents.exports.size(), 1u);
    EXPECT_EQ(contents.targets.size(), contents.exports.size());
  }

 private:
  std::map<int, int> versions_;
};

TEST(SqliteStoreCrashTest, KillLosesNothingThatWasAcknowledged) {
  const char* given = std::getenv("SECTORMAP_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "SECTORMAP_SEED=" << seed << std::endl;
  std::minstd_rand random(static_cast<uint32_t>(seed));
  TestDirectory scratch{"/tmp"};
  Shadow shadow;
  size_t acknowledged = 0;
  for (int round = 0; round < kRounds; ++round) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const uint64_t child_seed = random();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) RunChild(scratch.path().string(), child_seed, pipe[1]);
    close(pipe[1]);
    // Some reports are read before the kill, so that each round has got somewhere.
    size_t wanted = 1 + random() % 40;
    const auto delay = std::chrono::microseconds(random() % 5000);
    Report report{};
    while (read(pipe[0], &report, sizeof report) == sizeof report) {
      shadow.Apply(report);
      ++acknowledged;
      if (--wanted == 0) {
        std::this_thread::sleep_for(delay);
        kill(child, SIGKILL);
      }
    }
    close(pipe[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
    auto store = OpenSqliteStore(scratch.path().string());
    ASSERT_TRUE(store.ok()) << store.status();
    auto contents = (*store)->LoadAll();
    ASSERT_TRUE(contents.ok()) << contents.status();
    shadow.Check(*contents);
  }
  EXPECT_GE(acknowledged, static_cast<size_t>(kRounds));
}

}  // namespace
}  // namespace sectormap::state
