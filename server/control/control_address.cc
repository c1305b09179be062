// SPDX-License-Identifier: Apache-2.0
#include "server/control/control_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/text.h"

namespace sectormap::control {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::string_view kTcpPrefix = "tcp:";
constexpr char kForms[] = "give unix:PATH or tcp:ADDR:PORT (loopback)";
constexpr int kPortMax = 65535;

class Socket {
 public:
  Socket(int family) : fd_(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

absl::StatusOr<ControlAddress> ParseUnix(std::string_view path) {
  if (path.starts_with("//")) path.remove_prefix(2);  // unix:///PATH is a URI, too
  if (!path.starts_with('/')) {
    return absl::InvalidArgumentError(
        absl::StrCat("--control unix:", Absl(path), ": give an absolute path"));
  }
  if (path.size() > kUnixPathBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--control unix:", Absl(path), ": a socket's path has at most ", kUnixPathBytesMax,
        " bytes, this one has ", path.size(), "; give a shorter one with --control unix:PATH"));
  }
  return ControlAddress{
      .kind = ControlAddress::Kind::kUnix, .path = std::string(path), .host = "", .port = 0};
}

bool IsLoopback(const std::string& host) {
  in_addr four{};
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
  in6_addr six{};
  return inet_pton(AF_INET6, host.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

absl::StatusOr<ControlAddress> ParseTcp(std::string_view text) {
  const size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, colon);
  int port = -1;
  if (colon == std::string_view::npos || !absl::SimpleAtoi(Absl(text.substr(colon + 1)), &port) ||
      port < 0 || port > kPortMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--control tcp:", Absl(text), ": the port is missing or wrong; ", kForms));
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const std::string address = host == "localhost" ? "127.0.0.1" : std::string(host);
  if (!IsLoopback(address)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--control tcp:", Absl(text),
        ": whoever reaches the control port may do everything, so it listens on loopback only; "
        "give tcp:127.0.0.1:PORT or unix:PATH, and reach it from elsewhere through ssh -L"));
  }
  return ControlAddress{
      .kind = ControlAddress::Kind::kTcp, .path = "", .host = address, .port = port};
}

absl::Status PrepareUnix(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--control unix:", path,
                     ": there is a file that is no socket; move it, or give another path"));
  }
  const Socket probe(AF_UNIX);
  sockaddr_un peer{};
  peer.sun_family = AF_UNIX;
  std::memcpy(peer.sun_path, path.data(), path.size());
  if (connect(probe.fd(), reinterpret_cast<const sockaddr*>(&peer), sizeof peer) == 0) {
    return absl::UnavailableError(absl::StrCat(
        "--control unix:", path, ": another process listens there; stop it, or give another path"));
  }
  if (errno != ECONNREFUSED) {
    return absl::PermissionDeniedError(absl::StrCat(
        "--control unix:", path, ": ", std::strerror(errno), "; remove it, or give another path"));
  }
  if (unlink(path.c_str()) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("--control unix:", path, " cannot be made anew: ", std::strerror(errno),
                     "; make its directory writable for this user, or give another path"));
  }
  return absl::OkStatus();
}

absl::Status PrepareTcp(const ControlAddress& address) {
  sockaddr_storage local{};
  socklen_t length = 0;
  if (auto* four = reinterpret_cast<sockaddr_in*>(&local);
      inet_pton(AF_INET, address.host.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(static_cast<uint16_t>(address.port));
    length = sizeof *four;
  } else {
    auto* six = reinterpret_cast<sockaddr_in6*>(&local);
    inet_pton(AF_INET6, address.host.c_str(), &six->sin6_addr);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(static_cast<uint16_t>(address.port));
    length = sizeof *six;
  }
  const Socket probe(local.ss_family);
  const int reuse = 1;
  setsockopt(probe.fd(), SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  if (bind(probe.fd(), reinterpret_cast<const sockaddr*>(&local), length) == 0) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("--control ", address.ToText(address.port), ": ",
                                             std::strerror(errno),
                                             "; stop what uses it, or give another port"));
}

// As the path of a URI, which is what gRPC reads: `#`, `?` and `%` mean something there, and a
// blank may not stand there (RFC 3986 §3.3).
std::string UriPath(std::string_view path) {
  std::string encoded;
  for (const char c : path) {
    const bool plain = absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                       std::string_view("/-._~").find(c) != std::string_view::npos;
    if (plain) {
      encoded += c;
    } else {
      absl::StrAppend(&encoded, "%", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return encoded;
}

}  // namespace

std::string ControlAddress::ToGrpc() const {
  if (kind == Kind::kUnix) return absl::StrCat("unix:", UriPath(path));
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

std::string ControlAddress::ToText(int bound_port) const {
  if (kind == Kind::kUnix) return absl::StrCat("unix:", path);
  ControlAddress bound = *this;
  bound.port = bound_port;
  return absl::StrCat("tcp:", bound.ToGrpc());
}

absl::StatusOr<ControlAddress> ParseControlAddress(std::string_view text) {
  if (text.starts_with(kUnixPrefix)) return ParseUnix(text.substr(kUnixPrefix.size()));
  if (text.starts_with(kTcpPrefix)) return ParseTcp(text.substr(kTcpPrefix.size()));
  return absl::InvalidArgumentError(absl::StrCat("--control ", Absl(text), ": ", kForms));
}

absl::Status PrepareToListen(const ControlAddress& address) {
  return address.kind == ControlAddress::Kind::kUnix ? PrepareUnix(address.path)
                                                     : PrepareTcp(address);
}

}  // namespace sectormap::control
