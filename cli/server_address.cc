// SPDX-License-Identifier: Apache-2.0
#include "cli/server_address.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sectormap::cli {
namespace {

constexpr char kTcpPrefix[] = "tcp:";  // as the daemon writes it; gRPC does without

// 0 if somebody listens there, else connect()'s errno.
int TryUnixSocket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int result = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  const int error = result == 0 ? 0 : errno;
  close(fd);
  return error;
}

// The daemon's command line that makes it listen on this socket.
std::string StartCommand(absl::string_view path) {
  absl::string_view directory = path;
  if (absl::ConsumeSuffix(&directory, "/control.sock") && !directory.empty()) {
    return absl::StrCat("sectormapd --state-dir ", directory);
  }
  return absl::StrCat("sectormapd --control unix:", path);
}

// True, with the prefix taken away, for a Unix socket.
bool ConsumeUnixPrefix(absl::string_view* uri) {
  return absl::ConsumePrefix(uri, "unix://") || absl::ConsumePrefix(uri, "unix:");
}

// As the path of a URI, which is what gRPC reads: `#`, `?` and `%` mean something there, and a
// blank may not stand there (RFC 3986 §3.3).
std::string UriPath(absl::string_view path) {
  std::string encoded;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || absl::StrContains("/-._~", c)) {
      encoded += c;
    } else {
      absl::StrAppend(&encoded, "%", absl::Hex(byte, absl::kZeroPad2));
    }
  }
  return encoded;
}

std::string WhyUnixUnreachable(const std::string& path, absl::string_view reason) {
  const std::string tried = absl::StrCat("cannot reach sectormapd at unix:", path, ": ");
  switch (const int error = TryUnixSocket(path)) {
    case ENOENT:
    case ENOTDIR:
      return absl::StrCat(tried, "there is no such socket. Start the daemon with `",
                          StartCommand(path),
                          "`, or name another one with --server or SECTORMAP_SERVER.");
    case ECONNREFUSED:
      return absl::StrCat(tried,
                          "the socket is there, but nobody listens: the daemon has ended. Start it "
                          "again with `",
                          StartCommand(path), "`.");
    case EACCES:
    case EPERM:
      return absl::StrCat(tried,
                          "permission denied. Only the user that runs sectormapd and root may use "
                          "this socket: run the command as that user, or with sudo.");
    case 0:
      return absl::StrCat(tried, reason, ". Somebody listens there: is it sectormapd?");
    default:
      return absl::StrCat(tried, std::strerror(error), ".");
  }
}

}  // namespace

std::string ServerUri(absl::string_view option, const Terminal& terminal) {
  std::string uri(option);
  if (uri.empty()) uri = terminal.environment("SECTORMAP_SERVER");
  if (uri.empty()) {
    if (terminal.is_root) {
      uri = "/var/lib/sectormap";
    } else if (const std::string state = terminal.environment("XDG_STATE_HOME");
               absl::StartsWith(state, "/")) {
      uri = state + "/sectormap";
    } else {
      // The XDG base directory specification's default; a relative path counts as unset.
      uri = terminal.environment("HOME") + "/.local/state/sectormap";
    }
    uri += "/control.sock";
  }
  const bool has_scheme = absl::StartsWith(uri, "unix:") || absl::StartsWith(uri, "tcp:");
  if (!has_scheme && absl::StrContains(uri, '/')) uri.insert(0, "unix:");
  return uri;
}

std::string GrpcTarget(absl::string_view uri) {
  absl::string_view address = uri;
  if (ConsumeUnixPrefix(&address)) return absl::StrCat("unix:", UriPath(address));
  absl::ConsumePrefix(&address, kTcpPrefix);
  return std::string(address);
}

std::string WhyUnreachable(absl::string_view uri, absl::string_view reason) {
  absl::string_view address = uri;
  if (ConsumeUnixPrefix(&address)) return WhyUnixUnreachable(std::string(address), reason);
  absl::ConsumePrefix(&address, kTcpPrefix);
  return absl::StrCat("cannot reach sectormapd at ", uri, ": ", reason,
                      ". Is it running with `--control ", kTcpPrefix, address, "`?");
}

}  // namespace sectormap::cli
