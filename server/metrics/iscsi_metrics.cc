// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/iscsi_metrics.h"

#include <map>
#include <string>

namespace sectormap::metrics {
namespace {

void AddSessions(const iscsi::TargetDirectory& targets, Families& families) {
  std::map<std::string, uint64_t> by_target;
  std::map<int, uint64_t> by_reactor;
  for (const std::string& iqn : targets.targets()) by_target[iqn] = 0;
  for (const iscsi::SessionInfo& session : targets.sessions()) {
    ++by_target[session.target_name];
    ++by_reactor[session.reactor];
  }
  Family sessions = Gauge("sectormap_sessions",
                          "Sessions that are logged in; target=\"\" are discovery sessions.");
  for (const auto& [iqn, count] : by_target) sessions.Add({{"target", iqn}}, count);
  families.Add(std::move(sessions));
  Family on_reactors = Gauge("sectormap_reactor_sessions", "Sessions that the reactor carries.");
  for (const auto& [reactor, count] : by_reactor) {
    on_reactors.Add({{"reactor", std::to_string(reactor)}}, count);
  }
  families.Add(std::move(on_reactors));
}

}  // namespace

void AddIscsiFamilies(const iscsi::TargetDirectory& targets, Families& families) {
  AddSessions(targets, families);
  const iscsi::IscsiTotals totals = targets.totals();

  Family connections = Counter("sectormap_connections_total", "iSCSI connections accepted.");
  connections.Add({}, totals.connections);
  families.Add(std::move(connections));

  Family logins = Counter("sectormap_logins_total", "Login responses by outcome.");
  for (int i = 0; i < iscsi::kLoginOutcomeCount; ++i) {
    logins.Add({{"result", ToString(static_cast<iscsi::LoginOutcome>(i))}}, totals.logins[i]);
  }
  families.Add(std::move(logins));

  Family drops = Counter("sectormap_session_drops_total", "Connections that ended, by reason.");
  for (int i = 0; i < iscsi::kDropReasonCount; ++i) {
    drops.Add({{"reason", ToString(static_cast<iscsi::DropReason>(i))}}, totals.drops[i]);
  }
  families.Add(std::move(drops));

  Family digests = Counter("sectormap_digest_errors_total",
                           "PDUs whose CRC32C digest did not match: bytes damaged on their way.");
  digests.Add({{"kind", "header"}}, totals.header_digest_errors);
  digests.Add({{"kind", "data"}}, totals.data_digest_errors);
  families.Add(std::move(digests));

  Family rejects = Counter("sectormap_rejects_total", "PDUs refused with a Reject.");
  rejects.Add({}, totals.rejects);
  families.Add(std::move(rejects));
}

}  // namespace sectormap::metrics
