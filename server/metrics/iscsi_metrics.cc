// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/iscsi_metrics.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <string>

#include "server/scsi/command_counters.h"

namespace sectormap::metrics {
namespace {

using Seconds = std::chrono::duration<double>;

std::array<double, scsi::kLatencyBuckets - 1> LatencyBounds() {
  std::array<double, scsi::kLatencyBuckets - 1> seconds{};
  std::transform(scsi::kLatencyBounds.begin(), scsi::kLatencyBounds.end(), seconds.begin(),
                 [](std::chrono::microseconds bound) { return Seconds(bound).count(); });
  return seconds;
}

std::string_view OpLabel(scsi::OpClass op) {
  switch (op) {
    case scsi::OpClass::kRead:
      return "read";
    case scsi::OpClass::kWrite:
      return "write";
    case scsi::OpClass::kUnmap:
      return "unmap";
    case scsi::OpClass::kWriteSame:
      return "write_same";
    case scsi::OpClass::kCompareWrite:
      return "compare_write";
    case scsi::OpClass::kFlush:
      return "flush";
    case scsi::OpClass::kOther:
      return "other";
  }
  return "other";
}

// The commands of all exports, one sample per operation, also for those that never happened.
class CommandFamilies {
 public:
  void Add(std::string_view iqn, const iscsi::LunEntry& entry) {
    const std::string lun = std::to_string(entry.number);
    const std::string device = entry.lun->device().info().name;
    const scsi::CommandTotals totals = entry.counters->Sum();
    for (int i = 0; i < scsi::kOpClassCount; ++i) {
      const scsi::CommandTotals::PerClass& op = totals.classes[i];
      const Labels labels = {{"target", iqn},
                             {"lun", lun},
                             {"device", device},
                             {"op", OpLabel(static_cast<scsi::OpClass>(i))}};
      commands_.Add(labels, op.commands);
      bytes_.Add(labels, op.bytes);
      errors_.Add(labels, op.errors);
      // Sixteen series each: those of what never happened would be nearly all of a large scrape.
      if (op.commands == 0) continue;
      durations_.AddHistogram(labels, bounds_, op.latency,
                              Seconds(std::chrono::nanoseconds(op.nanoseconds)).count());
    }
  }

  void MoveTo(Families& families) {
    for (Family* family : {&commands_, &bytes_, &errors_, &durations_}) {
      families.Add(std::move(*family));
    }
  }

 private:
  const std::array<double, scsi::kLatencyBuckets - 1> bounds_ = LatencyBounds();
  Family commands_ = Counter("sectormap_commands_total", "SCSI commands that have ended.");
  Family bytes_ = Counter("sectormap_command_bytes_total",
                          "Bytes that SCSI commands moved to or from initiators.");
  Family errors_ =
      Counter("sectormap_command_errors_total", "SCSI commands that did not end with GOOD.");
  Family durations_ = Histogram("sectormap_command_duration_seconds",
                                "From a SCSI command's arrival to its status.");
};

void AddSessions(const iscsi::TargetDirectory& targets, int reactors, Families& families) {
  std::map<std::string, uint64_t> by_target;
  by_target[""] = static_cast<uint64_t>(targets.discoveries());
  std::map<int, uint64_t> by_reactor;
  for (int i = 0; i < reactors; ++i) by_reactor[i] = 0;
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

void AddIscsiFamilies(const iscsi::TargetDirectory& targets, int reactors, Families& families) {
  AddSessions(targets, reactors, families);
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

void AddCommandMemoryFamilies(const iscsi::PortalResources& portals, Families& families) {
  Family capacity = Gauge("sectormap_reactor_command_memory_bytes",
                          "Memory that the reactor has for the data of commands in flight.");
  Family used = Gauge("sectormap_reactor_command_memory_used_bytes",
                      "What commands in flight hold of it, in whole blocks; "
                      "where it has no room for more, command windows narrow.");
  for (int i = 0; i < portals.reactors(); ++i) {
    const std::string index = std::to_string(i);
    const iscsi::CommandMemory& memory = portals.memory(i);
    capacity.Add({{"reactor", index}}, uint64_t{memory.capacity()});
    used.Add({{"reactor", index}}, uint64_t{memory.used()});
  }
  families.Add(std::move(capacity));
  families.Add(std::move(used));
}

void AddCommandFamilies(const iscsi::TargetDirectory& targets, Families& families) {
  CommandFamilies commands;
  for (const std::string& iqn : targets.targets()) {
    for (const iscsi::LunEntry& entry : targets.luns(iqn)) commands.Add(iqn, entry);
  }
  commands.MoveTo(families);
}

}  // namespace sectormap::metrics
