// SPDX-License-Identifier: Apache-2.0
// The control plane as main.cc joins it, reached through a channel inside the process. No portal.
#pragma once

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "sectormap/v1/device_mapper.grpc.pb.h"
#include "sectormap/v1/iscsi.grpc.pb.h"
#include "server/control/change_feed.h"
#include "server/control/control_server.h"
#include "server/control/device_mapper_service.h"
#include "server/control/iscsi_service.h"
#include "server/exports/durable_units.h"
#include "server/exports/export_catalog.h"
#include "tests/server/volumes/volume_fixture.h"

namespace sectormap::control {

class ControlFixture : public VolumeFixture {
 protected:
  void Start() override {
    ASSERT_NO_FATAL_FAILURE(VolumeFixture::Start());
    const auto contents = store_->LoadAll();
    ASSERT_TRUE(contents.ok()) << contents.status();
    if (refuses_from_the_start_) store_->Refuse(absl::ResourceExhaustedError("disk full"));
    unit_store_ = std::make_unique<exports::DurableUnits>(*store_);
    directory_ = std::make_unique<iscsi::TargetDirectory>();
    exports_ = std::make_unique<exports::ExportCatalog>(*volumes_, *store_, *directory_, *reactors_,
                                                        unit_store_.get());
    ASSERT_EQ(exports_->Restore(*contents).size(), refused_exports_);
    feed_ = std::make_unique<ChangeFeed>(*registry_, times_);
    mapper_service_ = std::make_unique<DeviceMapperService>(
        *volumes_, types_, *feed_, [](const std::string&) { return "advice about holders"; });
    iscsi_service_ = std::make_unique<IscsiService>(
        *exports_, *directory_, [] { return std::vector<std::string>{"127.0.0.1:3260"}; });
    ControlServer::Parts parts;
    parts.services = {mapper_service_.get(), iscsi_service_.get()};
    auto control = ControlServer::Start(std::move(parts));
    ASSERT_TRUE(control.ok()) << control.status();
    control_ = *std::move(control);
    channel_ = control_->server().InProcessChannel({});
    mapper_ = v1::DeviceMapper::NewStub(channel_);
    iscsi_ = v1::Iscsi::NewStub(channel_);
  }

  void Stop() override {
    mapper_.reset();
    iscsi_.reset();
    channel_.reset();
    if (feed_ != nullptr) feed_->Close();
    if (control_ != nullptr) control_->Stop(std::chrono::seconds(1));
    control_.reset();
    iscsi_service_.reset();
    mapper_service_.reset();
    feed_.reset();
    exports_.reset();
    directory_.reset();
    unit_store_.reset();
    VolumeFixture::Stop();
  }

  // --- Calls, with one line each in a test ---

  grpc::Status Create(const std::string& name, const std::string& table = "0 8 zero") {
    v1::CreateRequest request;
    request.set_name(name);
    request.set_table(table);
    return Call(&v1::DeviceMapper::Stub::Create, request, device_);
  }

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::DeviceMapper::Stub::*method)(grpc::ClientContext*,
                                                                   const Request&, Response*),
                    const Request& request, Response& response) {
    grpc::ClientContext context;
    return (mapper_.get()->*method)(&context, request, &response);
  }

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Iscsi::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                    const Request& request, Response& response) {
    grpc::ClientContext context;
    return (iscsi_.get()->*method)(&context, request, &response);
  }

  // Short, so that a test sees heartbeats; no test depends on how short.
  FeedTimes times_{.poll = std::chrono::milliseconds(20),
                   .heartbeat = std::chrono::milliseconds(60)};
  std::unique_ptr<exports::DurableUnits> unit_store_;
  std::unique_ptr<iscsi::TargetDirectory> directory_;
  std::unique_ptr<exports::ExportCatalog> exports_;
  std::unique_ptr<ChangeFeed> feed_;
  std::unique_ptr<DeviceMapperService> mapper_service_;
  std::unique_ptr<IscsiService> iscsi_service_;
  std::unique_ptr<ControlServer> control_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DeviceMapper::Stub> mapper_;
  std::unique_ptr<v1::Iscsi::Stub> iscsi_;
  v1::Device device_;           // the last answer
  size_t refused_exports_ = 0;  // what the next start is to refuse
  bool refuses_from_the_start_ = false;
};

}  // namespace sectormap::control
