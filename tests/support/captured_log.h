// SPDX-License-Identifier: Apache-2.0
// CapturedLog: what is logged while it lives, for a test to read.
#pragma once

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <sstream>
#include <string>
#include <utility>

namespace sectormap {

class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>(
        "captured", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_pattern("level=%l %v");
    spdlog::set_default_logger(std::move(logger));
  }
  // REQUIRES, like Take(): nobody logs meanwhile.
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;

  // The lines since the last call, each with its end.
  std::string Take() { return std::exchange(text_, std::ostringstream()).str(); }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
};

}  // namespace sectormap
