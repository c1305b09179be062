// SPDX-License-Identifier: Apache-2.0
// FakeInitiator: an iSCSI initiator for tests, over any ByteStream. It follows the protocol unless
// told otherwise, checks the target's numbering and lengths on every PDU (violations()), and lets a
// test send any PDU it likes. Made from RFC 7143's headers, not from the server's own code for
// connections.
//
// For one reactor. One coroutine at a time calls it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/async/byte_stream.h"
#include "core/async/task.h"
#include "server/iscsi/pdu.h"
#include "server/scsi/scsi_command.h"

namespace sectormap {

struct InitiatorOptions {
  std::string name = "iqn.2026-11.test:initiator";
  std::string target = "iqn.2026-11.io.sectormap:disk";  // empty: a discovery session
  uint64_t isid = 0x800000000001;
  bool header_digest = false;
  bool data_digest = false;
  bool initial_r2t = false;
  bool immediate_data = true;
  uint32_t max_recv_segment_bytes = 262144;  // ours
  uint32_t max_burst_bytes = 262144;
  uint32_t first_burst_bytes = 65536;
  uint16_t max_outstanding_r2t = 1;
  uint32_t first_cmd_sn = 1;
  // Our Data-Out and immediate data are cut to this, if it is less than what the target declares.
  uint32_t send_segment_bytes = UINT32_MAX;
};

class FakeInitiator {
 public:
  explicit FakeInitiator(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}

  struct Pdu {
    iscsi::BasicHeader header;
    std::vector<std::byte> data;
  };

  // ---- PDUs as they are

  // With the digests that were agreed, padding and DataSegmentLength; else as it is.
  Task<bool> Send(iscsi::BasicHeader header, std::span<const std::byte> data = {},
                  std::span<const std::byte> ahs = {});
  template <typename Header>
  Task<bool> Send(const Header& header, std::span<const std::byte> data = {}) {
    return Send(iscsi::HeaderAs<iscsi::BasicHeader>(header), data, {});
  }
  Task<bool> SendBytes(std::span<const std::byte> bytes);
  // Empty at the end of the stream.
  Task<std::optional<Pdu>> Receive();
  // Receives until a PDU of that kind comes; others are handled or kept for Finish().
  Task<std::optional<Pdu>> ReceiveKind(iscsi::Opcode opcode);

  // ---- Sessions

  // The status of the last Login Response; empty if the target hung up.
  Task<std::optional<iscsi::LoginStatus>> Login(InitiatorOptions options);
  Task<bool> Logout();
  void Shutdown() { stream_->Shutdown(); }
  const std::map<std::string, std::string>& agreed() const { return agreed_; }

  // ---- Commands

  struct Command {
    uint64_t lun = 0;
    scsi::CdbBytes cdb{};
    scsi::DataDirection direction = scsi::DataDirection::kNone;
    uint32_t expected = 0;            // EDTL
    std::span<const std::byte> data;  // what a data-out sends, at least `expected`
    bool immediate = false;           // the I bit
    uint8_t attribute = 1;            // simple
  };
  struct Outcome {
    bool answered = false;
    scsi::ScsiStatus status = scsi::ScsiStatus::kGood;
    std::vector<std::byte> data;
    std::vector<uint8_t> sense;
    bool overflow = false, underflow = false;
    uint32_t residual = 0;
    int requests = 0;   // R2Ts
    int data_pdus = 0;  // Data-Ins
    bool good() const { return answered && status == scsi::ScsiStatus::kGood; }
    // D_SENSE is set.
    bool has_descriptor_sense() const { return sense.size() >= 8 && sense[0] == 0x72; }
    // Sense key, ASC, ASCQ as 0xKKAAQQ; 0 without sense.
    uint32_t sense_code() const {
      if (has_descriptor_sense()) return (sense[1] & 0xfu) << 16 | sense[2] << 8 | sense[3];
      return sense.size() < 14 ? 0 : (sense[2] & 0xfu) << 16 | sense[12] << 8 | sense[13];
    }
  };

  // Sends it, with its immediate and unsolicited data. Gives its task tag.
  Task<uint32_t> Start(Command command);
  // Receives, and answers R2Ts, until that command has its status.
  Task<Outcome> Finish(uint32_t tag);
  Task<Outcome> Run(Command command);
  // Receives one PDU and handles it.
  Task<bool> Step();
  // A status for this tag is awaited, though Start() did not send the command.
  void Expect(uint32_t tag) { running_.emplace(tag, Running{}); }
  // True if the status of that command has come and Finish() has not taken it.
  bool Answered(uint32_t tag) const { return finished_.contains(tag); }

  static Command Read10(uint32_t lba, uint16_t blocks, uint64_t lun = 0);
  static Command Write10(uint32_t lba, std::span<const std::byte> data, uint64_t lun = 0);
  static Command TestUnitReady(uint64_t lun = 0);

  // The result; empty if the target hung up.
  Task<std::optional<iscsi::TaskManagementResult>> Manage(iscsi::TaskManagementFunction function,
                                                          uint64_t lun,
                                                          uint32_t referenced_tag = 0xffffffff,
                                                          uint32_t ref_cmd_sn = 0);
  Task<uint32_t> StartManage(iscsi::TaskManagementFunction function, uint64_t lun,
                             uint32_t referenced_tag = 0xffffffff, uint32_t ref_cmd_sn = 0);

  // True if the ping came back with the same data.
  Task<bool> Ping(std::span<const std::byte> data = {});

  uint32_t NextTag() { return ++last_tag_; }
  uint32_t& cmd_sn() { return cmd_sn_; }
  uint32_t exp_cmd_sn() const { return exp_cmd_sn_; }
  uint32_t max_cmd_sn() const { return max_cmd_sn_; }
  uint32_t exp_stat_sn() const { return exp_stat_sn_; }
  // What the target did against the protocol.
  const std::vector<std::string>& violations() const { return violations_; }
  const std::vector<Pdu>& unexpected() const { return unexpected_; }
  size_t unread() const { return inbox_.size(); }

  // R2Ts are noted and not answered: for tests that send the data themselves.
  bool hold_requests = false;
  std::vector<iscsi::ReadyToTransferHeader> held_requests;

  // Each PDU that is sent has a wrong digest.
  bool spoil_header_digest = false;
  bool spoil_data_digest = false;

 private:
  struct Running {
    Command command;
    Outcome outcome;
    uint32_t next_data_sn = 0;
    uint32_t next_r2t_sn = 0;
    uint32_t in_burst = 0;
  };

  Task<bool> ReadExactly(std::span<std::byte> bytes);
  Task<bool> SendData(const Running& running, uint32_t tag, uint32_t target_tag, uint32_t offset,
                      uint32_t bytes);
  // Handles what belongs to a command; false: it belongs to none.
  Task<bool> Handle(const Pdu& pdu);
  void OnDataIn(const Pdu& pdu, Running& running);
  void OnResponse(const Pdu& pdu, Running& running);
  void CheckNumbers(const iscsi::BasicHeader& header);
  void ReadAgreed(std::span<const std::byte> text);
  uint32_t Agreed(const std::string& key, uint32_t otherwise) const;
  bool AgreedYes(const std::string& key, bool otherwise) const;
  std::string LoginText() const;
  void Violation(std::string what) { violations_.push_back(std::move(what)); }
  uint32_t SegmentBytes() const;

  const std::unique_ptr<ByteStream> stream_;
  InitiatorOptions options_;
  bool full_feature_ = false;
  std::vector<std::byte> inbox_;  // received and not yet taken
  std::map<std::string, std::string> agreed_;
  std::map<uint32_t, Running> running_;
  std::map<uint32_t, Outcome> finished_;
  std::vector<Pdu> unexpected_;
  std::vector<std::string> violations_;
  uint32_t last_tag_ = 0;
  uint32_t cmd_sn_ = 1;
  uint32_t exp_stat_sn_ = 0;
  bool stat_sn_known_ = false;
  uint32_t exp_cmd_sn_ = 0;
  uint32_t max_cmd_sn_ = 0;
};

}  // namespace sectormap
