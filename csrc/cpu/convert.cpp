// One loop per pair of dtypes that training code converts: labels and masks to numbers, numbers to masks,
// single and double and half precision. The compiler makes vectors of them, but for float16.
//
// Work: ranges of elements. One read, one write.
#include "cpu/convert.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

struct Truth {  // one byte, 0 or 1
  uint8_t value;
};
struct Brain {  // bfloat16: the upper half of a float
  uint16_t bits;
};

inline Brain to_brain(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return {uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded)};  // NaN stays one
}

// f(begin, end) for ranges that begin at cache lines; 16384 elements are worth about 10 us.
template <class F>
void for_ranges(int64_t n, F&& f) {
  constexpr int64_t kUnit = 64, kGrain = 16384;
  parallel_for((n + kUnit - 1) / kUnit, kGrain / kUnit,
               [&](int64_t begin, int64_t end) { f(begin * kUnit, std::min(n, end * kUnit)); });
}

template <class To, class From>
bool run(void* y, const void* x, int64_t n) {
  for_ranges(n, [=](int64_t begin, int64_t end) {
    auto* __restrict to = static_cast<To*>(y);
    const auto* __restrict from = static_cast<const From*>(x);
    for (int64_t i = begin; i < end; ++i)
      if constexpr (std::is_same_v<To, Truth>)
        to[i].value = from[i] != From(0);
      else if constexpr (std::is_same_v<To, Brain>)
        to[i] = to_brain(from[i]);
      else if constexpr (std::is_same_v<From, Brain>)
        to[i] = std::bit_cast<float>(uint32_t(from[i].bits) << 16);
      else
        to[i] = To(from[i]);
  });
  return true;
}

// float16: kLanes at a time by the level's instruction.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
void narrow(uint16_t* y, const float* x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y),
                      _mm512_cvtps_ph(_mm512_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT));
}
void widen(float* y, const uint16_t* x) {
  _mm512_storeu_ps(y, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))));
}
#elif defined(__F16C__)
constexpr int kLanes = 8;
void narrow(uint16_t* y, const float* x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y),
                   _mm256_cvtps_ph(_mm256_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT));
}
void widen(float* y, const uint16_t* x) {
  _mm256_storeu_ps(y, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))));
}
#else
constexpr int kLanes = 1;
void narrow(uint16_t* y, const float* x) {
  const auto bits = std::bit_cast<uint32_t>(*x);
  const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size >= 0x47800000)  // 65536 and more, infinite, NaN
    *y = uint16_t(sign | (size > 0x7f800000 ? 0x7e00 | (size >> 13 & 0x1ff) : 0x7c00));
  else if (size < 0x38800000)  // below 2^-14, the smallest normal number: in units of 2^-24
    *y = uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000));
  else  // another bias of the exponent; 65520 and more round to the bits of infinity
    *y = uint16_t(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}
void widen(float* y, const uint16_t* x) {
  const uint32_t sign = uint32_t(*x & 0x8000) << 16, size = *x & 0x7fff;
  if (size >= 0x7c00)
    *y = std::bit_cast<float>(sign | 0x7f800000 | (size & 0x3ff) << 13 | (size > 0x7c00 ? 0x400000 : 0));
  else if (size < 0x400)
    *y = std::bit_cast<float>(sign | std::bit_cast<uint32_t>(float(size) * 0x1p-24f));
  else
    *y = std::bit_cast<float>(sign | ((size << 13) + 0x38000000));
}
#endif

template <class To, class From>
bool run_float16(void* y, const void* x, int64_t n, void (*convert)(To*, const From*)) {
  for_ranges(n, [=](int64_t begin, int64_t end) {
    auto* to = static_cast<To*>(y);
    const auto* from = static_cast<const From*>(x);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) convert(to + i, from + i);
    if (i == end) return;
    To last_to[kLanes];
    From last[kLanes] = {};
    std::memcpy(last, from + i, size_t(end - i) * sizeof(From));
    convert(last_to, last);
    std::memcpy(to + i, last_to, size_t(end - i) * sizeof(To));
  });
  return true;
}

template <class From>
bool from_number(void* y, Number to, const void* x, int64_t n) {
  switch (to) {
    case Number::boolean:
      return run<Truth, From>(y, x, n);
    case Number::int64:
      return run<int64_t, From>(y, x, n);
    case Number::float32:
      return run<float, From>(y, x, n);
    case Number::float64:
      return run<double, From>(y, x, n);
    default:
      return false;
  }
}

}  // namespace

bool convert(void* y, Number to, const void* x, Number from, int64_t n) {
  switch (from) {
    case Number::boolean:
    case Number::uint8:
      return from_number<uint8_t>(y, to, x, n);
    case Number::int32:
      return from_number<int32_t>(y, to, x, n);
    case Number::int64:
      return to == Number::int32 ? run<int32_t, int64_t>(y, x, n) : from_number<int64_t>(y, to, x, n);
    case Number::float32:
      if (to == Number::float16) return run_float16<uint16_t, float>(y, x, n, narrow);
      if (to == Number::bfloat16) return run<Brain, float>(y, x, n);
      return from_number<float>(y, to, x, n);
    case Number::float64:
      return from_number<double>(y, to, x, n);
    case Number::float16:
      return to == Number::float32 && run_float16<float, uint16_t>(y, x, n, widen);
    case Number::bfloat16:
      return to == Number::float32 && run<float, Brain>(y, x, n);
  }
  return false;
}

}  // namespace fastdl
