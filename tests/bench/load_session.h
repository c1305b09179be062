// SPDX-License-Identifier: Apache-2.0
// LoadSession: one iSCSI session of the load generator, with a fixed number of reads or writes in
// flight. ErrorRecoveryLevel 0, LUNs below 16384; digests of what arrives are not checked. Any
// error ends the process: a benchmark with errors is worth nothing. One thread.
#pragma once

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/bench/load_protocol.h"

namespace sectormap::bench {

inline constexpr size_t kReceiveBytes = 512 * 1024;  // one recv() takes what a socket buffer holds
inline constexpr uint32_t kSegmentBytes = 256 * 1024;  // our MaxRecvDataSegmentLength
inline constexpr size_t kSendPiecesMax = 1024;         // IOV_MAX

// One session with one connection.
class LoadSession {
 public:
  LoadSession(const Options& options, uint32_t number, std::span<const uint8_t> payload,
              Results& results)
      : options_(options), number_(number), payload_(payload), results_(results) {}
  ~LoadSession() { close(fd_); }
  LoadSession(const LoadSession&) = delete;
  LoadSession& operator=(const LoadSession&) = delete;

  int fd() const { return fd_; }
  bool wants_to_send() const { return next_piece_ < pieces_.size(); }
  // Nothing is under way.
  bool quiet() const { return free_.size() == slots_.size() && !wants_to_send(); }
  // Never without --once.
  bool ended() const { return none_left() && quiet(); }

  void Start() {
    Connect();
    LogIn();
    WaitUntilReady();
    ReadCapacity();
    slots_.resize(options_.queue_depth);
    for (uint32_t tag = 0; tag < options_.queue_depth; ++tag) free_.push_back(tag);
    random_.seed(number_ + 1);
    if (options_.once_bytes != 0) ChooseOrder();
  }

  // Takes what has arrived; false if nothing had.
  bool Receive() {
    const ssize_t got = recv(fd_, received_.get() + held_, kReceiveBytes - held_, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got < 0) Die("recv: %s", std::strerror(errno));
    if (got == 0) Die("the target closed the connection");
    Parse(held_ + static_cast<size_t>(got));
    return true;
  }

  // Fills the queue, as far as the command window allows.
  void Issue() {
    const uint64_t now = NowNs();
    while (!free_.empty() && !none_left() && static_cast<int32_t>(max_cmd_sn_ - cmd_sn_) >= 0) {
      const uint32_t tag = free_.back();
      free_.pop_back();
      slots_[tag] = now;
      IssueCommand(tag);
    }
  }

  void Send() {
    AddHeaderDigests();
    while (next_piece_ < pieces_.size()) {
      msghdr message{};
      message.msg_iov = &pieces_[next_piece_];
      message.msg_iovlen = std::min(pieces_.size() - next_piece_, kSendPiecesMax);
      iovec part = pieces_[next_piece_];
      if (options_.send_max_bytes != SIZE_MAX) {
        part.iov_len = std::min(part.iov_len, options_.send_max_bytes);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
      }
      const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno == EAGAIN) return;
      if (sent < 0) Die("sendmsg: %s", std::strerror(errno));
      Consume(static_cast<size_t>(sent));
    }
    pieces_.clear();
    pdus_used_ = pdus_sealed_ = 0;
    next_piece_ = 0;
  }

 private:
  // --- Login and capacity: blocking ---

  void Connect() {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(options_.url.host.c_str(), options_.url.port.c_str(), &hints, &found) != 0) {
      Die("no address for %s", options_.url.host.c_str());
    }
    fd_ = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(fd_, found->ai_addr, found->ai_addrlen) != 0) {
      Die("connect: %s", std::strerror(errno));
    }
    freeaddrinfo(found);
    const int one = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }

  void LogIn() {
    std::string keys;
    const auto add = [&keys](std::string_view key, std::string_view value) {
      keys.append(key).append("=").append(value).push_back('\0');
    };
    add("InitiatorName", "iqn.2026-11.io.sectormap.bench:" + std::to_string(getpid()) + "." +
                             std::to_string(number_));
    add("TargetName", options_.url.target);
    add("SessionType", "Normal");
    add("HeaderDigest", options_.digests ? "CRC32C" : "None");
    add("DataDigest", options_.digests ? "CRC32C" : "None");
    add("InitialR2T", "No");
    add("ImmediateData", "Yes");
    add("MaxRecvDataSegmentLength", std::to_string(kSegmentBytes));
    add("MaxBurstLength", "262144");
    add("FirstBurstLength", "262144");
    add("MaxConnections", "1");
    add("ErrorRecoveryLevel", "0");
    Header header{};
    header[0] = kLoginRequest | kImmediate;
    header[1] = 0x87;  // T, CSG operational negotiation, NSG full feature phase
    header[8] = 0x80;  // ISID of the random kind
    Put<2>(&header[12], number_);
    Put<4>(&header[24], cmd_sn_);
    std::string answer;
    WritePdu(header, keys);
    const Header response = ReadPdu(&answer);
    if (response[0] != kLoginResponse || Get<2>(&response[36]) != 0 ||
        (response[1] & 0x83) != 0x83) {
      Die("login: opcode %02x, flags %02x, status %04x", response[0], response[1],
          static_cast<unsigned>(Get<2>(&response[36])));
    }
    Negotiated(answer);
  }

  void Negotiated(std::string_view answer) {
    const auto value = [answer](std::string_view key, std::string_view missing) {
      const std::string begin = std::string(key) + "=";
      for (size_t at = 0; at < answer.size();) {
        const std::string_view entry = answer.substr(at, answer.find('\0', at) - at);
        if (entry.starts_with(begin)) return std::string(entry.substr(begin.size()));
        at += entry.size() + 1;
      }
      return std::string(missing);
    };
    const auto number = [&value](std::string_view key, std::string_view missing) {
      return static_cast<uint32_t>(std::stoul(value(key, missing)));
    };
    segment_bytes_ = number("MaxRecvDataSegmentLength", "8192");
    first_burst_bytes_ = number("FirstBurstLength", "65536");
    unsolicited_ = value("InitialR2T", "Yes") == "No";
    immediate_ = value("ImmediateData", "Yes") == "Yes";
    // They are in force from the first PDU of the full feature phase.
    if (options_.digests) {
      if (value("HeaderDigest", "") != "CRC32C" || value("DataDigest", "") != "CRC32C") {
        Die("the target does not take CRC32C digests");
      }
      digest_bytes_ = kDigestBytes;
    }
  }

  // Runs one command and waits; returns its SCSI status.
  uint8_t Run(std::span<const uint8_t> cdb, uint32_t expected_bytes, std::string* data) {
    Header header{};
    header[0] = kScsiCommand;
    header[1] = 0x80 | 0x01 | (expected_bytes != 0 ? 0x40 : 0);
    Put<2>(&header[8], options_.url.lun);
    Put<4>(&header[20], expected_bytes);
    Put<4>(&header[24], cmd_sn_++);
    Put<4>(&header[28], exp_stat_sn_);
    std::copy(cdb.begin(), cdb.end(), header.begin() + 32);
    WritePdu(header, "");
    for (;;) {
      std::string arrived;
      const Header answer = ReadPdu(&arrived);
      if (answer[0] == kDataIn) *data += arrived;
      if (answer[0] == kScsiResponse || (answer[0] == kDataIn && (answer[1] & 1) != 0)) {
        return answer[3];
      }
    }
  }

  // A new session starts with unit attentions.
  void WaitUntilReady() {
    const std::array<uint8_t, 6> test_unit_ready{};
    std::string none;
    for (int attempt = 0; attempt < 8; ++attempt) {
      if (Run(test_unit_ready, 0, &none) == 0) return;
    }
    Die("TEST UNIT READY keeps failing");
  }

  void ReadCapacity() {
    const std::array<uint8_t, 16> cdb{0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0};
    std::string data;
    if (Run(cdb, 32, &data) != 0 || data.size() < 12) Die("READ CAPACITY(16) failed");
    const auto* bytes = reinterpret_cast<const uint8_t*>(data.data());
    lba_bytes_ = Get32(bytes + 8);
    uint64_t size = (Get<8>(bytes) + 1) * lba_bytes_;
    if (options_.span_bytes != 0) size = std::min(size, options_.span_bytes);
    places_ = size / options_.block_bytes;
    if (places_ < options_.sessions || options_.block_bytes % lba_bytes_ != 0) {
      Die("the LUN does not take blocks of %u bytes", options_.block_bytes);
    }
    // Sequential sessions share the LUN, each in a part of its own.
    const uint64_t share = places_ / options_.sessions;
    first_place_ = number_ * share;
    end_place_ = first_place_ + share;
    next_place_ = first_place_;
  }

  // Data only during login, when there are no digests yet.
  void WritePdu(Header header, std::string_view data) {
    Put<3>(&header[5], data.size());
    std::string bytes(reinterpret_cast<const char*>(header.data()), header.size());
    if (digest_bytes_ != 0) {
      const auto digest = DigestOf(header.data(), header.size());
      bytes.append(digest.begin(), digest.end());
    }
    bytes += data;
    bytes.resize(bytes.size() + Padded(static_cast<uint32_t>(data.size())) - data.size());
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t sent = write(fd_, bytes.data() + at, bytes.size() - at);
      if (sent <= 0) Die("write: %s", std::strerror(errno));
      at += static_cast<size_t>(sent);
    }
  }

  void ReadAll(void* to, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
      const ssize_t got = read(fd_, static_cast<char*>(to) + at, bytes - at);
      if (got <= 0) Die("the target closed the connection");
      at += static_cast<size_t>(got);
    }
  }

  Header ReadPdu(std::string* data) {
    Header header;
    ReadAll(header.data(), header.size());
    data->resize(BytesAfter(header));
    ReadAll(data->data(), data->size());
    data->erase(0, digest_bytes_);
    data->resize(DataBytes(header));
    exp_stat_sn_ = Get32(&header[24]) + 1;
    max_cmd_sn_ = Get32(&header[32]);
    return header;
  }

  // Additional headers, data, digests.
  uint32_t BytesAfter(const Header& header) const {
    const uint32_t data = Padded(DataBytes(header));
    return header[4] * 4U + digest_bytes_ + data + (data != 0 ? digest_bytes_ : 0);
  }

  // --- Load: never blocks ---

  // A PDU counts only when all of its data is there. `end` bytes are held.
  void Parse(size_t end) {
    size_t at = 0;
    for (;;) {
      const size_t skipped = std::min<size_t>(skip_bytes_, end - at);
      at += skipped;
      skip_bytes_ -= skipped;
      if (skip_bytes_ != 0) break;
      if (have_header_) {
        have_header_ = false;
        Handle(header_);
      }
      if (end - at < kHeaderBytes) break;
      std::memcpy(header_.data(), received_.get() + at, kHeaderBytes);
      at += kHeaderBytes;
      have_header_ = true;
      skip_bytes_ = BytesAfter(header_);
    }
    held_ = end - at;
    std::memmove(received_.get(), received_.get() + at, held_);
  }

  void Handle(const Header& header) {
    max_cmd_sn_ = Get32(&header[32]);
    const uint32_t tag = Get32(&header[16]);
    switch (header[0] & 0x3f) {
      case kDataIn:
        if ((header[1] & 1) == 0) return;  // S: carries the status
        [[fallthrough]];
      case kScsiResponse:
        exp_stat_sn_ = Get32(&header[24]) + 1;
        Done(tag, header[3]);
        return;
      case kR2t:
        SendDataOut(tag, Get32(&header[20]), Get32(&header[40]), Get32(&header[44]));
        return;
      case kNopIn:
        if (Get32(&header[20]) != kNoTag) AnswerNop(header);
        return;
      default:
        Die("unexpected opcode %02x", header[0]);
    }
  }

  void Done(uint32_t tag, uint8_t status) {
    if (tag >= slots_.size() || slots_[tag] == 0) Die("an answer with tag %u", tag);
    if (status == kTaskSetFull) {
      ++results_.refused;
    } else if (status != 0) {
      Die("a command failed with SCSI status %02x", status);
    } else if (results_.measuring) {
      Record(NowNs(), slots_[tag]);
    }
    slots_[tag] = 0;
    free_.push_back(tag);
  }

  void Record(uint64_t now, uint64_t issued) {
    results_.latency.Add(now - issued);
    if (options_.gap_ns == 0) return;
    const uint64_t last = std::exchange(results_.last_answer_ns, now);
    if (last != 0 && now - last >= options_.gap_ns) results_.gaps.push_back({last, now - last});
  }

  Header& AddHeader() {
    if (pdus_used_ == pdus_.size()) pdus_.push_back(std::make_unique<Pdu>());
    Pdu& pdu = *pdus_[pdus_used_++];
    pdu.header.fill(0);
    pieces_.push_back({&pdu, kHeaderBytes + digest_bytes_});
    return pdu.header;
  }

  // Of the PDU that was added last.
  void AddPayload(uint32_t offset, uint32_t bytes) {
    pieces_.push_back({const_cast<uint8_t*>(&payload_[offset]), bytes});
    if (digest_bytes_ == 0) return;
    Pdu& pdu = *pdus_[pdus_used_ - 1];
    pdu.data_digest = DigestOf(&payload_[offset], bytes);
    pieces_.push_back({pdu.data_digest.data(), pdu.data_digest.size()});
  }

  // Headers are complete only when they leave.
  void AddHeaderDigests() {
    for (; digest_bytes_ != 0 && pdus_sealed_ < pdus_used_; ++pdus_sealed_) {
      Pdu& pdu = *pdus_[pdus_sealed_];
      pdu.header_digest = DigestOf(pdu.header.data(), pdu.header.size());
    }
  }

  void IssueCommand(uint32_t tag) {
    const uint32_t blocks = options_.block_bytes / lba_bytes_;
    Header& header = AddHeader();
    header[0] = kScsiCommand;
    header[1] = 0x80 | 0x01 | (options_.write ? 0x20 : 0x40);  // F, SIMPLE, W or R
    Put<2>(&header[8], options_.url.lun);
    Put<4>(&header[16], tag);
    Put<4>(&header[20], options_.block_bytes);
    Put<4>(&header[24], cmd_sn_++);
    Put<4>(&header[28], exp_stat_sn_);
    header[32] = options_.write ? 0x8a : 0x88;  // WRITE(16), READ(16)
    Put<8>(&header[34], NextPlace() * blocks);
    Put<4>(&header[42], blocks);
    if (!options_.write) return;
    const uint32_t first_burst = std::min(options_.block_bytes, first_burst_bytes_);
    const uint32_t immediate = immediate_ ? std::min(first_burst, segment_bytes_) : 0;
    Put<3>(&header[5], immediate);
    if (immediate != 0) AddPayload(0, immediate);
    if (unsolicited_ && immediate < first_burst) {
      header[1] &= 0x7f;  // F: no more unsolicited data follows
      SendDataOut(tag, kNoTag, immediate, first_burst - immediate);
    }
  }

  // The parts of this session, shuffled or as they lie.
  void ChooseOrder() {
    const uint64_t part = options_.once_bytes / options_.block_bytes;
    if (part == 0) Die("--once is at least --bs");
    for (uint64_t place = first_place_; place + part <= end_place_; place += part) {
      order_.push_back(place + (options_.random ? random_() % part : 0));
    }
    if (options_.random) std::shuffle(order_.begin(), order_.end(), random_);
  }

  bool none_left() const { return options_.once_bytes != 0 && next_in_order_ == order_.size(); }

  uint64_t NextPlace() {
    if (options_.once_bytes != 0) return order_[next_in_order_++];
    if (options_.random) return random_() % places_;
    const uint64_t place = next_place_;
    if (++next_place_ == end_place_) next_place_ = first_place_;
    return place;
  }

  void SendDataOut(uint32_t tag, uint32_t transfer_tag, uint32_t offset, uint32_t bytes) {
    for (uint32_t data_sn = 0; bytes != 0; ++data_sn) {
      const uint32_t part = std::min(bytes, segment_bytes_);
      Header& header = AddHeader();
      header[0] = kDataOut;
      header[1] = part == bytes ? 0x80 : 0;
      Put<3>(&header[5], part);
      Put<2>(&header[8], options_.url.lun);
      Put<4>(&header[16], tag);
      Put<4>(&header[20], transfer_tag);
      Put<4>(&header[28], exp_stat_sn_);
      Put<4>(&header[36], data_sn);
      Put<4>(&header[40], offset);
      AddPayload(offset, part);
      offset += part;
      bytes -= part;
    }
  }

  void AnswerNop(const Header& ping) {
    Header& header = AddHeader();
    header[0] = kNopOut | kImmediate;
    header[1] = 0x80;
    std::copy_n(&ping[8], 8, &header[8]);
    Put<4>(&header[16], kNoTag);
    std::copy_n(&ping[20], 4, &header[20]);
    Put<4>(&header[24], cmd_sn_);
    Put<4>(&header[28], exp_stat_sn_);
  }

  void Consume(size_t sent) {
    while (sent != 0) {
      iovec& piece = pieces_[next_piece_];
      const size_t part = std::min(sent, piece.iov_len);
      piece.iov_base = static_cast<char*>(piece.iov_base) + part;
      piece.iov_len -= part;
      sent -= part;
      if (piece.iov_len == 0) ++next_piece_;
    }
  }

  const Options& options_;
  const uint32_t number_;
  const std::span<const uint8_t> payload_;
  Results& results_;
  int fd_ = -1;

  uint32_t cmd_sn_ = 1, max_cmd_sn_ = 1, exp_stat_sn_ = 0;
  uint32_t segment_bytes_ = 8192, first_burst_bytes_ = 65536;
  bool unsolicited_ = false, immediate_ = true;
  uint32_t digest_bytes_ = 0;
  uint32_t lba_bytes_ = 512;
  uint64_t places_ = 0, first_place_ = 0, next_place_ = 0, end_place_ = 0;
  std::mt19937_64 random_;
  std::vector<uint64_t> order_;  // of --once
  size_t next_in_order_ = 0;

  std::vector<uint64_t> slots_;  // when the command with that tag was issued; 0: free
  std::vector<uint32_t> free_;

  std::unique_ptr<uint8_t[]> received_{new uint8_t[kReceiveBytes]};
  size_t held_ = 0, skip_bytes_ = 0;
  Header header_{};
  bool have_header_ = false;

  // The header leaves with its digest behind it, the data's digest as a piece of its own.
  struct Pdu {
    Header header;
    std::array<uint8_t, kDigestBytes> header_digest, data_digest;
  };
  std::vector<std::unique_ptr<Pdu>> pdus_;  // reused from batch to batch
  size_t pdus_used_ = 0, pdus_sealed_ = 0;
  std::vector<iovec> pieces_;
  size_t next_piece_ = 0;
};

}  // namespace sectormap::bench
