// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/connection.h"

#include <algorithm>

#include "tests/server/iscsi/iscsi_fixture.h"

namespace sectormap::iscsi {
namespace {

using Outcome = FakeInitiator::Outcome;
using scsi::ScsiStatus;

class ConnectionTest : public IscsiTest {
 public:
  static Task<void> LoginToLogout(ConnectionTest& test) {
    FakeInitiator* initiator = co_await Session(test);
    EXPECT_EQ(test.directory_.sessions().size(), 1u);
    std::vector<std::byte> data(8192);
    Random(1).Fill(data);
    Outcome written = co_await initiator->Run(FakeInitiator::Write10(16, data));
    EXPECT_TRUE(written.good());
    Outcome read = co_await initiator->Run(FakeInitiator::Read10(16, 16));
    EXPECT_TRUE(read.good());
    EXPECT_EQ(read.data, data);
    EXPECT_EQ(read.data_pdus, 1);
    const bool out = co_await initiator->Logout();
    EXPECT_TRUE(out);
    co_await AllEnded(test);
    EXPECT_TRUE(test.directory_.sessions().empty());
  }
};

TEST_F(ConnectionTest, ASessionGoesFromLoginToLogout) { pool_->RunOn(0, LoginToLogout(*this)); }

}  // namespace
}  // namespace sectormap::iscsi
