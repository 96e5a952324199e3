// Vectors of floats from and to memory in half precision: BFloat16::load(p), store(p, v), and Float16's.
// Stores round to nearest, ties to even; NaN stays NaN.
#pragma once

#include "cpu/simd/simd.h"

namespace fastdl::simd {

typedef uint16_t HalfBits __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));
using WordBits = Vec<uint32_t>;

[[gnu::always_inline]] inline WordBits load_bits(const uint16_t* p) {
#if defined(__AVX512F__)  // one instruction; the compiler would widen two halves and join them
  return (WordBits)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (WordBits)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#endif
  return __builtin_convertvector(*reinterpret_cast<const HalfBits*>(p), WordBits);
}
[[gnu::always_inline]] inline void store_bits(uint16_t* p, WordBits bits) {
  *reinterpret_cast<HalfBits*>(p) = __builtin_convertvector(bits, HalfBits);
}

// The upper half of a float.
struct BFloat16 {
  [[gnu::always_inline]] static Vec<float> load(const uint16_t* p) {
    return (Vec<float>)(load_bits(p) << 16);
  }
  // The upper half of every lane is the result.
  [[gnu::always_inline]] static WordBits rounded(Vec<float> x) {
    const WordBits bits = (WordBits)x;
    return x != x ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  }
  [[gnu::always_inline]] static void store(uint16_t* p, Vec<float> x) { store_bits(p, rounded(x) >> 16); }
#if defined(__AVX512BW__)
  // Two vectors, whose upper halves one instruction picks.
  [[gnu::always_inline]] static void store(uint16_t* p, Vec<float> x, Vec<float> y) {
    alignas(64) static constexpr uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                        23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                        45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    _mm512_storeu_si512(
        p, _mm512_permutex2var_epi16((__m512i)rounded(x), _mm512_load_si512(kUpper), (__m512i)rounded(y)));
  }
#elif defined(__AVX2__)
  // Two vectors, which one instruction packs, half by half.
  [[gnu::always_inline]] static void store(uint16_t* p, Vec<float> x, Vec<float> y) {
    const __m256i packed = _mm256_packus_epi32((__m256i)(rounded(x) >> 16), (__m256i)(rounded(y) >> 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0b11011000));
  }
#endif
};

struct Float16 {
#if defined(__AVX512F__)
  [[gnu::always_inline]] static Vec<float> load(const uint16_t* p) {
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static void store(uint16_t* p, Vec<float> x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__)
  [[gnu::always_inline]] static Vec<float> load(const uint16_t* p) {
    return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  [[gnu::always_inline]] static void store(uint16_t* p, Vec<float> x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  static Vec<float> load(const uint16_t* p) {
    const WordBits bits = load_bits(p), sign = (bits & 0x8000) << 16, size = bits & 0x7fff;
    const WordBits quiet = size > 0x7c00 ? WordBits{} + 0x400000 : WordBits{};
    const WordBits special = 0x7f800000 | (size & 0x3ff) << 13 | quiet;
    const WordBits subnormal = (WordBits)(__builtin_convertvector((Vec<int32_t>)size, Vec<float>) * 0x1p-24f);
    const WordBits normal = (size << 13) + 0x38000000;
    return (Vec<float>)(sign | (size >= 0x7c00 ? special : size < 0x400 ? subnormal : normal));
  }
  static void store(uint16_t* p, Vec<float> x) {
    const WordBits bits = (WordBits)x, sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    // 65536 and more, infinite, NaN
    const WordBits special = size > 0x7f800000 ? 0x7e00 | (size >> 13 & 0x1ff) : WordBits{} + 0x7c00;
    // Below 2^-14, the smallest normal number: in units of 2^-24
    const WordBits subnormal = (WordBits)((Vec<float>)size + 0.5f) - 0x3f000000;
    // Another bias of the exponent; 65520 and more round to the bits of infinity
    const WordBits normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    store_bits(p, sign | (size >= 0x47800000 ? special : size < 0x38800000 ? subnormal : normal));
  }
#endif
};

// p[i] = f(i), a vector of floats at a time; n is a multiple of two vectors.
template <class Format, class F>
[[gnu::always_inline]] inline void store_each(uint16_t* p, int64_t n, F f) {
  constexpr int w = kWidth<float>;
  if constexpr (requires(Vec<float> v) { Format::store(p, v, v); })
    for (int64_t i = 0; i < n; i += 2 * w) Format::store(p + i, f(i), f(i + w));
  else
    for (int64_t i = 0; i < n; i += w) Format::store(p + i, f(i));
}

}  // namespace fastdl::simd
