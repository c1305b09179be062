// SPDX-License-Identifier: Apache-2.0
// load_generator: an iSCSI initiator that costs so little that the target is the bottleneck.
//
// One thread, N sessions with a fixed number of commands in flight each. All commands that became
// free by one recv() leave in one sendmsg(); received data is counted and dropped. No digests,
// ErrorRecoveryLevel 0, LUNs below 16384. Prints one JSON object; tests/bench/compare.py runs it.
//
//   load_generator --url iscsi://HOST:PORT/IQN/LUN --rw randread --bs 4096 --qd 32 --sessions 1
//       [--secs 5] [--warmup 0.5] [--pid PID-of-the-server] [--span BYTES]
//
// --rw randread | randwrite | read | write. With --pid, also the server's CPU time and memory.
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/load_session.h"

namespace sectormap::bench {
namespace {

struct Usage {
  double cpu_seconds = 0;
  long rss_kib = 0, peak_kib = 0;
};

Usage ProcessUsage(int pid) {
  Usage usage;
  if (pid == 0) return usage;
  const std::string folder = "/proc/" + std::to_string(pid);
  std::array<char, 1024> text{};
  if (FILE* stat = std::fopen((folder + "/stat").c_str(), "r")) {
    unsigned long user = 0, system = 0;
    const size_t size = std::fread(text.data(), 1, text.size() - 1, stat);
    std::fclose(stat);
    const char* rest = std::strrchr(std::string_view(text.data(), size).data(), ')');
    if (rest == nullptr ||
        std::sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                    &system) != 2) {
      Die("cannot read %s/stat", folder.c_str());
    }
    usage.cpu_seconds =
        static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  if (FILE* status = std::fopen((folder + "/status").c_str(), "r")) {
    while (std::fgets(text.data(), static_cast<int>(text.size()), status) != nullptr) {
      std::sscanf(text.data(), "VmHWM: %ld", &usage.peak_kib);
      std::sscanf(text.data(), "VmRSS: %ld", &usage.rss_kib);
    }
    std::fclose(status);
  }
  return usage;
}

double OwnCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Url ParseUrl(std::string_view text) {
  constexpr std::string_view kScheme = "iscsi://";
  const size_t slash = text.find('/', kScheme.size());
  const size_t last = text.rfind('/');
  if (!text.starts_with(kScheme) || slash == std::string_view::npos || last == slash) {
    Die("--url iscsi://HOST:PORT/IQN/LUN");
  }
  Url url;
  url.host = text.substr(kScheme.size(), slash - kScheme.size());
  const size_t colon = url.host.rfind(':');
  if (colon != std::string::npos && url.host.back() != ']') {
    url.port = url.host.substr(colon + 1);
    url.host.resize(colon);
  }
  if (url.host.starts_with('[')) url.host = url.host.substr(1, url.host.size() - 2);
  url.target = text.substr(slash + 1, last - slash - 1);
  url.lun = std::stoul(std::string(text.substr(last + 1)));
  return url;
}

void ParsePattern(std::string_view word, Options* options) {
  options->random = word.starts_with("rand");
  options->write = word.ends_with("write");
  if (word != "read" && word != "write" && word != "randread" && word != "randwrite") {
    Die("--rw randread | randwrite | read | write");
  }
}

Options ParseOptions(int argc, char** argv) {
  const option known[] = {{"url", 1, nullptr, 'u'},      {"rw", 1, nullptr, 'r'},
                          {"bs", 1, nullptr, 'b'},       {"qd", 1, nullptr, 'q'},
                          {"sessions", 1, nullptr, 's'}, {"secs", 1, nullptr, 't'},
                          {"warmup", 1, nullptr, 'w'},   {"pid", 1, nullptr, 'p'},
                          {"span", 1, nullptr, 'n'},     {nullptr, 0, nullptr, 0}};
  Options options;
  for (int name; (name = getopt_long(argc, argv, "", known, nullptr)) != -1;) {
    const auto number = [] { return static_cast<uint32_t>(std::strtoul(optarg, nullptr, 0)); };
    switch (name) {
      case 'u':
        options.url = ParseUrl(optarg);
        break;
      case 'r':
        ParsePattern(optarg, &options);
        break;
      case 'b':
        options.block_bytes = number();
        break;
      case 'q':
        options.queue_depth = number();
        break;
      case 's':
        options.sessions = number();
        break;
      case 't':
        options.seconds = std::atof(optarg);
        break;
      case 'w':
        options.warmup_seconds = std::atof(optarg);
        break;
      case 'p':
        options.server_pid = std::atoi(optarg);
        break;
      case 'n':
        options.span_bytes = std::strtoull(optarg, nullptr, 0);
        break;
      default:
        std::exit(2);
    }
  }
  if (options.url.target.empty()) Die("--url is missing");
  if (options.block_bytes == 0 || options.queue_depth == 0 || options.sessions == 0) {
    Die("--bs, --qd and --sessions are at least 1");
  }
  return options;
}

// Runs the load for warm-up and measurement; prints the results.
class Run {
 public:
  explicit Run(const Options& options) : options_(options), payload_(options.block_bytes) {
    std::mt19937_64 random(1);  // NOLINT: the same bytes in every run
    for (uint8_t& byte : payload_) byte = static_cast<uint8_t>(random());
  }

  void Execute() {
    for (uint32_t i = 0; i < options_.sessions; ++i) {
      sessions_.push_back(std::make_unique<LoadSession>(options_, i, payload_, results_));
      sessions_.back()->Start();
      epoll_event event{EPOLLIN, {.u32 = i}};
      epoll_ctl(epoll_, EPOLL_CTL_ADD, sessions_.back()->fd(), &event);
    }
    sending_.resize(sessions_.size());
    for (uint32_t i = 0; i < sessions_.size(); ++i) Serve(i, true);
    Loop();
    Print();
  }

 private:
  void Loop() {
    const uint64_t start = NowNs() + static_cast<uint64_t>(options_.warmup_seconds * 1e9);
    const uint64_t end = start + static_cast<uint64_t>(options_.seconds * 1e9);
    for (uint64_t now = NowNs(); now < end; now = NowNs()) {
      if (!results_.measuring && now >= start) {
        results_.measuring = true;
        started_ns_ = now;
        own_cpu_ = -OwnCpuSeconds();
        server_cpu_ = -ProcessUsage(options_.server_pid).cpu_seconds;
      }
      Turn();
    }
    results_.measuring = false;
    ended_ns_ = NowNs();
    own_cpu_ += OwnCpuSeconds();
    server_ = ProcessUsage(options_.server_pid);
    server_cpu_ += server_.cpu_seconds;
  }

  void Turn() {
    std::array<epoll_event, 64> events;
    const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 200);
    for (int i = 0; i < count; ++i) Serve(events[i].data.u32, (events[i].events & ~EPOLLOUT) != 0);
  }

  void Serve(uint32_t index, bool readable) {
    LoadSession& session = *sessions_[index];
    if (readable) session.Receive();
    session.Issue();
    session.Send();
    if (sending_[index] != session.wants_to_send()) {
      sending_[index] = session.wants_to_send();
      epoll_event event{EPOLLIN | (sending_[index] ? EPOLLOUT : 0U), {.u32 = index}};
      epoll_ctl(epoll_, EPOLL_CTL_MOD, session.fd(), &event);
    }
  }

  void Print() const {
    const double seconds = static_cast<double>(ended_ns_ - started_ns_) / 1e9;
    const auto ios = static_cast<double>(results_.latency.total());
    std::printf(
        "{\"ios\":%.0f,\"seconds\":%.3f,\"iops\":%.1f,\"mib_per_second\":%.2f,\"mean_us\":%.2f,"
        "\"p50_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.1f,"
        "\"client_cpu_seconds\":%.3f,\"server_cpu_seconds\":%.3f,\"server_us_per_io\":%.3f,"
        "\"server_rss_kib\":%ld,\"server_peak_kib\":%ld}\n",
        ios, seconds, ios / seconds, ios * options_.block_bytes / seconds / (1 << 20),
        results_.latency.mean_us(), results_.latency.PercentileUs(50),
        results_.latency.PercentileUs(99), results_.latency.PercentileUs(99.9),
        results_.latency.max_us(), own_cpu_, server_cpu_, ios == 0 ? 0 : server_cpu_ * 1e6 / ios,
        server_.rss_kib, server_.peak_kib);
  }

  const Options& options_;
  std::vector<uint8_t> payload_;
  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  std::vector<std::unique_ptr<LoadSession>> sessions_;
  std::vector<bool> sending_;
  Results results_;
  uint64_t started_ns_ = 0, ended_ns_ = 0;
  double own_cpu_ = 0, server_cpu_ = 0;
  Usage server_;
};

}  // namespace
}  // namespace sectormap::bench

int main(int argc, char** argv) {
  const sectormap::bench::Options options = sectormap::bench::ParseOptions(argc, argv);
  sectormap::bench::Run(options).Execute();
  return 0;
}
