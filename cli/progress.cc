// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sectormap::cli {
namespace {

// Lines that do not replace each other.
constexpr absl::Duration kLineEvery = absl::Seconds(1);

std::string LeftText(int64_t seconds) {
  if (seconds < 60) return absl::StrCat(seconds, " s left");
  if (seconds < 3600) return absl::StrFormat("%d:%02d left", seconds / 60, seconds % 60);
  return absl::StrFormat("%d:%02d:%02d left", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

// One line on the screen that the next one replaces.
class Line {
 public:
  explicit Line(const Terminal& terminal) : terminal_(terminal) {}

  void Show(const std::string& text) {
    if (terminal_.out_is_terminal) {
      terminal_.out << '\r' << text;
      if (text.size() < width_) terminal_.out << std::string(width_ - text.size(), ' ');
      width_ = text.size();
    } else {
      if (text == last_ || absl::Now() < next_) return;
      next_ = absl::Now() + kLineEvery;
      last_ = text;
      terminal_.out << text << '\n';
    }
    terminal_.out.flush();
  }
  void End(const std::string& text) {
    next_ = absl::InfinitePast();
    last_.clear();
    Show(text);
    if (terminal_.out_is_terminal) terminal_.out << '\n';
  }

 private:
  const Terminal& terminal_;
  size_t width_ = 0;
  std::string last_;
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace

std::string BytesText(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  const int digits = unit == 0 || bytes >= 100 ? 0 : 1;
  return absl::StrFormat("%.*f %s", digits, bytes, kUnits[unit]);
}

std::string StateText(const v1::Operation& operation) {
  if (operation.state() == v1::Operation::STATE_RUNNING && operation.cancelling()) return "ending";
  const std::string name = v1::Operation::State_Name(operation.state());
  return absl::AsciiStrToLower(absl::StripPrefix(name, "STATE_"));
}

std::string ProgressLine(const v1::Operation& operation) {
  std::string line = absl::StrCat(operation.kind(), " ", operation.device(), ": ");
  if (operation.state() != v1::Operation::STATE_RUNNING) {
    absl::StrAppend(&line, StateText(operation));
    if (operation.total_bytes() > 0) {
      absl::StrAppend(&line, ", ", BytesText(static_cast<double>(operation.done_bytes())));
    }
    return line;
  }
  if (operation.total_bytes() == 0) return absl::StrCat(line, StateText(operation));
  const auto done = static_cast<double>(operation.done_bytes());
  const auto total = static_cast<double>(operation.total_bytes());
  // All is not done before it says so.
  const double percent = std::min(100 * done / total, 99.9);
  absl::StrAppend(&line, absl::StrFormat("%.1f %%", percent), "  ", BytesText(done), " of ",
                  BytesText(total));
  if (operation.bytes_per_second() > 0) {
    absl::StrAppend(&line, "  ", BytesText(operation.bytes_per_second()), "/s");
  }
  if (operation.has_left_seconds()) {
    absl::StrAppend(&line, "  ", LeftText(operation.left_seconds()));
  }
  if (operation.cancelling()) absl::StrAppend(&line, "  ending");
  return line;
}

ExitCode Follow(Session& session, const v1::Operation& started) {
  v1::Operation operation = started;
  Line line(session.terminal());
  v1::WatchOperationRequest request;
  request.set_id(started.id());
  const ExitCode code =
      session.Stream(absl::StrCat("operation ", started.id()),
                     &v1::Operations::Stub::WatchOperation, request, [&](const v1::Operation& now) {
                       operation = now;
                       const bool running = now.state() == v1::Operation::STATE_RUNNING;
                       if (running && !session.json()) line.Show(ProgressLine(now));
                     });
  if (code != ExitCode::kOk) return code;
  if (session.json()) {
    session.PrintJson(operation);
  } else {
    line.End(ProgressLine(operation));
  }
  if (operation.state() == v1::Operation::STATE_DONE) return ExitCode::kOk;
  if (operation.state() == v1::Operation::STATE_CANCELLED) return ExitCode::kError;
  return session.ShowError(ExitCode::kError,
                           absl::StrCat(operation.kind(), " ", operation.device(), " (operation ",
                                        operation.id(), "): ", operation.error()));
}

ExitCode ShowStarted(Session& session, const v1::Operation& started, bool no_wait) {
  if (started.id() == 0) {  // nothing was to be done
    if (session.json()) session.PrintJson(started);
    return ExitCode::kOk;
  }
  if (!no_wait) return Follow(session, started);
  if (session.json()) {
    session.PrintJson(started);
  } else {
    session.out() << started.id() << '\n';
  }
  return ExitCode::kOk;
}

}  // namespace sectormap::cli
