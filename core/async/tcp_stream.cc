// SPDX-License-Identifier: Apache-2.0
#include "core/async/tcp_stream.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/async/next_turn.h"
#include "core/async/reactor.h"
#include "core/base/check.h"
#include "core/base/reserved_descriptors.h"
#include "core/base/status_macros.h"

namespace sectormap {
namespace {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = sizeof(sockaddr_storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

std::string ToString(const SocketAddress& address) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (getnameinfo(address.get(), address.length, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown";
  }
  if (address.storage.ss_family == AF_INET6) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

std::string LocalAddress(int fd) {
  SocketAddress address;
  if (getsockname(fd, address.get(), &address.length) != 0) return "unknown";
  return ToString(address);
}

std::string PeerAddress(int fd) {
  SocketAddress address;
  if (getpeername(fd, address.get(), &address.length) != 0) return "unknown";
  return ToString(address);
}

absl::Status NotAnAddress(const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not a numeric ADDR:PORT, as 127.0.0.1:3260 or [::1]:3260"));
}

absl::StatusOr<SocketAddress> Parse(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return NotAnAddress(text);
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  // "::1:3260" could be either an address or an address and a port.
  if (!bracketed && host.find(':') != std::string::npos) return NotAnAddress(text);
  uint32_t number = 0;
  if (host.empty() || !absl::SimpleAtoi(port, &number) || number > UINT16_MAX) {
    return NotAnAddress(text);
  }
  // getaddrinfo takes 127.1 for 127.0.0.1, which others do not.
  in_addr ignored{};
  if (!bracketed && inet_pton(AF_INET, host.c_str(), &ignored) != 1) return NotAnAddress(text);
  addrinfo hints{};
  hints.ai_family = bracketed ? AF_INET6 : AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
    return NotAnAddress(text);
  }
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

absl::Status BindError(const std::string& address, const std::string& option, int error) {
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(
          absl::StrCat("address ", address,
                       " is in use: stop the other server or choose another with ", option));
    case EADDRNOTAVAIL:
      return absl::UnavailableError(absl::StrCat(
          "address ", address,
          " is not one of this machine's: see `ip address`, or choose another with ", option));
    case EACCES:
      return absl::PermissionDeniedError(
          absl::StrCat("address ", address,
                       " is reserved: a port below 1024 needs root or CAP_NET_BIND_SERVICE; choose "
                       "another with ",
                       option));
    case EAFNOSUPPORT:
      return absl::UnavailableError(absl::StrCat(
          "address ", address,
          " is of a family that this kernel does not have; choose another with ", option));
    default:
      return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ",
                                                 std::strerror(error), "; choose another with ",
                                                 option));
  }
}

void SetOption(int fd, int level, int name) {
  const int on = 1;
  // Refused only for a socket of another kind, where it means nothing.
  static_cast<void>(setsockopt(fd, level, name, &on, sizeof on));
}

std::string_view Host(std::string_view address) { return address.substr(0, address.rfind(':')); }

// Between two ends on one machine there is no network to be gentle to, and what the system may have
// chosen for networks costs: BBR (tcp_bbr.c) paces what it sends by a timer, which takes a third of
// the speed of 1 MiB reads. Reno is in every kernel and free for all to choose (tcp(7)).
void ChooseReno(int fd) {
  constexpr std::string_view kReno = "reno";
  // Refused only for a socket of another kind.
  static_cast<void>(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kReno.data(), kReno.size()));
}

// Marks a direction as busy for a scope: there is one reader and one writer at a time.
class Busy {
 public:
  explicit Busy(bool& flag) : flag_(flag) {
    CHECK(!flag_);
    flag_ = true;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy() { flag_ = false; }

 private:
  bool& flag_;
};

// Drops the first `sent` bytes. REQUIRES: there are that many.
std::span<iovec> Consume(std::span<iovec> pieces, size_t sent) {
  while (!pieces.empty() && sent >= pieces.front().iov_len) {
    sent -= pieces.front().iov_len;
    pieces = pieces.subspan(1);
  }
  if (sent > 0) {
    pieces.front().iov_base = static_cast<std::byte*>(pieces.front().iov_base) + sent;
    pieces.front().iov_len -= sent;
  }
  return pieces;
}

msghdr MessageOf(std::span<iovec> pieces) {
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = std::min<size_t>(pieces.size(), IOV_MAX);
  return message;
}

}  // namespace

TcpStream::TcpStream(int fd)
    : fd_(fd), local_address_(LocalAddress(fd)), peer_address_(PeerAddress(fd)) {
  SetOption(fd_, IPPROTO_TCP, TCP_NODELAY);
  if (Host(local_address_) == Host(peer_address_)) ChooseReno(fd_);
}

TcpStream::~TcpStream() {
  CHECK(!reading_ && !writing_);
  close(fd_);
}

Task<absl::StatusOr<std::unique_ptr<TcpStream>>> TcpStream::Connect(std::string address) {
  const absl::StatusOr<SocketAddress> to = Parse(address);
  if (!to.ok()) co_return to.status();
  const int fd = socket(to->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) co_return absl::ErrnoToStatus(errno, absl::StrCat("a socket for ", address));
  const int result = co_await Reactor::Current().Submit(
      [fd, &to](io_uring_sqe* sqe) { io_uring_prep_connect(sqe, fd, to->get(), to->length); });
  if (result < 0) {
    close(fd);
    co_return absl::ErrnoToStatus(-result, absl::StrCat("cannot connect to ", address));
  }
  co_return std::make_unique<TcpStream>(fd);
}

void TcpStream::StartTurn() {
  Reactor& reactor = Reactor::Current();
  const uint64_t turn = reactor.turns();
  if (turn == turn_) return;
  turn_ = turn;
  appetite_ = (appetite_ * (kAppetiteTurns - 1) + bytes_in_turn_) / kAppetiteTurns;
  bytes_in_turn_ = 0;
  reactor.share().OnTurn(turn, appetite_);
}

size_t TcpStream::LeftOfTurn() const {
  // Who has read nothing in this turn has sent what earlier ones asked for, and has its turn yet.
  const bool answered = bytes_in_turn_ != 0 && sent_turn_ == turn_;
  if (answered && sent_in_turn_ >= TurnShare::kSentBytesMax) return 0;
  const size_t most = Reactor::Current().share().BytesIn(turn_);
  return most - std::min(most, bytes_in_turn_);
}

void TcpStream::CountSent(size_t bytes) {
  const uint64_t turn = Reactor::Current().turns();
  if (turn != sent_turn_) sent_in_turn_ = 0;
  sent_turn_ = turn;
  sent_in_turn_ += bytes;
}

int TcpStream::ReadNow(std::span<std::byte> buffer) {
  CHECK(!reading_ && !buffer.empty());
  // The kernel would still hand out what it had received.
  if (shut_down_) return 0;
  StartTurn();
  const size_t most = LeftOfTurn();
  if (most == 0 || took_all_) return -EAGAIN;
  const size_t asked = std::min(most, buffer.size());
  const ssize_t result = recv(fd_, buffer.data(), asked, MSG_DONTWAIT);
  if (result < 0) return errno == EINTR ? -EAGAIN : -errno;
  const auto count = static_cast<size_t>(result);
  bytes_in_turn_ += std::max(count, kReadBytesMin);
  took_all_ = count != 0 && count <= kFewBytes && count < asked && Reactor::Current().alone();
  return static_cast<int>(result);
}

Task<void> TcpStream::Readable() {
  Busy busy(reading_);
  took_all_ = false;
  if (shut_down_) co_return;
  if (LeftOfTurn() == 0) {
    co_await AfterOthers();
  } else {
    // An error is for the next read to tell.
    co_await Reactor::Current().Readable(fd_);
  }
}

Task<int> TcpStream::WriteAll(std::span<iovec> pieces) {
  CHECK(!writing_);
  while (!pieces.empty()) {
    const msghdr message = MessageOf(pieces);
    const ssize_t sent = sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) return WriteByRing(pieces);
      return -errno;
    }
    CountSent(static_cast<size_t>(sent));
    const size_t taken = pieces.size();
    pieces = Consume(pieces, static_cast<size_t>(sent));
    // Less than was offered: the socket's buffer is full.
    if (taken - pieces.size() < message.msg_iovlen) return WriteByRing(pieces);
  }
  return 0;
}

Task<int> TcpStream::WriteByRing(std::span<iovec> pieces) {
  Busy busy(writing_);
  while (!pieces.empty()) {
    msghdr message = MessageOf(pieces);
    const int sent = co_await Reactor::Current().Submit([this, &message](io_uring_sqe* sqe) {
      io_uring_prep_sendmsg(sqe, fd_, &message, MSG_NOSIGNAL | MSG_WAITALL);
    });
    if (sent == -EINTR || sent == -EAGAIN) continue;
    if (sent < 0) co_return sent;
    CountSent(static_cast<size_t>(sent));
    pieces = Consume(pieces, static_cast<size_t>(sent));
  }
  co_return 0;
}

void TcpStream::Shutdown() {
  if (std::exchange(shut_down_, true)) return;
  // ENOTCONN: the peer was faster; its reader and writer are awake already.
  static_cast<void>(shutdown(fd_, SHUT_RDWR));
}

absl::Status Listener::CheckAddress(const std::string& address) { return Parse(address).status(); }

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const std::string& address,
                                                         const std::string& option) {
  ASSIGN_OR_RETURN(const SocketAddress where, Parse(address));
  const int fd = socket(where.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return BindError(address, option, errno);
  // A daemon that starts again must not wait for the connections of its predecessor to time out.
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR);
  if (where.storage.ss_family == AF_INET6) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY);
  if (bind(fd, where.get(), where.length) != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    close(fd);
    return BindError(address, option, error);
  }
  return std::unique_ptr<Listener>(new Listener(fd, LocalAddress(fd)));
}

Listener::~Listener() {
  CHECK(!accepting_);
  close(fd_);
}

Task<absl::StatusOr<std::unique_ptr<TcpStream>>> Listener::Accept() {
  Busy busy(accepting_);
  for (;;) {
    if (closed_) co_return absl::CancelledError("the listener is closed");
    const int result = co_await Reactor::Current().Submit([this](io_uring_sqe* sqe) {
      io_uring_prep_accept(sqe, fd_, nullptr, nullptr, SOCK_CLOEXEC);
    });
    if (result >= 0 && IsReserved(result)) {
      close(result);
      co_return absl::ResourceExhaustedError(
          absl::StrCat("cannot accept on ", address_, ": ", std::strerror(EMFILE)));
    }
    if (result >= 0) {
      auto stream = std::make_unique<TcpStream>(result);
      if (!closed_) co_return std::move(stream);
      continue;
    }
    switch (-result) {
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        co_return absl::ResourceExhaustedError(
            absl::StrCat("cannot accept on ", address_, ": ", std::strerror(-result)));
      case EBADF:
      case EINVAL:
      case ENOTSOCK:
        co_return absl::CancelledError("the listener is closed");
      default:
        // ECONNABORTED and the network errors of accept(2): that connection's own trouble.
        break;
    }
  }
}

void Listener::Close() {
  if (std::exchange(closed_, true)) return;
  // On a listening socket this ends the listening and wakes accept with EINVAL.
  static_cast<void>(shutdown(fd_, SHUT_RDWR));
}

}  // namespace sectormap
