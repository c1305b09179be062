// SPDX-License-Identifier: Apache-2.0
// The PDU headers of iSCSI (RFC 7143 §11), one struct each, laid out as on the wire: every member
// is made of bytes, so a header is copied from and to a socket's buffer as it is, on any machine.
//
// Units: lengths, counts and offsets in bytes, except total_ahs_length (4-byte words). A field that
// the RFC reserves is sent as zero and ignored when received (§11). Opcodes are not checked here:
// read BasicHeader first, switch on opcode(), then take HeaderAs<...>.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "server/scsi/lun_field.h"
#include "server/scsi/scsi_command.h"

namespace sectormap::iscsi {

inline constexpr size_t kHeaderBytes = 48;
inline constexpr size_t kDigestBytes = 4;
inline constexpr size_t kAhsWordBytes = 4;
inline constexpr size_t kMaxAhsBytes = 255 * kAhsWordBytes;   // TotalAHSLength is one byte of words
inline constexpr uint32_t kMaxDataSegmentLength = 0xff'ffff;  // DataSegmentLength is three bytes
inline constexpr uint32_t kLoginMaxRecvDataSegmentBytes = 8192;  // §13.12, until it is negotiated
// InitiatorTaskTag and TargetTransferTag: "no task", "not part of an exchange".
inline constexpr uint32_t kReservedTag = 0xffff'ffff;

// AHS, data and nothing else are padded to words (§11.1). A length of kMaxDataSegmentLength fits.
constexpr uint32_t PaddedLength(uint32_t bytes) { return (bytes + 3) & ~uint32_t{3}; }
constexpr uint32_t PaddingBytes(uint32_t bytes) { return PaddedLength(bytes) - bytes; }

// An unsigned integer of `kBytes` bytes in network order. Assigning keeps the low bytes.
template <size_t kBytes>
class BigEndian {
 public:
  using Value = std::conditional_t<kBytes <= 2, uint16_t,
                                   std::conditional_t<kBytes <= 4, uint32_t, uint64_t>>;
  static_assert(kBytes >= 1 && kBytes <= 8);

  constexpr BigEndian() = default;
  constexpr BigEndian(Value value) {  // NOLINT: a field is its number
    for (size_t i = kBytes; i-- > 0; value = static_cast<Value>(value >> 8)) {
      bytes_[i] = static_cast<uint8_t>(value);
    }
  }
  constexpr operator Value() const { return value(); }  // NOLINT: a field is its number
  constexpr Value value() const {
    Value value = 0;
    for (uint8_t byte : bytes_) value = static_cast<Value>(static_cast<Value>(value << 8) | byte);
    return value;
  }

 private:
  std::array<uint8_t, kBytes> bytes_{};
};

using Big16 = BigEndian<2>;
using Big24 = BigEndian<3>;
using Big32 = BigEndian<4>;
using Big48 = BigEndian<6>;

// §11.2.1.2. Sent by the initiator 00h-1fh, by the target 20h-3fh.
enum class Opcode : uint8_t {
  kNopOut = 0x00,
  kScsiCommand = 0x01,
  kTaskManagementRequest = 0x02,
  kLoginRequest = 0x03,
  kTextRequest = 0x04,
  kDataOut = 0x05,
  kLogoutRequest = 0x06,
  kSnackRequest = 0x10,
  kNopIn = 0x20,
  kScsiResponse = 0x21,
  kTaskManagementResponse = 0x22,
  kLoginResponse = 0x23,
  kTextResponse = 0x24,
  kDataIn = 0x25,
  kLogoutResponse = 0x26,
  kReadyToTransfer = 0x31,
  kAsyncMessage = 0x32,
  kReject = 0x3f,
};

inline constexpr uint8_t kOpcodeMask = 0x3f;
inline constexpr uint8_t kImmediateBit = 0x40;  // byte 0: I
inline constexpr uint8_t kFinalBit = 0x80;      // byte 1: F (T in login PDUs)
inline constexpr uint8_t kContinueBit = 0x40;   // byte 1: C, in text and login PDUs

using scsi::DecodeLun;
using scsi::EncodeLun;
using scsi::LunField;

// What all headers have in common. An empty base: it adds functions, no bytes.
template <typename Header>
struct HeaderFunctions {
  Opcode opcode() const { return static_cast<Opcode>(self().opcode_byte & kOpcodeMask); }
  bool immediate() const { return (self().opcode_byte & kImmediateBit) != 0; }
  bool final() const { return (self().flags & kFinalBit) != 0; }
  // In text and login PDUs.
  bool continues() const { return (self().flags & kContinueBit) != 0; }
  size_t ahs_bytes() const { return self().total_ahs_length * kAhsWordBytes; }
  std::span<const uint8_t, kHeaderBytes> bytes() const {
    return std::span<const uint8_t, kHeaderBytes>(reinterpret_cast<const uint8_t*>(&self()),
                                                  kHeaderBytes);
  }

 protected:
  const Header& self() const { return static_cast<const Header&>(*this); }
};

// Any header, before its opcode is looked at.
struct BasicHeader : HeaderFunctions<BasicHeader> {
  uint8_t opcode_byte = 0;
  uint8_t flags = 0;
  std::array<uint8_t, 2> specific{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  std::array<uint8_t, 28> rest{};
};

// The same 48 bytes, read as another header.
template <typename To, typename From>
To HeaderAs(const From& header) {
  static_assert(sizeof(To) == kHeaderBytes && sizeof(From) == kHeaderBytes);
  return std::bit_cast<To>(header);
}

// ---- SCSI command and response (§11.3, §11.4)

enum class TaskAttribute : uint8_t {
  kUntagged = 0,
  kSimple = 1,
  kOrdered = 2,
  kHeadOfQueue = 3,
  kAca = 4,
};

struct ScsiCommandHeader : HeaderFunctions<ScsiCommandHeader> {
  static constexpr uint8_t kReadBit = 0x40;
  static constexpr uint8_t kWriteBit = 0x20;
  static constexpr uint8_t kAttributeMask = 0x07;

  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kScsiCommand);
  uint8_t flags = 0;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 expected_data_transfer_length;
  Big32 cmd_sn;
  Big32 exp_stat_sn;
  scsi::CdbBytes cdb{};

  bool read() const { return (flags & kReadBit) != 0; }
  bool write() const { return (flags & kWriteBit) != 0; }
  // Values above kAca are reserved.
  TaskAttribute attribute() const { return static_cast<TaskAttribute>(flags & kAttributeMask); }
};

// §11.4.3: how the service delivery went; the SCSI status counts only after kCompleted.
enum class ServiceResponse : uint8_t { kCompleted = 0x00, kTargetFailure = 0x01 };

struct ScsiResponseHeader : HeaderFunctions<ScsiResponseHeader> {
  static constexpr uint8_t kBidiOverflowBit = 0x10;
  static constexpr uint8_t kBidiUnderflowBit = 0x08;
  static constexpr uint8_t kOverflowBit = 0x04;
  static constexpr uint8_t kUnderflowBit = 0x02;

  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kScsiResponse);
  uint8_t flags = kFinalBit;
  ServiceResponse response = ServiceResponse::kCompleted;
  scsi::ScsiStatus status = scsi::ScsiStatus::kGood;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  std::array<uint8_t, 8> reserved8{};
  Big32 initiator_task_tag;
  Big32 snack_tag;
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  Big32 exp_data_sn;
  Big32 bidi_read_residual_count;
  Big32 residual_count;
};

// ---- Task management (§11.5, §11.6; RFC 7144 §4.1 adds functions 9-12)

enum class TaskManagementFunction : uint8_t {
  kAbortTask = 1,
  kAbortTaskSet = 2,
  kClearAca = 3,
  kClearTaskSet = 4,
  kLogicalUnitReset = 5,
  kTargetWarmReset = 6,
  kTargetColdReset = 7,
  kTaskReassign = 8,
  kQueryTask = 9,
  kQueryTaskSet = 10,
  kItNexusReset = 11,
  kQueryAsynchronousEvent = 12,
};

enum class TaskManagementResult : uint8_t {
  kFunctionComplete = 0,
  kTaskDoesNotExist = 1,
  kLunDoesNotExist = 2,
  kTaskStillAllegiant = 3,
  kReassignmentNotSupported = 4,
  kFunctionNotSupported = 5,
  kAuthorizationFailed = 6,
  kFunctionSucceeded = 7,  // RFC 7144 §4.2: the queried task exists
  kFunctionRejected = 255,
};

struct TaskManagementRequestHeader : HeaderFunctions<TaskManagementRequestHeader> {
  static constexpr uint8_t kFunctionMask = 0x7f;

  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kTaskManagementRequest);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 referenced_task_tag;
  Big32 cmd_sn;
  Big32 exp_stat_sn;
  Big32 ref_cmd_sn;
  Big32 exp_data_sn;
  std::array<uint8_t, 8> reserved40{};

  // May be none of the enumerators.
  TaskManagementFunction function() const {
    return static_cast<TaskManagementFunction>(flags & kFunctionMask);
  }
};

struct TaskManagementResponseHeader : HeaderFunctions<TaskManagementResponseHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kTaskManagementResponse);
  uint8_t flags = kFinalBit;
  TaskManagementResult response = TaskManagementResult::kFunctionComplete;
  uint8_t reserved3 = 0;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  std::array<uint8_t, 8> reserved8{};
  Big32 initiator_task_tag;
  std::array<uint8_t, 4> reserved20{};
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  std::array<uint8_t, 12> reserved36{};
};

// ---- Data (§11.7, §11.8)

struct DataOutHeader : HeaderFunctions<DataOutHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kDataOut);
  uint8_t flags = 0;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag = kReservedTag;
  std::array<uint8_t, 4> reserved24{};
  Big32 exp_stat_sn;
  std::array<uint8_t, 4> reserved32{};
  Big32 data_sn;
  Big32 buffer_offset;
  std::array<uint8_t, 4> reserved44{};
};

struct DataInHeader : HeaderFunctions<DataInHeader> {
  static constexpr uint8_t kAcknowledgeBit = 0x40;
  static constexpr uint8_t kOverflowBit = 0x04;
  static constexpr uint8_t kUnderflowBit = 0x02;
  static constexpr uint8_t kStatusBit = 0x01;

  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kDataIn);
  uint8_t flags = 0;
  uint8_t reserved2 = 0;
  scsi::ScsiStatus status = scsi::ScsiStatus::kGood;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag = kReservedTag;
  Big32 stat_sn;  // only with kStatusBit
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  Big32 data_sn;
  Big32 buffer_offset;
  Big32 residual_count;  // only with kStatusBit
};

struct ReadyToTransferHeader : HeaderFunctions<ReadyToTransferHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kReadyToTransfer);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag;
  Big32 stat_sn;  // the next one; an R2T takes none
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  Big32 r2t_sn;
  Big32 buffer_offset;
  Big32 desired_data_transfer_length;
};

// ---- Asynchronous message (§11.9)

enum class AsyncEvent : uint8_t {
  kScsi = 0,
  kLogoutRequest = 1,
  kConnectionDropped = 2,
  kAllConnectionsDropped = 3,
  kNegotiationRequest = 4,
  kAllTasksTerminated = 5,  // RFC 7143 §11.9.1, for TaskReporting=FastAbort
};

struct AsyncMessageHeader : HeaderFunctions<AsyncMessageHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kAsyncMessage);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag = kReservedTag;
  std::array<uint8_t, 4> reserved20{};
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  AsyncEvent async_event = AsyncEvent::kScsi;
  uint8_t async_vcode = 0;
  Big16 parameter1;
  Big16 parameter2;
  Big16 parameter3;
  std::array<uint8_t, 4> reserved44{};
};

// ---- Text (§11.10, §11.11)

struct TextRequestHeader : HeaderFunctions<TextRequestHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kTextRequest);
  uint8_t flags = 0;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag = kReservedTag;
  Big32 cmd_sn;
  Big32 exp_stat_sn;
  std::array<uint8_t, 16> reserved32{};
};

struct TextResponseHeader : HeaderFunctions<TextResponseHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kTextResponse);
  uint8_t flags = 0;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag = kReservedTag;
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  std::array<uint8_t, 12> reserved36{};
};

// ---- Login (§11.12, §11.13)

// The values of CSG and NSG; 2 is reserved.
enum class LoginStage : uint8_t { kSecurity = 0, kOperational = 1, kFullFeature = 3 };

// Status-Class in the high byte, Status-Detail in the low byte (§11.13.5).
enum class LoginStatus : uint16_t {
  kSuccess = 0x0000,
  kTargetMovedTemporarily = 0x0101,
  kTargetMovedPermanently = 0x0102,
  kInitiatorError = 0x0200,
  kAuthenticationFailure = 0x0201,
  kAuthorizationFailure = 0x0202,
  kNotFound = 0x0203,
  kTargetRemoved = 0x0204,
  kUnsupportedVersion = 0x0205,
  kTooManyConnections = 0x0206,
  kMissingParameter = 0x0207,
  kCannotIncludeInSession = 0x0208,
  kSessionTypeNotSupported = 0x0209,
  kSessionDoesNotExist = 0x020a,
  kInvalidDuringLogin = 0x020b,
  kTargetError = 0x0300,
  kServiceUnavailable = 0x0301,
  kOutOfResources = 0x0302,
};

// What both have in common.
template <typename Header>
struct LoginHeaderFunctions : HeaderFunctions<Header> {
  static constexpr uint8_t kCurrentStageShift = 2;
  static constexpr uint8_t kStageMask = 0x03;

  bool transit() const { return this->final(); }
  // Both may be none of the enumerators.
  LoginStage current_stage() const {
    return static_cast<LoginStage>((this->self().flags >> kCurrentStageShift) & kStageMask);
  }
  LoginStage next_stage() const { return static_cast<LoginStage>(this->self().flags & kStageMask); }
};

struct LoginRequestHeader : LoginHeaderFunctions<LoginRequestHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kLoginRequest) | kImmediateBit;
  uint8_t flags = 0;
  uint8_t version_max = 0;
  uint8_t version_min = 0;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  Big48 isid;
  Big16 tsih;
  Big32 initiator_task_tag;
  Big16 cid;
  std::array<uint8_t, 2> reserved22{};
  Big32 cmd_sn;
  Big32 exp_stat_sn;
  std::array<uint8_t, 16> reserved32{};
};

struct LoginResponseHeader : LoginHeaderFunctions<LoginResponseHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kLoginResponse);
  uint8_t flags = 0;
  uint8_t version_max = 0;
  uint8_t version_active = 0;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  Big48 isid;
  Big16 tsih;
  Big32 initiator_task_tag;
  std::array<uint8_t, 4> reserved20{};
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  Big16 status_field;
  std::array<uint8_t, 10> reserved38{};

  LoginStatus status() const { return static_cast<LoginStatus>(status_field.value()); }
  void set_status(LoginStatus status) { status_field = static_cast<uint16_t>(status); }
};

// ---- Logout (§11.14, §11.15)

enum class LogoutReason : uint8_t {
  kCloseSession = 0,
  kCloseConnection = 1,
  kRemoveConnectionForRecovery = 2,
};

enum class LogoutResult : uint8_t {
  kClosed = 0,
  kCidNotFound = 1,
  kRecoveryNotSupported = 2,
  kCleanupFailed = 3,
};

struct LogoutRequestHeader : HeaderFunctions<LogoutRequestHeader> {
  static constexpr uint8_t kReasonMask = 0x7f;

  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kLogoutRequest);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  std::array<uint8_t, 8> reserved8{};
  Big32 initiator_task_tag;
  Big16 cid;
  std::array<uint8_t, 2> reserved22{};
  Big32 cmd_sn;
  Big32 exp_stat_sn;
  std::array<uint8_t, 16> reserved32{};

  // May be none of the enumerators.
  LogoutReason reason() const { return static_cast<LogoutReason>(flags & kReasonMask); }
};

struct LogoutResponseHeader : HeaderFunctions<LogoutResponseHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kLogoutResponse);
  uint8_t flags = kFinalBit;
  LogoutResult response = LogoutResult::kClosed;
  uint8_t reserved3 = 0;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  std::array<uint8_t, 8> reserved8{};
  Big32 initiator_task_tag;
  std::array<uint8_t, 4> reserved20{};
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  std::array<uint8_t, 4> reserved36{};
  Big16 time2wait;    // seconds
  Big16 time2retain;  // seconds
  std::array<uint8_t, 4> reserved44{};
};

// ---- SNACK, Reject (§11.16, §11.17)

struct SnackRequestHeader : HeaderFunctions<SnackRequestHeader> {
  static constexpr uint8_t kTypeMask = 0x0f;

  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kSnackRequest);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag;
  std::array<uint8_t, 4> reserved24{};
  Big32 exp_stat_sn;
  std::array<uint8_t, 8> reserved32{};
  Big32 beg_run;
  Big32 run_length;
};

enum class RejectReason : uint8_t {
  kDataDigestError = 0x02,
  kSnackReject = 0x03,
  kProtocolError = 0x04,
  kCommandNotSupported = 0x05,
  kTooManyImmediateCommands = 0x06,
  kTaskInProgress = 0x07,
  kInvalidDataAck = 0x08,
  kInvalidPduField = 0x09,
  kLongOperationReject = 0x0a,
  kWaitingForLogout = 0x0c,
};

// The data segment is the rejected header: all 48 bytes of it.
struct RejectHeader : HeaderFunctions<RejectHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kReject);
  uint8_t flags = kFinalBit;
  RejectReason reason = RejectReason::kProtocolError;
  uint8_t reserved3 = 0;
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  std::array<uint8_t, 8> reserved8{};
  Big32 initiator_task_tag = kReservedTag;
  std::array<uint8_t, 4> reserved20{};
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  Big32 data_sn;
  std::array<uint8_t, 8> reserved40{};
};

// ---- NOP (§11.18, §11.19)

struct NopOutHeader : HeaderFunctions<NopOutHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kNopOut);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag;
  Big32 target_transfer_tag = kReservedTag;
  Big32 cmd_sn;
  Big32 exp_stat_sn;
  std::array<uint8_t, 16> reserved32{};
};

struct NopInHeader : HeaderFunctions<NopInHeader> {
  uint8_t opcode_byte = static_cast<uint8_t>(Opcode::kNopIn);
  uint8_t flags = kFinalBit;
  std::array<uint8_t, 2> reserved2{};
  uint8_t total_ahs_length = 0;
  Big24 data_segment_length;
  LunField lun{};
  Big32 initiator_task_tag = kReservedTag;
  Big32 target_transfer_tag = kReservedTag;
  Big32 stat_sn;
  Big32 exp_cmd_sn;
  Big32 max_cmd_sn;
  std::array<uint8_t, 12> reserved36{};
};

// ---- Additional header segments (§11.2.2)

// What a SCSI command's AHS asked for.
struct AdditionalHeaders {
  // A CDB of more than 16 bytes: what follows the header's 16. Borrowed from the parsed bytes.
  std::span<const uint8_t> extended_cdb;
  std::optional<uint32_t> bidi_read_length;
};

// `bytes` are the ahs_bytes() after the header. Empty if they are malformed: a length that passes
// the end, a kind that is unknown or comes twice.
std::optional<AdditionalHeaders> ParseAdditionalHeaders(std::span<const uint8_t> bytes);

template <typename... Headers>
constexpr bool AreHeaders() {
  return ((sizeof(Headers) == kHeaderBytes && alignof(Headers) == 1 &&
           std::is_trivially_copyable_v<Headers> && std::is_standard_layout_v<Headers>)&&...);
}
static_assert(
    AreHeaders<BasicHeader, ScsiCommandHeader, ScsiResponseHeader, TaskManagementRequestHeader,
               TaskManagementResponseHeader, DataOutHeader, DataInHeader, ReadyToTransferHeader,
               AsyncMessageHeader, TextRequestHeader, TextResponseHeader, LoginRequestHeader,
               LoginResponseHeader, LogoutRequestHeader, LogoutResponseHeader, SnackRequestHeader,
               RejectHeader, NopOutHeader, NopInHeader>());

}  // namespace sectormap::iscsi
