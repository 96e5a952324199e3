// The vector type of the level being compiled, and the handful of operations that the compiler's own vector
// arithmetic lacks. Vec<T> is a GCC/Clang vector: + - * / comparisons and `mask ? a : b` work as they stand,
// and `a * b + c` becomes one FMA where the level has it. To broadcast inside arithmetic write `scalar *
// vec`: the compiler folds it into the instruction (building zero + scalar instead cannot be folded).
//
//   kWidth<T>                lanes of a Vec<T>: 16/8/4 floats on avx512/avx2/baseline
//   load/store               unaligned; load_n/store_n touch only the first n < kWidth lanes (the rest reads
//                            as 0)
//   broadcast, max, min      max/min return the SECOND operand when the first is NaN (as the instruction
//                            does)
//   reduce_add, reduce_max   across lanes, fixed order
//   to_int / to_float        lane-wise conversion between T and the signed integer of the same size
//   stream_store, fence      a store that bypasses the caches, to an address aligned to the vector: for
//                            results larger than the last-level cache (spares the read of the line); fence()
//                            after a run of them
//   multiply_low             64-bit products of the lower halves of 64-bit lanes
//   interleave               a0 b0 a1 b1 ... of two vectors of 64-bit lanes
//
// No global objects with constructors and nothing but inline functions: see "Instruction-set levels" in
// docs/architecture.md.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastdl::simd {

#if defined(__AVX512F__)
inline constexpr int kBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kBytes = 32;
#else
inline constexpr int kBytes = 16;
#endif

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kBytes)));
  typedef T unaligned __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
inline constexpr int kWidth = kBytes / int(sizeof(T));

template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};
template <class T>
using Int = typename IntOf<T>::type;  // also the element type of a comparison's mask

template <class T>
[[gnu::always_inline]] inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecOf<T>::unaligned*>(p);
}
template <class T>
[[gnu::always_inline]] inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecOf<T>::unaligned*>(p) = v;
}
template <class T>
[[gnu::always_inline]] inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // x - 0 is x, also for -0: one instruction, where filling the lanes takes one each
}

#if defined(__AVX512F__)
[[gnu::always_inline]] inline Vec<float> load_n(const float* p, int n) {
  return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
[[gnu::always_inline]] inline Vec<double> load_n(const double* p, int n) {
  return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
}
[[gnu::always_inline]] inline void store_n(float* p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
[[gnu::always_inline]] inline void store_n(double* p, Vec<double> v, int n) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
}
[[gnu::always_inline]] inline Vec<float> max(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_max_ps((__m512)a, (__m512)b);
}
[[gnu::always_inline]] inline Vec<double> max(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm512_max_pd((__m512d)a, (__m512d)b);
}
[[gnu::always_inline]] inline Vec<float> min(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_min_ps((__m512)a, (__m512)b);
}
[[gnu::always_inline]] inline Vec<double> min(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm512_min_pd((__m512d)a, (__m512d)b);
}
#else
#if defined(__AVX2__)
// The first n lanes as a mask: a window on this row. Where n is a constant, plain moves are cheaper.
inline constexpr int32_t kLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
template <class T>
[[gnu::always_inline]] inline __m256i first_lanes(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLanes + 8 - n * int(sizeof(T) / 4)));
}
[[gnu::always_inline]] inline Vec<float> masked_load(const float* p, int n) {
  return (Vec<float>)_mm256_maskload_ps(p, first_lanes<float>(n));
}
[[gnu::always_inline]] inline Vec<double> masked_load(const double* p, int n) {
  return (Vec<double>)_mm256_maskload_pd(p, first_lanes<double>(n));
}
// Halves, quarters and single lanes: a masked store takes AMD's processors three times as long.
[[gnu::always_inline]] inline void masked_store(float* p, Vec<float> v, int n) {
  if (n >= kWidth<float>) return store<float>(p, v);
  __m128 part = _mm256_castps256_ps128((__m256)v);
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps((__m256)v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
}
[[gnu::always_inline]] inline void masked_store(double* p, Vec<double> v, int n) {
  if (n >= kWidth<double>) return store<double>(p, v);
  __m128d part = _mm256_castpd256_pd128((__m256d)v);
  if (n & 2) {
    _mm_storeu_pd(p, part);
    part = _mm256_extractf128_pd((__m256d)v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, part);
}
#else
// No masks here: a branch per case, which is still cheaper than a call of memcpy.
template <class T>
[[gnu::always_inline]] inline Vec<T> masked_load(const T* p, int n) {
  Vec<T> v{};
  if (n == kWidth<T>) return load(p);
  if (n > 0) v[0] = p[0];
  if constexpr (kWidth<T> == 4) {
    if (n > 1) v[1] = p[1];
    if (n > 2) v[2] = p[2];
  }
  return v;
}
template <class T>
[[gnu::always_inline]] inline void masked_store(T* p, Vec<T> v, int n) {
  if (n == kWidth<T>) return store<T>(p, v);
  if (n > 0) p[0] = v[0];
  if constexpr (kWidth<T> == 4) {
    if (n > 1) p[1] = v[1];
    if (n > 2) p[2] = v[2];
  }
}
#endif
template <class T>
[[gnu::always_inline]] inline Vec<T> load_n(const T* p, int n) {
  if (!__builtin_constant_p(n)) return masked_load(p, n);
  Vec<T> v{};
  std::memcpy(&v, p, size_t(n) * sizeof(T));
  return v;
}
template <class T>
[[gnu::always_inline]] inline void store_n(T* p, Vec<T> v, int n) {
  if (!__builtin_constant_p(n)) return masked_store(p, v, n);
  std::memcpy(p, &v, size_t(n) * sizeof(T));
}
#if defined(__AVX2__)
[[gnu::always_inline]] inline Vec<float> max(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm256_max_ps((__m256)a, (__m256)b);
}
[[gnu::always_inline]] inline Vec<double> max(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm256_max_pd((__m256d)a, (__m256d)b);
}
[[gnu::always_inline]] inline Vec<float> min(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm256_min_ps((__m256)a, (__m256)b);
}
[[gnu::always_inline]] inline Vec<double> min(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm256_min_pd((__m256d)a, (__m256d)b);
}
#elif defined(__x86_64__)
[[gnu::always_inline]] inline Vec<float> max(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm_max_ps((__m128)a, (__m128)b);
}
[[gnu::always_inline]] inline Vec<double> max(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm_max_pd((__m128d)a, (__m128d)b);
}
[[gnu::always_inline]] inline Vec<float> min(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm_min_ps((__m128)a, (__m128)b);
}
[[gnu::always_inline]] inline Vec<double> min(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm_min_pd((__m128d)a, (__m128d)b);
}
#else
template <class V>
[[gnu::always_inline]] inline V max(V a, V b) {
  return a > b ? a : b;
}
template <class V>
[[gnu::always_inline]] inline V min(V a, V b) {
  return a < b ? a : b;
}
#endif
#endif

// The sum of N lanes: lower half plus upper half, again and again. The order is fixed by the width alone.
template <int N, class V, std::size_t... I>
[[gnu::always_inline]] inline auto fold_halves(V v, std::index_sequence<I...>) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    const auto half =
        __builtin_shufflevector(v, v, int(I)...) + __builtin_shufflevector(v, v, int(I + N / 2)...);
    return fold_halves<N / 2>(half, std::make_index_sequence<N / 4>());
  }
}
template <class T>
[[gnu::always_inline]] inline T reduce_add(Vec<T> v) {
  return fold_halves<kWidth<T>>(v, std::make_index_sequence<kWidth<T> / 2>());
}
template <int N, class V, std::size_t... I>
[[gnu::always_inline]] inline auto max_halves(V v, std::index_sequence<I...>) {
  if constexpr (N == 2) {
    return v[0] > v[1] ? v[0] : v[1];
  } else {
    const auto low = __builtin_shufflevector(v, v, int(I)...),
               high = __builtin_shufflevector(v, v, int(I + N / 2)...);
    return max_halves<N / 2>(low > high ? low : high, std::make_index_sequence<N / 4>());
  }
}
template <class T>
[[gnu::always_inline]] inline T reduce_max(Vec<T> v) {
  return max_halves<kWidth<T>>(v, std::make_index_sequence<kWidth<T> / 2>());
}

#if defined(__AVX512F__)
template <class T>
[[gnu::always_inline]] inline void stream_store(T* p, Vec<T> v) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
}
[[gnu::always_inline]] inline Vec<uint64_t> multiply_low(Vec<uint64_t> a, Vec<uint64_t> b) {
  return (Vec<uint64_t>)_mm512_mul_epu32((__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
template <class T>
[[gnu::always_inline]] inline void stream_store(T* p, Vec<T> v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
}
[[gnu::always_inline]] inline Vec<uint64_t> multiply_low(Vec<uint64_t> a, Vec<uint64_t> b) {
  return (Vec<uint64_t>)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
#elif defined(__x86_64__)
template <class T>
[[gnu::always_inline]] inline void stream_store(T* p, Vec<T> v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
}
[[gnu::always_inline]] inline Vec<uint64_t> multiply_low(Vec<uint64_t> a, Vec<uint64_t> b) {
  return (Vec<uint64_t>)_mm_mul_epu32((__m128i)a, (__m128i)b);
}
#else
template <class T>
[[gnu::always_inline]] inline void stream_store(T* p, Vec<T> v) {
  store<T>(p, v);
}
[[gnu::always_inline]] inline Vec<uint64_t> multiply_low(Vec<uint64_t> a, Vec<uint64_t> b) {
  return (a & 0xffffffff) * (b & 0xffffffff);
}
#endif
// Asks for the line a page ahead of p. Where a vector costs as much arithmetic as memory, the instruction
// window is too short to reach the next misses, and the hardware starts anew at each page: without this,
// memory and arithmetic add up instead of overlapping. Behind an array's end it does nothing.
template <class T>
[[gnu::always_inline]] inline void prefetch_ahead(const T* p) {
  __builtin_prefetch(p + 4096 / sizeof(T));
}
[[gnu::always_inline]] inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T>  // T of 8 bytes
[[gnu::always_inline]] inline void interleave(Vec<T> a, Vec<T> b, Vec<T>& low, Vec<T>& high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  low = __builtin_shufflevector(a, b, 0, 2);
  high = __builtin_shufflevector(a, b, 1, 3);
#endif
}

// Is any lane of a comparison's result true?
template <class Mask>
[[gnu::always_inline]] inline bool any(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  const auto words = (Vec<int64_t>)mask;
  return (words[0] | words[1]) != 0;
#endif
}

// y, but NaN where x is: below AVX-512 a mask is a vector, and choosing by it takes three instructions.
template <class V>
[[gnu::always_inline]] inline V nan_of(V x, V y) {
#if defined(__AVX512F__)
  return x != x ? x : y;
#else
  return (V)((x != x) | (decltype(x != x))y);
#endif
}

// Integer lanes from and to numbers of fewer bytes, of which at most `n` are read or written. By the levels' own
// instructions: the compiler takes __builtin_convertvector of bytes apart, lane by lane.
template <class T, class Small>
[[gnu::always_inline]] inline Vec<Int<T>> load_small(const Small* p, int64_t n) {
  typedef Small Lanes __attribute__((vector_size(sizeof(Small) * kWidth<T>)));
  Lanes lanes{};
  if (n >= kWidth<T>)
    std::memcpy(&lanes, p, sizeof lanes);
  else
    std::memcpy(&lanes, p, sizeof(Small) * size_t(n));
#if defined(__x86_64__)
  if constexpr (sizeof(Small) == 1) {
    __m128i bytes{};
    std::memcpy(&bytes, &lanes, sizeof lanes);
    constexpr bool four = sizeof(T) == 4;
#if defined(__AVX512F__)
    return (Vec<Int<T>>)(four ? _mm512_cvtepu8_epi32(bytes) : _mm512_cvtepu8_epi64(bytes));
#elif defined(__AVX2__)
    return (Vec<Int<T>>)(four ? _mm256_cvtepu8_epi32(bytes) : _mm256_cvtepu8_epi64(bytes));
#else
    return (Vec<Int<T>>)(four ? _mm_cvtepu8_epi32(bytes) : _mm_cvtepu8_epi64(bytes));
#endif
  }
#endif
  return __builtin_convertvector(lanes, Vec<Int<T>>);
}
template <class T, class Small>
[[gnu::always_inline]] inline void store_small(Small* p, Vec<Int<T>> v, int64_t n) {
#if defined(__AVX512F__)
  typedef Small Lanes __attribute__((vector_size(sizeof(Small) * kWidth<T>)));
  const Lanes lanes = __builtin_convertvector(v, Lanes);
#else
  typedef Small Parts __attribute__((vector_size(kBytes)));
  const auto lanes = [&]<int... i>(std::integer_sequence<int, i...>) {
    return __builtin_shufflevector((Parts)v, (Parts)v, int(i * sizeof(T) / sizeof(Small))...);
  }(std::make_integer_sequence<int, kWidth<T>>());
#endif
  if (n >= kWidth<T>)
    std::memcpy(p, &lanes, sizeof lanes);
  else
    std::memcpy(p, &lanes, sizeof(Small) * size_t(n));
}

template <class T>
[[gnu::always_inline]] inline Vec<Int<T>> to_int(Vec<T> v) {
  return __builtin_convertvector(v, Vec<Int<T>>);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> to_float(Vec<Int<T>> v) {
  return __builtin_convertvector(v, Vec<T>);
}

}  // namespace fastdl::simd
