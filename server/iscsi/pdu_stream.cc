// SPDX-License-Identifier: Apache-2.0
#include "server/iscsi/pdu_stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"
#include "server/iscsi/crc32c.h"

namespace sectormap::iscsi {
namespace {

// A header with the largest AHS and its digest must fit, or Fill() could never give it.
static_assert(kHeaderBytes + kMaxAhsBytes + kDigestBytes <= kReceiveBufferBytes);
static_assert(kReceiveInPlaceBytes + kDigestBytes + 3 <= kReceiveBufferBytes);
static_assert(PduWriter::kBatchPdus * PduWriter::kPiecesPerPdu <= 1024);  // IOV_MAX

// Where every PDU of a target has them (RFC 7143 §11).
constexpr size_t kStatSnOffset = 24;
constexpr size_t kExpCmdSnOffset = 28;
constexpr size_t kMaxCmdSnOffset = 32;

void Put32(BasicHeader& header, size_t offset, uint32_t value) {
  const Big32 field = value;
  std::memcpy(reinterpret_cast<uint8_t*>(&header) + offset, &field, sizeof field);
}

// RFC 7143 §4.2.2.2: a StatSN is used up by everything that carries status; by an R2T, a Data-In
// without status and a NOP-In that asks for an answer it is not.
enum class StatSnUse { kTaken, kShown, kNone };

StatSnUse UseOfStatSn(const BasicHeader& header) {
  switch (header.opcode()) {
    case Opcode::kDataIn:
      return (header.flags & DataInHeader::kStatusBit) != 0 ? StatSnUse::kTaken : StatSnUse::kNone;
    case Opcode::kReadyToTransfer:
      return StatSnUse::kShown;
    case Opcode::kNopIn:
      return header.initiator_task_tag == kReservedTag ? StatSnUse::kShown : StatSnUse::kTaken;
    case Opcode::kScsiResponse:
    case Opcode::kTaskManagementResponse:
    case Opcode::kLoginResponse:
    case Opcode::kTextResponse:
    case Opcode::kLogoutResponse:
    case Opcode::kAsyncMessage:
    case Opcode::kReject:
      return StatSnUse::kTaken;
    case Opcode::kNopOut:
    case Opcode::kScsiCommand:
    case Opcode::kTaskManagementRequest:
    case Opcode::kLoginRequest:
    case Opcode::kTextRequest:
    case Opcode::kDataOut:
    case Opcode::kLogoutRequest:
    case Opcode::kSnackRequest:
      break;
  }
  CHECK(false);  // only a target's opcodes are ever queued
  return StatSnUse::kNone;
}

bool SameDigest(const Crc32c& crc, const std::byte* on_wire) {
  return std::memcmp(crc.digest().data(), on_wire, kDigestBytes) == 0;
}

}  // namespace

// ---- PduReader

size_t PduReader::HeaderPartBytes() const {
  BasicHeader header;
  std::memcpy(&header, buffer_.data() + begin_, kHeaderBytes);
  return kHeaderBytes + header.ahs_bytes() + (header_digest_ ? kDigestBytes : 0);
}

Task<PduError> PduReader::ReadHeader() {
  if (buffered() >= kHeaderBytes && buffered() >= HeaderPartBytes()) return ParseHeader();
  return ReadHeaderSlowly();
}

Task<PduError> PduReader::ReadHeaderSlowly() {
  bool filled = co_await Fill(kHeaderBytes);
  if (!filled) co_return PduError::kEnd;
  filled = co_await Fill(HeaderPartBytes());
  if (!filled) co_return PduError::kEnd;
  co_return ParseHeader();
}

PduError PduReader::ParseHeader() {
  const std::byte* start = buffer_.data() + begin_;
  std::memcpy(&header_, start, kHeaderBytes);
  const size_t covered = kHeaderBytes + header_.ahs_bytes();
  ahs_ = {reinterpret_cast<const uint8_t*>(start) + kHeaderBytes, header_.ahs_bytes()};
  begin_ += covered;
  if (header_digest_) {
    begin_ += kDigestBytes;
    Crc32c crc;
    crc.Add(std::span(start, covered));
    if (!SameDigest(crc, start + covered)) return PduError::kHeaderDigest;
  }
  data_bytes_ = header_.data_segment_length;
  return data_bytes_ > max_data_bytes_ ? PduError::kTooLong : PduError::kNone;
}

Task<PduError> PduReader::ReadData(std::span<std::byte> into) {
  if (!has_all_data()) return ReadDataSlowly(into);
  const Segment segment = TakeData();
  const size_t kept = std::min(into.size(), segment.bytes.size());
  if (kept != 0) std::memcpy(into.data(), segment.bytes.data(), kept);
  return segment.error;
}

size_t PduReader::SegmentBytes() const {
  if (data_bytes_ == 0) return 0;
  return PaddedLength(data_bytes_) + (data_digest_ ? kDigestBytes : 0);
}

PduReader::Segment PduReader::TakeData() {
  if (data_bytes_ == 0) return {};
  Segment segment{PduError::kNone, {buffer_.data() + begin_, data_bytes_}};
  if (data_digest_) {
    const std::span padded(buffer_.data() + begin_, PaddedLength(data_bytes_));
    Crc32c crc;
    crc.Add(padded);
    if (!SameDigest(crc, padded.data() + padded.size())) segment.error = PduError::kDataDigest;
  }
  begin_ += SegmentBytes();
  data_bytes_ = 0;
  return segment;
}

Task<PduError> PduReader::ReadDataSlowly(std::span<std::byte> into) {
  // The padding and the digest are always taken through the buffer, which they fit.
  const size_t tail = PaddingBytes(data_bytes_) + (data_digest_ ? kDigestBytes : 0);
  size_t left = data_bytes_;
  Crc32c crc;
  while (left > 0) {
    if (buffered() == 0 && left >= kReceiveInPlaceBytes && !into.empty()) {
      const size_t ask = std::min(left, into.size());
      buffer_.GiveBack();
      const int got = co_await stream_.ReadSome(into.first(ask));
      if (got <= 0) co_return PduError::kEnd;
      const auto count = static_cast<size_t>(got);
      if (data_digest_) crc.Add(std::span<const std::byte>(into.first(count)));
      into = into.subspan(count);
      left -= count;
      continue;
    }
    if (buffered() == 0) {
      const bool filled = co_await Fill(1);
      if (!filled) co_return PduError::kEnd;
    }
    const size_t count = std::min(left, buffered());
    const std::span<const std::byte> part(buffer_.data() + begin_, count);
    const size_t kept = std::min(count, into.size());
    if (kept != 0) std::memcpy(into.data(), part.data(), kept);
    if (data_digest_) crc.Add(part);
    into = into.subspan(kept);
    begin_ += count;
    left -= count;
  }
  const uint32_t padding = PaddingBytes(data_bytes_);
  data_bytes_ = 0;
  if (tail == 0) co_return PduError::kNone;
  const bool filled = co_await Fill(tail);
  if (!filled) co_return PduError::kEnd;
  const std::byte* rest = buffer_.data() + begin_;
  begin_ += tail;
  if (!data_digest_) co_return PduError::kNone;
  crc.Add(std::span(rest, padding));
  co_return SameDigest(crc, rest + padding) ? PduError::kNone : PduError::kDataDigest;
}

Task<bool> PduReader::Fill(size_t bytes) {
  TakeUp();
  while (buffered() < bytes) {
    if (begin_ == end_) begin_ = end_ = 0;
    if (begin_ + bytes > kReceiveBufferBytes) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, buffered());
      end_ = buffered();
      begin_ = 0;
    }
    const int got = stream_.ReadNow({buffer_.data() + end_, kReceiveBufferBytes - end_});
    if (got == -EAGAIN) {
      PutAside();
      co_await stream_.Readable();
      TakeUp();
    } else if (got <= 0) {
      co_return false;
    } else {
      end_ += static_cast<size_t>(got);
    }
  }
  co_return true;
}

void PduReader::PutAside() {
  if (buffered() > kPutAsideBytes) return;
  aside_.assign(buffer_.data() + begin_, buffer_.data() + end_);
  buffer_.GiveBack();
}

void PduReader::TakeUp() {
  if (buffer_) return;
  buffer_.Take();
  std::copy(aside_.begin(), aside_.end(), buffer_.data());
  begin_ = 0;
  end_ = aside_.size();
  aside_.clear();
}

// ---- PduWriter

struct PduWriter::Batch {
  struct Head {
    BasicHeader header;
    std::array<uint8_t, kDigestBytes> digest;
  };
  // Up to three bytes of padding, then the data digest.
  struct Tail {
    std::array<uint8_t, 3 + kDigestBytes> bytes{};
  };
  size_t pdus = 0;
  size_t pieces = 0;
  size_t data_bytes = 0;
  std::array<Head, kBatchPdus> heads;
  std::array<Tail, kBatchPdus> tails;
  std::array<iovec, kBatchPdus * kPiecesPerPdu> iovecs;

  bool full() const { return pdus == kBatchPdus || data_bytes >= kBatchDataBytes; }
  void Clear() { pdus = pieces = data_bytes = 0; }
  void Add(const void* bytes, size_t count) {
    iovecs[pieces++] = iovec{const_cast<void*>(bytes), count};
  }
};

struct PduWriter::OwnedPdu final : PduSource {
  OwnedPdu(PduWriter& its_writer, const BasicHeader& its_header, std::span<const std::byte> bytes)
      : writer(its_writer), header(its_header), data(bytes.begin(), bytes.end()) {}

  size_t bytes() const { return sizeof(OwnedPdu) + data.size(); }
  bool NextPdu(BasicHeader& next, std::span<const std::byte>& next_data) override {
    if (taken) return false;
    taken = true;
    next = header;
    next_data = data;
    return true;
  }
  void OnSent() override {
    writer.owned_bytes_ -= bytes();
    if (writer.owned_bytes_ <= kMaxOwnedBytes) writer.drained_.WakeAll();
    delete this;
  }

  PduWriter& writer;
  const BasicHeader header;
  const std::vector<std::byte> data;
  bool taken = false;
};

PduWriter::PduWriter(ByteStream& stream, const CommandWindow& window, Gate& gate,
                     std::function<void()> on_error)
    : stream_(stream),
      window_(window),
      gate_(gate),
      on_error_(std::move(on_error)),
      turn_end_([this] { StartSending(); }) {}

PduWriter::~PduWriter() { CHECK(!sending_ && head_ == nullptr); }

void PduWriter::Queue(PduSource& source, size_t data_bytes) {
  source.next_ = nullptr;
  ++queued_;
  queued_bytes_ += data_bytes;
  if (head_ == nullptr) {
    head_ = tail_ = &source;
  } else {
    tail_->next_ = &source;
    tail_ = &source;
  }
  if (!sending_) AskToSend(data_bytes + kTaskBytes);
}

void PduWriter::QueueOwned(const BasicHeader& header, std::span<const std::byte> data) {
  auto* pdu = new OwnedPdu(*this, header, data);
  owned_bytes_ += pdu->bytes();
  Queue(*pdu);
}

Task<void> PduWriter::RoomForOwned() {
  while (owned_bytes_ > kMaxOwnedBytes) co_await drained_.Wait();
}

Task<void> PduWriter::Flushed() {
  while (sending_ || head_ != nullptr) co_await drained_.Wait();
}

void PduWriter::AskToSend(size_t bytes) { Reactor::Current().AtTurnEnd(turn_end_, bytes); }

void PduWriter::Close() {
  closed_ = true;
  // What is queued is let go by the send loop if it runs, else at the end of this turn.
  if (!sending_ && head_ != nullptr) AskToSend(0);
}

void PduWriter::StartSending() {
  if (sending_ || head_ == nullptr) return;
  // The gate is closed only after the writer was, and then there is nothing to wait for.
  if (closed_ || !gate_.TryEnter()) {
    ReleaseQueued();
    drained_.WakeAll();
    return;
  }
  sending_ = true;
  Detach(SendLoop());
}

Task<void> PduWriter::SendLoop() {
  if (batch_ == nullptr) batch_.reset(new Batch);
  while (head_ != nullptr && !closed_) {
    FillBatch();
    if (batch_->pieces != 0) {
      const int error = co_await stream_.WriteAll({batch_->iovecs.data(), batch_->pieces});
      ++sends_;
      if (error != 0 && !closed_) {
        closed_ = true;
        on_error_();
      }
    }
    batch_->Clear();
    ReleaseFinished();
  }
  if (closed_) ReleaseQueued();
  sending_ = false;
  drained_.WakeAll();
  gate_.Leave();
}

void PduWriter::FillBatch() {
  queued_ = queued_bytes_ = 0;
  PduSource** last_finished = &finished_;
  while (head_ != nullptr && !batch_->full()) {
    BasicHeader header;
    std::span<const std::byte> data;
    if (head_->NextPdu(header, data)) {
      AddToBatch(header, data);
      continue;
    }
    PduSource* done = head_;
    head_ = done->next_;
    done->next_ = nullptr;
    *last_finished = done;
    last_finished = &done->next_;
  }
}

void PduWriter::AddToBatch(const BasicHeader& header, std::span<const std::byte> data) {
  Batch& batch = *batch_;
  Batch::Head& head = batch.heads[batch.pdus];
  Batch::Tail& tail = batch.tails[batch.pdus];
  ++batch.pdus;
  batch.data_bytes += data.size();
  head.header = header;
  head.header.data_segment_length = static_cast<uint32_t>(data.size());
  Stamp(head.header);
  size_t head_bytes = kHeaderBytes;
  if (header_digest_) {
    Crc32c crc;
    crc.Add(head.header.bytes());
    head.digest = crc.digest();
    head_bytes += kDigestBytes;
  }
  batch.Add(&head, head_bytes);
  if (data.empty()) return;
  batch.Add(data.data(), data.size());
  const uint32_t padding = PaddingBytes(static_cast<uint32_t>(data.size()));
  size_t tail_bytes = padding;
  tail.bytes.fill(0);
  if (data_digest_) {
    Crc32c crc;
    crc.Add(data);
    crc.Add(std::span<const uint8_t>(tail.bytes.data(), padding));
    const auto digest = crc.digest();
    std::memcpy(tail.bytes.data() + padding, digest.data(), kDigestBytes);
    tail_bytes += kDigestBytes;
  }
  if (tail_bytes != 0) batch.Add(tail.bytes.data(), tail_bytes);
}

void PduWriter::Stamp(BasicHeader& header) {
  switch (UseOfStatSn(header)) {
    case StatSnUse::kTaken:
      Put32(header, kStatSnOffset, stat_sn_++);
      break;
    case StatSnUse::kShown:
      Put32(header, kStatSnOffset, stat_sn_);
      break;
    case StatSnUse::kNone:
      break;
  }
  Put32(header, kExpCmdSnOffset, window_.expected());
  Put32(header, kMaxCmdSnOffset, window_.max());
}

void PduWriter::ReleaseFinished() {
  PduSource* done = std::exchange(finished_, nullptr);
  while (done != nullptr) {
    PduSource* next = done->next_;
    done->OnSent();
    done = next;
  }
}

void PduWriter::ReleaseQueued() {
  while (head_ != nullptr) {
    PduSource* source = head_;
    head_ = source->next_;
    source->OnSent();
  }
}

}  // namespace sectormap::iscsi
