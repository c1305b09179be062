// SPDX-License-Identifier: Apache-2.0
// What the load generator speaks (RFC 7143 §11), what it was asked for, and what it saw.
#pragma once

#include <isa-l/crc.h>

#include <array>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/bench/latency_histogram.h"

namespace sectormap::bench {

inline constexpr size_t kHeaderBytes = 48;  // RFC 7143 §11.2.1
inline constexpr size_t kDigestBytes = 4;   // RFC 7143 §13.1
inline constexpr uint32_t kNoTag = 0xffffffff;

// RFC 7143 §11.2.1.2
enum Opcode : uint8_t {
  kNopOut = 0x00,
  kScsiCommand = 0x01,
  kLoginRequest = 0x03,
  kDataOut = 0x05,
  kNopIn = 0x20,
  kScsiResponse = 0x21,
  kLoginResponse = 0x23,
  kDataIn = 0x25,
  kR2t = 0x31,
  kImmediate = 0x40,
};

inline constexpr uint8_t kTaskSetFull = 0x28;  // SAM-5 §5.3.1

[[noreturn, gnu::format(printf, 1, 2)]] inline void Die(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::fputs("load_generator: ", stderr);
  std::vfprintf(stderr, format, args);
  std::fputc('\n', stderr);
  std::exit(1);
}

inline uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

using Header = std::array<uint8_t, kHeaderBytes>;

template <size_t kBytes>
void Put(uint8_t* at, uint64_t value) {
  for (size_t i = 0; i < kBytes; ++i) at[i] = static_cast<uint8_t>(value >> (8 * (kBytes - 1 - i)));
}
template <size_t kBytes>
uint64_t Get(const uint8_t* at) {
  uint64_t value = 0;
  for (size_t i = 0; i < kBytes; ++i) value = value << 8 | at[i];
  return value;
}
inline uint32_t Get32(const uint8_t* at) { return static_cast<uint32_t>(Get<4>(at)); }
inline uint32_t DataBytes(const Header& header) {
  return static_cast<uint32_t>(Get<3>(&header[5]));
}
inline uint32_t Padded(uint32_t bytes) { return (bytes + 3) & ~3U; }

// RFC 7143 §13.1: the CRC32C, its bytes in the order in which they leave.
inline std::array<uint8_t, kDigestBytes> DigestOf(const uint8_t* bytes, size_t count) {
  // ISA-L takes a pointer to non-const that it does not write through.
  const uint32_t crc =
      ~crc32_iscsi(const_cast<uint8_t*>(bytes), static_cast<int>(count), 0xffff'ffffU);
  return {static_cast<uint8_t>(crc), static_cast<uint8_t>(crc >> 8),
          static_cast<uint8_t>(crc >> 16), static_cast<uint8_t>(crc >> 24)};
}

struct Url {
  std::string host, port = "3260", target;
  uint64_t lun = 0;
};

struct Options {
  Url url;
  bool write = false, random = true, digests = false, idle = false, slices = false;
  uint32_t block_bytes = 4096, queue_depth = 32, sessions = 1, threads = 1;
  double seconds = 5, warmup_seconds = 0.5;
  uint64_t span_bytes = 0;  // 0: the whole LUN
  size_t send_max_bytes = SIZE_MAX;
  uint64_t once_bytes = 0;  // not 0: one request in each such part, then the end
  uint64_t gap_ns = 0;      // longer times without an answer are listed; 0: none
  int server_pid = 0;
};

// A time in which no command was answered, on the clock of NowNs().
struct Gap {
  uint64_t from_ns, length_ns;
};

// What the sessions of one thread saw.
struct Results {
  LatencyHistogram latency;
  std::vector<Gap> gaps;
  uint64_t last_answer_ns = 0;
  uint64_t refused = 0;  // with TASK SET FULL, and issued again
  bool measuring = false;
};

}  // namespace sectormap::bench
