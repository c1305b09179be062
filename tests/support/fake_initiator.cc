// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_initiator.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/iscsi/crc32c.h"

namespace sectormap {

using namespace iscsi;  // NOLINT: a test's initiator speaks of nothing else

namespace {

uint32_t Field32(const BasicHeader& header, size_t offset) {
  Big32 field;
  std::memcpy(&field, reinterpret_cast<const uint8_t*>(&header) + offset, sizeof field);
  return field;
}

// RFC 7143 §4.2.2.2: whether the PDU uses its StatSN up.
bool HasStatSn(const BasicHeader& header) {
  const Opcode opcode = header.opcode();
  if (opcode == Opcode::kReadyToTransfer) return false;
  if (opcode == Opcode::kDataIn) return (header.flags & DataInHeader::kStatusBit) != 0;
  return opcode != Opcode::kNopIn || header.initiator_task_tag != kReservedTag;
}

bool Before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

std::array<uint8_t, 4> DigestOf(std::span<const std::byte> bytes) {
  Crc32c crc;
  crc.Add(bytes);
  return crc.digest();
}

void Append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

// ---- PDUs

Task<bool> FakeInitiator::SendBytes(std::span<const std::byte> bytes) {
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  const int error = co_await stream_->WriteAll({&piece, 1});
  co_return error == 0;
}

Task<bool> FakeInitiator::Send(BasicHeader header, std::span<const std::byte> data,
                               std::span<const std::byte> ahs) {
  header.data_segment_length = static_cast<uint32_t>(data.size());
  header.total_ahs_length = static_cast<uint8_t>(ahs.size() / 4);
  std::vector<std::byte> bytes;
  Append(bytes, std::as_bytes(header.bytes()));
  Append(bytes, ahs);
  if (full_feature_ && options_.header_digest) {
    auto digest = DigestOf(bytes);
    if (spoil_header_digest) digest[0] ^= 1;
    Append(bytes, std::as_bytes(std::span(digest)));
  }
  const size_t start = bytes.size();
  Append(bytes, data);
  bytes.resize(bytes.size() + PaddingBytes(static_cast<uint32_t>(data.size())));
  if (full_feature_ && options_.data_digest && !data.empty()) {
    auto digest = DigestOf(std::span(bytes).subspan(start));
    if (spoil_data_digest) digest[0] ^= 1;
    Append(bytes, std::as_bytes(std::span(digest)));
  }
  co_return co_await SendBytes(bytes);
}

Task<bool> FakeInitiator::ReadExactly(std::span<std::byte> bytes) {
  while (inbox_.size() < bytes.size()) {
    const size_t before = inbox_.size();
    inbox_.resize(before + 65536);
    const int got = co_await stream_->ReadSome(std::span(inbox_).subspan(before));
    inbox_.resize(before + static_cast<size_t>(std::max(got, 0)));
    if (got <= 0) co_return false;
  }
  std::copy_n(inbox_.begin(), bytes.size(), bytes.begin());
  inbox_.erase(inbox_.begin(), inbox_.begin() + static_cast<ptrdiff_t>(bytes.size()));
  co_return true;
}

Task<std::optional<FakeInitiator::Pdu>> FakeInitiator::Receive() {
  Pdu pdu;
  bool ok = co_await ReadExactly({reinterpret_cast<std::byte*>(&pdu.header), kHeaderBytes});
  if (!ok) co_return std::nullopt;
  std::array<std::byte, 4> digest;
  if (full_feature_ && options_.header_digest) {
    ok = co_await ReadExactly(digest);
    if (!ok) co_return std::nullopt;
    if (std::memcmp(DigestOf(std::as_bytes(pdu.header.bytes())).data(), digest.data(), 4) != 0) {
      Violation("header digest");
    }
  }
  const uint32_t bytes = pdu.header.data_segment_length;
  if (pdu.header.total_ahs_length != 0) Violation("AHS from a target");
  if (full_feature_ && bytes > options_.max_recv_segment_bytes) Violation("segment too long");
  pdu.data.resize(PaddedLength(bytes));
  ok = co_await ReadExactly(pdu.data);
  if (!ok) co_return std::nullopt;
  if (full_feature_ && options_.data_digest && bytes != 0) {
    ok = co_await ReadExactly(digest);
    if (!ok) co_return std::nullopt;
    if (std::memcmp(DigestOf(pdu.data).data(), digest.data(), 4) != 0) Violation("data digest");
  }
  if (std::any_of(pdu.data.begin() + bytes, pdu.data.end(), [](std::byte b) { return b != std::byte{}; })) {
    Violation("padding is not zero");
  }
  pdu.data.resize(bytes);
  CheckNumbers(pdu.header);
  co_return pdu;
}

void FakeInitiator::CheckNumbers(const BasicHeader& header) {
  const uint32_t exp_cmd_sn = Field32(header, 28);
  const uint32_t max_cmd_sn = Field32(header, 32);
  if (full_feature_ && Before(exp_cmd_sn, exp_cmd_sn_)) Violation("ExpCmdSN went back");
  if (full_feature_ && Before(max_cmd_sn, max_cmd_sn_)) Violation("MaxCmdSN went back");
  exp_cmd_sn_ = exp_cmd_sn;
  max_cmd_sn_ = max_cmd_sn;
  if (!HasStatSn(header)) {
    const bool shows = header.opcode() != Opcode::kDataIn;
    if (shows && Field32(header, 24) != exp_stat_sn_) Violation("StatSN shown is not the next");
    return;
  }
  const uint32_t stat_sn = Field32(header, 24);
  if (stat_sn_known_ && stat_sn != exp_stat_sn_) {
    Violation(absl::StrCat("StatSN is ", stat_sn, ", not ", exp_stat_sn_));
  }
  stat_sn_known_ = true;
  exp_stat_sn_ = stat_sn + 1;
}

Task<std::optional<FakeInitiator::Pdu>> FakeInitiator::ReceiveKind(Opcode opcode) {
  auto kept = std::find_if(unexpected_.begin(), unexpected_.end(),
                           [&](const Pdu& pdu) { return pdu.header.opcode() == opcode; });
  if (kept != unexpected_.end()) {
    Pdu pdu = std::move(*kept);
    unexpected_.erase(kept);
    co_return pdu;
  }
  while (true) {
    std::optional<Pdu> pdu = co_await Receive();
    if (!pdu || pdu->header.opcode() == opcode) co_return pdu;
    const bool handled = co_await Handle(*pdu);
    if (!handled) unexpected_.push_back(*std::move(pdu));
  }
}

// ---- Sessions

std::string FakeInitiator::LoginText() const {
  auto yes = [](bool value) { return value ? "Yes" : "No"; };
  std::vector<std::string> keys = {
      absl::StrCat("InitiatorName=", options_.name),
      absl::StrCat("HeaderDigest=", options_.header_digest ? "CRC32C" : "None"),
      absl::StrCat("DataDigest=", options_.data_digest ? "CRC32C" : "None"),
      absl::StrCat("MaxRecvDataSegmentLength=", options_.max_recv_segment_bytes),
  };
  if (options_.target.empty()) {
    keys.push_back("SessionType=Discovery");
  } else {
    keys.push_back("SessionType=Normal");
    keys.push_back(absl::StrCat("TargetName=", options_.target));
    keys.push_back(absl::StrCat("InitialR2T=", yes(options_.initial_r2t)));
    keys.push_back(absl::StrCat("ImmediateData=", yes(options_.immediate_data)));
    keys.push_back(absl::StrCat("MaxBurstLength=", options_.max_burst_bytes));
    keys.push_back(absl::StrCat("FirstBurstLength=", options_.first_burst_bytes));
    keys.push_back(absl::StrCat("MaxOutstandingR2T=", options_.max_outstanding_r2t));
  }
  std::string text;
  for (const std::string& key : keys) {
    text += key;
    text += '\0';
  }
  return text;
}

void FakeInitiator::ReadAgreed(std::span<const std::byte> text) {
  std::string_view rest(reinterpret_cast<const char*>(text.data()), text.size());
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos) continue;
    agreed_[std::string(pair.substr(0, equals))] = std::string(pair.substr(equals + 1));
  }
}

uint32_t FakeInitiator::Agreed(const std::string& key, uint32_t otherwise) const {
  auto place = agreed_.find(key);
  uint32_t value = 0;
  return place != agreed_.end() && absl::SimpleAtoi(place->second, &value) ? value : otherwise;
}

bool FakeInitiator::AgreedYes(const std::string& key, bool otherwise) const {
  auto place = agreed_.find(key);
  return place == agreed_.end() ? otherwise : place->second == "Yes";
}

Task<std::optional<LoginStatus>> FakeInitiator::Login(InitiatorOptions options) {
  options_ = std::move(options);
  cmd_sn_ = options_.first_cmd_sn;
  LoginRequestHeader request;
  // Operational negotiation at once, then full feature phase.
  request.flags = kFinalBit | 1 << LoginRequestHeader::kCurrentStageShift | 3;
  request.isid = options_.isid;
  request.initiator_task_tag = NextTag();
  request.cmd_sn = cmd_sn_;
  std::string text = LoginText();
  while (true) {
    const bool sent = co_await Send(request, std::as_bytes(std::span(text)));
    if (!sent) co_return std::nullopt;
    std::optional<Pdu> answer = co_await Receive();
    if (!answer || answer->header.opcode() != Opcode::kLoginResponse) co_return std::nullopt;
    const auto header = HeaderAs<LoginResponseHeader>(answer->header);
    ReadAgreed(answer->data);
    if (header.status() != LoginStatus::kSuccess) co_return header.status();
    if (header.transit() && header.next_stage() == LoginStage::kFullFeature) break;
    text.clear();
    request.exp_stat_sn = exp_stat_sn_;
  }
  full_feature_ = true;
  options_.max_burst_bytes = Agreed("MaxBurstLength", options_.max_burst_bytes);
  options_.first_burst_bytes = Agreed("FirstBurstLength", options_.first_burst_bytes);
  options_.initial_r2t = AgreedYes("InitialR2T", options_.initial_r2t);
  options_.immediate_data = AgreedYes("ImmediateData", options_.immediate_data);
  co_return LoginStatus::kSuccess;
}

Task<bool> FakeInitiator::Logout() {
  LogoutRequestHeader request;
  request.opcode_byte |= kImmediateBit;
  request.flags = kFinalBit;
  request.initiator_task_tag = NextTag();
  request.cmd_sn = cmd_sn_;
  request.exp_stat_sn = exp_stat_sn_;
  const bool sent = co_await Send(request);
  if (!sent) co_return false;
  std::optional<Pdu> answer = co_await ReceiveKind(Opcode::kLogoutResponse);
  if (!answer) co_return false;
  co_return HeaderAs<LogoutResponseHeader>(answer->header).response == LogoutResult::kClosed;
}

// ---- Commands

uint32_t FakeInitiator::SegmentBytes() const {
  return std::min(Agreed("MaxRecvDataSegmentLength", 8192), options_.send_segment_bytes);
}

Task<uint32_t> FakeInitiator::Start(Command command) {
  const uint32_t tag = NextTag();
  ScsiCommandHeader header;
  const bool out = command.direction == scsi::DataDirection::kOut;
  const uint32_t unsolicited = out ? std::min(options_.first_burst_bytes, command.expected) : 0;
  const uint32_t now = options_.immediate_data ? std::min(unsolicited, SegmentBytes()) : 0;
  const bool more = !options_.initial_r2t && unsolicited > now;
  if (command.immediate) header.opcode_byte |= kImmediateBit;
  header.flags = static_cast<uint8_t>(command.attribute | (more ? 0 : kFinalBit));
  if (out) header.flags |= ScsiCommandHeader::kWriteBit;
  if (command.direction == scsi::DataDirection::kIn) header.flags |= ScsiCommandHeader::kReadBit;
  header.lun = EncodeLun(command.lun);
  header.initiator_task_tag = tag;
  header.expected_data_transfer_length = command.expected;
  header.cmd_sn = command.immediate ? cmd_sn_ : cmd_sn_++;
  header.exp_stat_sn = exp_stat_sn_;
  header.cdb = command.cdb;
  auto [place, added] = running_.emplace(tag, Running{command, {}, 0, 0, 0});
  bool sent = co_await Send(header, command.data.first(now));
  if (sent && more) {
    sent = co_await SendData(place->second, tag, kReservedTag, now, unsolicited - now);
  }
  co_return tag;
}

Task<bool> FakeInitiator::SendData(const Running& running, uint32_t tag, uint32_t target_tag,
                                   uint32_t offset, uint32_t bytes) {
  // The map may change while we wait.
  const Command command = running.command;
  uint32_t data_sn = 0;
  while (bytes > 0) {
    const uint32_t part = std::min(bytes, SegmentBytes());
    DataOutHeader header;
    header.flags = part == bytes ? kFinalBit : 0;
    header.lun = EncodeLun(command.lun);
    header.initiator_task_tag = tag;
    header.target_transfer_tag = target_tag;
    header.exp_stat_sn = exp_stat_sn_;
    header.data_sn = data_sn++;
    header.buffer_offset = offset;
    const bool sent = co_await Send(header, command.data.subspan(offset, part));
    if (!sent) co_return false;
    offset += part;
    bytes -= part;
  }
  co_return true;
}

Task<bool> FakeInitiator::Handle(const Pdu& pdu) {
  auto place = running_.find(pdu.header.initiator_task_tag);
  if (place == running_.end()) co_return false;
  Running& running = place->second;
  if (pdu.header.opcode() == Opcode::kDataIn) {
    OnDataIn(pdu, running);
  } else if (pdu.header.opcode() == Opcode::kScsiResponse) {
    OnResponse(pdu, running);
  } else if (pdu.header.opcode() == Opcode::kReadyToTransfer) {
    const auto r2t = HeaderAs<ReadyToTransferHeader>(pdu.header);
    if (r2t.r2t_sn != running.next_r2t_sn++) Violation("R2TSN");
    if (r2t.desired_data_transfer_length > options_.max_burst_bytes) Violation("R2T too long");
    ++running.outcome.requests;
    if (hold_requests) {
      held_requests.push_back(r2t);
    } else {
      co_await SendData(running, pdu.header.initiator_task_tag, r2t.target_transfer_tag,
                        r2t.buffer_offset, r2t.desired_data_transfer_length);
    }
  } else {
    co_return false;
  }
  if (running.outcome.answered) {
    finished_.emplace(place->first, std::move(running.outcome));
    running_.erase(place);
  }
  co_return true;
}

void FakeInitiator::OnDataIn(const Pdu& pdu, Running& running) {
  const auto header = HeaderAs<DataInHeader>(pdu.header);
  Outcome& outcome = running.outcome;
  ++outcome.data_pdus;
  if (header.data_sn != running.next_data_sn++) Violation("DataSN");
  if (header.buffer_offset != outcome.data.size()) Violation("BufferOffset");
  Append(outcome.data, pdu.data);
  running.in_burst += static_cast<uint32_t>(pdu.data.size());
  if (running.in_burst > options_.max_burst_bytes) Violation("burst too long");
  if (running.in_burst == options_.max_burst_bytes && !header.final()) Violation("no F at burst end");
  if (header.final()) running.in_burst = 0;
  if ((header.flags & DataInHeader::kStatusBit) == 0) return;
  if (!header.final()) Violation("status without F");
  outcome.answered = true;
  outcome.status = header.status;
  outcome.overflow = (header.flags & DataInHeader::kOverflowBit) != 0;
  outcome.underflow = (header.flags & DataInHeader::kUnderflowBit) != 0;
  outcome.residual = header.residual_count;
}

void FakeInitiator::OnResponse(const Pdu& pdu, Running& running) {
  const auto header = HeaderAs<ScsiResponseHeader>(pdu.header);
  Outcome& outcome = running.outcome;
  if (running.in_burst != 0) Violation("the last Data-In has no F");
  if (header.exp_data_sn != static_cast<uint32_t>(outcome.data_pdus)) Violation("ExpDataSN");
  outcome.answered = true;
  outcome.status = header.status;
  outcome.overflow = (header.flags & ScsiResponseHeader::kOverflowBit) != 0;
  outcome.underflow = (header.flags & ScsiResponseHeader::kUnderflowBit) != 0;
  outcome.residual = header.residual_count;
  if (pdu.data.size() < 2) return;
  const size_t sense = std::to_integer<size_t>(pdu.data[0]) << 8 | std::to_integer<size_t>(pdu.data[1]);
  if (sense + 2 > pdu.data.size()) {
    Violation("SenseLength");
    return;
  }
  for (size_t i = 0; i < sense; ++i) outcome.sense.push_back(std::to_integer<uint8_t>(pdu.data[2 + i]));
}

Task<bool> FakeInitiator::Step() {
  std::optional<Pdu> pdu = co_await Receive();
  if (!pdu) co_return false;
  const bool handled = co_await Handle(*pdu);
  if (!handled) unexpected_.push_back(*std::move(pdu));
  co_return true;
}

Task<FakeInitiator::Outcome> FakeInitiator::Finish(uint32_t tag) {
  while (!finished_.contains(tag)) {
    const bool more = co_await Step();
    if (!more) co_return Outcome();
  }
  co_return std::move(finished_.extract(tag).mapped());
}

Task<FakeInitiator::Outcome> FakeInitiator::Run(Command command) {
  const uint32_t tag = co_await Start(command);
  co_return co_await Finish(tag);
}

FakeInitiator::Command FakeInitiator::Read10(uint32_t lba, uint16_t blocks, uint64_t lun) {
  Command command;
  command.lun = lun;
  command.direction = scsi::DataDirection::kIn;
  command.expected = blocks * 512u;
  const Big32 address = lba;
  const Big16 count = blocks;
  command.cdb[0] = 0x28;
  std::memcpy(&command.cdb[2], &address, 4);
  std::memcpy(&command.cdb[7], &count, 2);
  return command;
}

FakeInitiator::Command FakeInitiator::Write10(uint32_t lba, std::span<const std::byte> data,
                                              uint64_t lun) {
  Command command = Read10(lba, static_cast<uint16_t>(data.size() / 512), lun);
  command.cdb[0] = 0x2a;
  command.direction = scsi::DataDirection::kOut;
  command.data = data;
  return command;
}

FakeInitiator::Command FakeInitiator::TestUnitReady(uint64_t lun) {
  Command command;
  command.lun = lun;
  return command;
}

// ---- Task management, NOP

Task<uint32_t> FakeInitiator::StartManage(TaskManagementFunction function, uint64_t lun,
                                          uint32_t referenced_tag, uint32_t ref_cmd_sn) {
  TaskManagementRequestHeader request;
  request.opcode_byte |= kImmediateBit;
  request.flags = static_cast<uint8_t>(kFinalBit | static_cast<uint8_t>(function));
  request.lun = EncodeLun(lun);
  request.initiator_task_tag = NextTag();
  request.referenced_task_tag = referenced_tag;
  request.cmd_sn = cmd_sn_;
  request.exp_stat_sn = exp_stat_sn_;
  request.ref_cmd_sn = ref_cmd_sn;
  co_await Send(request);
  co_return request.initiator_task_tag;
}

Task<std::optional<TaskManagementResult>> FakeInitiator::Manage(TaskManagementFunction function,
                                                                uint64_t lun,
                                                                uint32_t referenced_tag,
                                                                uint32_t ref_cmd_sn) {
  co_await StartManage(function, lun, referenced_tag, ref_cmd_sn);
  std::optional<Pdu> answer = co_await ReceiveKind(Opcode::kTaskManagementResponse);
  if (!answer) co_return std::nullopt;
  co_return HeaderAs<TaskManagementResponseHeader>(answer->header).response;
}

Task<bool> FakeInitiator::Ping(std::span<const std::byte> data) {
  NopOutHeader request;
  request.opcode_byte |= kImmediateBit;
  request.initiator_task_tag = NextTag();
  request.cmd_sn = cmd_sn_;
  request.exp_stat_sn = exp_stat_sn_;
  const bool sent = co_await Send(request, data);
  if (!sent) co_return false;
  std::optional<Pdu> answer = co_await ReceiveKind(Opcode::kNopIn);
  if (!answer || answer->header.initiator_task_tag != request.initiator_task_tag) co_return false;
  co_return std::equal(data.begin(), data.end(), answer->data.begin(), answer->data.end());
}

}  // namespace sectormap
