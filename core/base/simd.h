// SPDX-License-Identifier: Apache-2.0
// The only file with vector intrinsics. One primitive: how many of the sorted keys in a cache line
// are less than a value. Each variant names the instruction set it needs; the portable one runs on
// every processor and is what the others are tested against. Which one is used is decided at run
// time, so one binary serves every x86-64.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#define SECTORMAP_SIMD_X86 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define SECTORMAP_SIMD_NEON 1
#endif

namespace sectormap {

inline constexpr size_t kCacheLineBytes = 64;

enum class SimdLevel : uint8_t { kPortable, kNeon, kAvx2, kAvx512 };

inline SimdLevel BestSimdLevel() {
#if defined(SECTORMAP_SIMD_X86)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("popcnt")) {
    return SimdLevel::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return SimdLevel::kAvx2;
  return SimdLevel::kPortable;
#elif defined(SECTORMAP_SIMD_NEON)
  return SimdLevel::kNeon;  // part of every arm64
#else
  return SimdLevel::kPortable;
#endif
}

// REQUIRES for all: `keys` is one aligned cache line, ascending.

template <typename Key>
inline size_t CountLessPortable(const Key* keys, Key value) {
  size_t count = 0;
  for (size_t i = 0; i < kCacheLineBytes / sizeof(Key); ++i) count += keys[i] < value;
  return count;
}

#if defined(SECTORMAP_SIMD_X86)

#define SECTORMAP_TARGET_AVX2 __attribute__((target("avx2,popcnt")))
#define SECTORMAP_TARGET_AVX512 __attribute__((target("avx512f,popcnt")))

// AVX2 compares signed numbers only: flipping the top bit of both sides keeps the order.
SECTORMAP_TARGET_AVX2 inline size_t CountLessAvx2(const uint32_t* keys, uint32_t value) {
  const __m256i flip = _mm256_set1_epi32(INT32_MIN);
  const __m256i wanted = _mm256_xor_si256(_mm256_set1_epi32(static_cast<int>(value)), flip);
  const auto* line = reinterpret_cast<const __m256i*>(keys);
  const __m256i low = _mm256_xor_si256(_mm256_load_si256(line), flip);
  const __m256i high = _mm256_xor_si256(_mm256_load_si256(line + 1), flip);
  // Two vectors of 32-bit masks become one of 16-bit masks: two bits of `less` for each key.
  const __m256i less =
      _mm256_packs_epi32(_mm256_cmpgt_epi32(wanted, low), _mm256_cmpgt_epi32(wanted, high));
  return static_cast<size_t>(_mm_popcnt_u32(static_cast<unsigned>(_mm256_movemask_epi8(less)))) / 2;
}

SECTORMAP_TARGET_AVX2 inline size_t CountLessAvx2(const uint64_t* keys, uint64_t value) {
  const __m256i flip = _mm256_set1_epi64x(INT64_MIN);
  const __m256i wanted = _mm256_xor_si256(_mm256_set1_epi64x(static_cast<int64_t>(value)), flip);
  const auto* line = reinterpret_cast<const __m256i*>(keys);
  const __m256i low = _mm256_xor_si256(_mm256_load_si256(line), flip);
  const __m256i high = _mm256_xor_si256(_mm256_load_si256(line + 1), flip);
  const __m256i less =
      _mm256_packs_epi32(_mm256_cmpgt_epi64(wanted, low), _mm256_cmpgt_epi64(wanted, high));
  return static_cast<size_t>(_mm_popcnt_u32(static_cast<unsigned>(_mm256_movemask_epi8(less)))) / 4;
}

SECTORMAP_TARGET_AVX512 inline size_t CountLessAvx512(const uint32_t* keys, uint32_t value) {
  const __mmask16 less =
      _mm512_cmplt_epu32_mask(_mm512_load_si512(keys), _mm512_set1_epi32(static_cast<int>(value)));
  return static_cast<size_t>(_mm_popcnt_u32(less));
}

SECTORMAP_TARGET_AVX512 inline size_t CountLessAvx512(const uint64_t* keys, uint64_t value) {
  const __mmask8 less = _mm512_cmplt_epu64_mask(_mm512_load_si512(keys),
                                                _mm512_set1_epi64(static_cast<int64_t>(value)));
  return static_cast<size_t>(_mm_popcnt_u32(less));
}

#elif defined(SECTORMAP_SIMD_NEON)

inline size_t CountLessNeon(const uint32_t* keys, uint32_t value) {
  const uint32x4_t wanted = vdupq_n_u32(value);
  // A mask lane is -1: subtracting counts.
  uint32x4_t count = vdupq_n_u32(0);
  for (size_t i = 0; i < 16; i += 4) {
    count = vsubq_u32(count, vcltq_u32(vld1q_u32(keys + i), wanted));
  }
  return vaddvq_u32(count);
}

inline size_t CountLessNeon(const uint64_t* keys, uint64_t value) {
  const uint64x2_t wanted = vdupq_n_u64(value);
  uint64x2_t count = vdupq_n_u64(0);
  for (size_t i = 0; i < 8; i += 2) {
    count = vsubq_u64(count, vcltq_u64(vld1q_u64(keys + i), wanted));
  }
  return vaddvq_u64(count);
}

#endif

}  // namespace sectormap
