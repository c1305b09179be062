// SPDX-License-Identifier: Apache-2.0
// PduReader and PduWriter: PDUs out of and into a byte stream (RFC 7143 §11.2): lengths, padding,
// digests. They know no sessions; what a PDU means is connection.cc's business.
//
// Reading: one receive takes what is there, so a burst of small PDUs costs one system call. A data
// segment is copied only as far as it came with that receive; the rest goes straight into the
// command's own buffer.
//
// Writing: sources of PDUs queue up; at the end of the reactor's turn all that is ready leaves in
// one gathered send, data straight from the commands' buffers. A header is made at that moment, so
// StatSN is in the order of sending and the command window in it is the newest.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/async/byte_stream.h"
#include "core/async/gate.h"
#include "core/async/reactor.h"
#include "core/async/task.h"
#include "core/async/wait_queue.h"
#include "server/iscsi/command_window.h"
#include "server/iscsi/pdu.h"
#include "server/iscsi/receive_buffer.h"

namespace sectormap::iscsi {

// A data segment's rest below this goes through the receive buffer, together with the PDUs behind
// it: copying 16 KiB is cheaper than a system call of its own.
inline constexpr size_t kReceiveInPlaceBytes = 16 * 1024;

// The beginning of a PDU up to this is put aside while its rest is waited for, and the buffer given
// to others.
inline constexpr size_t kPutAsideBytes = 8 * 1024;

enum class PduError : uint8_t {
  kNone,
  kEnd,           // the peer closed, the stream was shut down, or the network failed
  kHeaderDigest,  // the lengths cannot be trusted: the connection must end (RFC 7143 §7.8)
  kDataDigest,    // only this PDU's data is lost
  kTooLong,       // a data segment above what we declared: the connection must end
};

// For its connection's reactor.
class PduReader {
 public:
  // `stream` outlives it.
  explicit PduReader(ByteStream& stream) : stream_(stream) {}

  // From the next PDU on.
  void SetDigests(bool header, bool data) {
    header_digest_ = header;
    data_digest_ = data;
  }
  // Refuses longer data segments.
  void set_max_data_bytes(uint32_t bytes) { max_data_bytes_ = bytes; }

  // The next PDU's header and AHS, checked against the header digest. REQUIRES: the last PDU's data
  // segment was taken by ReadData() or SkipData(), also if it was empty.
  Task<PduError> ReadHeader();
  const BasicHeader& header() const { return header_; }
  // Until the next call of ReadData() or SkipData().
  std::span<const uint8_t> ahs() const { return ahs_; }
  uint32_t data_bytes() const { return data_bytes_; }

  // The whole data segment, its padding and its digest: its first bytes go to `into`, as many as
  // fit; the rest is read and given up.
  Task<PduError> ReadData(std::span<std::byte> into);
  Task<PduError> SkipData() { return ReadData({}); }

  // True if the data segment has been received as a whole: then TakeData() gives it where it is,
  // without its padding and digest, until the next ReadHeader().
  bool has_all_data() const { return buffered() >= SegmentBytes(); }
  struct Segment {
    PduError error = PduError::kNone;
    std::span<std::byte> bytes;
  };
  // REQUIRES: has_all_data().
  Segment TakeData();

 private:
  size_t buffered() const { return end_ - begin_; }
  // Makes at least `bytes` (<= kReceiveBufferBytes) available from begin_ on.
  Task<bool> Fill(size_t bytes);
  void PutAside();
  void TakeUp();
  PduError ParseHeader();
  size_t HeaderPartBytes() const;
  // The data segment with its padding and its digest.
  size_t SegmentBytes() const;
  Task<PduError> ReadHeaderSlowly();
  Task<PduError> ReadDataSlowly(std::span<std::byte> into);

  ByteStream& stream_;
  bool header_digest_ = false;
  bool data_digest_ = false;
  uint32_t max_data_bytes_ = kLoginMaxRecvDataSegmentBytes;
  // Taken to receive and given back when nothing or little is left in it: an idle session holds
  // none, and sessions that take turns share one that is in the caches.
  ReceiveBuffer buffer_;
  std::vector<std::byte> aside_;
  size_t begin_ = 0;
  size_t end_ = 0;
  BasicHeader header_;
  std::span<const uint8_t> ahs_;
  uint32_t data_bytes_ = 0;
};

// Gives PDUs to a PduWriter, one by one, when it is ready to send them. Intrusive, so that queueing
// allocates nothing.
class PduSource {
 public:
  PduSource() = default;
  PduSource(const PduSource&) = delete;
  PduSource& operator=(const PduSource&) = delete;

  // The next PDU, without StatSN, ExpCmdSN, MaxCmdSN and data_segment_length. `data` stays until
  // OnSent(). False: there is nothing (more) to send.
  virtual bool NextPdu(BasicHeader& header, std::span<const std::byte>& data) = 0;
  // All its PDUs have left, or never will. Called once per queueing; the source may be queued again
  // or destroyed in it.
  virtual void OnSent() = 0;

 protected:
  ~PduSource() = default;

 private:
  friend class PduWriter;
  PduSource* next_ = nullptr;
};

// For its connection's reactor.
class PduWriter {
 public:
  // PDUs in one gathered send: a full window of small responses takes two. Bounds the kernel's copy
  // of the piece list (3 pieces a PDU, well below IOV_MAX) and the time until the next one.
  static constexpr size_t kBatchPdus = 64;
  static constexpr size_t kPiecesPerPdu = 3;  // header and digest, data, padding and digest
  // Data bytes after which a batch is closed: a NOP-In waits at most for this much.
  static constexpr size_t kBatchDataBytes = 1024 * 1024;

  // Counts its sending as work of `gate`. The references outlive it. `on_error` is called once,
  // when a send has failed.
  PduWriter(ByteStream& stream, const CommandWindow& window, Gate& gate,
            std::function<void()> on_error);
  ~PduWriter();

  void SetDigests(bool header, bool data) {
    header_digest_ = header;
    data_digest_ = data;
  }
  void set_next_stat_sn(uint32_t stat_sn) { stat_sn_ = stat_sn; }
  uint32_t next_stat_sn() const { return stat_sn_; }

  // `data_bytes` is about how much data it will send. Sent at the end of the reactor's turn. After
  // Close(), or if the connection is gone, OnSent() comes without anything having been sent.
  void Queue(PduSource& source, size_t data_bytes = 0);

  // Sends now if much is queued and this connection has the reactor for itself: the initiator works
  // on the first answers while we make the next ones, instead of either waiting for the other. If
  // we had to wait for it in this turn, it gets them sooner. With more connections they overlap
  // anyway, and fewer, larger sends cost less: then all of them send when the turn has made much.
  // Not to be called by what queues.
  void SendAhead() {
    Reactor& reactor = Reactor::Current();
    const size_t pdus = reactor.waited() ? kSendAheadPdusWaited : kSendAheadPdus;
    const bool much = queued_ >= pdus || queued_bytes_ >= kSendAheadBytes;
    if (much && reactor.alone()) StartSending();
    reactor.EndTurnIfFull();
  }
  // A send and the wake-up of the peer cost as much as a few commands: so many share it, fewer when
  // that time would be spent waiting (docs/performance.md has what other numbers gave).
  static constexpr size_t kSendAheadPdus = 16;
  static constexpr size_t kSendAheadPdusWaited = 8;
  static constexpr size_t kSendAheadBytes = 512 * 1024;
  // Memory of a command that waits for its answer to be sent, besides its data: a task and its
  // coroutine.
  static constexpr size_t kTaskBytes = 2 * 1024;

  // A PDU whose data (a copy, at most kMaxOwnedBytes in all) the writer keeps: answers that belong
  // to no command.
  void QueueOwned(const BasicHeader& header, std::span<const std::byte> data);
  // Bytes that such answers hold. The reader waits while there are more than kMaxOwnedBytes: a peer
  // that asks and never reads gets no more of our memory.
  static constexpr size_t kMaxOwnedBytes = 512 * 1024;
  Task<void> RoomForOwned();

  // True while something has not left. What leaves together is one of sends().
  bool sending() const { return sending_; }
  uint64_t sends() const { return sends_; }

  // Resolved when everything that was queued has left or never will.
  Task<void> Flushed();

  // Nothing more is sent; what is queued is let go.
  void Close();
  bool closed() const { return closed_; }

 private:
  struct OwnedPdu;
  struct Batch;

  void AskToSend(size_t bytes);
  void StartSending();
  Task<void> SendLoop();
  // Takes PDUs from the queue until the batch is full or nothing is left. Sources that are done go
  // to `finished_`.
  void FillBatch();
  void AddToBatch(const BasicHeader& header, std::span<const std::byte> data);
  void Stamp(BasicHeader& header);
  void ReleaseFinished();
  void ReleaseQueued();

  ByteStream& stream_;
  const CommandWindow& window_;
  Gate& gate_;
  std::function<void()> on_error_;
  bool header_digest_ = false;
  bool data_digest_ = false;
  bool sending_ = false;
  bool closed_ = false;
  uint32_t stat_sn_ = 0;
  uint64_t sends_ = 0;
  size_t owned_bytes_ = 0;
  WaitQueue drained_;
  size_t queued_ = 0;  // since the last batch was begun; the other too
  size_t queued_bytes_ = 0;
  PduSource* head_ = nullptr;
  PduSource* tail_ = nullptr;
  PduSource* finished_ = nullptr;
  std::unique_ptr<Batch> batch_;  // 7 KiB, from the first send on
  Reactor::TurnEnd turn_end_;
};

}  // namespace sectormap::iscsi
