// SPDX-License-Identifier: Apache-2.0
// sectormapd: joins the rooms. Options, state, reactors, devices, exports, metrics and control come
// up in this order, the portals last: whoever can log in finds every LUN there.
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "core/async/clock.h"
#include "core/async/reactor_pool.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/block/backing_opener.h"
#include "core/map/device_registry.h"
#include "server/control/change_feed.h"
#include "server/control/control_server.h"
#include "server/control/device_mapper_service.h"
#include "server/control/iscsi_service.h"
#include "server/control/operations_service.h"
#include "server/daemon_options.h"
#include "server/exports/durable_units.h"
#include "server/exports/export_catalog.h"
#include "server/iscsi/portal.h"
#include "server/iscsi/target_directory.h"
#include "server/logging.h"
#include "server/metrics/grpc_metrics.h"
#include "server/metrics/metrics_server.h"
#include "server/service_notify.h"
#include "server/state/state_store.h"
#include "server/volumes/keeper.h"
#include "server/volumes/volume_service.h"
#include "targets/builtin_targets.h"

namespace sectormap {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

// Control calls that still run at a stop are cancelled after this.
constexpr std::chrono::seconds kControlGrace(5);

// A stop that takes longer (a disk that does not answer) is cut: the state is on the disk already.
constexpr std::chrono::seconds kStopLimit(40);

// Sessions that do not log out are dropped after their grace. What commands of theirs wait for then
// is a resume that will not come: they end, and nobody hears of it.
constexpr std::chrono::seconds kResumeWaitMax = iscsi::kLogoutGrace + std::chrono::seconds(1);

constexpr size_t kExportsNamedMax = 8;  // in a refusal; the rest are counted

void LogOperation(const volumes::OperationInfo& ended) {
  spdlog::log(ended.error.empty() ? spdlog::level::info : spdlog::level::warn,
              "event=operation id={} kind={} device={} state={} error={}", ended.id, ended.kind,
              Quoted(ended.device), volumes::NameOf(ended.state), Quoted(ended.error));
}

// The portals that listen, for the control plane, which may ask while one is added.
class Portals {
 public:
  // `resources` are the daemon's, not each portal's.
  absl::Status Add(std::string_view address, ReactorPool& reactors, iscsi::TargetDirectory& targets,
                   std::shared_ptr<iscsi::PortalResources> resources) {
    ASSIGN_OR_RETURN(std::unique_ptr<iscsi::Portal> portal,
                     iscsi::Portal::Listen(address, reactors, targets, std::move(resources)));
    absl::MutexLock hold(&mutex_);
    portals_.push_back(std::move(portal));
    return absl::OkStatus();
  }

  std::vector<std::string> Addresses() const {
    absl::MutexLock hold(&mutex_);
    std::vector<std::string> addresses;
    for (const auto& portal : portals_) addresses.push_back(portal->address());
    return addresses;
  }

  // The one that has the port of `address`, if either is for every address of its family. Empty: it
  // is somebody else who is in its way.
  std::string InTheWayOf(const std::string& address) const {
    for (const std::string& own : Addresses()) {
      const bool one_covers_all = IsEverywhere(own) || IsEverywhere(address);
      const bool one_family = own.starts_with('[') == address.starts_with('[');
      if (one_covers_all && one_family && PortOf(own) == PortOf(address)) return own;
    }
    return "";
  }

  // All at once: each waits for its sessions to log out.
  void Stop() {
    absl::MutexLock hold(&mutex_);
    std::vector<std::thread> stops;
    for (const auto& portal : portals_) stops.emplace_back([&portal] { portal->Stop(); });
    for (std::thread& stop : stops) stop.join();
    portals_.clear();
  }

 private:
  static std::string_view PortOf(std::string_view address) {
    return address.substr(address.rfind(':') + 1);
  }
  static bool IsEverywhere(std::string_view address) {
    return address.starts_with("0.0.0.0:") || address.starts_with("[::]:");
  }

  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<iscsi::Portal>> portals_ ABSL_GUARDED_BY(mutex_);
};

// Members are in the order in which they come up; they go down in the other one.
class Daemon {
 public:
  explicit Daemon(DaemonOptions options) : options_(std::move(options)) {}

  absl::Status Start();
  void Stop();
  // What can change while we run, does; the log says what cannot.
  void Reload(const DaemonOptions& wanted);

 private:
  static absl::Status MakeDeviceRoot(const DaemonOptions& options);
  absl::Status StartDevices(const state::Contents& contents);
  absl::Status StartControl();
  std::string HoldersOf(const std::string& device) const;

  const std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  DaemonOptions options_;
  SteadyClock clock_;
  TargetRegistry types_;
  iscsi::TargetDirectory directory_;
  metrics::GrpcMetrics grpc_metrics_;
  std::unique_ptr<state::StateStore> store_;
  std::unique_ptr<ReactorPool> reactors_;
  std::shared_ptr<iscsi::PortalResources> portal_resources_;
  std::unique_ptr<BackingOpener> backings_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<volumes::VolumeService> volumes_;
  std::unique_ptr<exports::DurableUnits> unit_store_;
  std::unique_ptr<exports::ExportCatalog> exports_;
  std::unique_ptr<control::ChangeFeed> feed_;
  std::unique_ptr<control::DeviceMapperService> mapper_service_;
  std::unique_ptr<control::IscsiService> iscsi_service_;
  std::unique_ptr<control::OperationsService> operations_service_;
  std::unique_ptr<metrics::MetricsServer> metrics_;
  std::unique_ptr<control::ControlServer> control_;
  std::unique_ptr<volumes::Keeper> keeper_;
  Portals portals_;
};

// A line that scripts wait for.
void Say(const std::string& line) { std::cout << line << std::endl; }

absl::Status Daemon::Start() {
  ASSIGN_OR_RETURN(store_, state::OpenSqliteStore(options_.state_dir));
  ASSIGN_OR_RETURN(const state::Contents contents, store_->LoadAll());
  ASSIGN_OR_RETURN(reactors_, ReactorPool::Start(options_.reactors, clock_, options_.poll));
  portal_resources_ = std::make_shared<iscsi::PortalResources>(*reactors_);
  RETURN_IF_ERROR(StartDevices(contents));
  if (options_.metrics.has_value()) {
    ASSIGN_OR_RETURN(metrics_, metrics::MetricsServer::Start(
                                   *options_.metrics, {.version = SECTORMAP_VERSION,
                                                       .started = started_,
                                                       .reactors = *reactors_,
                                                       .devices = *registry_,
                                                       .backings = *backings_,
                                                       .targets = directory_,
                                                       .portals = *portal_resources_,
                                                       .grpc = grpc_metrics_,
                                                       .snapshots = &volumes_->snapshots(),
                                                       .mirrors = &volumes_->mirrors(),
                                                       .operations = &volumes_->operations()}));
  }
  RETURN_IF_ERROR(StartControl());
  for (const std::string& address : options_.listen) {
    RETURN_IF_ERROR(portals_.Add(address, *reactors_, directory_, portal_resources_));
  }
  for (const std::string& address : portals_.Addresses()) Say("iscsi portal " + address);
  for (const std::string& address : control_->addresses()) Say("control " + address);
  if (metrics_ != nullptr) Say("metrics http://" + metrics_->address() + "/metrics");
  Say("ready");
  NotifyServiceManager("READY=1");
  return absl::OkStatus();
}

void WarnOfMissingRoots(const DaemonOptions& options) {
  for (const std::string& sentence : MissingDeviceRoots(options)) {
    spdlog::warn("event=device_root result={}", Quoted(sentence));
  }
}

absl::Status Daemon::MakeDeviceRoot(const DaemonOptions& options) {
  if (!options.default_device_root) return absl::OkStatus();
  const std::string& root = options.device_roots.front();
  if (mkdir(root.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("cannot make ", root, ": ", std::strerror(errno),
                   "; give another --state-dir, or name a directory with --device-root DIR"));
}

absl::Status Daemon::StartDevices(const state::Contents& contents) {
  RETURN_IF_ERROR(MakeDeviceRoot(options_));
  WarnOfMissingRoots(options_);
  targets::AddBuiltinTargets(types_);
  ASSIGN_OR_RETURN(backings_, BackingOpener::Create({.device_roots = options_.device_roots,
                                                     .file_mode = options_.file_mode,
                                                     .block_device_mode = std::nullopt}));
  registry_ = std::make_unique<DeviceRegistry>(*reactors_, types_, *backings_);
  volumes_ = std::make_unique<volumes::VolumeService>(volumes::VolumeService::Parts{
      .registry = *registry_,
      .store = *store_,
      .backings = *backings_,
      .reactors = *reactors_,
      .directory = options_.device_roots.front(),
      .log_file =
          [](const std::string& path, const std::string& what) {
            spdlog::info("event=file path={} what={}", Quoted(path), Quoted(what));
          },
      .log_operation = LogOperation,
      .log_deferred_removal =
          [](const std::string& device) {
            spdlog::info("event=remove device={} code=OK what=deferred", Quoted(device));
          }});
  const absl::Status restored = volumes_->RestoreDevices(contents);
  if (!restored.ok()) {
    spdlog::error("event=restore_device error={}", Quoted(restored.message()));
  }
  for (const DeviceInfo& info : registry_->List()) {
    if (info.error.empty()) continue;
    spdlog::error("event=restore_device device={} error={}", Quoted(info.name), Quoted(info.error));
  }
  unit_store_ = std::make_unique<exports::DurableUnits>(*store_);
  exports_ = std::make_unique<exports::ExportCatalog>(volumes_->catalog(), *store_, directory_,
                                                      *reactors_, unit_store_.get());
  for (const absl::Status& refusal : exports_->Restore(contents)) {
    spdlog::error("event=restore_export error={}", Quoted(refusal.message()));
  }
  volumes_->ResumeOperations(contents);
  keeper_ = std::make_unique<volumes::Keeper>(
      *registry_, volumes_->snapshots(), volumes_->mirrors(),
      [](const std::string& device, const std::string& what) {
        spdlog::warn("event=device device={} what={}", Quoted(device), Quoted(what));
      });
  spdlog::info("event=restored devices={} exports={}", contents.devices.size(),
               contents.exports.size());
  return absl::OkStatus();
}

absl::Status Daemon::StartControl() {
  feed_ = std::make_unique<control::ChangeFeed>(*registry_);
  mapper_service_ = std::make_unique<control::DeviceMapperService>(
      volumes_->catalog(), types_, *feed_,
      [this](const std::string& device) { return HoldersOf(device); });
  iscsi_service_ = std::make_unique<control::IscsiService>(*exports_, directory_,
                                                           [this] { return portals_.Addresses(); });
  operations_service_ = std::make_unique<control::OperationsService>(
      volumes_->operations(), volumes_->snapshots(), volumes_->moves(), volumes_->mirrors());
  control::ControlServer::Parts parts;
  parts.addresses = options_.control;
  parts.services = {mapper_service_.get(), iscsi_service_.get(), operations_service_.get()};
  parts.interceptors.push_back(grpc_metrics_.InterceptorFactory());
  ASSIGN_OR_RETURN(control_, control::ControlServer::Start(std::move(parts)));
  return absl::OkStatus();
}

std::string Daemon::HoldersOf(const std::string& device) const {
  std::vector<std::string> exported;
  for (const state::ExportKey& key : exports_->ExportsOf(device)) {
    exported.push_back(absl::StrCat(key.iqn, " LUN ", key.lun_number));
  }
  if (exported.empty()) return "";
  const size_t all = exported.size();
  if (all > kExportsNamedMax) {
    exported.resize(kExportsNamedMax);
    exported.push_back(absl::StrCat(all - kExportsNamedMax, " more"));
  }
  return absl::StrCat("it is exported as ", absl::StrJoin(exported, " and "),
                      ": sectormap unexport ", device, " takes that away");
}

void Daemon::Stop() {
  NotifyServiceManager("STOPPING=1");
  if (control_ != nullptr) control_->Drain();
  absl::Notification sessions_ended;
  std::thread portals([&] {
    portals_.Stop();
    sessions_ended.Notify();
  });
  const bool in_time =
      sessions_ended.WaitForNotificationWithTimeout(absl::FromChrono(kResumeWaitMax));
  if (feed_ != nullptr) feed_->Close();
  // Also ends what recipes wait for, which calls may be waiting for.
  if (volumes_ != nullptr) volumes_->operations().Stop();
  if (control_ != nullptr) control_->Stop(kControlGrace);
  keeper_.reset();
  // Only now that nobody keeps any more what a device is: it goes.
  if (!in_time && registry_ != nullptr) registry_->EndSuspended();
  portals.join();
  metrics_.reset();
}

void Daemon::Reload(const DaemonOptions& wanted) {
  if (wanted.log_level != options_.log_level) {
    SetLogLevel(wanted.log_level);
    options_.log_level = wanted.log_level;
    spdlog::info("event=reload log_level={}", wanted.log_level);
  }
  for (const std::string& address : wanted.listen) {
    if (std::ranges::find(options_.listen, address) != options_.listen.end()) continue;
    const absl::Status status = portals_.Add(address, *reactors_, directory_, portal_resources_);
    if (!status.ok()) {
      const std::string own = portals_.InTheWayOf(address);
      const bool is_ours = absl::IsAlreadyExists(status) && !own.empty();
      spdlog::error(
          "event=reload listen={} error={}", address,
          Quoted(is_ours ? absl::StrCat("portal ", own, " has the port until the next start")
                         : std::string(status.message())));
      continue;
    }
    options_.listen.push_back(address);
    Say("iscsi portal " + portals_.Addresses().back());
  }
  for (const std::string& address : options_.listen) {
    if (std::ranges::find(wanted.listen, address) != wanted.listen.end()) continue;
    spdlog::warn("event=reload listen={} result=\"stays open until the next start\"", address);
  }
  if (wanted.device_roots != options_.device_roots) {
    absl::Status status = MakeDeviceRoot(wanted);
    if (status.ok()) status = backings_->SetDeviceRoots(wanted.device_roots);
    spdlog::info("event=reload device_roots={} error={}",
                 Quoted(absl::StrJoin(wanted.device_roots, " ")), Quoted(status.message()));
    if (status.ok()) {
      volumes_->SetDirectory(wanted.device_roots.front());
      options_.device_roots = wanted.device_roots;
      WarnOfMissingRoots(wanted);
    }
  }
  const auto needs_restart = [](const char* key, bool changed) {
    if (changed) spdlog::warn("event=reload key={} result=\"takes effect at the next start\"", key);
  };
  needs_restart("state-dir", wanted.state_dir != options_.state_dir);
  needs_restart("control", wanted.control != options_.control);
  needs_restart("metrics", wanted.metrics != options_.metrics);
  needs_restart("reactors", wanted.reactors != options_.reactors);
  needs_restart("poll", wanted.poll != options_.poll);
  needs_restart("file-mode", wanted.file_mode != options_.file_mode);
  spdlog::info("event=reloaded");
}

// Files and connections are many; the soft limit of 1024 is for programs that use select(2).
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Before any thread starts, so that all inherit it: signals are waited for by main alone.
sigset_t BlockSignals() {
  // A peer that closes gives EPIPE, a file that may not grow EFBIG: both are answers.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// Ends the process if stopping takes too long or a second SIGTERM or SIGINT comes.
class StopGuard {
 public:
  explicit StopGuard(const sigset_t& signals) : thread_([this, signals] { Watch(signals); }) {}
  ~StopGuard() {
    stopped_ = true;
    thread_.join();
  }

 private:
  void Watch(const sigset_t& signals) {
    constexpr std::chrono::milliseconds kLook(100);
    const timespec look{0, std::chrono::nanoseconds(kLook).count()};
    for (auto left = std::chrono::milliseconds(kStopLimit); left.count() > 0; left -= kLook) {
      const int signal = sigtimedwait(&signals, nullptr, &look);
      if (stopped_) return;
      if (signal == SIGTERM || signal == SIGINT) break;
    }
    spdlog::error("event=stop result=\"cut short: something below does not answer\"");
    _exit(kExitFailure);
  }

  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

int Fail(const absl::Status& status, int code) {
  std::cerr << "sectormapd: " << status.message() << std::endl;
  return code;
}

int Run(int argc, char** argv) {
  absl::StatusOr<CommandLine> line = ReadCommandLine(argc, argv);
  if (!line.ok()) return Fail(line.status(), kExitUsage);
  if (line->text.has_value()) {
    std::cout << *line->text;
    return 0;
  }
  if (line->check_config) {
    for (const std::string& sentence : MissingDeviceRoots(line->options)) {
      Say("warning: " + sentence);
    }
    Say("the configuration is good");
    return 0;
  }
  // Debian's Abseil checks the order of locks in every build, under a lock of its own for the whole
  // process. That is for debugging, and the tsan preset does it better.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const sigset_t signals = BlockSignals();
  RaiseFileLimit();
  StartLogging(line->options.log_level);

  // Outlives the daemon, whose end does I/O, too: mirrors flush their legs.
  std::optional<StopGuard> guard;
  Daemon daemon(line->options);
  const absl::Status started = daemon.Start();
  if (started.ok()) {
    for (int signal = 0; signal != SIGTERM && signal != SIGINT;) {
      sigwait(&signals, &signal);
      if (signal != SIGHUP) continue;
      line = ReadCommandLine(argc, argv);
      if (line.ok()) {
        daemon.Reload(line->options);
      } else {
        spdlog::error("event=reload error={}", Quoted(line.status().message()));
      }
    }
    spdlog::info("event=stopping");
  }
  guard.emplace(signals);
  daemon.Stop();
  return started.ok() ? 0 : Fail(started, kExitFailure);
}

}  // namespace
}  // namespace sectormap

int main(int argc, char** argv) { return sectormap::Run(argc, argv); }
