// SPDX-License-Identifier: Apache-2.0
// load_generator: an iSCSI initiator that costs so little that the target is the bottleneck.
//
// N sessions with a fixed number of commands in flight each, shared out to one or more threads. All
// commands that became free by one recv() leave in one sendmsg(); received data is counted and
// dropped. ErrorRecoveryLevel 0, LUNs below 16384. Prints one JSON object; tests/bench/measure.py
// runs it.
//
//   load_generator --url iscsi://HOST:PORT/IQN/LUN --rw randread --bs 4096 --qd 32 --sessions 1
//       [--threads 1] [--secs 5] [--warmup 0.5] [--pid PID-of-the-server] [--span BYTES]
//       [--once BYTES] [--digests] [--idle] [--gaps MICROSECONDS] [--send-max BYTES] [--slices]
//
// --rw randread | randwrite | read | write. With --pid, also the server's CPU time and memory, and
// how many cores others took meanwhile (foreign_cores): noise, if it is not near zero.
// --once: one request somewhere in each so many bytes of the LUN, in random order, and the end of
// the run when all have been answered; --secs is the most it may take. With a warm-up of 0 all
// count.
// --digests: CRC32C of headers and data, computed on what it sends. --idle: the sessions log in and
// only answer pings. --gaps: lists the times without any answer that were at least so long, as
// [start on CLOCK_MONOTONIC in seconds, length in microseconds]; with one thread. --send-max: no
// sendmsg() takes more, so that the kernel may give the core to another client between two.
// --slices: the load comes and goes as standard input says. A line with a number of seconds is a
// slice of so long: the answer, an empty line, comes when all its requests have been answered. A
// line `report` asks for the JSON object of all slices since the last one.
#include <getopt.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <random>
#include <semaphore>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "tests/bench/load_session.h"

namespace sectormap::bench {
namespace {

// Of every slice but the first one: until the caches hold again what another server took from them.
constexpr double kSliceWarmupSeconds = 0.005;

struct Memory {
  long rss_kib = 0, peak_kib = 0;
};

Memory MemoryOf(int pid) {
  Memory memory;
  if (pid == 0) return memory;
  const std::string path = "/proc/" + std::to_string(pid) + "/status";
  FILE* status = std::fopen(path.c_str(), "r");
  if (status == nullptr) Die("cannot read %s", path.c_str());
  std::array<char, 1024> text{};
  while (std::fgets(text.data(), static_cast<int>(text.size()), status) != nullptr) {
    std::sscanf(text.data(), "VmHWM: %ld", &memory.peak_kib);
    std::sscanf(text.data(), "VmRSS: %ld", &memory.rss_kib);
  }
  std::fclose(status);
  return memory;
}

// All threads, user and system, to the nanosecond.
double CpuSecondsOf(int pid) {
  if (pid == 0) return 0;
  clockid_t clock;
  timespec time{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) {
    Die("no process %d", pid);
  }
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// All processors, and what the host took from them (steal), since the machine started.
double MachineCpuSeconds() {
  FILE* stat = std::fopen("/proc/stat", "r");
  std::array<uint64_t, 8> ticks{};  // proc_stat(5): user nice system idle iowait irq softirq steal
  if (stat == nullptr ||
      std::fscanf(stat, "cpu %lu %lu %lu %lu %lu %lu %lu %lu", &ticks[0], &ticks[1], &ticks[2],
                  &ticks[3], &ticks[4], &ticks[5], &ticks[6], &ticks[7]) != 8) {
    Die("cannot read /proc/stat");
  }
  std::fclose(stat);
  const uint64_t busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7];
  return static_cast<double>(busy) / static_cast<double>(sysconf(_SC_CLK_TCK));
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
  const option known[] = {
      {"url", 1, nullptr, 'u'},      {"rw", 1, nullptr, 'r'},       {"bs", 1, nullptr, 'b'},
      {"qd", 1, nullptr, 'q'},       {"sessions", 1, nullptr, 's'}, {"secs", 1, nullptr, 't'},
      {"warmup", 1, nullptr, 'w'},   {"pid", 1, nullptr, 'p'},      {"span", 1, nullptr, 'n'},
      {"send-max", 1, nullptr, 'x'}, {"threads", 1, nullptr, 'm'},  {"digests", 0, nullptr, 'd'},
      {"idle", 0, nullptr, 'i'},     {"gaps", 1, nullptr, 'g'},     {"once", 1, nullptr, 'o'},
      {"slices", 0, nullptr, 'l'},   {nullptr, 0, nullptr, 0}};
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
      case 'x':
        options.send_max_bytes = std::strtoull(optarg, nullptr, 0);
        break;
      case 'n':
        options.span_bytes = std::strtoull(optarg, nullptr, 0);
        break;
      case 'o':
        options.once_bytes = std::strtoull(optarg, nullptr, 0);
        break;
      case 'm':
        options.threads = number();
        break;
      case 'd':
        options.digests = true;
        break;
      case 'i':
        options.idle = true;
        break;
      case 'l':
        options.slices = true;
        break;
      case 'g':
        options.gap_ns = number() * 1000ULL;
        break;
      default:
        std::exit(2);
    }
  }
  if (options.url.target.empty()) Die("--url is missing");
  if (options.block_bytes == 0 || options.queue_depth == 0 || options.sessions == 0) {
    Die("--bs, --qd and --sessions are at least 1");
  }
  if (options.threads == 0 || options.threads > options.sessions) {
    Die("--threads is between 1 and --sessions");
  }
  if (options.gap_ns != 0 && (options.threads != 1 || options.slices)) {
    Die("--gaps is for one thread, and not with --slices");
  }
  return options;
}

// One thread and its share of the sessions.
class Worker {
 public:
  Worker(const Options& options, std::span<const uint8_t> payload)
      : options_(options), payload_(payload) {}
  ~Worker() { close(epoll_); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Results& results() { return results_; }

  void AddSession(uint32_t number) {
    const auto index = static_cast<uint32_t>(sessions_.size());
    sessions_.push_back(std::make_unique<LoadSession>(options_, number, payload_, results_));
    sessions_.back()->Start();
    epoll_event event{EPOLLIN, {.u32 = index}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, sessions_.back()->fd(), &event) != 0) Die("epoll_ctl");
  }

  // Answers count from `start` to `end`.
  void Loop(uint64_t start, uint64_t end) {
    issuing_ = !options_.idle;
    sending_.resize(sessions_.size());
    for (uint32_t i = 0; i < sessions_.size(); ++i) Serve(i, true);
    for (uint64_t now = NowNs(); now < end && !Ended(); now = NowNs()) {
      results_.measuring = now >= start;
      Turn();
    }
    results_.measuring = false;
  }

  // Until nothing is under way.
  void Drain() {
    issuing_ = false;
    while (!std::ranges::all_of(sessions_, [](const auto& session) { return session->quiet(); })) {
      Turn();
    }
  }

 private:
  bool Ended() const {
    return options_.once_bytes != 0 &&
           std::ranges::all_of(sessions_, [](const auto& session) { return session->ended(); });
  }

  void Turn() {
    constexpr int kTurnMs = 20;  // the end may be as much late
    std::array<epoll_event, 64> events;
    const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), kTurnMs);
    for (int i = 0; i < count; ++i) Serve(events[i].data.u32, (events[i].events & ~EPOLLOUT) != 0);
  }

  void Serve(uint32_t index, bool readable) {
    LoadSession& session = *sessions_[index];
    if (readable) session.Receive();
    if (issuing_) session.Issue();
    session.Send();
    if (sending_[index] != session.wants_to_send()) {
      sending_[index] = session.wants_to_send();
      epoll_event event{EPOLLIN | (sending_[index] ? EPOLLOUT : 0U), {.u32 = index}};
      epoll_ctl(epoll_, EPOLL_CTL_MOD, session.fd(), &event);
    }
  }

  const Options& options_;
  const std::span<const uint8_t> payload_;
  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  std::vector<std::unique_ptr<LoadSession>> sessions_;
  std::vector<bool> sending_;
  bool issuing_ = false;
  Results results_;
};

// Runs the load for warm-up and measurement; prints the results.
class Run {
 public:
  explicit Run(const Options& options) : options_(options), payload_(options.block_bytes) {
    std::mt19937_64 random(1);  // NOLINT: the same bytes in every run
    for (uint8_t& byte : payload_) byte = static_cast<uint8_t>(random());
    for (uint32_t i = 0; i < options_.threads; ++i) {
      workers_.push_back(std::make_unique<Worker>(options_, payload_));
    }
  }

  void Execute() {
    before_ = MemoryOf(options_.server_pid);
    for (uint32_t i = 0; i < options_.sessions; ++i) workers_[i % options_.threads]->AddSession(i);
    if (options_.slices) {
      FollowInput();
    } else {
      Slice(options_.warmup_seconds, options_.seconds);
      Print();
    }
  }

 private:
  void FollowInput() {
    double warmup_seconds = options_.warmup_seconds;
    for (std::string line; std::getline(std::cin, line);) {
      if (line == "report") {
        Print();
        Forget();
      } else {
        Slice(std::exchange(warmup_seconds, kSliceWarmupSeconds), std::atof(line.c_str()));
        std::printf("\n");
      }
      std::fflush(stdout);
    }
  }

  void Slice(double warmup_seconds, double seconds) {
    const uint64_t start = NowNs() + static_cast<uint64_t>(warmup_seconds * 1e9);
    const uint64_t end = start + static_cast<uint64_t>(seconds * 1e9);
    std::counting_semaphore<> loops{0};
    std::vector<std::thread> threads;
    for (const auto& worker : workers_) {
      threads.emplace_back([this, &loops, &worker, start, end] {
        worker->Loop(start, end);
        loops.release();
        if (options_.slices) worker->Drain();
      });
    }
    std::this_thread::sleep_for(std::chrono::nanoseconds(start - std::min(start, NowNs())));
    Count(-1);
    WaitFor(loops, end);
    Count(1);
    for (std::thread& thread : threads) thread.join();
  }

  // At the start of a slice all is taken off, at its end added: what is left is what it took.
  void Count(double sign) {
    seconds_ += sign * static_cast<double>(NowNs()) / 1e9;
    machine_cpu_ += sign * MachineCpuSeconds();
    own_cpu_ += sign * CpuSecondsOf(getpid());
    server_cpu_ += sign * CpuSecondsOf(options_.server_pid);
  }

  void Forget() {
    seconds_ = machine_cpu_ = own_cpu_ = server_cpu_ = 0;
    for (const auto& worker : workers_) worker->results() = Results();
  }

  // Until `end`, or until all have ended before.
  void WaitFor(std::counting_semaphore<>& loops, uint64_t end) const {
    const std::chrono::steady_clock::time_point limit{std::chrono::nanoseconds(end)};
    for (size_t i = 0; i < workers_.size() && loops.try_acquire_until(limit); ++i) {
    }
  }

  void Print() const {
    const Memory after = MemoryOf(options_.server_pid);
    LatencyHistogram latency;
    uint64_t refused = 0;
    for (const auto& worker : workers_) {
      latency.Add(worker->results().latency);
      refused += worker->results().refused;
    }
    const auto ios = static_cast<double>(latency.total());
    const std::pair<const char*, double> fields[] = {
        {"ios", ios},
        {"refused", static_cast<double>(refused)},
        {"seconds", seconds_},
        {"iops", ios / seconds_},
        {"mib_per_second", ios * options_.block_bytes / seconds_ / (1 << 20)},
        {"mean_us", latency.mean_us()},
        {"p50_us", latency.PercentileUs(50)},
        {"p99_us", latency.PercentileUs(99)},
        {"p999_us", latency.PercentileUs(99.9)},
        {"max_us", latency.max_us()},
        {"client_cpu_seconds", own_cpu_},
        {"server_cpu_seconds", server_cpu_},
        {"server_us_per_io", ios == 0 ? 0 : server_cpu_ * 1e6 / ios},
        {"foreign_cores", (machine_cpu_ - own_cpu_ - server_cpu_) / seconds_},
        {"server_rss_before_kib", static_cast<double>(before_.rss_kib)},
        {"server_rss_kib", static_cast<double>(after.rss_kib)},
        {"server_peak_kib", static_cast<double>(after.peak_kib)}};
    const char* comma = "{";
    for (const auto& [name, value] : fields) {
      std::printf("%s\"%s\":%.9g", comma, name, value);
      comma = ",";
    }
    if (options_.gap_ns != 0) PrintGaps(workers_.front()->results().gaps);
    std::printf("}\n");
  }

  static void PrintGaps(const std::vector<Gap>& gaps) {
    std::printf(",\"gaps\":[");
    const char* comma = "";
    for (const Gap& gap : gaps) {
      std::printf("%s[%.6f,%.1f]", comma, static_cast<double>(gap.from_ns) / 1e9,
                  static_cast<double>(gap.length_ns) / 1e3);
      comma = ",";
    }
    std::printf("]");
  }

  const Options& options_;
  std::vector<uint8_t> payload_;
  std::vector<std::unique_ptr<Worker>> workers_;
  double seconds_ = 0, machine_cpu_ = 0, own_cpu_ = 0, server_cpu_ = 0;
  Memory before_;
};

}  // namespace
}  // namespace sectormap::bench

int main(int argc, char** argv) {
  const sectormap::bench::Options options = sectormap::bench::ParseOptions(argc, argv);
  sectormap::bench::Run(options).Execute();
  return 0;
}
