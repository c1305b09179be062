// SPDX-License-Identifier: Apache-2.0
#include "core/map/device_registry.h"

#include <random>
#include <unordered_map>

#include "absl/container/node_hash_map.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"
#include "core/map/table_error.h"

namespace sectormap {
namespace {

// A verb that waits longer for its turn is refused, so that a stuck disk does not collect the
// control plane's threads.
constexpr absl::Duration kTurnWaitMax = absl::Seconds(30);

// How long a device's requests may take to end before those below it end, too.
constexpr absl::Duration kRetireWaitMax = absl::Seconds(2);

// How long a deferred removal leaves a device alone that a verb is busy with, or that could not be
// removed within kRemovalWaitMax: others are to go meanwhile.
constexpr absl::Duration kRetryRemoval = absl::Milliseconds(100);
constexpr absl::Duration kRemovalWaitMax = absl::Milliseconds(500);

GiveUp GiveUpAfter(absl::Duration wait) {
  return [until = absl::Now() + wait] { return absl::Now() >= until; };
}

std::string Hex128(unsigned __int128 value) {
  return absl::StrFormat("%016x%016x", static_cast<uint64_t>(value >> 64),
                         static_cast<uint64_t>(value));
}

// The same for the same uuid on every host and in every version: SCSI identifiers are made from it.
// FNV-1a, 128 bits (its offset basis and prime).
std::string IdentityFromUuid(const std::string& uuid) {
  using Wide = unsigned __int128;
  Wide hash = (Wide{0x6c62272e07bb0142} << 64) | 0x62b821756295c58d;
  const Wide prime = (Wide{1} << 88) | 0x13b;
  for (const char c : uuid) hash = (hash ^ static_cast<unsigned char>(c)) * prime;
  return Hex128(hash);
}

std::string RandomIdentity() {
  std::random_device random;
  unsigned __int128 value = 0;
  for (int i = 0; i < 4; ++i) value = (value << 32) | random();
  return Hex128(value);
}

std::string Identity(const CreateOptions& options) {
  if (!options.identity.empty()) return options.identity;
  return options.uuid.empty() ? RandomIdentity() : IdentityFromUuid(options.uuid);
}

}  // namespace

// How the rows of one table being built get at their devices. One table opens a device once,
// however many of its rows name it.
class DeviceRegistry::TableDevices final : public DeviceResolver {
 public:
  TableDevices(DeviceRegistry& registry, DeviceNode& user) : registry_(registry), user_(user) {}

  absl::StatusOr<DeviceRef> Open(std::string_view name, OpenMode mode) override {
    // Most rows name the device of the row before them.
    if (last_ != nullptr && last_->name() == name) return *last_;
    auto found = opened_.find(Absl(name));
    if (found == opened_.end()) {
      ASSIGN_OR_RETURN(DeviceRef ref, OpenNew(name, mode));
      found = opened_.emplace(ref.name(), std::move(ref)).first;
    }
    last_ = &found->second;
    return *last_;
  }

 private:
  absl::StatusOr<DeviceRef> OpenNew(std::string_view name, OpenMode mode) {
    const std::string_view mapped = MappedDeviceName(name);
    if (mapped.empty()) {
      ASSIGN_OR_RETURN(std::shared_ptr<BlockDevice> device,
                       registry_.backings_.Open(name, mode == OpenMode::kReadOnly));
      return DeviceRef{std::move(device), std::string(name), false};
    }
    const auto found = mapped_.find(std::string(mapped));
    if (found != mapped_.end()) return DeviceRef{found->second, std::string(name), true};
    absl::StatusOr<DeviceRef> ref = registry_.graph_->OpenForTable(name, user_);
    if (absl::IsNotFound(ref.status())) {
      return absl::NotFoundError(absl::StrCat(
          "there is no mapped device '", Absl(mapped),
          "' (bare names and /dev/mapper/NAME are mapped devices; other absolute paths are files "
          "and block devices of this host, mem:SIZE is memory)"));
    }
    if (ref.ok()) mapped_[std::string(mapped)] = ref->device;
    return ref;
  }

  DeviceRegistry& registry_;
  DeviceNode& user_;
  absl::node_hash_map<std::string, DeviceRef> opened_;
  const DeviceRef* last_ = nullptr;  // one of them
  std::unordered_map<std::string, std::shared_ptr<BlockDevice>> mapped_;
};

DeviceRegistry::DeviceRegistry(ReactorPool& reactors, const TargetRegistry& types,
                               BackingSource& backings)
    : reactors_(reactors),
      types_(types),
      backings_(backings),
      graph_(std::make_shared<DeviceGraph>([this](NodePtr node) {
        absl::MutexLock lock(&errands_mutex_);
        idle_.push_back(std::move(node));
      })),
      removals_([this] { RemoveIdle(); }),
      events_([this] { TellOfEvents(); }) {}

DeviceRegistry::~DeviceRegistry() {
  graph_->Close();
  {
    absl::MutexLock lock(&errands_mutex_);
    stopping_ = true;
  }
  // A target's last deed may be I/O: a mirror flushes its legs, then says in its log that they are
  // in sync. So what lies below ends last. But for what is suspended: what waits there ends with an
  // error, or those above would wait for ever. And who waits for long, does so for what a device
  // below holds until it ends: a mirror with a failed leg.
  EndSuspended();
  removals_.join();
  events_.join();
  const std::vector<NodePtr> nodes = graph_->UsersFirst();
  for (const NodePtr& node : nodes) node->device->SetEventListener(nullptr);
  std::vector<NodePtr> stuck;
  for (const NodePtr& node : nodes) {
    if (!node->device->Retire(GiveUpAfter(kRetireWaitMax))) stuck.push_back(node);
  }
  for (const NodePtr& node : stuck) node->device->Retire();
}

void DeviceRegistry::EndSuspended() {
  for (const NodePtr& node : graph_->UsersFirst()) {
    if (node->device->info().suspended) node->device->Retire();
  }
}

DeviceInfo DeviceRegistry::InfoOf(const DeviceNode& node) const {
  DeviceInfo info = node.device->info();
  graph_->Describe(node, info);
  return info;
}

// One verb's turn on one device.
class DeviceRegistry::TurnHolder {
 public:
  // REQUIRES: the turn was taken.
  explicit TurnHolder(NodePtr node) : node_(std::move(node)) {}
  TurnHolder(TurnHolder&&) = default;
  TurnHolder& operator=(TurnHolder&&) = delete;
  ~TurnHolder() {
    if (node_ != nullptr) node_->verbs.Give();
  }
  DeviceNode& operator*() const { return *node_; }

 private:
  NodePtr node_;
};

absl::StatusOr<DeviceRegistry::TurnHolder> DeviceRegistry::TakeTurn(std::string_view name,
                                                                    std::string_view verb) const {
  while (true) {
    ASSIGN_OR_RETURN(NodePtr node, graph_->Find(name));
    if (!node->verbs.Take(verb, kTurnWaitMax)) {
      return absl::FailedPreconditionError(
          absl::StrCat("Device or resource busy: '", Absl(name), "' has been waiting in `",
                       node->verbs.verb(), "` for longer than ", absl::FormatDuration(kTurnWaitMax),
                       ", perhaps for I/O that a backing device does not finish"));
    }
    TurnHolder turn(node);
    // A verb before this one may have removed or renamed it.
    ASSIGN_OR_RETURN(const NodePtr now, graph_->Find(name));
    if (now == node) return turn;
  }
}

// Runs `call` on the device, alone, and tells the watchers if it succeeded.
template <typename Call>
absl::Status DeviceRegistry::ChangeDevice(std::string_view name, std::string_view verb, Call call) {
  ASSIGN_OR_RETURN(const TurnHolder turn, TakeTurn(name, verb));
  RETURN_IF_ERROR(call(*turn));
  Tell(Change::kChanged, *turn);
  return absl::OkStatus();
}

absl::Status DeviceRegistry::Create(std::string_view name, const CreateOptions& options) {
  auto device = std::make_shared<MappedDevice>(std::string(name), options.uuid, Identity(options),
                                               reactors_, notes_.get());
  ASSIGN_OR_RETURN(NodePtr node, graph_->Add(std::string(name), options.uuid, std::move(device)));
  const TurnHolder turn(node);
  (*turn).device->SetEventListener([this, weak = std::weak_ptr(node)] {
    absl::MutexLock lock(&errands_mutex_);
    if (NodePtr still_there = weak.lock()) with_events_.insert(std::move(still_there));
  });
  Tell(Change::kCreated, *turn);
  return absl::OkStatus();
}

absl::Status DeviceRegistry::Load(std::string_view name, const TableSpec& spec, bool read_only) {
  return ChangeDevice(name, "load", [&](DeviceNode& node) -> absl::Status {
    TableDevices devices(*this, node);
    ASSIGN_OR_RETURN(auto table,
                     MappingTable::Build(spec, read_only, types_, devices, *node.device));
    node.device->Load(std::move(table));
    return absl::OkStatus();
  });
}

absl::Status DeviceRegistry::Clear(std::string_view name) {
  return ChangeDevice(name, "clear", [](DeviceNode& node) {
    node.device->Clear();
    return absl::OkStatus();
  });
}

absl::Status DeviceRegistry::AnnounceSize(std::string_view name) {
  return ChangeDevice(name, "load", [](DeviceNode& node) -> absl::Status {
    const DeviceInfo info = node.device->info();
    if (info.has_live_table || !info.has_inactive_table) {
      return absl::FailedPreconditionError("the device has no table that waits to be its first");
    }
    node.device->AnnounceSize();
    return absl::OkStatus();
  });
}

absl::Status DeviceRegistry::CheckUsedOnlyBy(std::string_view name,
                                             const std::set<std::string>& users) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  return graph_->CheckUsedOnlyBy(*node, users);
}

absl::Status DeviceRegistry::Suspend(std::string_view name, SuspendMode mode,
                                     const GiveUp& give_up) {
  return ChangeDevice(name, "suspend", [mode, &give_up](DeviceNode& node) {
    return node.device->Suspend(mode, give_up);
  });
}

absl::Status DeviceRegistry::Resume(std::string_view name, SuspendMode mode,
                                    const ResumeIntent& intent, const GiveUp& give_up) {
  return ChangeDevice(name, "resume", [&](DeviceNode& node) -> absl::Status {
    const DeviceInfo before = node.device->info();
    if (!before.has_inactive_table && !before.has_live_table) return node.device->Resume(mode);
    RETURN_IF_ERROR(
        BuildUnbuilt(node, before.has_inactive_table ? TableSlot::kInactive : TableSlot::kLive));
    const absl::Status refusal = BuildAgainIfShrunk(node);
    if (!refusal.ok()) {
      RETURN_IF_ERROR(DropInactive(node, mode, intent, give_up));
      return refusal;
    }
    if (intent != nullptr) {
      const absl::Status told = intent(SavedAfterResume(node));
      if (!told.ok()) {
        // What BuildUnbuilt loaded for the live slot.
        if (!before.has_inactive_table) node.device->Clear();
        return told;
      }
    }
    return node.device->Resume(mode, give_up);
  });
}

absl::StatusOr<std::shared_ptr<const MappingTable>> DeviceRegistry::Build(DeviceNode& node,
                                                                          std::string_view text,
                                                                          bool read_only,
                                                                          bool restored) {
  ASSIGN_OR_RETURN(const TableSpec spec, TableSpec::Parse(text));
  TableDevices devices(*this, node);
  return MappingTable::Build(spec, read_only, types_, devices, *node.device, restored);
}

absl::StatusOr<std::shared_ptr<const MappingTable>> DeviceRegistry::BuildRestored(
    DeviceNode& node, const MappedDevice::UnbuiltTable& unbuilt, TableSlot slot) {
  for (const std::shared_ptr<MappedDevice>& before : unbuilt.after) {
    if (!before->unbuilt(TableSlot::kLive).has_value()) continue;
    const std::string name = before->info().name;
    return absl::FailedPreconditionError(absl::StrCat(
        "'", name, "' could not be restored, and would miss what is written here: see `info ", name,
        "`; resume that one, or remove it, then resume this one"));
  }
  return Build(node, unbuilt.text, unbuilt.read_only, slot == TableSlot::kLive);
}

// Tries again what could not be built at start, and loads it.
absl::Status DeviceRegistry::BuildUnbuilt(DeviceNode& node, TableSlot slot) {
  std::optional<MappedDevice::UnbuiltTable> unbuilt = node.device->unbuilt(slot);
  if (!unbuilt.has_value()) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<const MappingTable>> table = BuildRestored(node, *unbuilt, slot);
  if (!table.ok()) {
    unbuilt->error = std::string(table.status().message());
    node.device->SetUnbuilt(slot, *std::move(unbuilt));
    return table.status();
  }
  node.device->Load(*std::move(table));
  return absl::OkStatus();
}

// Fails, with nothing changed, if the inactive table cannot be had any more.
absl::Status DeviceRegistry::BuildAgainIfShrunk(DeviceNode& node) {
  const std::shared_ptr<const MappingTable> table = node.device->table(TableSlot::kInactive);
  if (table == nullptr || !table->BackingShrank()) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<const MappingTable>> again =
      Build(node, table->TableText(), table->read_only(), /*restored=*/false);
  if (again.ok()) {
    node.device->Load(*std::move(again));
    return absl::OkStatus();
  }
  const absl::Status& why = again.status();
  absl::Status refusal(
      why.code(),
      absl::StrCat(
          why.message(),
          "; a device below has become smaller since the table was loaded, so the new table "
          "was dropped and the device is suspended with its old one: resume it to go on"));
  why.ForEachPayload([&refusal](absl::string_view url, const absl::Cord& payload) {
    refusal.SetPayload(url, payload);
  });
  return refusal;
}

absl::Status DeviceRegistry::DropInactive(DeviceNode& node, SuspendMode mode,
                                          const ResumeIntent& intent, const GiveUp& give_up) {
  if (intent != nullptr) {
    Saved next = SavedOf(node);
    next.inactive_table.reset();
    next.inactive_read_only = false;
    next.suspended = true;
    RETURN_IF_ERROR(intent(next));
  }
  RETURN_IF_ERROR(node.device->Suspend(mode, give_up));
  node.device->Clear();
  return absl::OkStatus();
}

// `dmsetup remove --force`: the backing devices are let go whatever happens to the device itself.
absl::Status DeviceRegistry::ReplaceByErrors(DeviceNode& node, const GiveUp& give_up) {
  if (!node.device->info().has_live_table || node.device->size() == SectorCount(0)) {
    node.device->Clear();
    return absl::OkStatus();
  }
  const std::string text = FormatRow(Sector(0), node.device->size(), "error", "");
  ASSIGN_OR_RETURN(auto table, Build(node, text, node.device->read_only(), /*restored=*/false));
  RETURN_IF_ERROR(node.device->Suspend(SuspendMode::kNoFlush, give_up));
  node.device->Load(std::move(table));
  return node.device->Resume(SuspendMode::kNoFlush);
}

absl::Status DeviceRegistry::Remove(std::string_view name, RemoveOptions options,
                                    const GiveUp& give_up) {
  ASSIGN_OR_RETURN(const TurnHolder turn, TakeTurn(name, "remove"));
  DeviceNode& node = *turn;
  if (options.force) RETURN_IF_ERROR(ReplaceByErrors(node, give_up));
  const absl::StatusOr<bool> begun = graph_->BeginRemoval(node, options.deferred);
  absl::Status status = begun.status();
  if (begun.ok() && *begun) status = FinishRemoval(node, give_up);
  if (!graph_->removed(node) && (options.force || status.ok())) Tell(Change::kChanged, node);
  return status;
}

// After BeginRemoval. If it is given up, nothing has changed.
absl::Status DeviceRegistry::FinishRemoval(DeviceNode& node, const GiveUp& give_up) {
  if (!node.device->Retire(give_up)) {
    graph_->GiveUpRemoval(node);
    return absl::CancelledError(
        "given up before the device's own work had ended, which goes on as before");
  }
  graph_->EndRemoval(node);
  node.device->SetEventListener(nullptr);
  node.device->CountEvent();
  Tell(Change::kRemoved, node);
  return absl::OkStatus();
}

absl::Status DeviceRegistry::Rename(std::string_view name, std::string_view new_name) {
  return ChangeDevice(name, "rename", [&](DeviceNode& node) -> absl::Status {
    RETURN_IF_ERROR(graph_->Rename(node, std::string(new_name)));
    node.device->SetName(std::string(new_name));
    node.device->CountEvent();
    return absl::OkStatus();
  });
}

absl::Status DeviceRegistry::SetUuid(std::string_view name, std::string_view uuid) {
  return ChangeDevice(name, "rename --setuuid", [&](DeviceNode& node) -> absl::Status {
    RETURN_IF_ERROR(graph_->SetUuid(node, std::string(uuid)));
    node.device->SetUuid(std::string(uuid));
    return absl::OkStatus();
  });
}

absl::Status DeviceRegistry::CheckSetUuid(std::string_view name, std::string_view uuid) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  return graph_->CheckSetUuid(*node, std::string(uuid));
}

absl::StatusOr<DeviceInfo> DeviceRegistry::Info(std::string_view name) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  return InfoOf(*node);
}

std::vector<DeviceInfo> DeviceRegistry::List() const {
  std::vector<DeviceInfo> all;
  for (const NodePtr& node : graph_->All()) all.push_back(InfoOf(*node));
  return all;
}

absl::StatusOr<std::string> DeviceRegistry::Table(std::string_view name, TableSlot slot) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  if (const auto table = node->device->table(slot)) return table->TableText();
  if (const auto unbuilt = node->device->unbuilt(slot)) return unbuilt->text;
  return "";
}

bool DeviceRegistry::LiveTableIs(std::string_view name, const TableSpec& spec) const {
  const absl::StatusOr<NodePtr> node = graph_->Find(name);
  if (!node.ok()) return false;
  const auto table = (*node)->device->table(TableSlot::kLive);
  return table != nullptr && table->IsWhatSays(spec, types_, *(*node)->device);
}

absl::StatusOr<std::string> DeviceRegistry::Status(std::string_view name, TableSlot slot) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  if (const auto table = node->device->table(slot)) return table->StatusText();
  if (const auto unbuilt = node->device->unbuilt(slot)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the table could not be built: ", unbuilt->error));
  }
  return "";
}

absl::StatusOr<std::vector<DeviceRef>> DeviceRegistry::Dependencies(std::string_view name,
                                                                    TableSlot slot) const {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  if (const auto table = node->device->table(slot)) return table->Dependencies();
  if (const auto unbuilt = node->device->unbuilt(slot)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the table could not be built: ", unbuilt->error));
  }
  return std::vector<DeviceRef>();
}

absl::StatusOr<std::string> DeviceRegistry::Message(std::string_view name, Sector sector,
                                                    std::string_view text) {
  if (text == "@cancel_deferred_remove") {
    RETURN_IF_ERROR(ChangeDevice(name, "message", [this](DeviceNode& node) {
      graph_->SetDeferredRemove(node, false);
      return absl::OkStatus();
    }));
    return "";
  }
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  if (text.starts_with('@')) {
    return absl::InvalidArgumentError("Unsupported message sent to DM core");
  }
  const std::shared_ptr<const MappingTable> table = node->device->table(TableSlot::kLive);
  if (table == nullptr) {
    return absl::InvalidArgumentError("the device has no live table to send a message to");
  }
  return table->Message(sector, text);
}

absl::StatusOr<uint32_t> DeviceRegistry::WaitEvent(std::string_view name, uint32_t seen,
                                                   const std::function<bool()>& cancelled) {
  ASSIGN_OR_RETURN(const NodePtr node, graph_->Find(name));
  return node->device->WaitEvent(seen, cancelled);
}

absl::StatusOr<DeviceRef> DeviceRegistry::Open(std::string_view name, std::string_view holder) {
  return graph_->Open(name, holder);
}

std::shared_ptr<MappedDevice> DeviceRegistry::Find(std::string_view name) const {
  absl::StatusOr<NodePtr> node = graph_->Find(name);
  return node.ok() ? (*node)->device : nullptr;
}

void DeviceRegistry::OnDeferredRemoval(std::function<void(const std::string& name)> call) {
  absl::MutexLock lock(&errands_mutex_);
  on_deferred_removal_ = std::move(call);
}

void DeviceRegistry::RemoveDeferred() {
  std::vector<NodePtr> all = graph_->All();
  absl::MutexLock lock(&errands_mutex_);
  for (NodePtr& node : all) idle_.push_back(std::move(node));
}

void DeviceRegistry::TellOfEvents() {
  while (true) {
    std::set<NodePtr> with_events;
    {
      absl::MutexLock lock(&errands_mutex_);
      auto wanted = [this] {
        errands_mutex_.AssertHeld();
        return stopping_ || !with_events_.empty();
      };
      errands_mutex_.Await(absl::Condition(&wanted));
      with_events.swap(with_events_);
      if (stopping_) return;
    }
    for (const NodePtr& node : with_events) Tell(Change::kChanged, *node);
  }
}

void DeviceRegistry::RemoveIdle() {
  while (true) {
    NodePtr idle;
    {
      absl::MutexLock lock(&errands_mutex_);
      auto wanted = [this] {
        errands_mutex_.AssertHeld();
        return stopping_ || !idle_.empty();
      };
      errands_mutex_.Await(absl::Condition(&wanted));
      if (stopping_) {
        idle_.clear();
        return;
      }
      idle = std::move(idle_.front());
      idle_.pop_front();
    }
    if (RemoveIfIdle(idle)) continue;
    absl::MutexLock lock(&errands_mutex_);
    idle_.push_back(std::move(idle));
    errands_mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kRetryRemoval);
  }
}

// False: not yet. A verb is busy with the device, or it could not be removed in time.
bool DeviceRegistry::RemoveIfIdle(const NodePtr& node) {
  if (!node->verbs.Take("remove --deferred", absl::ZeroDuration())) return false;
  const TurnHolder turn(node);
  if (!graph_->BeginRemovalIfIdle(*node)) return true;
  if (!FinishRemoval(*node, GiveUpAfter(kRemovalWaitMax)).ok()) return false;
  std::function<void(const std::string&)> tell;
  {
    absl::MutexLock lock(&errands_mutex_);
    tell = on_deferred_removal_;
  }
  if (tell) tell(graph_->name(*node));
  return true;
}

uint64_t DeviceRegistry::Subscribe(Watcher watcher) {
  absl::MutexLock lock(&watchers_mutex_);
  watchers_.emplace_back(next_watcher_, std::move(watcher));
  return next_watcher_++;
}

void DeviceRegistry::Unsubscribe(uint64_t id) {
  absl::MutexLock lock(&watchers_mutex_);
  std::erase_if(watchers_, [id](const auto& entry) { return entry.first == id; });
}

void DeviceRegistry::Tell(Change change, const DeviceNode& node) const {
  absl::MutexLock lock(&watchers_mutex_);
  if (watchers_.empty()) return;
  // An event that came too late: nothing is told of a device after its removal.
  if (change == Change::kChanged && graph_->removed(node)) return;
  const DeviceInfo info = InfoOf(node);
  for (const auto& [id, watcher] : watchers_) watcher(change, info);
}

}  // namespace sectormap
