// SPDX-License-Identifier: Apache-2.0
// The exception table, and stores that are not as they should be.
#include <map>
#include <ranges>

#include "targets/snapshot/exception_table.h"
#include "targets/snapshot/persistent_store.h"
#include "targets/snapshot/snapshot.h"
#include "targets/snapshot/transient_store.h"
#include "tests/support/random.h"
#include "tests/targets/snapshot_fixture.h"

namespace sectormap::targets {
namespace {

using testing::HasSubstr;

// --- ExceptionTable ---

TEST(ExceptionTableTest, NeighboursOnBothSidesAreOneRun) {
  ExceptionTable table;
  ASSERT_TRUE(table.Insert({10, 100, 1}));
  ASSERT_TRUE(table.Insert({12, 102, 1}));
  EXPECT_EQ(table.runs(), 2u);
  ASSERT_TRUE(table.Insert({11, 101, 1}));
  EXPECT_EQ(table.runs(), 1u);
  ASSERT_TRUE(table.Insert({13, 99, 1}));  // not a neighbour in the store
  EXPECT_EQ(table.runs(), 2u);
  EXPECT_FALSE(table.Insert({9, 50, 2}));
  EXPECT_EQ(table.size(), 4u);
}

TEST(ExceptionTableTest, ALongRunStaysWhole) {
  ExceptionTable table;
  ASSERT_TRUE(table.Insert({5, 7, 200000}));
  EXPECT_LE(table.runs(), 4u);
  EXPECT_EQ(table.Find(5 + 199999).new_chunk, 7u + 199999);
  EXPECT_FALSE(table.Find(5 + 200000).exists);
}

TEST(ExceptionTableTest, AgreesWithAMap) {
  Random random;
  ExceptionTable table;
  std::map<uint64_t, uint64_t> shadow;
  constexpr uint64_t kChunks = 500;
  for (int i = 0; i < 20000; ++i) {
    const uint64_t chunk = random.Below(kChunks);
    if (random.OneIn(3)) {
      const auto found = shadow.find(chunk);
      if (found == shadow.end()) continue;
      table.Remove(chunk);
      shadow.erase(found);
    } else {
      const ExceptionRun run{chunk, 1000 + chunk + 1000 * random.Below(2), random.Between(1, 5)};
      bool free = true;
      for (uint64_t c = 0; c < run.count; ++c) free = free && !shadow.contains(chunk + c);
      ASSERT_EQ(table.Insert(run), free);
      for (uint64_t c = 0; free && c < run.count; ++c) shadow[chunk + c] = run.new_chunk + c;
    }
    ASSERT_EQ(table.size(), shadow.size());
    const uint64_t asked = random.Below(kChunks);
    const ExceptionTable::Found found = table.Find(asked);
    ASSERT_EQ(found.exists, shadow.contains(asked));
    for (uint64_t c = 0; c < std::min<uint64_t>(found.count, 10); ++c) {
      const auto entry = shadow.find(asked + c);
      ASSERT_EQ(entry != shadow.end(), found.exists);
      if (found.exists) ASSERT_EQ(entry->second, found.new_chunk + c);
    }
    const auto next = shadow.lower_bound(asked);
    const std::optional<ExceptionRun> run = table.NextFrom(asked);
    ASSERT_EQ(run.has_value(), next != shadow.end());
    if (run.has_value()) ASSERT_EQ(run->old_chunk, next->first);
  }
}

// --- TransientStore ---

TEST(TransientStoreTest, TakesChunksFromTheStartUpToTheLastWholeOne) {
  TransientStore store(*MemoryDevice::Create(SectorCount(43)), 8);
  EXPECT_EQ(store.Allocate(3).new_chunk, 0u);
  const ExceptionStore::Allocation rest = store.Allocate(3);
  EXPECT_EQ(rest.new_chunk, 3u);
  EXPECT_EQ(rest.count, 2u);
  EXPECT_EQ(store.Allocate(1).count, 0u);
  EXPECT_EQ(store.usage().allocated, SectorCount(40));
  EXPECT_EQ(store.usage().metadata, SectorCount(0));
}

// --- Stores ---

constexpr uint64_t kOrigin = 1024;
constexpr uint64_t kStore = 1024;
constexpr uint64_t kChunk = 4;  // sectors: 128 entries an area
constexpr uint64_t kEntries = 128;

class SnapshotStoreTest : public SnapshotFixture {
 protected:
  struct Entry {
    uint64_t old_chunk;
    uint64_t new_chunk;
  };

  void SetUp() override { host_.AddMemory("/o", Pattern("ORG", Sector(0), SectorCount(kOrigin))); }

  static void Put32(std::vector<std::byte>& store, size_t place, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) store[place + i] = static_cast<std::byte>(value >> (8 * i));
  }
  static void Put64(std::vector<std::byte>& store, size_t place, uint64_t value) {
    Put32(store, place, static_cast<uint32_t>(value));
    Put32(store, place + 4, static_cast<uint32_t>(value >> 32));
  }
  static size_t EntryPlace(uint64_t index) {
    return (1 + index / kEntries * (kEntries + 1)) * kChunk * kSectorBytes + index % kEntries * 16;
  }
  static std::vector<std::byte> Store(const std::vector<Entry>& entries) {
    std::vector<std::byte> store(kStore * kSectorBytes);
    Put32(store, 0, 0x70416e53);
    Put32(store, 4, 1);
    Put32(store, 8, 1);
    Put32(store, 12, kChunk);
    for (size_t i = 0; i < entries.size(); ++i) {
      Put64(store, EntryPlace(i), entries[i].old_chunk);
      Put64(store, EntryPlace(i) + 8, entries[i].new_chunk);
    }
    return store;
  }
  // Every slot in turn.
  static std::vector<Entry> Dense(uint64_t count) {
    std::vector<Entry> entries;
    for (uint64_t i = 0; i < count; ++i) {
      entries.push_back({i, 2 + i / kEntries * (kEntries + 1) + i % kEntries});
    }
    return entries;
  }

  std::string Opening(const std::vector<std::byte>& store) {
    host_.AddMemory("/c", store);
    const absl::Status status = host_.TryMake("s", "0 1024 snapshot /o /c P 4");
    if (status.ok()) host_.Remove("s");
    return std::string(status.message());
  }
};

TEST_F(SnapshotStoreTest, AGoodStoreIsTaken) {
  EXPECT_EQ(Opening(Store({})), "");
  EXPECT_EQ(Opening(Store({{5, 3}, {255, 2}, {0, 60}})), "");
  EXPECT_EQ(Opening(Store(Dense(kEntries - 1))), "");
}

TEST_F(SnapshotStoreTest, ADamagedStoreIsRefusedAndSaysWhy) {
  const std::pair<std::vector<Entry>, const char*> kCases[] = {
      {{{256, 2}}, "the origin has no such chunk"},
      {{{uint64_t{1} << 60, 2}}, "the origin has no such chunk"},
      {{{0, 256}}, "the store has no such chunk"},
      {{{0, ~uint64_t{0}}}, "the store has no such chunk"},
      {{{0, 1}}, "metadata lie there"},
      {{{0, 130}}, "metadata lie there"},
      {{{0, 2}, {0, 3}}, "that chunk has an exception already"},
      {{{0, 2}, {1, 2}}, "another exception lies there"},
      {{{0, 2}, {1, 9}, {2, 9}}, "another exception lies there"},
      {{{0, 9}, {1, 2}, {2, 9}}, "another exception lies there"},
  };
  for (const auto& [entries, why] : kCases) {
    const std::string refusal = Opening(Store(entries));
    EXPECT_THAT(refusal, HasSubstr("Failed to read snapshot metadata")) << why;
    EXPECT_THAT(refusal, HasSubstr(why));
  }
}

TEST_F(SnapshotStoreTest, AFullAreaWithoutANextIsRefused) {
  std::vector<std::byte> store = Store(Dense(kEntries));
  store.resize(130 * kChunk * kSectorBytes);
  EXPECT_THAT(Opening(store), HasSubstr("area 1 lies past its end"));
}

TEST_F(SnapshotStoreTest, ABadHeaderIsRefused) {
  std::vector<std::byte> store = Store({});
  Put32(store, 0, 0x12345678);
  EXPECT_THAT(Opening(store), HasSubstr("Invalid or corrupt snapshot"));
  store = Store({});
  Put32(store, 8, 2);
  EXPECT_THAT(Opening(store), HasSubstr("unable to handle snapshot disk version 2"));
  for (const uint32_t chunk : {0u, 7u, 1u << 22, ~0u}) {
    store = Store({});
    Put32(store, 12, chunk);
    EXPECT_THAT(Opening(store), HasSubstr("invalid on-disk chunk size"));
  }
  store = Store({});
  store.resize(1 * kSectorBytes);
  EXPECT_THAT(Opening(store), HasSubstr("Failed to read snapshot metadata"));
  // Too small for an area: 32-sector chunks over 40 sectors.
  store = Store({});
  Put32(store, 12, 32);
  store.resize(20 * kSectorBytes);
  EXPECT_THAT(Opening(store), HasSubstr("area 0 lies past its end"));
}

TEST_F(SnapshotStoreTest, AnUnreadableStoreIsRefused) {
  std::vector<std::byte> store = Store({});
  host_.AddMemory("/c", store);
  host_.Make("bad", "0 4 linear /c 0\n4 1020 error");
  const absl::Status status = host_.TryMake("s", "0 1024 snapshot /o bad P 4");
  EXPECT_THAT(std::string(status.message()), HasSubstr("the store's exceptions could not be read"));
}

TEST_F(SnapshotStoreTest, FourZeroBytesMakeANewStoreOfAnything) {
  std::vector<std::byte> store = Store(Dense(20));
  std::ranges::fill(store | std::views::drop(16), std::byte{0xaa});
  Put32(store, 0, 0);
  const auto disk = host_.AddMemory("/c", store);
  host_.Make("s", "0 1024 snapshot /o /c P 4");
  EXPECT_EQ(host_.Status("s"), "snapshot 8/1024 8");
  std::vector<std::byte> expected = Store({});
  std::ranges::fill(expected | std::views::drop(2 * kChunk * kSectorBytes), std::byte{0xaa});
  EXPECT_TRUE(std::ranges::equal(disk->bytes(), expected));
}

// A merge that was interrupted may leave entries behind the terminator.
TEST_F(SnapshotStoreTest, WhatLiesBehindTheTerminatorNeverComesBack) {
  std::vector<Entry> entries = Dense(100);
  entries[31] = {0, 0};
  const auto disk = host_.AddMemory("/c", Store(entries));
  host_.AddMemory("/o", Pattern("ORG", Sector(0), SectorCount(kOrigin)));
  host_.Make("s", "0 1024 snapshot /o /c P 4");
  host_.Make("o", "0 1024 snapshot-origin /o");
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "4 - 0+31");
  const std::vector<std::byte> view = host_.ReadAll("s");
  ASSERT_EQ(host_.WritePattern("o", "NEW", 50 * kChunk, 1), IoStatus::kOk);
  host_.Remove("s");
  host_.Make("s", "0 1024 snapshot /o /c P 4");
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "4 - 0+31 50+1");
  EXPECT_TRUE(host_.ReadAll("s") == view);
}

TEST_F(SnapshotStoreTest, StoresOfSeveralAreasAreReadAgain) {
  for (const uint64_t chunk : {1, 2, 8}) {
    host_.AddMemory("/o", Pattern("ORG", Sector(0), SectorCount(kOrigin)));
    host_.AddMemory("/c", 3 * kOrigin);
    host_.Make("s", absl::StrCat("0 1024 snapshot /o /c P ", chunk));
    host_.Make("o", "0 1024 snapshot-origin /o");
    const std::vector<std::byte> view = host_.ReadAll("s");
    Random random;
    for (int i = 0; i < 400; ++i) {
      ASSERT_EQ(host_.WritePattern("o", "NEW", random.Below(kOrigin), 1), IoStatus::kOk);
    }
    const std::string status = host_.Status("s");
    const std::string exceptions = *host_.Message("s", "exceptions 0");
    for (int i = 0; i < 2; ++i) {
      host_.Remove("s");
      host_.Make("s", absl::StrCat("0 1024 snapshot /o /c P ", chunk));
      EXPECT_EQ(host_.Status("s"), status);
      EXPECT_EQ(*host_.Message("s", "exceptions 0"), exceptions);
      EXPECT_TRUE(host_.ReadAll("s") == view);
    }
    ASSERT_EQ(host_.WritePattern("o", "NE2", 0, kOrigin), IoStatus::kOk);
    EXPECT_TRUE(host_.ReadAll("s") == view);
    host_.Remove("s");
    host_.Remove("o");
  }
}

TEST_F(SnapshotStoreTest, AnOriginThatIsTooSmallForTheStoreIsRefused) {
  host_.AddMemory("/c", Store({{255, 2}}));
  host_.Make("s", "0 1024 snapshot /o /c P 4");
  host_.AddMemory("/o2", 512);
  EXPECT_THAT(std::string(host_.Load("s", "0 512 snapshot /o2 /c P 4").message()),
              HasSubstr("the store holds chunk 255 of its origin, but this origin has 128 chunks"));
}

// --- Messages ---

TEST_F(SnapshotStoreTest, ExceptionsAreListedInParts) {
  host_.AddMemory("/o", 16384);
  host_.AddMemory("/c", 8192);
  host_.Make("s", "0 16384 snapshot /o /c P 1");
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "1 -");
  std::vector<std::byte> sector(kSectorBytes);
  for (uint64_t chunk = 0; chunk < 600; ++chunk) {
    ASSERT_EQ(host_.Write("s", chunk * 3 + 1, sector), IoStatus::kOk);
  }
  std::vector<std::string> found;
  std::string next = "0";
  int answers = 0;
  while (next != "-") {
    const std::string answer = *host_.Message("s", absl::StrCat("exceptions ", next));
    ++answers;
    const std::vector<std::string> words = *SplitWords(answer, Comments::kNone);
    ASSERT_LE(words.size(), 2 + kExceptionRangesMax);
    next = words[1];
    found.insert(found.end(), words.begin() + 2, words.end());
  }
  EXPECT_EQ(answers, 3);
  ASSERT_EQ(found.size(), 600u);
  for (uint64_t i = 0; i < 600; ++i) EXPECT_EQ(found[i], absl::StrCat(i * 3 + 1, "+1"));
  EXPECT_EQ(*host_.Message("s", "exceptions 1796"), "1 - 1798+1");
}

TEST_F(SnapshotStoreTest, KeepCopiesWhatIsNotThereYet) {
  host_.AddMemory("/c", kStore);
  host_.Make("s", "0 1024 snapshot /o /c P 4");
  const std::vector<std::byte> view = host_.ReadAll("s");
  EXPECT_EQ(host_.Message("s", "keep 10 20").status(), absl::OkStatus());
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "4 - 10+20");
  EXPECT_EQ(host_.Message("s", "keep 5 10").status(), absl::OkStatus());
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "4 - 5+25");
  EXPECT_EQ(host_.Message("s", "keep 250 100").status(), absl::OkStatus());
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "4 - 5+25 250+6");
  EXPECT_TRUE(host_.ReadAll("s") == view);
  EXPECT_EQ(host_.Message("s", "keep 0 70000").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(host_.Message("s", "keep 0").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(host_.Message("s", "keep x 1").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SnapshotStoreTest, KeepThatFindsNoRoomLeavesTheSnapshotValid) {
  host_.AddMemory("/c", 64);
  host_.Make("s", "0 1024 snapshot /o /c P 4");
  EXPECT_EQ(host_.Message("s", "keep 0 100").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(host_.Status("s"), "snapshot 64/64 8");
  EXPECT_EQ(*host_.Message("s", "exceptions 0"), "4 - 0+14");
}

}  // namespace
}  // namespace sectormap::targets
