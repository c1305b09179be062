// SPDX-License-Identifier: Apache-2.0
// Connection: one TCP connection, from its first byte to its last: the login phase, then the full
// feature phase of the session it carries (RFC 7143 §4, §6, §8), then the end of both. One reader
// coroutine takes PDUs in order and gives each to whom it is for; the writer sends what is ready.
// A connection never leaves its reactor.
//
// The reader never waits for a device, for memory or for another connection, so that NOP, task
// management and logout always get through. It waits only for this initiator to read its answers.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "core/async/byte_stream.h"
#include "core/async/gate.h"
#include "core/async/reactor.h"
#include "server/iscsi/command_memory.h"
#include "server/iscsi/command_window.h"
#include "server/iscsi/login.h"
#include "server/iscsi/pdu_stream.h"
#include "server/iscsi/portal_addresses.h"
#include "server/iscsi/session.h"
#include "server/iscsi/session_log.h"
#include "server/iscsi/target_directory.h"
#include "server/iscsi/text_exchange.h"

namespace sectormap::iscsi {

// From the first byte to full feature phase; open-iscsi gives its own login as long.
inline constexpr auto kLoginTimeout = std::chrono::seconds(15);

// A discovery session from its login to its end: a list of targets takes milliseconds.
inline constexpr auto kDiscoveryTimeout = std::chrono::seconds(60);

// A peer that has been silent this long is asked by a NOP-In; a second and a third such time later
// it is dropped, 30 s after the question. As LIO has them.
inline constexpr auto kKeepAliveInterval = std::chrono::seconds(15);
inline constexpr int kKeepAliveMissesMax = 2;

// An initiator that owes data for a write and has sent none for so long is dropped, at the next
// look for life: later than initiators give a command up themselves (Linux after 30 s, Windows
// after 60 s). RFC 7143 §7.1.4.4 lets a target answer any error by ending the session, and at
// ErrorRecoveryLevel 0 it has nothing else (§7.1.5). LIO's dataout_timeout does the same.
inline constexpr auto kDataOutTimeout = std::chrono::seconds(60);

// An initiator that takes no answers for so long is dropped, at the next look for life, whatever it
// sends: their commands hold memory that others wait for. What is looked at is what leaves
// together, about a megabyte (PduWriter::kBatchDataBytes); whoever takes longer for that than this
// has given the commands up by then, as above.
inline constexpr auto kSendTimeout = std::chrono::seconds(60);

// A login waits this long for the session that it takes the place of (RFC 7143 §6.3.5) to end, and
// then goes on without: less than an initiator's login time-out.
inline constexpr auto kReinstatementWait = std::chrono::seconds(5);

// The longest text, in bytes: many times what the negotiable keys take.
inline constexpr uint32_t kMaxTextBytes = 64 * 1024;

// PDUs and their bytes that may wait for a CmdSN that has not come. On one connection a number is
// missing only after an error, so this is small.
inline constexpr size_t kMaxHeldBytes = 256 * 1024;

class Connection;

// What others hold of a connection: it may be gone. Any thread.
class ConnectionHandle final : public SessionControl,
                               public scsi::NexusTasks,
                               public std::enable_shared_from_this<ConnectionHandle> {
 public:
  ConnectionHandle(Reactor& reactor, Connection& connection)
      : reactor_(reactor), connection_(&connection) {}

  void AskLogout(DropReason reason) override;
  void Drop(DropReason reason) override;
  void OnLunsChanged(absl::AnyInvocable<void()> released) override;
  Task<void> AbortTasks(uint64_t lun_number) override;

  void WhenEnded(absl::AnyInvocable<void()> ended) override;

  Reactor& reactor() const { return reactor_; }

 private:
  friend class Connection;
  Reactor& reactor_;
  Connection* connection_;  // its reactor's; null when it has ended
};

class Connection {
 public:
  struct Context {
    Reactor& reactor;
    TargetDirectory& directory;
    CommandMemory& memory;
    const PortalAddresses& portals;
    SessionLog& log;
    LoginNegotiator::Service service = LoginNegotiator::Service::kReady;
    // Called when the connection is no longer one of the unauthenticated: at the end of the login
    // phase, well or not, or of the discovery session that it led to.
    std::function<void()> on_login_end;
  };

  // Serves `stream` until the peer, an error or Drop() ends it, and nothing of it runs any more.
  // On context.reactor. `on_start` is given the handle by which others reach it.
  static Task<void> Serve(Context context, std::unique_ptr<ByteStream> stream,
                          std::function<void(std::shared_ptr<ConnectionHandle>)> on_start);

  Connection(Context context, std::unique_ptr<ByteStream> stream);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

 private:
  friend class ConnectionHandle;

  // --- Its life (connection.cc) ---
  Task<void> Run();
  Task<void> Discovery();
  Task<void> FullFeature();
  Task<void> End();
  // Ends both directions now. The first reason counts.
  void Drop(DropReason reason);
  // Ends after what is queued has been sent: for the reader, which stops then.
  void FinishWith(DropReason reason);
  Task<void> FlushForAWhile();
  void AskLogout(DropReason reason);
  void StartKeepAlive();
  void LookForLife();
  Task<void> AbortTasks(uint64_t lun_number);

  // --- The login phase (connection_login.cc) ---
  // True: full feature phase.
  Task<bool> Login();
  Task<bool> LoginSteps(LoginNegotiator& negotiator);
  Task<bool> SendLoginReply(const LoginNegotiator::Reply& reply);
  // Takes the session's place at its target; kSuccess, or the status to answer.
  Task<LoginStatus> Register();
  SessionInfo DescribeSession() const;
  void EnterFullFeature();

  // --- PDUs (connection_pdus.cc): false ends the reading ---
  Task<bool> OnPdu();
  Task<bool> OnScsiCommand();
  Task<bool> OnDataOut();
  Task<bool> OnNopOut();
  Task<bool> OnText();
  Task<bool> OnTaskManagement();
  Task<bool> OnLogout();
  // Gives the data up and sends a Reject.
  Task<bool> Refuse(RejectReason reason);
  Task<bool> SkipData();
  // The data segment, for answers that belong to no command. Waits until the writer has room.
  Task<PduError> ReadOwned(std::vector<std::byte>& data);
  void SendReject(RejectReason reason, const BasicHeader& header);
  // True if reading may go on; counts and answers what is wrong.
  bool MayGoOn(PduError error, const BasicHeader& header);

  void AnswerNop(const NopOutHeader& request, std::span<const std::byte> data);
  void AnswerText(const TextRequestHeader& request, std::span<const std::byte> data);
  void AnswerLogout(const LogoutRequestHeader& request);
  void ManageTasks(const TaskManagementRequestHeader& request);

  // What becomes of a PDU by its CmdSN (RFC 7143 §4.2.2.1).
  enum class Turn { kNow, kLater, kNever };
  template <typename Header>
  Turn TurnOf(const Header& header) const;
  // Calls `act(true)` now or when its turn comes; `act(false)` if it never does. False: too much
  // waits already.
  template <typename Header, typename Act>
  bool Deliver(Turn turn, const Header& header, size_t bytes, Act act);
  bool Hold(uint32_t cmd_sn, size_t bytes, absl::AnyInvocable<void(bool)> act);
  void Advance();
  void DeliverHeld();
  void DiscardHeld();
  bool SkipCommand(uint32_t cmd_sn);

  const Context context_;
  const std::unique_ptr<ByteStream> stream_;
  const std::shared_ptr<ConnectionHandle> handle_;
  IscsiCounters::Slot& counters_;
  Gate gate_;      // commands, task management, the writer
  Gate visitors_;  // AbortTasks() for other nexuses: may come when the gate is closed
  CommandWindow window_;
  PduReader reader_;
  PduWriter writer_;

  uint16_t tsih_ = 0;
  LoginResult login_;
  SessionParameters parameters_;
  uint64_t session_id_ = 0;  // in the directory; 0: not registered
  std::shared_ptr<TargetLuns> luns_;
  std::unique_ptr<Session> session_;  // null in a discovery session
  std::optional<TextExchange> text_;

  struct HeldPdu {
    size_t bytes;
    absl::AnyInvocable<void(bool)> act;
  };
  struct SerialOrder {
    bool operator()(uint32_t a, uint32_t b) const { return SerialLess(a, b); }
  };
  std::map<uint32_t, HeldPdu, SerialOrder> held_;  // by CmdSN
  size_t held_bytes_ = 0;

  std::optional<DropReason> drop_reason_;
  bool in_full_feature_ = false;
  bool finishing_ = false;  // the reader stops, what is queued is sent
  bool heard_ = true;       // from the peer since the last look
  int silent_looks_ = 0;
  bool data_heard_ = false;  // data of some write since the last look
  int looks_without_data_ = 0;
  uint64_t sends_seen_ = 0;  // the writer's at the last look
  int looks_without_send_ = 0;
  std::optional<Reactor::TimerId> keep_alive_timer_;
  std::optional<Reactor::TimerId> drop_timer_;
  std::vector<absl::AnyInvocable<void()>> ended_calls_;
};

}  // namespace sectormap::iscsi
