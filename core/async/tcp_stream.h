// SPDX-License-Identifier: Apache-2.0
// TcpStream: a ByteStream over a connected TCP socket. Listener: where they come from.
//
// Both try the system call without waiting first and go to the ring only for what is left, so a
// stream that keeps up costs one system call per direction and turn.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/async/byte_stream.h"
#include "core/async/task.h"

namespace sectormap {

// For one reactor at a time: it may be handed to another one before its first use there.
class TcpStream final : public ByteStream {
 public:
  // Owns `fd`, a connected blocking TCP socket, and turns Nagle's delay off; and whatever paces
  // what it sends, if both ends have the same address, so are on this machine.
  explicit TcpStream(int fd);
  // REQUIRES: nobody reads or writes; Shutdown() ends them.
  ~TcpStream() override;
  TcpStream(const TcpStream&) = delete;
  TcpStream& operator=(const TcpStream&) = delete;

  // For clients: tests, benchmarks, the load generator. `address` as for Listener::Bind.
  static Task<absl::StatusOr<std::unique_ptr<TcpStream>>> Connect(std::string address);

  int ReadNow(std::span<std::byte> buffer) override;
  Task<void> Readable() override;
  Task<int> WriteAll(std::span<iovec> pieces) override;
  void Shutdown() override;

  // As they were when the connection was made.
  std::string local_address() const override { return local_address_; }
  std::string peer_address() const override { return peer_address_; }

 private:
  // What a read counts at least, in bytes: a system call takes the time of copying so much.
  static constexpr size_t kReadBytesMin = 4 * 1024;
  // One request, from who waits for its answer. With several it pays to look for more of them.
  static constexpr size_t kFewBytes = 64;
  // How many turns its appetite is the mean of, about.
  static constexpr size_t kAppetiteTurns = 4;

  void StartTurn();
  size_t LeftOfTurn() const;
  void CountSent(size_t bytes);
  Task<int> WriteByRing(std::span<iovec> pieces);

  const int fd_;
  const std::string local_address_;
  const std::string peer_address_;
  bool shut_down_ = false;
  bool reading_ = false;
  bool writing_ = false;
  // A read of at most kFewBytes has taken all that there was, in a turn that is its stream's alone:
  // what they ask for is done and answered before the next read, which would find nothing.
  bool took_all_ = false;
  uint64_t turn_ = 0;  // of the reactor: in which the bytes were counted
  size_t bytes_in_turn_ = 0;
  uint64_t sent_turn_ = 0;  // the same of what was sent, which takes no turn for itself
  size_t sent_in_turn_ = 0;
  size_t appetite_ = 0;  // bytes in each of the last few turns
};

class Listener {
 public:
  // `address` is ADDR:PORT with a numeric address, IPv6 in brackets; port 0 takes a free one. An
  // IPv6 address takes IPv6 connections only, so [::] and 0.0.0.0 can be had side by side.
  // InvalidArgument: not such an address. Any thread.
  static absl::Status CheckAddress(const std::string& address);
  // InvalidArgument: as CheckAddress. AlreadyExists: in use. PermissionDenied, Unavailable: the
  // system's reason and what to do. `option` is what the user can change, as "--listen". Any
  // thread.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const std::string& address,
                                                        const std::string& option);
  // REQUIRES: nobody is in Accept().
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // The address with the port that was bound.
  const std::string& address() const { return address_; }

  // On one reactor, one at a time. The stream may be handed to another reactor. Cancelled: Close()
  // was called. ResourceExhausted: out of memory or of descriptors that are not reserved; the
  // caller waits before it tries again. A connection that its peer gave up meanwhile is passed
  // over.
  Task<absl::StatusOr<std::unique_ptr<TcpStream>>> Accept();

  // Lets the port go and wakes Accept(). On the reactor that accepts, or any thread if none does.
  // Idempotent.
  void Close();

 private:
  // Connections the kernel holds until they are accepted; it clips this to net.core.somaxconn.
  static constexpr int kBacklog = 1024;

  Listener(int fd, std::string address) : fd_(fd), address_(std::move(address)) {}

  const int fd_;
  const std::string address_;
  bool closed_ = false;
  bool accepting_ = false;
};

}  // namespace sectormap
