// SPDX-License-Identifier: Apache-2.0
// The interceptor in a real server, called by a real client.
#include "server/metrics/grpc_metrics.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "sectormap/v1/iscsi.grpc.pb.h"

namespace sectormap::metrics {
namespace {

class RefusingService final : public v1::Iscsi::Service {
  grpc::Status Unexport(grpc::ServerContext*, const v1::UnexportRequest* request,
                        v1::UnexportResponse*) override {
    if (request->device() == "vol") return grpc::Status::OK;
    return {grpc::StatusCode::NOT_FOUND, "no such export"};
  }
};

class GrpcMetricsTest : public testing::Test {
 protected:
  GrpcMetricsTest() {
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(metrics_.InterceptorFactory());
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    builder.experimental().SetInterceptorCreators(std::move(creators));
    server_ = builder.BuildAndStart();
    stub_ = v1::Iscsi::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                                   grpc::InsecureChannelCredentials()));
  }
  ~GrpcMetricsTest() override { server_->Shutdown(); }

  grpc::Status Unexport(const std::string& device) {
    v1::UnexportRequest request;
    request.set_device(device);
    v1::UnexportResponse response;
    grpc::ClientContext context;
    return stub_->Unexport(&context, request, &response);
  }

  GrpcMetrics metrics_;
  RefusingService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Iscsi::Stub> stub_;
};

TEST_F(GrpcMetricsTest, CountsCallsByMethodAndCode) {
  EXPECT_TRUE(Unexport("vol").ok());
  EXPECT_TRUE(Unexport("vol").ok());
  EXPECT_FALSE(Unexport("other").ok());
  server_->Shutdown();  // the last call's end is counted then
  const GrpcMetrics::Totals totals = metrics_.totals();
  const std::string method = "sectormap.v1.Iscsi/Unexport";
  EXPECT_EQ(totals.requests.at({method, "OK"}), 2u);
  EXPECT_EQ(totals.requests.at({method, "NOT_FOUND"}), 1u);
  EXPECT_EQ(totals.durations.at(method).count, 3u);
}

TEST(GrpcMetricsCountTest, ADurationFallsIntoItsBucketAndOnlyThere) {
  GrpcMetrics metrics;
  metrics.Count("m", grpc::StatusCode::OK, absl::Milliseconds(1));  // a bound belongs to its bucket
  metrics.Count("m", grpc::StatusCode::OK, absl::Seconds(60));
  metrics.Count("m", grpc::StatusCode::OK, -absl::Seconds(1));  // a wall clock set back
  const auto totals = metrics.totals().durations.at("m");
  EXPECT_EQ(totals.buckets[0], 1u);
  EXPECT_EQ(totals.buckets[1], 1u);
  EXPECT_EQ(totals.buckets.back(), 1u);
  EXPECT_EQ(totals.count, 3u);
  EXPECT_NEAR(totals.seconds, 60.001, 1e-6);
}

}  // namespace
}  // namespace sectormap::metrics
