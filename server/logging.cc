// SPDX-License-Identifier: Apache-2.0
#include "server/logging.h"

#include <grpc/support/log.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "core/base/text.h"

namespace sectormap {
namespace {

// %K: syslog's priority, as sd-daemon(3) wants it in front of a line.
class PriorityFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const char* priority = "<6>";
    if (message.level <= spdlog::level::debug) priority = "<7>";
    if (message.level == spdlog::level::warn) priority = "<4>";
    if (message.level >= spdlog::level::err) priority = "<3>";
    out.append(priority, priority + 3);
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<PriorityFlag>();
  }
};

// gRPC's own complaints; its usual errors are told by status to whom they concern.
void LogGrpc(gpr_log_func_args* args) {
  spdlog::debug("event=grpc message={}", Quoted(args->message));
}

}  // namespace

void StartLogging(std::string_view level) {
  auto logger = std::make_shared<spdlog::logger>("sectormapd",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<PriorityFlag>('K');
  formatter->set_pattern(std::getenv("JOURNAL_STREAM") != nullptr
                             ? "%Klevel=%l %v"
                             : "%Y-%m-%dT%H:%M:%S.%e%z level=%l %v");
  logger->set_formatter(std::move(formatter));
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
  gpr_set_log_function(LogGrpc);
  SetLogLevel(level);
}

void SetLogLevel(std::string_view level) {
  spdlog::set_level(spdlog::level::from_str(std::string(level)));
}

}  // namespace sectormap
