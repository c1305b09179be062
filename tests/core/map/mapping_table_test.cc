// SPDX-License-Identifier: Apache-2.0
#include "core/map/mapping_table.h"

#include "core/map/table_error.h"
#include "tests/core/map/map_fixture.h"
#include "tests/support/test_target_host.h"

namespace sectormap {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// Paths only; every name is a disk of TestBackings.
class Disks final : public DeviceResolver {
 public:
  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode mode) override {
    absl::StatusOr<std::shared_ptr<BlockDevice>> disk =
        backings.Open(name, mode == OpenMode::kReadOnly);
    if (!disk.ok()) return disk.status();
    return DeviceRef{*disk, std::string(name), false};
  }
  TestBackings backings;
};

// A target that flushes itself, remembers its messages and limits itself as told.
class SelfTarget final : public Target {
 public:
  using Target::Target;
  BlockLimits limits() const override { return given; }
  Task<IoStatus> Submit(IoRequest) override { return IoStatus::kOk; }
  std::string TableArgs() const override { return ""; }
  std::string StatusArgs() const override { return "fine"; }
  bool flush_is_for_backings() const override { return false; }
  absl::StatusOr<std::string> Message(std::span<const std::string> words) override {
    std::string answer;
    for (const std::string& word : words) answer += "[" + word + "]";
    return answer;
  }
  static BlockLimits given;
};
BlockLimits SelfTarget::given;

const TargetType kSelfTarget{
    .name = "self",
    .version = "1.0.0",
    .usage = "",
    .summary = "for tests",
    .create = [](TargetArgs& args) -> absl::StatusOr<std::unique_ptr<Target>> {
      return std::make_unique<SelfTarget>(args.length());
    },
};

class MappingTableTest : public testing::Test {
 protected:
  void SetUp() override {
    targets::AddBuiltinTargets(types_);
    types_.Add(kSelfTarget);
    SelfTarget::given = BlockLimits();
    a_ = disks_.backings.Add("/dev/a", SectorCount(16384));
    b_ = disks_.backings.Add("/dev/b", SectorCount(16384));
  }
  absl::StatusOr<std::shared_ptr<const MappingTable>> Build(std::string_view text,
                                                            bool read_only = false) {
    absl::StatusOr<TableSpec> spec = TableSpec::Parse(text);
    if (!spec.ok()) return spec.status();
    return MappingTable::Build(*spec, read_only, types_, disks_, host_);
  }
  std::shared_ptr<const MappingTable> Good(std::string_view text) {
    auto table = Build(text);
    EXPECT_TRUE(table.ok()) << table.status();
    return *table;
  }
  absl::Status Bad(std::string_view text) { return Build(text).status(); }

  TestTargetHost host_;
  TargetRegistry types_;
  Disks disks_;
  std::shared_ptr<TestDisk> a_, b_;
};

TEST_F(MappingTableTest, FindsTheRowOfEverySector) {
  const auto table = Good("0 8 linear /dev/a 0\n8 1 zero\n9 100 linear /dev/b 5\n");
  for (uint64_t sector = 0; sector < 109; ++sector) {
    const size_t row = static_cast<size_t>(&table->Find(Sector(sector)) - table->rows().data());
    EXPECT_EQ(row, sector < 8 ? 0u : sector < 9 ? 1u : 2u) << sector;
  }
  EXPECT_EQ(table->size(), SectorCount(109));
}

TEST_F(MappingTableTest, EmptyTableIsRefused) {
  EXPECT_EQ(Bad("# nothing\n").message(), "no targets specified; a table needs at least one row");
}

TEST_F(MappingTableTest, UnknownTypeIsRefusedWithTheKnownOnes) {
  const absl::Status status = Bad("0 8 zero\n8 8 nosuch /dev/a 0\n");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_THAT(message,
              StartsWith("line 2: nosuch: unknown target type; known types: delay error "));
  EXPECT_THAT(message, HasSubstr(" self snapshot "));
  const auto violation = TableViolationIn(status);
  EXPECT_EQ(violation->line, 2);
  EXPECT_EQ(violation->type, "nosuch");
  EXPECT_EQ(violation->reason, "unknown target type");
}

TEST_F(MappingTableTest, ATargetsRefusalNamesTheLineAndShowsTheUsage) {
  EXPECT_EQ(Bad("# head\n\n0 8 linear /dev/a\n").message(),
            "line 3: linear: Invalid argument count; usage: <start> <length> linear <device> "
            "<first sector>");
}

TEST_F(MappingTableTest, MissingDeviceIsNotFound) {
  const absl::Status status = Bad("0 8 linear /dev/nosuch 0");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(),
            "line 1: linear: Device lookup failed; /dev/nosuch: No such file or directory");
}

TEST_F(MappingTableTest, TooSmallDeviceSaysTheLengthThatFits) {
  EXPECT_EQ(Bad("0 16 linear /dev/a 16376").message(),
            "line 1: linear: /dev/a too small for target: start=16376, len=16, dev_size=16384; the "
            "largest length that fits there is 8");
}

TEST_F(MappingTableTest, ReadOnlyTableOpensItsDevicesForReading) {
  const auto table = Build("0 8 linear /dev/a 0", /*read_only=*/true);
  ASSERT_TRUE(table.ok());
  EXPECT_TRUE((*table)->read_only());
  EXPECT_TRUE(disks_.backings.opened_read_only("/dev/a"));
}

TEST_F(MappingTableTest, RowMustNotCutABlockOfTheNextRowsMedium) {
  disks_.backings.Add("/dev/4k", SectorCount(16384), {.logical_block_bytes = 4096});
  EXPECT_TRUE(Build("0 8 linear /dev/a 0\n8 8 linear /dev/4k 0").ok());
  const absl::Status status = Bad("0 4 linear /dev/a 0\n4 8 linear /dev/4k 0\n12 4 zero");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("table line 2 (start sect 4 len 8) not aligned to h/w logical block size "
                        "4096"));
  EXPECT_EQ(TableViolationIn(status)->line, 2);
}

TEST_F(MappingTableTest, TableMustEndAtAWholeBlock) {
  disks_.backings.Add("/dev/4k", SectorCount(16384), {.logical_block_bytes = 4096});
  EXPECT_FALSE(Build("0 8 linear /dev/4k 0\n8 4 zero").ok());
  EXPECT_TRUE(Build("0 8 linear /dev/4k 0\n8 4 zero\n12 4 zero").ok());
}

TEST_F(MappingTableTest, LimitsAreTheStrictestOfAllRows) {
  disks_.backings.Add("/dev/4k", SectorCount(16384),
                      {.logical_block_bytes = 4096, .physical_block_bytes = 8192});
  const auto table = Good("0 8 linear /dev/a 0\n8 8 linear /dev/4k 0\n16 8 error");
  EXPECT_EQ(table->limits().logical_block_bytes, 4096u);
  EXPECT_EQ(table->limits().physical_block_bytes, 8192u);
  EXPECT_TRUE(table->limits().can_discard);
  EXPECT_TRUE(table->limits().can_write_zeroes);
}

TEST_F(MappingTableTest, OneRowThatCannotDiscardTakesTheAbilityFromAll) {
  a_->mutable_limits().can_discard = false;
  const BlockLimits limits = Good("0 8 linear /dev/a 0\n8 8 linear /dev/b 0")->limits();
  EXPECT_FALSE(limits.can_discard);
  EXPECT_EQ(limits.discard_granularity_bytes, 0u);
  EXPECT_FALSE(limits.discard_zeroes);
  EXPECT_TRUE(limits.can_write_zeroes);
}

TEST_F(MappingTableTest, OneRowThatCannotWriteZeroesTakesTheAbilityFromAll) {
  a_->mutable_limits().can_write_zeroes = false;
  EXPECT_FALSE(Good("0 8 linear /dev/b 0\n8 8 linear /dev/a 0")->limits().can_write_zeroes);
}

TEST_F(MappingTableTest, PreferredSizesStackToACommonMultiple) {
  const BlockLimits limits =
      Good(
          "0 96 striped 2 16 /dev/a 0 /dev/b 0\n96 144 striped 3 24 /dev/a 64 /dev/b 64 /dev/a 256")
          ->limits();
  EXPECT_EQ(limits.io_min_bytes, 24 * 512u);
  EXPECT_EQ(limits.io_opt_bytes, 288 * 512u);
}

// Blocks of 8 sectors lie where the device has them, wherever its rows begin.
TEST_F(MappingTableTest, AlignmentIsThatOfWhatLiesBelow) {
  a_->mutable_limits().physical_block_bytes = 4096;
  a_->mutable_limits().discard_granularity_bytes = 8192;
  const auto of = [&](std::string_view text) {
    const BlockLimits limits = Good(text)->limits();
    return std::pair(limits.physical_alignment_bytes, limits.discard_alignment_bytes);
  };
  EXPECT_EQ(of("0 64 linear /dev/a 0"), std::pair(0u, 0u));
  EXPECT_EQ(of("0 64 linear /dev/a 1"), std::pair(7 * 512u, 15 * 512u));
  EXPECT_EQ(of("0 64 linear /dev/a 9"), std::pair(7 * 512u, 7 * 512u));
  EXPECT_EQ(of("0 9 zero\n9 64 linear /dev/a 8"), std::pair(512u, 512u));
  EXPECT_EQ(of("0 9 linear /dev/a 0\n9 64 linear /dev/a 25"), std::pair(0u, 0u));
}

TEST_F(MappingTableTest, RowsThatAreAlignedToDifferentPlacesAreToNone) {
  a_->mutable_limits().physical_block_bytes = 4096;
  a_->mutable_limits().discard_granularity_bytes = 8192;
  b_->mutable_limits().physical_block_bytes = 8192;
  b_->mutable_limits().discard_granularity_bytes = 3 * 4096;
  const BlockLimits fit = Good("0 8 linear /dev/a 1\n8 64 linear /dev/b 1")->limits();
  EXPECT_EQ(fit.physical_alignment_bytes, 7 * 512u);
  EXPECT_EQ(fit.discard_alignment_bytes, kNotAligned);
  const BlockLimits not_fit =
      Good("0 8 linear /dev/a 0\n8 64 linear /dev/a 1\n72 8 zero")->limits();
  EXPECT_EQ(not_fit.physical_alignment_bytes, kNotAligned);
  EXPECT_EQ(not_fit.discard_alignment_bytes, kNotAligned);
}

TEST_F(MappingTableTest, FlushSetHasEachBackingOnceThenTargetsThatFlushThemselves) {
  const auto table = Good(
      "0 8 linear /dev/b 0\n8 8 self\n16 8 linear /dev/a 8\n24 8 linear /dev/b 64\n32 8 zero\n40 8 "
      "error\n");
  EXPECT_THAT(table->flush_set(), ElementsAre(b_.get(), a_.get(), table->rows()[1].target.get()));
}

TEST_F(MappingTableTest, DependenciesAreEachOnceInTheOrderOfFirstUse) {
  const auto table = Good("0 8 linear /dev/b 0\n8 8 linear /dev/a 0\n16 8 linear /dev/b 8\n");
  std::vector<std::string> names;
  for (const DeviceRef& device : table->Dependencies()) names.push_back(device.name());
  EXPECT_THAT(names, ElementsAre("/dev/b", "/dev/a"));
}

TEST_F(MappingTableTest, TextCanBeLoadedAgain) {
  const std::string text =
      "0 16 striped 2 8 /dev/a 0 /dev/b 0\n16 8 linear /dev/a 100\n24 8 error \n";
  EXPECT_EQ(Good(text)->TableText(), text);
  EXPECT_EQ(Good(Good(text)->TableText())->TableText(), text);
}

TEST_F(MappingTableTest, StatusHasOneLinePerRow) {
  EXPECT_EQ(Good("0 8 self\n8 8 linear /dev/a 0\n")->StatusText(), "0 8 self fine\n8 8 linear \n");
}

TEST_F(MappingTableTest, MessageGoesToTheRowOfItsSectorAsWords) {
  const auto table = Good("0 8 linear /dev/a 0\n8 8 self\n");
  EXPECT_EQ(*table->Message(Sector(8), R"(  set a\ b c\\ )"), R"([set][a b][c\])");
  EXPECT_EQ(table->Message(Sector(0), "x").status().message(),
            "Target type does not support messages");
  EXPECT_EQ(table->Message(Sector(16), "x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(table->Message(Sector(8), " ").ok());
}

TEST_F(MappingTableTest, TenThousandRowsAreBuiltAndFound) {
  std::string text;
  for (int i = 0; i < 10000; ++i)
    text += std::to_string(i) + " 1 linear /dev/a " + std::to_string(i) + "\n";
  const auto table = Good(text);
  for (uint64_t sector = 0; sector < 10000; ++sector) {
    ASSERT_EQ(table->Find(Sector(sector)).start, Sector(sector));
  }
  EXPECT_EQ(table->flush_set().size(), 1u);
}

}  // namespace
}  // namespace sectormap
