// SPDX-License-Identifier: Apache-2.0
#include "core/map/device_graph.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"

namespace sectormap {
namespace {

constexpr size_t kNameBytesMax = 127;   // DM_NAME_LEN less the NUL
constexpr size_t kUuidBytesMax = 128;   // DM_UUID_LEN less the NUL
constexpr size_t kHoldersNamedMax = 8;  // in a refusal; the rest are counted
constexpr std::string_view kMapperFolder = "/dev/mapper/";
constexpr std::string_view kMemoryScheme = "mem:";

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
  });
}

absl::Status NoSuchDevice(std::string_view name) {
  return absl::NotFoundError(
      absl::StrCat("Device does not exist. There is no mapped device '", Absl(name), "'"));
}

}  // namespace

bool VerbTurn::Take(std::string_view verb, absl::Duration wait) {
  absl::MutexLock lock(&mutex_);
  auto free = [this] {
    mutex_.AssertHeld();
    return !taken_;
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&free), wait)) return false;
  taken_ = true;
  verb_ = verb;
  return true;
}

void VerbTurn::Give() {
  absl::MutexLock lock(&mutex_);
  taken_ = false;
}

std::string VerbTurn::verb() const {
  absl::MutexLock lock(&mutex_);
  return verb_;
}

absl::Status CheckDeviceName(std::string_view name) {
  std::string_view reason;
  if (name.empty()) {
    reason = "it is empty";
  } else if (name.size() > kNameBytesMax) {
    reason = "it is longer than 127 bytes";
  } else if (name.find('/') != std::string_view::npos) {
    reason = "it holds a '/'";
  } else if (name == "control" || name == "." || name == "..") {
    reason = "that word is reserved";
  } else if (HasControlCharacter(name)) {
    reason = "it holds a control character";
  } else {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("'", Absl(name.substr(0, kNameBytesMax)),
                                                 "' cannot be a device's name: ", Absl(reason)));
}

absl::Status CheckDeviceUuid(std::string_view uuid) {
  if (uuid.size() > kUuidBytesMax) {
    return absl::InvalidArgumentError("the uuid is longer than 128 bytes");
  }
  if (HasControlCharacter(uuid)) {
    return absl::InvalidArgumentError("the uuid holds a control character");
  }
  return absl::OkStatus();
}

std::string_view MappedDeviceName(std::string_view name) {
  if (name.starts_with(kMapperFolder)) return name.substr(kMapperFolder.size());
  if (name.starts_with('/') || name.starts_with(kMemoryScheme)) return {};
  return name;
}

std::string DeviceKey(std::string_view name) {
  const std::string_view mapped = MappedDeviceName(name);
  if (!mapped.empty()) return std::string(mapped);
  std::error_code failed;
  const std::filesystem::path path = std::filesystem::canonical(name, failed);
  return failed ? std::string(name) : path.string();
}

// Shared by the copies of a DeviceRef; its end closes the device.
class DeviceGraph::Hold {
 public:
  Hold(std::shared_ptr<DeviceGraph> graph, NodePtr node, uint64_t user_id, std::string who)
      : lower(std::move(node)), user(user_id), holder(std::move(who)), graph_(std::move(graph)) {}
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold() { graph_->Release(*this); }

  const NodePtr lower;
  const uint64_t user;       // 0: not a table
  const std::string holder;  // empty for a table

 private:
  const std::shared_ptr<DeviceGraph> graph_;
};

absl::StatusOr<DeviceGraph::NodePtr> DeviceGraph::Add(const std::string& name,
                                                      const std::string& uuid,
                                                      std::shared_ptr<MappedDevice> device) {
  RETURN_IF_ERROR(CheckDeviceName(name));
  RETURN_IF_ERROR(CheckDeviceUuid(uuid));
  absl::MutexLock lock(&mutex_);
  if (by_name_.contains(name)) {
    return absl::AlreadyExistsError(absl::StrCat("a device '", name, "' exists already"));
  }
  RETURN_IF_ERROR(CheckUuidIsFree(uuid));
  const std::string& identity = device->identity();
  if (const auto other = by_identity_.find(identity); other != by_identity_.end()) {
    return absl::AlreadyExistsError(
        absl::StrCat("device '", other->second->name, "' has the identity ", identity, " already"));
  }
  NodePtr node = std::make_shared<DeviceNode>(next_id_++, std::move(device));
  node->name = name;
  node->uuid = uuid;
  CHECK(node->verbs.Take("create", absl::ZeroDuration()));
  by_name_[name] = node;
  by_id_[node->id] = node;
  by_identity_[node->device->identity()] = node;
  if (!uuid.empty()) by_uuid_[uuid] = node;
  return node;
}

absl::Status DeviceGraph::CheckUuidIsFree(const std::string& uuid) const {
  const auto other = by_uuid_.find(uuid);
  if (other == by_uuid_.end()) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("device '", other->second->name, "' has the uuid ", uuid, " already"));
}

absl::StatusOr<DeviceGraph::NodePtr> DeviceGraph::FindLocked(std::string_view name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return NoSuchDevice(name);
  return found->second;
}

absl::StatusOr<DeviceGraph::NodePtr> DeviceGraph::Find(std::string_view name) const {
  absl::MutexLock lock(&mutex_);
  return FindLocked(name);
}

std::vector<DeviceGraph::NodePtr> DeviceGraph::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<NodePtr> nodes;
  for (const auto& [name, node] : by_name_) nodes.push_back(node);
  return nodes;
}

std::vector<DeviceGraph::NodePtr> DeviceGraph::UsersFirst() const {
  std::vector<NodePtr> nodes = All();
  absl::MutexLock lock(&mutex_);
  std::unordered_map<uint64_t, int> depth;
  for (const NodePtr& node : nodes) Reach(*node, &DeviceNode::users, depth);
  std::ranges::sort(nodes, {}, [&depth](const NodePtr& node) { return depth[node->id]; });
  return nodes;
}

absl::Status DeviceGraph::Busy(const DeviceNode& node) const {
  std::vector<std::string> who;
  for (const auto& [id, count] : node.users) {
    const auto user = by_id_.find(id);
    // Whoever looks at its table keeps that, and what is below, for another moment.
    who.push_back(user == by_id_.end() ? "a device that has just been removed"
                                       : absl::StrCat("device '", user->second->name, "'"));
  }
  for (const auto& [holder, count] : node.holders) {
    who.push_back(count == 1 ? holder : absl::StrCat(holder, " (", count, " times)"));
  }
  const size_t all = who.size();
  if (all > kHoldersNamedMax) {
    who.resize(kHoldersNamedMax);
    who.push_back(absl::StrCat(all - kHoldersNamedMax, " more"));
  }
  return absl::FailedPreconditionError(absl::StrCat("Device or resource busy: '", node.name,
                                                    "' is in use by ", absl::StrJoin(who, ", ")));
}

absl::StatusOr<bool> DeviceGraph::BeginRemoval(DeviceNode& node, bool defer) {
  absl::MutexLock lock(&mutex_);
  if (node.removed) return NoSuchDevice(node.name);
  if (node.open_count != 0 && !defer) return Busy(node);
  if (node.open_count != 0) {
    node.deferred_remove = true;
    return false;
  }
  node.leaving = true;
  return true;
}

void DeviceGraph::EndRemoval(DeviceNode& node) {
  absl::MutexLock lock(&mutex_);
  node.removed = true;
  by_name_.erase(node.name);
  by_id_.erase(node.id);
  by_identity_.erase(node.device->identity());
  by_uuid_.erase(node.uuid);
}

void DeviceGraph::GiveUpRemoval(DeviceNode& node) {
  absl::MutexLock lock(&mutex_);
  node.leaving = false;
}

absl::Status DeviceGraph::CheckUsedOnlyBy(const DeviceNode& node,
                                          const std::set<std::string>& users) const {
  absl::MutexLock lock(&mutex_);
  bool others = !node.holders.empty();
  for (const auto& [id, count] : node.users) {
    const auto user = by_id_.find(id);
    others |= user != by_id_.end() && !users.contains(user->second->name);
  }
  return others ? Busy(node) : absl::OkStatus();
}

bool DeviceGraph::BeginRemovalIfIdle(DeviceNode& node) {
  absl::MutexLock lock(&mutex_);
  if (node.removed || !node.deferred_remove || node.open_count != 0) return false;
  node.leaving = true;
  return true;
}

absl::Status DeviceGraph::Rename(DeviceNode& node, const std::string& new_name) {
  RETURN_IF_ERROR(CheckDeviceName(new_name));
  absl::MutexLock lock(&mutex_);
  if (by_name_.contains(new_name)) {
    return absl::AlreadyExistsError(absl::StrCat("a device '", new_name, "' exists already"));
  }
  // Tables print the names they were given, and are loaded from that text after a restart.
  if (!node.users.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(std::string(Busy(node).message()),
                     ", whose table names it; load that table without it first"));
  }
  by_name_[new_name] = by_name_[node.name];
  by_name_.erase(node.name);
  node.name = new_name;
  return absl::OkStatus();
}

absl::Status DeviceGraph::CheckSetUuid(const DeviceNode& node, const std::string& uuid) const {
  absl::MutexLock lock(&mutex_);
  return CheckSetUuidLocked(node, uuid);
}

absl::Status DeviceGraph::CheckSetUuidLocked(const DeviceNode& node,
                                             const std::string& uuid) const {
  RETURN_IF_ERROR(CheckDeviceUuid(uuid));
  if (uuid.empty()) return absl::InvalidArgumentError("the uuid is empty");
  if (!node.uuid.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("Unable to change uuid of mapped device ",
                                                   node.name, " because uuid is already set to ",
                                                   node.uuid));
  }
  return CheckUuidIsFree(uuid);
}

absl::Status DeviceGraph::SetUuid(DeviceNode& node, const std::string& uuid) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CheckSetUuidLocked(node, uuid));
  node.uuid = uuid;
  by_uuid_[uuid] = by_name_[node.name];
  return absl::OkStatus();
}

void DeviceGraph::SetDeferredRemove(DeviceNode& node, bool deferred) {
  absl::MutexLock lock(&mutex_);
  node.deferred_remove = deferred;
}

bool DeviceGraph::HasIdentity(const std::string& identity) const {
  absl::MutexLock lock(&mutex_);
  return by_identity_.contains(identity);
}

bool DeviceGraph::removed(const DeviceNode& node) const {
  absl::MutexLock lock(&mutex_);
  return node.removed;
}

std::string DeviceGraph::name(const DeviceNode& node) const {
  absl::MutexLock lock(&mutex_);
  return node.name;
}

void DeviceGraph::Describe(const DeviceNode& node, DeviceInfo& info) const {
  absl::MutexLock lock(&mutex_);
  info.open_count = node.open_count;
  info.deferred_remove = node.deferred_remove;
}

absl::StatusOr<DeviceGraph::NodePtr> DeviceGraph::FindToOpen(std::string_view name) const {
  ASSIGN_OR_RETURN(NodePtr node, FindLocked(name));
  if (!node->leaving) return node;
  return absl::FailedPreconditionError(
      absl::StrCat("Device or resource busy: '", node->name, "' is being removed"));
}

absl::StatusOr<DeviceRef> DeviceGraph::Open(std::string_view name, std::string_view holder) {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(NodePtr node, FindToOpen(name));
  ++node->open_count;
  ++node->holders[std::string(holder)];
  auto hold = std::make_shared<Hold>(shared_from_this(), node, 0, std::string(holder));
  std::shared_ptr<BlockDevice> device(hold, node->device.get());
  return DeviceRef{std::move(device), std::string(name), true};
}

absl::StatusOr<DeviceRef> DeviceGraph::OpenForTable(std::string_view name, DeviceNode& user) {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(NodePtr node, FindToOpen(MappedDeviceName(name)));
  RETURN_IF_ERROR(CheckEdge(*node, user));
  ++node->open_count;
  ++node->users[user.id];
  ++user.uses[node->id];
  auto hold = std::make_shared<Hold>(shared_from_this(), node, user.id, "");
  std::shared_ptr<BlockDevice> device(hold, node->device.get());
  return DeviceRef{std::move(device), std::string(name), true};
}

// The names on a way down from `from` to the device `to`. REQUIRES: there is one; `above_to` are
// the devices that have one.
std::vector<std::string> DeviceGraph::WayDown(
    const DeviceNode& from, uint64_t to, const std::unordered_map<uint64_t, int>& above_to) const {
  std::vector<std::string> names;
  const DeviceNode* node = &from;
  while (true) {
    names.push_back(absl::StrCat("'", node->name, "'"));
    if (node->id == to) return names;
    const auto next = std::find_if(node->uses.begin(), node->uses.end(),
                                   [&](const auto& edge) { return above_to.contains(edge.first); });
    CHECK(next != node->uses.end());
    node = by_id_.at(next->first).get();
  }
}

// Devices on the longest way from `node` along `edges`, itself counted.
int DeviceGraph::Reach(const DeviceNode& node, std::map<uint64_t, int> DeviceNode::*edges,
                       std::unordered_map<uint64_t, int>& known) const {
  const auto found = known.find(node.id);
  if (found != known.end()) return found->second;
  int farthest = 0;
  for (const auto& [id, count] : node.*edges) {
    const auto next = by_id_.find(id);
    if (next != by_id_.end()) farthest = std::max(farthest, Reach(*next->second, edges, known));
  }
  return known[node.id] = farthest + 1;
}

absl::Status DeviceGraph::CheckEdge(const DeviceNode& lower, const DeviceNode& user) const {
  if (lower.id == user.id) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", user.name, "' would map itself; name the device below it"));
  }
  std::unordered_map<uint64_t, int> below;
  std::unordered_map<uint64_t, int> above;
  const int nesting =
      Reach(lower, &DeviceNode::uses, below) + Reach(user, &DeviceNode::users, above);
  if (above.contains(lower.id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the devices would form a loop: '", user.name, "' uses ",
                     absl::StrJoin(WayDown(lower, user.id, above), " uses "),
                     ", where live and inactive tables count"));
  }
  if (nesting > kNestingMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kNestingMax, " devices on top of one another"));
  }
  return absl::OkStatus();
}

void DeviceGraph::Release(const Hold& hold) {
  absl::MutexLock lock(&mutex_);
  DeviceNode& node = *hold.lower;
  --node.open_count;
  const auto drop = [](auto& counts, const auto& key) {
    const auto entry = counts.find(key);
    if (entry != counts.end() && --entry->second == 0) counts.erase(entry);
  };
  if (hold.user == 0) {
    drop(node.holders, hold.holder);
  } else {
    drop(node.users, hold.user);
    const auto user = by_id_.find(hold.user);
    if (user != by_id_.end()) drop(user->second->uses, node.id);
  }
  if (node.open_count == 0 && node.deferred_remove && !node.removed && on_idle_) {
    on_idle_(hold.lower);
  }
}

void DeviceGraph::Close() {
  absl::MutexLock lock(&mutex_);
  on_idle_ = nullptr;
}

}  // namespace sectormap
