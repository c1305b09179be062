// SPDX-License-Identifier: Apache-2.0
#include "server/control/iscsi_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/control/control_fixture.h"

namespace sectormap::control {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

using Stub = v1::Iscsi::Stub;

constexpr char kIqnA[] = "iqn.2026-11.io.sectormap:a";

class IscsiServiceTest : public ControlFixture {
 protected:
  void SetUp() override {
    ControlFixture::SetUp();
    ASSERT_TRUE(Create("a").ok());
    ASSERT_TRUE(Create("b", "0 16 zero").ok());
  }

  static v1::ExportRequest Wanted(const std::string& device) {
    v1::ExportRequest request;
    request.set_device(device);
    return request;
  }

  grpc::Status Export(const v1::ExportRequest& request) {
    return Call(&Stub::Export, request, export_);
  }

  grpc::Status Unexport(const std::string& device, const std::string& iqn = "",
                        std::optional<uint64_t> lun = std::nullopt) {
    v1::UnexportRequest request;
    request.set_device(device);
    request.set_iqn(iqn);
    if (lun.has_value()) request.set_lun(*lun);
    v1::UnexportResponse response;
    return Call(&Stub::Unexport, request, response);
  }

  std::vector<v1::Export> Exports() {
    v1::ListExportsResponse response;
    EXPECT_TRUE(Call(&Stub::ListExports, v1::ListExportsRequest(), response).ok());
    return {response.exports().begin(), response.exports().end()};
  }

  scsi::Lun& LunOf(const std::string& iqn) { return *directory_->luns(iqn).at(0).lun; }

  // By what one READ(10) moves; 0 if it is not known yet.
  uint32_t BlockBytesOf(const std::string& iqn) {
    constexpr scsi::CdbBytes kReadOne = {0x28, 0, 0, 0, 0, 0, 0, 0, 1};
    return LunOf(iqn).Plan(kReadOne).bytes;
  }

  static Task<scsi::LunNexusPtr> Attach(scsi::Lun& lun) {
    co_return lun.Attach(scsi::NexusIdentity{}, 0, false, nullptr);
  }
  static Task<scsi::ScsiStatus> TestReady(scsi::Lun& lun, scsi::LunNexus& nexus) {
    constexpr scsi::CdbBytes kTestUnitReady = {};
    scsi::AbortSignal abort;
    const scsi::ScsiResult result = co_await lun.Execute(nexus, kTestUnitReady, {}, abort);
    co_return result.status;
  }

  v1::Export export_;  // the last answer
};

TEST_F(IscsiServiceTest, ADeviceGetsATargetOfItsOwnAtLunZero) {
  ASSERT_TRUE(Export(Wanted("b")).ok());
  EXPECT_EQ(export_.iqn(), "iqn.2026-11.io.sectormap:b");
  EXPECT_EQ(export_.lun(), 0u);
  EXPECT_EQ(export_.size_sectors(), 16u);
  EXPECT_THAT(directory_->luns(export_.iqn()), SizeIs(1));
  EXPECT_EQ(registry_->Info("b")->open_count, 1u);
}

TEST_F(IscsiServiceTest, TheSameExportAgainSucceedsAndChangesNothing) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  EXPECT_TRUE(Export(Wanted("a")).ok());
  EXPECT_THAT(Exports(), SizeIs(1));
  EXPECT_THAT(directory_->luns(kIqnA), SizeIs(1));
  EXPECT_EQ(registry_->Info("a")->open_count, 1u);
}

TEST_F(IscsiServiceTest, ALunOfAnotherDeviceIsRefusedWithItsName) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  v1::ExportRequest other = Wanted("b");
  other.set_iqn(kIqnA);
  const grpc::Status status = Export(other);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(status.error_message(), HasSubstr("is device a"));
  EXPECT_EQ(registry_->Info("b")->open_count, 0u);
  other.set_lun(1);
  EXPECT_TRUE(Export(other).ok());
}

TEST_F(IscsiServiceTest, ADeviceDoesNotJoinAnothersTargetUnasked) {
  ASSERT_TRUE(Create("A").ok());
  v1::ExportRequest lower = Wanted("a");
  lower.add_allowed_initiators("iqn.2026-11.io.host:first");
  ASSERT_TRUE(Export(lower).ok());
  v1::ExportRequest upper = Wanted("A");  // which makes the same iSCSI name
  upper.set_lun(1);
  upper.add_allowed_initiators("iqn.2026-11.io.host:second");
  const grpc::Status status = Export(upper);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr("the target of device a"), HasSubstr("--iqn IQN")));
  ASSERT_THAT(Exports(), SizeIs(1));
  EXPECT_THAT(Exports()[0].allowed_initiators(), ElementsAre("iqn.2026-11.io.host:first"));
  upper.set_iqn(kIqnA);
  EXPECT_TRUE(Export(upper).ok());
  upper.clear_iqn();
  EXPECT_TRUE(Export(upper).ok()) << "it is there already";
}

TEST_F(IscsiServiceTest, AnotherModeOfTheSameExportIsRefused) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  v1::ExportRequest read_only = Wanted("a");
  read_only.set_read_only(true);
  EXPECT_EQ(Export(read_only).error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(IscsiServiceTest, AnExportOfAReadOnlyDeviceIsReadOnlyAsLongAsTheDeviceIs) {
  const auto replace = [this](bool read_only) {
    v1::ReplaceRequest request;
    request.set_name("a");
    request.set_table("0 8 zero");
    request.set_read_only(read_only);
    ASSERT_TRUE(Call(&v1::DeviceMapper::Stub::Replace, request, device_).ok());
  };
  replace(true);
  ASSERT_TRUE(Export(Wanted("a")).ok());
  EXPECT_TRUE(export_.read_only());
  EXPECT_TRUE(Exports()[0].read_only());
  EXPECT_TRUE(Export(Wanted("a")).ok()) << "the same export";
  replace(false);
  EXPECT_FALSE(Exports()[0].read_only());
}

TEST_F(IscsiServiceTest, AllExportsOfADeviceShareOneLogicalUnit) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  v1::ExportRequest second = Wanted("a");
  second.set_iqn("iqn.2026-11.io.sectormap:second");
  second.set_lun(5);
  ASSERT_TRUE(Export(second).ok());
  EXPECT_EQ(directory_->luns(kIqnA)[0].lun, directory_->luns(second.iqn())[0].lun);
  EXPECT_EQ(registry_->Info("a")->open_count, 1u);
}

TEST_F(IscsiServiceTest, UnexportTakesEveryLunOrThoseOfOneTarget) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  v1::ExportRequest second = Wanted("a");
  second.set_iqn("iqn.2026-11.io.sectormap:second");
  ASSERT_TRUE(Export(second).ok());
  second.set_iqn("iqn.2026-11.io.sectormap:third");
  ASSERT_TRUE(Export(second).ok());
  ASSERT_TRUE(Unexport("a", "iqn.2026-11.io.sectormap:second").ok());
  EXPECT_THAT(Exports(), SizeIs(2));
  ASSERT_TRUE(Unexport("a").ok());
  EXPECT_THAT(Exports(), IsEmpty());
  EXPECT_THAT(directory_->targets(), IsEmpty());
  EXPECT_EQ(registry_->Info("a")->open_count, 0u);
}

TEST_F(IscsiServiceTest, UnexportTakesOneLunOfATarget) {
  for (const uint64_t lun : {0, 5, 6}) {
    v1::ExportRequest request = Wanted("a");
    request.set_lun(lun);
    ASSERT_TRUE(Export(request).ok());
  }
  const grpc::Status missing = Unexport("a", kIqnA, 7);
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(missing.error_message(), HasSubstr("LUN 7"));
  ASSERT_TRUE(Unexport("a", kIqnA, 0).ok());
  ASSERT_TRUE(Unexport("a", "", 6).ok());
  ASSERT_THAT(Exports(), SizeIs(1));
  EXPECT_EQ(Exports()[0].lun(), 5u);
  Restart();
  ASSERT_THAT(Exports(), SizeIs(1));
  EXPECT_EQ(Exports()[0].lun(), 5u);
}

TEST_F(IscsiServiceTest, UnexportingWhatIsNotExportedIsNotFoundUnlessAllowed) {
  EXPECT_EQ(Unexport("a").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(Unexport("a").error_message(), HasSubstr("is not exported"));
  EXPECT_THAT(Unexport("nobody").error_message(), HasSubstr("does not exist"));
  v1::UnexportRequest request;
  request.set_device("a");
  request.set_allow_missing(true);
  v1::UnexportResponse response;
  EXPECT_TRUE(Call(&Stub::Unexport, request, response).ok());
}

TEST_F(IscsiServiceTest, WhoMayLogInBelongsToTheTargetAndIsReplacedOnlyIfGiven) {
  v1::ExportRequest first = Wanted("a");
  first.mutable_chap()->set_user("alice");
  first.mutable_chap()->set_secret("0123456789ab");
  first.add_allowed_initiators("IQN.1993-08.org.debian:x");
  ASSERT_TRUE(Export(first).ok());
  v1::ExportRequest second = Wanted("b");
  second.set_iqn(kIqnA);
  second.set_lun(1);
  ASSERT_TRUE(Export(second).ok());
  EXPECT_EQ(export_.chap_user(), "alice");
  EXPECT_THAT(export_.allowed_initiators(), ElementsAre("iqn.1993-08.org.debian:x"));
  second.add_allowed_initiators("iqn.1993-08.org.debian:y");
  ASSERT_TRUE(Export(second).ok());
  const auto view = directory_->Find(kIqnA);
  EXPECT_THAT(view->policy.allowed_initiators, ElementsAre("iqn.1993-08.org.debian:y"));
  ASSERT_TRUE(view->policy.chap.has_value());
  EXPECT_EQ(view->policy.chap->secret, "0123456789ab");
}

TEST_F(IscsiServiceTest, BadSecretsAreRefusedWithAdviceAndWithoutTheSecret) {
  v1::ExportRequest request = Wanted("a");
  request.mutable_chap()->set_user("alice");
  request.mutable_chap()->set_secret("tooshort");
  const grpc::Status status = Export(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("12 to 255"));
  EXPECT_THAT(status.error_message(), Not(HasSubstr("tooshort")));
  EXPECT_THAT(directory_->targets(), IsEmpty());
}

TEST_F(IscsiServiceTest, ADeviceKeepsTheBlocksOfItsFirstExport) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  const std::string identity = registry_->Info("a")->identity;
  EXPECT_EQ(store_->BlockBytes(identity).value(), 512u);
  EXPECT_EQ(BlockBytesOf(kIqnA), 512u);
  // As if it had been exported over another medium.
  ASSERT_TRUE(store_->PutBlockBytes(identity, 4096).ok());
  Restart();
  EXPECT_EQ(BlockBytesOf(kIqnA), 4096u);
  ASSERT_TRUE(Unexport("a").ok());
  ASSERT_TRUE(Export(Wanted("a")).ok());
  EXPECT_EQ(BlockBytesOf(kIqnA), 4096u);
}

TEST_F(IscsiServiceTest, BlocksThatAreNotKnownYetAreThoseOfTheFirstTableAndKept) {
  constexpr char kIqn[] = "iqn.2026-11.io.sectormap:m";
  ASSERT_TRUE(Create("m", "0 8 linear /mem 0").ok());
  const std::string identity = registry_->Info("m")->identity;
  backings_.present = false;
  Restart();
  ASSERT_TRUE(Export(Wanted("m")).ok());
  EXPECT_EQ(BlockBytesOf(kIqn), 0u);
  EXPECT_EQ(store_->BlockBytes(identity).value(), 0u);
  backings_.present = true;
  ASSERT_TRUE(registry_->Resume("m").ok());
  {
    scsi::Lun& lun = LunOf(kIqn);
    const scsi::LunNexusPtr nexus = reactors_->RunOn(0, Attach(lun));
    for (const bool good : {false, false, true}) {  // power on, the medium
      EXPECT_EQ(reactors_->RunOn(0, TestReady(lun, *nexus)) == scsi::ScsiStatus::kGood, good);
    }
  }
  EXPECT_EQ(BlockBytesOf(kIqn), 512u);
  EXPECT_EQ(store_->BlockBytes(identity).value(), 512u);
}

TEST_F(IscsiServiceTest, BlocksThatCannotBeKeptAreToldToNobody) {
  constexpr char kIqn[] = "iqn.2026-11.io.sectormap:m";
  ASSERT_TRUE(Create("m", "0 8 linear /mem 0").ok());
  const std::string identity = registry_->Info("m")->identity;
  backings_.present = false;
  Restart();
  ASSERT_TRUE(Export(Wanted("m")).ok());
  backings_.present = true;
  refuses_from_the_start_ = true;
  Restart();
  scsi::Lun& lun = LunOf(kIqn);
  const scsi::LunNexusPtr nexus = reactors_->RunOn(0, Attach(lun));
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(reactors_->RunOn(0, TestReady(lun, *nexus)), scsi::ScsiStatus::kGood);
  }
  store_->Refuse(absl::OkStatus());
  for (const bool good : {false, true}) {  // the medium
    EXPECT_EQ(reactors_->RunOn(0, TestReady(lun, *nexus)) == scsi::ScsiStatus::kGood, good);
  }
  EXPECT_EQ(store_->BlockBytes(identity).value(), 512u);
}

TEST_F(IscsiServiceTest, AnExportOfAnOlderVersionGetsItsBlocksAtTheFirstStart) {
  ASSERT_TRUE(Create("m", "0 8 linear /mem 0").ok());
  backings_.present = false;
  Restart();
  ASSERT_TRUE(Export(Wanted("m")).ok());
  backings_.present = true;
  Restart();
  EXPECT_EQ(store_->BlockBytes(registry_->Info("m")->identity).value(), 512u);
  EXPECT_EQ(BlockBytesOf("iqn.2026-11.io.sectormap:m"), 512u);
}

TEST_F(IscsiServiceTest, ARestartBringsBackExportsAndWhoMayLogIn) {
  v1::ExportRequest request = Wanted("a");
  request.set_lun(3);
  request.set_read_only(true);
  request.mutable_chap()->set_user("alice");
  request.mutable_chap()->set_secret("0123456789ab");
  request.mutable_mutual_chap()->set_user("target");
  request.mutable_mutual_chap()->set_secret("ba9876543210");
  request.add_allowed_initiators("iqn.1993-08.org.debian:x");
  ASSERT_TRUE(Export(request).ok());
  const std::string before = export_.SerializeAsString();
  Restart();
  ASSERT_THAT(Exports(), SizeIs(1));
  EXPECT_EQ(Exports()[0].SerializeAsString(), before);
  const auto view = directory_->Find(kIqnA);
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->policy.chap->secret, "0123456789ab");
  EXPECT_EQ(view->policy.mutual_chap->secret, "ba9876543210");
  EXPECT_FALSE(view->Allows("iqn.1993-08.org.debian:z"));
  ASSERT_THAT(directory_->luns(kIqnA), SizeIs(1));
  EXPECT_TRUE(directory_->luns(kIqnA)[0].read_only);
}

TEST_F(IscsiServiceTest, AnExportThatCannotBeRestoredKeepsItsPlaceAndItsAccessRules) {
  const std::string initiator = "iqn.2026-11.test:one";
  v1::ExportRequest request = Wanted("a");
  request.add_allowed_initiators(initiator);
  ASSERT_TRUE(Export(request).ok());
  const std::string identity = registry_->Find("a")->identity();
  ASSERT_TRUE(store_->PutReservation(identity, "no record of ours").ok());
  refused_exports_ = 1;
  Restart();
  EXPECT_THAT(Exports(), IsEmpty());
  v1::ExportRequest other = Wanted("b");
  other.set_iqn(kIqnA);
  const grpc::Status taken = Export(other);
  EXPECT_EQ(taken.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(taken.error_message(), HasSubstr("could not be restored"));
  // Beside it, the target is still who may log in.
  other.set_lun(1);
  ASSERT_TRUE(Export(other).ok());
  EXPECT_THAT(export_.allowed_initiators(), ElementsAre(initiator));
  // It goes by its verb, or comes back by it.
  EXPECT_TRUE(Unexport("a").ok());
  EXPECT_EQ(Unexport("a").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(store_->LoadAll()->exports, SizeIs(1));
}

TEST_F(IscsiServiceTest, AnExportThatCannotBeRestoredGoesWithItsDevice) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  ASSERT_TRUE(store_->PutReservation(registry_->Find("a")->identity(), "no record of ours").ok());
  refused_exports_ = 1;
  Restart();
  ASSERT_TRUE(volumes_->Remove("a", {}).ok());
  v1::ExportRequest other = Wanted("b");
  other.set_iqn(kIqnA);
  const grpc::Status status = Export(other);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(IscsiServiceTest, ARenamedDeviceKeepsItsExports) {
  ASSERT_TRUE(Export(Wanted("a")).ok());
  ASSERT_TRUE(volumes_->Rename("a", "z").ok());
  ASSERT_THAT(Exports(), SizeIs(1));
  EXPECT_EQ(Exports()[0].device(), "z");
  EXPECT_EQ(Exports()[0].iqn(), kIqnA);
  Restart();
  ASSERT_THAT(Exports(), SizeIs(1));
  EXPECT_EQ(Exports()[0].device(), "z");
  EXPECT_TRUE(Unexport("z").ok());
}

TEST_F(IscsiServiceTest, AnExportThatCannotBeKeptIsNotThere) {
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(Export(Wanted("a")).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(directory_->targets(), IsEmpty());
  store_->Refuse(absl::OkStatus());
  ASSERT_TRUE(Export(Wanted("a")).ok());
  store_->Refuse(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(Unexport("a").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(directory_->luns(kIqnA), SizeIs(1));
}

TEST_F(IscsiServiceTest, WhatDoesNotExistOrHasABadNameIsRefused) {
  EXPECT_EQ(Export(Wanted("nobody")).error_code(), grpc::StatusCode::NOT_FOUND);
  v1::ExportRequest request = Wanted("a");
  request.set_iqn("not a name");
  EXPECT_EQ(Export(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_iqn(kIqnA);
  request.set_lun(16384);
  EXPECT_EQ(Export(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(IscsiServiceTest, PortalsAreListed) {
  v1::ListPortalsResponse response;
  ASSERT_TRUE(Call(&Stub::ListPortals, v1::ListPortalsRequest(), response).ok());
  EXPECT_THAT(response.addresses(), ElementsAre("127.0.0.1:3260"));
}

TEST_F(IscsiServiceTest, ReservationsAreDurableAndReachTheNextUnit) {
  const std::string identity = registry_->Info("a")->identity;
  const absl::Status saved =
      reactors_->RunOn(0, unit_store_->SaveReservations(identity, "registrants"));
  EXPECT_TRUE(saved.ok()) << saved;
  Restart();
  EXPECT_EQ(store_->Reservation(identity).value(), "registrants");
  EXPECT_TRUE(reactors_->RunOn(0, unit_store_->SaveReservations(identity, "")).ok());
  EXPECT_EQ(store_->Reservation(identity).value(), "");
  EXPECT_EQ(reactors_->RunOn(0, unit_store_->SaveReservations("nobody", "x")).code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sectormap::control
