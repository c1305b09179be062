// SPDX-License-Identifier: Apache-2.0
// CommandWindow: the numbering of a session's commands (RFC 7143 §4.2.2.1): which CmdSN comes next
// and how many the initiator may send. All arithmetic is that of serial numbers (RFC 1982).
#pragma once

#include <algorithm>
#include <cstdint>

namespace sectormap::iscsi {

// Commands that a session may have at work, as long as there is memory for them. open-iscsi's
// cmds_max is 128 and Windows sends as many; a smaller window would throttle them.
inline constexpr uint32_t kCommandWindow = 128;

// a comes before b.
constexpr bool SerialLess(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

class CommandWindow {
 public:
  CommandWindow() = default;

  void Start(uint32_t first_cmd_sn) {
    expected_ = first_cmd_sn;
    told_max_ = first_cmd_sn + kCommandWindow - 1;
  }

  uint32_t expected() const { return expected_; }

  // What a PDU tells as MaxCmdSN: it never goes back (RFC 7143 §4.2.2.1), also when commands are
  // added that it did not count.
  uint32_t max() const { return told_max_; }
  void Update() {
    const uint32_t free = at_work_ < width_ ? width_ - at_work_ : 0;
    const uint32_t candidate = expected_ + free - 1;
    if (SerialLess(told_max_, candidate)) told_max_ = candidate;
  }

  // How wide it opens follows the memory there is (Session::AdjustWindow). What has been told is
  // not taken back: a narrower window opens no further until fewer commands are at work.
  uint32_t width() const { return width_; }
  void Narrow(uint32_t width) { width_ = std::clamp<uint32_t>(width, 1, width_); }
  void Widen() { width_ = std::min(width_ + 1, kCommandWindow); }

  bool Contains(uint32_t cmd_sn) const {
    return !SerialLess(cmd_sn, expected_) && !SerialLess(told_max_, cmd_sn);
  }

  // The command with the expected number has come (or never will).
  void Advance() { ++expected_; }

  // Commands that have arrived by number and whose memory is not free yet.
  void Begin() { ++at_work_; }
  void End() { --at_work_; }
  uint32_t at_work() const { return at_work_; }

 private:
  uint32_t expected_ = 0;
  uint32_t told_max_ = 0;
  uint32_t at_work_ = 0;
  uint32_t width_ = kCommandWindow;  // never 0, so that somebody is let in
};

}  // namespace sectormap::iscsi
