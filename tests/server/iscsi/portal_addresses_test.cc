// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/portal_addresses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sectormap::iscsi {
namespace {

using testing::ElementsAre;

TEST(PortalAddressesTest, TheConnectionsOwnComesFirstAndAllOthersFollow) {
  PortalAddresses portals;
  portals.Add("192.0.2.7:3260");
  portals.Add("192.0.2.8:3261");
  portals.Add("[2001:db8::7]:3260");
  EXPECT_THAT(portals.ReachableFrom("192.0.2.8:3261"),
              ElementsAre("192.0.2.8:3261", "192.0.2.7:3260", "[2001:db8::7]:3260"));
  portals.Remove("192.0.2.7:3260");
  EXPECT_THAT(portals.ReachableFrom("192.0.2.8:3261"),
              ElementsAre("192.0.2.8:3261", "[2001:db8::7]:3260"));
}

TEST(PortalAddressesTest, AWildcardIsTheConnectionsAddressWithThePortalsPort) {
  PortalAddresses portals;
  portals.Add("0.0.0.0:3260");
  portals.Add("0.0.0.0:3261");
  portals.Add("[::]:3262");
  EXPECT_THAT(portals.ReachableFrom("192.0.2.7:3260"),
              ElementsAre("192.0.2.7:3260", "192.0.2.7:3261"));
  EXPECT_THAT(portals.ReachableFrom("[2001:db8::7]:3262"), ElementsAre("[2001:db8::7]:3262"));
}

TEST(PortalAddressesTest, LoopbackIsForWhoCameThatWay) {
  PortalAddresses portals;
  portals.Add("127.0.0.1:3260");
  portals.Add("[::1]:3260");
  portals.Add("192.0.2.7:3260");
  EXPECT_THAT(portals.ReachableFrom("192.0.2.7:3260"), ElementsAre("192.0.2.7:3260"));
  EXPECT_THAT(portals.ReachableFrom("127.0.0.1:3260"),
              ElementsAre("127.0.0.1:3260", "[::1]:3260", "192.0.2.7:3260"));
}

}  // namespace
}  // namespace sectormap::iscsi
