// SPDX-License-Identifier: Apache-2.0
// A child process changes the store in a loop and says after each call that it has returned; it is
// killed at a random moment. What it said is there afterwards, and nothing is half there.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <thread>

#include "server/state/state_store.h"
#include "tests/support/random.h"
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
  Random random(seed);
  for (int32_t version = 1;; ++version) {
    const Report report{static_cast<int32_t>(random.Below(kNames)), random.OneIn(4) ? 0 : version};
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

// A device's table, and whether it is exported.
struct State {
  int version = 0;
  bool exported = false;
  bool operator==(const State&) const = default;
};

class Shadow {
 public:
  void Apply(const Report& report) {
    states_[report.device] = {report.version, report.version != 0};
  }

  // The child may have done one step more than it could tell, on one device.
  void Check(const Contents& contents) {
    std::array<State, kNames> found;
    for (const DeviceRecord& device : contents.devices) {
      found[std::stoi(device.name.substr(1))].version = std::stoi(device.live_table.value());
    }
    for (const ExportRecord& entry : contents.exports) {
      found[std::stoi(entry.device_identity.substr(3))].exported = true;
    }
    int differing = 0;
    for (int device = 0; device < kNames; ++device) {
      if (!(found[device] == states_[device])) ++differing;
      EXPECT_TRUE(found[device].version != 0 || !found[device].exported);
    }
    EXPECT_LE(differing, 1);
    EXPECT_EQ(contents.targets.size(), contents.exports.size());
    states_ = found;
  }

 private:
  std::array<State, kNames> states_;
};

TEST(SqliteStoreCrashTest, KillLosesNothingThatWasAcknowledged) {
  Random random;
  TestDirectory scratch{"/tmp"};
  Shadow shadow;
  size_t acknowledged = 0;
  for (int round = 0; round < kRounds; ++round) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const uint64_t child_seed = random.Below(1'000'000);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) RunChild(scratch.path().string(), child_seed, pipe[1]);
    close(pipe[1]);
    // Some reports are read before the kill, so that each round has got somewhere.
    uint64_t wanted = random.Between(1, 40);
    const auto delay = std::chrono::microseconds(random.Below(5000));
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
