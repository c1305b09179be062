// SPDX-License-Identifier: Apache-2.0
#include "core/map/device_registry.h"

#include "core/map/table_error.h"
#include "tests/core/map/map_fixture.h"

namespace sectormap {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DeviceRegistryTest : public MapFixture {};

// --- names ---

TEST_F(DeviceRegistryTest, NamesAreCheckedAsInTheKernel) {
  for (const std::string& name :
       {std::string(), std::string("a/b"), std::string("control"), std::string("."),
        std::string(".."), std::string(128, 'x'), std::string("a\nb"), std::string("a\0b", 3)}) {
    EXPECT_EQ(registry().Create(name, {}).code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_TRUE(registry().Create(std::string(127, 'x'), {}).ok());
  EXPECT_TRUE(registry().Create("vg-lv--1 #2", {}).ok());
}

TEST_F(DeviceRegistryTest, UuidsHaveALimit) {
  EXPECT_EQ(registry().Create("x", {.uuid = std::string(129, 'u'), .identity = ""}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(registry().Create("x", {.uuid = std::string(128, 'u'), .identity = ""}).ok());
}

TEST_F(DeviceRegistryTest, NameUuidAndIdentityAreTakenOnce) {
  ASSERT_TRUE(registry().Create("x", {.uuid = "u", .identity = "i"}).ok());
  EXPECT_EQ(registry().Create("x", {}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(registry().Create("y", {.uuid = "u", .identity = ""}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(registry().Create("z", {.uuid = "", .identity = "i"}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Names(), ElementsAre("x"));
}

TEST_F(DeviceRegistryTest, UuidAndNameAreFreeAgainAfterRemoval) {
  ASSERT_TRUE(registry().Create("x", {.uuid = "u", .identity = "i"}).ok());
  ASSERT_TRUE(registry().Remove("x", {}).ok());
  EXPECT_TRUE(registry().Create("x", {.uuid = "u", .identity = "i"}).ok());
}

TEST_F(DeviceRegistryTest, IdentityIsNeverEmptyAndFollowsTheUuid) {
  ASSERT_TRUE(registry().Create("x", {.uuid = "u1", .identity = ""}).ok());
  const std::string identity = InfoOf("x").identity;
  EXPECT_EQ(identity.size(), 32u);
  ASSERT_TRUE(registry().Remove("x", {}).ok());
  ASSERT_TRUE(registry().Create("y", {.uuid = "u1", .identity = ""}).ok());
  EXPECT_EQ(InfoOf("y").identity, identity);
  ASSERT_TRUE(registry().Create("z", {}).ok());
  ASSERT_TRUE(registry().Create("w", {}).ok());
  EXPECT_EQ(InfoOf("z").identity.size(), 32u);
  EXPECT_NE(InfoOf("z").identity, InfoOf("w").identity);
}

TEST_F(DeviceRegistryTest, UuidIsSetOnceAndIdentityStays) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  const std::string identity = InfoOf("x").identity;
  EXPECT_TRUE(registry().SetUuid("x", "u").ok());
  EXPECT_EQ(InfoOf("x").uuid, "u");
  EXPECT_EQ(InfoOf("x").identity, identity);
  EXPECT_EQ(Message(registry().SetUuid("x", "v")),
            "Unable to change uuid of mapped device x because uuid is already set to u");
  ASSERT_TRUE(registry().Create("y", {}).ok());
  EXPECT_EQ(registry().SetUuid("y", "u").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(registry().SetUuid("y", "").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DeviceRegistryTest, RenameMovesTheDeviceAndCountsAnEvent) {
  Make("x", "0 8 zero");
  const auto device = registry().Find("x");
  ASSERT_TRUE(registry().Rename("x", "y").ok());
  EXPECT_EQ(registry().Find("y"), device);
  EXPECT_EQ(registry().Find("x"), nullptr);
  EXPECT_EQ(InfoOf("y").name, "y");
  EXPECT_EQ(InfoOf("y").event_number, 1u);
  ASSERT_TRUE(registry().Create("z", {}).ok());
  EXPECT_EQ(registry().Rename("y", "z").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(registry().Rename("y", "a/b").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DeviceRegistryTest, RenameIsRefusedWhileATableNamesTheDevice) {
  Make("low", "0 8 zero");
  Make("top", "0 8 linear low 0");
  const absl::Status status = registry().Rename("low", "lower");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("device 'top'"));
  EXPECT_TRUE(registry().Rename("top", "roof").ok());
}

TEST_F(DeviceRegistryTest, VerbsOnAMissingDeviceAreNotFound) {
  EXPECT_THAT(Message(registry().Info("x").status()), HasSubstr("Device does not exist."));
  EXPECT_TRUE(absl::IsNotFound(registry().Info("x").status()));
  EXPECT_TRUE(absl::IsNotFound(Load("x", "0 8 zero")));
  EXPECT_TRUE(absl::IsNotFound(registry().Suspend("x", SuspendMode::kFlush)));
  EXPECT_TRUE(absl::IsNotFound(registry().Resume("x")));
  EXPECT_TRUE(absl::IsNotFound(registry().Remove("x", {})));
  EXPECT_TRUE(absl::IsNotFound(registry().Rename("x", "y")));
  EXPECT_TRUE(absl::IsNotFound(registry().Table("x", TableSlot::kLive).status()));
  EXPECT_TRUE(absl::IsNotFound(registry().Open("x").status()));
  EXPECT_EQ(registry().Find("x"), nullptr);
}

// --- info, table, status ---

TEST_F(DeviceRegistryTest, InfoFollowsTheDevice) {
  ASSERT_TRUE(registry().Create("x", {.uuid = "TEST-1234", .identity = ""}).ok());
  EXPECT_FALSE(InfoOf("x").has_live_table);
  ASSERT_TRUE(Load("x", "0 8 linear /dev/a 0\n8 4 linear /dev/b 100\n", true).ok());
  EXPECT_TRUE(InfoOf("x").has_inactive_table);
  EXPECT_EQ(InfoOf("x").size, SectorCount(0));
  ASSERT_TRUE(registry().Resume("x").ok());
  const DeviceInfo info = InfoOf("x");
  EXPECT_EQ(info.uuid, "TEST-1234");
  EXPECT_TRUE(info.has_live_table);
  EXPECT_FALSE(info.has_inactive_table);
  EXPECT_TRUE(info.read_only);
  EXPECT_FALSE(info.suspended);
  EXPECT_EQ(info.target_count, 2u);
  EXPECT_EQ(info.size, SectorCount(12));
  EXPECT_EQ(info.open_count, 0u);
  EXPECT_EQ(info.event_number, 0u);
}

TEST_F(DeviceRegistryTest, TablePrintsTheNamesAsGiven) {
  Make("low", "0 64 zero");
  Make("x", "0 8 linear /dev/a 0\n8 8 linear low 0\n16 8 linear /dev/mapper/low 8\n");
  EXPECT_EQ(*registry().Table("x", TableSlot::kLive),
            "0 8 linear /dev/a 0\n8 8 linear low 0\n16 8 linear /dev/mapper/low 8\n");
  EXPECT_EQ(*registry().Table("x", TableSlot::kInactive), "");
  ASSERT_TRUE(Load("x", "0 8 error").ok());
  EXPECT_EQ(*registry().Table("x", TableSlot::kInactive), "0 8 error \n");
  EXPECT_EQ(*registry().Status("x", TableSlot::kInactive), "0 8 error \n");
}

TEST_F(DeviceRegistryTest, DependenciesAreEachOnce) {
  Make("low", "0 64 zero");
  Make("x", "0 8 linear /dev/a 0\n8 8 linear low 0\n16 8 linear /dev/mapper/low 8\n");
  std::vector<std::string> names;
  const std::vector<DeviceRef> refs = *registry().Dependencies("x", TableSlot::kLive);
  for (const DeviceRef& ref : refs) {
    names.push_back(ref.name() + (ref.mapped() ? " mapped" : ""));
  }
  EXPECT_THAT(names, ElementsAre("/dev/a", "low mapped"));
  EXPECT_THAT(*registry().Dependencies("x", TableSlot::kInactive), IsEmpty());
}

TEST_F(DeviceRegistryTest, MessagesGoToTheTargetOrToTheCore) {
  Make("x", "0 8 zero");
  EXPECT_EQ(Message(registry().Message("x", Sector(0), "hello").status()),
            "Target type does not support messages");
  EXPECT_EQ(Message(registry().Message("x", Sector(0), "@stats_list").status()),
            "Unsupported message sent to DM core");
  ASSERT_TRUE(registry().Create("y", {}).ok());
  EXPECT_EQ(registry().Message("y", Sector(0), "hello").status().code(),
            absl::StatusCode::kInvalidArgument);
}

// --- tables that name devices ---

TEST_F(DeviceRegistryTest, AMissingDeviceSaysWhereNamesAreLookedUp) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  const absl::Status status = Load("x", "0 8 zero\n8 8 linear nosuch 0");
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(Message(status), HasSubstr("line 2: linear: Device lookup failed; there is no mapped "
                                         "device 'nosuch'"));
  EXPECT_THAT(Message(status), HasSubstr("/dev/mapper/NAME"));
  EXPECT_TRUE(absl::IsNotFound(Load("x", "0 8 linear /dev/mapper/nosuch 0")));
  EXPECT_TRUE(absl::IsNotFound(Load("x", "0 8 linear /dev/nosuch 0")));
}

TEST_F(DeviceRegistryTest, AFailedLoadKeepsBothTables) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(Load("x", "0 16 zero").ok());
  EXPECT_FALSE(Load("x", "0 8 zero\n8 8 linear nosuch 0").ok());
  EXPECT_EQ(*registry().Table("x", TableSlot::kInactive), "0 16 zero \n");
  EXPECT_EQ(Fill(*device, 0, 1, 1), IoStatus::kOk);
}

TEST_F(DeviceRegistryTest, ADeviceCannotMapItself) {
  ASSERT_TRUE(registry().Create("x", {}).ok());
  const absl::Status status = Load("x", "0 8 linear /dev/mapper/x 0");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("'x' would map itself"));
  EXPECT_EQ(InfoOf("x").open_count, 0u);
}

TEST_F(DeviceRegistryTest, ALoopOverManyDevicesIsRefused) {
  Make("a", "0 8 zero");
  Make("b", "0 8 linear a 0");
  Make("c", "0 8 linear b 0");
  const absl::Status status = Load("a", "0 8 linear c 0");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("line 1: linear: Device lookup failed; the devices would "
                                         "form a loop: 'a' uses 'c' uses 'b' uses 'a'"));
  EXPECT_EQ(InfoOf("c").open_count, 0u);
}

TEST_F(DeviceRegistryTest, InactiveTablesCountForLoops) {
  Make("a", "0 8 zero");
  Make("b", "0 8 zero");
  ASSERT_TRUE(Load("a", "0 8 linear b 0").ok());
  EXPECT_FALSE(Load("b", "0 8 linear a 0").ok());
  ASSERT_TRUE(registry().Clear("a").ok());
  EXPECT_TRUE(Load("b", "0 8 linear a 0").ok());
}

TEST_F(DeviceRegistryTest, LoadsAtTheSameTimeNeverMakeALoop) {
  for (int round = 0; round < 50; ++round) {
    Make("a", "0 8 zero");
    Make("b", "0 8 zero");
    std::atomic<int> loaded{0};
    std::thread one([&] { loaded += Load("a", "0 8 linear b 0").ok(); });
    std::thread two([&] { loaded += Load("b", "0 8 linear a 0").ok(); });
    one.join();
    two.join();
    EXPECT_LE(loaded.load(), 1);
    EXPECT_TRUE(registry().Clear("a").ok() && registry().Clear("b").ok());
    EXPECT_TRUE(registry().Remove("a", {}).ok() && registry().Remove("b", {}).ok());
  }
}

TEST_F(DeviceRegistryTest, DevicesNestOnlySoDeep) {
  Make("d0", "0 8 linear /dev/a 0");
  for (int i = 1; i < kNestingMax; ++i) {
    Make("d" + std::to_string(i), "0 8 linear d" + std::to_string(i - 1) + " 0");
  }
  const auto top = registry().Find("d" + std::to_string(kNestingMax - 1));
  EXPECT_EQ(Fill(*top, 0, 8, 6), IoStatus::kOk);
  EXPECT_EQ(ByteAt(*a_, 7), 6);
  ASSERT_TRUE(registry().Create("over", {}).ok());
  const absl::Status status = Load("over", "0 8 linear d" + std::to_string(kNestingMax - 1) + " 0");
  EXPECT_THAT(Message(status), HasSubstr("devices on top of one another"));
}

TEST_F(DeviceRegistryTest, ADeviceThatShrankRefusesTheSwapAndStaysSuspendedWithTheOldTable) {
  Make("low", "0 100 zero");
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(Load("x", "0 100 linear low 0").ok());
  ASSERT_TRUE(Load("low", "0 50 zero").ok());
  ASSERT_TRUE(registry().Resume("low").ok());
  const absl::Status status = registry().Resume("x");
  EXPECT_THAT(Message(status), HasSubstr("line 1: linear: low too small for target: start=0, "
                                         "len=100, dev_size=50"));
  EXPECT_THAT(Message(status), HasSubstr("suspended with its old one"));
  EXPECT_EQ(TableViolationIn(status)->line, 1);
  EXPECT_TRUE(InfoOf("x").suspended);
  EXPECT_FALSE(InfoOf("x").has_inactive_table);
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(*registry().Table("x", TableSlot::kLive), "0 8 linear /dev/a 0\n");
  EXPECT_EQ(Fill(*device, 0, 1, 1), IoStatus::kOk);
}

TEST_F(DeviceRegistryTest, ASwapThatADeviceThatShrankRefusesCanBeGivenUp) {
  Make("low", "0 100 zero");
  const auto device = Make("x", "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n");
  ASSERT_TRUE(Load("x", "0 100 linear low 0").ok());
  ASSERT_TRUE(Load("low", "0 50 zero").ok());
  ASSERT_TRUE(registry().Resume("low").ok());
  a_->Hold();
  std::vector<std::byte> data(kSectorBytes);
  Pending read(*reactors_, 0, *device, IoRequest::Read(Sector(0), data));
  while (a_->CountOf(IoOp::kRead) == 0) std::this_thread::yield();
  EXPECT_EQ(registry().Resume("x", SuspendMode::kFlush, nullptr, [] { return true; }).code(),
            absl::StatusCode::kCancelled);
  EXPECT_FALSE(InfoOf("x").suspended);
  EXPECT_TRUE(InfoOf("x").has_inactive_table);
  EXPECT_EQ(Fill(*device, 8, 1, 1), IoStatus::kOk);
  a_->Release();
  EXPECT_EQ(read.Wait(), IoStatus::kOk);
}

TEST_F(DeviceRegistryTest, ADeviceThatShrankButStillFitsIsSwappedIn) {
  Make("low", "0 100 zero");
  Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(Load("x", "0 40 linear low 10").ok());
  ASSERT_TRUE(Load("low", "0 50 zero").ok());
  ASSERT_TRUE(registry().Resume("low").ok());
  EXPECT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(InfoOf("x").size, SectorCount(40));
}

TEST_F(DeviceRegistryTest, ALowerDeviceThatShrinksUnderALiveTableAnswersOutOfRange) {
  Make("low", "0 100 linear /dev/a 0");
  const auto device = Make("x", "0 100 linear low 0");
  ASSERT_TRUE(Load("low", "0 50 linear /dev/a 0").ok());
  ASSERT_TRUE(registry().Resume("low").ok());
  EXPECT_EQ(Fill(*device, 60, 1, 1), IoStatus::kOutOfRange);
  EXPECT_EQ(Fill(*device, 40, 1, 1), IoStatus::kOk);
}

// --- who holds a device ---

TEST_F(DeviceRegistryTest, ATableCountsOnceForEachDeviceItNames) {
  Make("low", "0 64 zero");
  Make("x", "0 8 linear low 0\n8 8 linear /dev/mapper/low 8\n");
  EXPECT_EQ(InfoOf("low").open_count, 1u);
  ASSERT_TRUE(Load("x", "0 8 linear low 0").ok());
  EXPECT_EQ(InfoOf("low").open_count, 2u);
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(InfoOf("low").open_count, 1u);
  ASSERT_TRUE(registry().Remove("x", {}).ok());
  EXPECT_EQ(InfoOf("low").open_count, 0u);
}

TEST_F(DeviceRegistryTest, RemovalOfAHeldDeviceNamesItsHolders) {
  Make("low", "0 64 zero");
  Make("x", "0 8 linear low 0");
  const DeviceRef hold = *registry().Open("low", "LUN 0 of iqn.t");
  const absl::Status status = registry().Remove("low", {});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(status),
            "Device or resource busy: 'low' is in use by device 'x', LUN 0 of iqn.t");
  EXPECT_TRUE(registry().Info("low").ok());
}

TEST_F(DeviceRegistryTest, ARefusalSaysWhoHoldsADeviceAlsoIfThatHasGone) {
  Make("low", "0 64 zero");
  Make("x", "0 8 linear low 0");
  auto table = registry().Find("x")->table(TableSlot::kLive);
  ASSERT_TRUE(registry().Remove("x", {}).ok());
  EXPECT_EQ(Message(registry().Remove("low", {})),
            "Device or resource busy: 'low' is in use by a device that has just been removed");
  table = nullptr;
  EXPECT_TRUE(registry().Remove("low", {}).ok());
}

TEST_F(DeviceRegistryTest, CopiesOfAHoldShareIt) {
  Make("x", "0 8 zero");
  auto hold = std::make_unique<DeviceRef>(*registry().Open("x"));
  auto copy = std::make_unique<DeviceRef>(*hold);
  EXPECT_EQ(InfoOf("x").open_count, 1u);
  hold = nullptr;
  EXPECT_EQ(InfoOf("x").open_count, 1u);
  copy = nullptr;
  EXPECT_EQ(InfoOf("x").open_count, 0u);
}

TEST_F(DeviceRegistryTest, RefsOfTheSameDeviceAreEqualPointers) {
  Make("x", "0 8 zero");
  EXPECT_EQ(registry().Open("x")->device, registry().Open("x")->device);
  EXPECT_EQ(registry().Open("x")->device.get(), registry().Find("x").get());
}

TEST_F(DeviceRegistryTest, DeferredRemovalHappensWhenTheLastHolderLeaves) {
  Make("x", "0 8 linear /dev/a 0");
  absl::Notification removed;
  registry().OnDeferredRemoval([&](const std::string& name) {
    EXPECT_EQ(name, "x");
    EXPECT_EQ(Reactor::CurrentOrNull(), nullptr);
    removed.Notify();
  });
  auto one = std::make_shared<DeviceRef>(*registry().Open("x"));
  auto two = std::make_unique<DeviceRef>(*registry().Open("x"));
  ASSERT_TRUE(registry().Remove("x", {.force = false, .deferred = true}).ok());
  EXPECT_TRUE(InfoOf("x").deferred_remove);
  two = nullptr;
  EXPECT_TRUE(InfoOf("x").deferred_remove);
  (*reactors_)[0].Post([last = std::move(one)]() mutable { last = nullptr; });
  removed.WaitForNotification();
  EXPECT_TRUE(absl::IsNotFound(registry().Info("x").status()));
  EXPECT_EQ(a_.use_count(), 2);  // the test's and the backings'
}

TEST_F(DeviceRegistryTest, DeferredRemovalOfAFreeDeviceIsAtOnce) {
  Make("x", "0 8 zero");
  ASSERT_TRUE(registry().Remove("x", {.force = false, .deferred = true}).ok());
  EXPECT_FALSE(registry().Info("x").ok());
}

TEST_F(DeviceRegistryTest, DeferredRemovalCanBeCalledOff) {
  Make("x", "0 8 zero");
  {
    const DeviceRef hold = *registry().Open("x");
    ASSERT_TRUE(registry().Remove("x", {.force = false, .deferred = true}).ok());
    ASSERT_TRUE(registry().Message("x", Sector(0), "@cancel_deferred_remove").ok());
    EXPECT_FALSE(InfoOf("x").deferred_remove);
  }
  EXPECT_TRUE(registry().Info("x").ok());
}

TEST_F(DeviceRegistryTest, ATableThatGoesTakesAlongWhatWasDeferredBelow) {
  Make("low", "0 8 zero");
  Make("x", "0 8 linear low 0");
  ASSERT_TRUE(registry().Remove("low", {.force = false, .deferred = true}).ok());
  ASSERT_TRUE(registry().Remove("x", {}).ok());
  WaitUntilGone("low");
}

TEST_F(DeviceRegistryTest, ForcedRemovalLetsTheBackingsGoEvenIfTheDeviceIsHeld) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(Load("x", "0 8 linear /dev/b 0").ok());
  auto hold = std::make_unique<DeviceRef>(*registry().Open("x"));
  EXPECT_EQ(registry().Remove("x", {.force = true, .deferred = false}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*registry().Table("x", TableSlot::kLive), "0 8 error \n");
  EXPECT_FALSE(InfoOf("x").has_inactive_table);
  EXPECT_EQ(a_.use_count(), 2);
  EXPECT_EQ(b_.use_count(), 2);
  EXPECT_EQ(device->size(), SectorCount(8));
  EXPECT_EQ(Fill(*device, 0, 1, 1), IoStatus::kIoError);
  hold = nullptr;
  EXPECT_TRUE(registry().Remove("x", {.force = true, .deferred = false}).ok());
  EXPECT_FALSE(registry().Info("x").ok());
}

TEST_F(DeviceRegistryTest, AForcedRemovalThatIsGivenUpChangesNothing) {
  const std::string text = "0 8 linear /dev/a 0\n8 8 linear /dev/b 0\n";
  const auto device = Make("x", text);
  ASSERT_TRUE(Load("x", "0 16 zero").ok());
  a_->Hold();
  std::vector<std::byte> data(kSectorBytes);
  Pending read(*reactors_, 0, *device, IoRequest::Read(Sector(0), data));
  while (a_->CountOf(IoOp::kRead) == 0) std::this_thread::yield();
  EXPECT_EQ(registry().Remove("x", {.force = true, .deferred = false}, [] { return true; }).code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(*registry().Table("x", TableSlot::kLive), text);
  EXPECT_EQ(*registry().Table("x", TableSlot::kInactive), "0 16 zero \n");
  EXPECT_EQ(Fill(*device, 8, 1, 1), IoStatus::kOk);
  a_->Release();
  EXPECT_EQ(read.Wait(), IoStatus::kOk);
  EXPECT_TRUE(registry().Remove("x", {.force = true, .deferred = false}).ok());
}

TEST_F(DeviceRegistryTest, ForcedRemovalDoesNotFlush) {
  Make("x", "0 8 linear /dev/a 0");
  a_->Forget();
  a_->Fail(IoOp::kFlush, IoStatus::kIoError);
  EXPECT_TRUE(registry().Remove("x", {.force = true, .deferred = false}).ok());
  EXPECT_EQ(a_->CountOf(IoOp::kFlush), 0);
}

TEST_F(DeviceRegistryTest, ARemovedDeviceAbortsWhatStillComes) {
  const auto device = Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(registry().Remove("x", {}).ok());
  EXPECT_EQ(Fill(*device, 0, 1, 1), IoStatus::kAborted);
  EXPECT_EQ(a_.use_count(), 2);
}

TEST_F(DeviceRegistryTest, ASuspendedDeviceCanBeRemoved) {
  Make("x", "0 8 linear /dev/a 0");
  ASSERT_TRUE(registry().Suspend("x", SuspendMode::kFlush).ok());
  EXPECT_TRUE(registry().Remove("x", {}).ok());
}

// --- events and watching ---

TEST_F(DeviceRegistryTest, WaitReturnsAtOnceIfTheNumberDiffers) {
  Make("x", "0 8 zero");
  EXPECT_EQ(*registry().WaitEvent("x", 7, [] { return false; }), 0u);
}

TEST_F(DeviceRegistryTest, WaitEndsWithTheNextEventOrRemovalOrCancel) {
  Make("x", "0 8 zero");
  const auto device = registry().Find("x");  // the name may have moved on before the wait begins
  const auto never = [] { return false; };
  std::thread renaming([&] { EXPECT_TRUE(registry().Rename("x", "y").ok()); });
  EXPECT_EQ(*device->WaitEvent(0, never), 1u);
  renaming.join();
  std::thread removal([&] { EXPECT_TRUE(registry().Remove("y", {}).ok()); });
  EXPECT_EQ(*device->WaitEvent(1, never), 2u);
  removal.join();
  Make("z", "0 8 zero");
  EXPECT_TRUE(absl::IsDeadlineExceeded(registry().WaitEvent("z", 0, [] { return true; }).status()));
}

TEST_F(DeviceRegistryTest, ATableSwapIsNoEvent) {
  Make("x", "0 8 zero");
  ASSERT_TRUE(Load("x", "0 8 error").ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_EQ(InfoOf("x").event_number, 0u);
}

TEST_F(DeviceRegistryTest, WatchersHearOfEveryChangeInOrder) {
  std::vector<std::string> heard;
  const uint64_t id =
      registry().Subscribe([&](DeviceRegistry::Change change, const DeviceInfo& info) {
        const char* kind = change == DeviceRegistry::Change::kCreated   ? "+"
                           : change == DeviceRegistry::Change::kRemoved ? "-"
                                                                        : "~";
        heard.push_back(kind + info.name + (info.suspended ? " suspended" : "") +
                        (info.has_inactive_table ? " inactive" : ""));
      });
  Make("x", "0 8 zero");
  ASSERT_TRUE(registry().Suspend("x", SuspendMode::kFlush).ok());
  ASSERT_TRUE(registry().Resume("x").ok());
  EXPECT_FALSE(Load("x", "0 8 nosuch").ok());
  ASSERT_TRUE(registry().Rename("x", "y").ok());
  ASSERT_TRUE(registry().Remove("y", {}).ok());
  EXPECT_THAT(heard, ElementsAre("+x", "~x inactive", "~x", "~x suspended", "~x", "~y", "-y"));
  registry().Unsubscribe(id);
  Make("z", "0 8 zero");
  EXPECT_EQ(heard.size(), 7u);
}

// --- many threads ---

TEST_F(DeviceRegistryTest, VerbsFromManyThreadsKeepTheCountsRight) {
  Make("low", "0 64 linear /dev/a 0");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      const std::string name = "x" + std::to_string(t);
      for (int i = 0; i < 50; ++i) {
        Make(name, "0 8 linear low 0");
        EXPECT_TRUE(Load(name, "0 8 linear low 8").ok());
        EXPECT_TRUE(registry().Suspend(name, SuspendMode::kFlush).ok());
        EXPECT_TRUE(registry().Resume(name).ok());
        EXPECT_TRUE(registry().Remove(name, {}).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(InfoOf("low").open_count, 0u);
  EXPECT_TRUE(registry().Remove("low", {}).ok());
}

}  // namespace
}  // namespace sectormap
