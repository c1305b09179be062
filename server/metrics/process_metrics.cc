// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

namespace sectormap::metrics {
namespace {

std::optional<uint64_t> Number(std::string_view word) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    const size_t start = text.find_first_not_of(" \n");
    if (start == std::string_view::npos) return words;
    text.remove_prefix(start);
    const size_t end = std::min(text.find_first_of(" \n"), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::optional<uint64_t> OpenFiles() {
  std::error_code error;
  uint64_t count = 0;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
       !error && entry != end; entry.increment(error)) {
    ++count;
  }
  if (error || count == 0) return std::nullopt;
  return count - 1;  // the directory itself was open
}

}  // namespace

std::optional<ProcessStat> ParseProcessStat(std::string_view line, double ticks_per_second,
                                            uint64_t page_bytes) {
  const size_t name_end = line.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  // words[0] is field 3 of proc(5): the state.
  const std::vector<std::string_view> words = Words(line.substr(name_end + 1));
  const auto field = [&words](size_t number) -> std::optional<uint64_t> {
    if (number - 3 >= words.size()) return std::nullopt;
    return Number(words[number - 3]);
  };
  const auto user = field(14), system = field(15), threads = field(20), virtual_bytes = field(23),
             resident_pages = field(24);
  if (!user || !system || !threads || !virtual_bytes || !resident_pages) {
    return std::nullopt;
  }
  return ProcessStat{.cpu_seconds = static_cast<double>(*user + *system) / ticks_per_second,
                     .virtual_bytes = *virtual_bytes,
                     .resident_bytes = *resident_pages * page_bytes,
                     .threads = *threads};
}

void AddProcessFamilies(std::chrono::system_clock::time_point started, Families& families) {
  const auto add_gauge = [&families](std::string_view name, std::string_view help, double value) {
    Family family = Gauge(name, help);
    family.Add({}, value);
    families.Add(std::move(family));
  };
  std::string line;
  std::ifstream file("/proc/self/stat");
  std::getline(file, line);
  const auto stat = ParseProcessStat(line, static_cast<double>(sysconf(_SC_CLK_TCK)),
                                     static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
  if (stat.has_value()) {
    Family cpu = Counter("process_cpu_seconds_total", "User and system CPU time spent.");
    cpu.Add({}, stat->cpu_seconds);
    families.Add(std::move(cpu));
    add_gauge("process_resident_memory_bytes", "Resident memory size.",
              static_cast<double>(stat->resident_bytes));
    add_gauge("process_virtual_memory_bytes", "Virtual memory size.",
              static_cast<double>(stat->virtual_bytes));
    add_gauge("process_threads", "Threads of the process.", static_cast<double>(stat->threads));
  }
  add_gauge("process_start_time_seconds", "Start of the process in seconds since 1970.",
            std::chrono::duration<double>(started.time_since_epoch()).count());
  if (const auto open_files = OpenFiles()) {
    add_gauge("process_open_fds", "Open file descriptors.", static_cast<double>(*open_files));
  }
  if (rlimit limit{}; getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    add_gauge("process_max_fds", "The most file descriptors that may be open.",
              static_cast<double>(limit.rlim_cur));
  }
}

}  // namespace sectormap::metrics
