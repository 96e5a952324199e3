// A block is transposed by quads, 16 bytes of a plane: a vector takes one quad of every fourth plane (second
// in double), and as many vectors are transposed within their quads. Half of the work is loads and stores
// this way, and few elements cost no more than they must: the last quad overlaps the one before. Stores of
// whole vectors are fewer, so results use the matrix engine's transpose as long as they can.
#include "cpu/side_by_side.h"

#include <utility>

#include "cpu/gemm/pack.h"

namespace fastdl {
namespace {

using simd::kWidth;
using simd::Vec;

template <class T>
inline constexpr int kSize = 16 / int(sizeof(T));  // elements of a quad, and vectors of a transpose
template <class T>
struct QuadOf {
  typedef T type __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
};
template <class T>
using Quad = typename QuadOf<T>::type;

// Rows become columns within each quad.
template <class T, std::size_t... I>
[[gnu::always_inline]] inline void transpose(Vec<T> (&x)[kSize<T>], std::index_sequence<I...>) {
  constexpr int w = kWidth<T>;
  if constexpr (kSize<T> == 2) {
    const Vec<T> a = x[0], b = x[1];
    x[0] = __builtin_shufflevector(a, b, int(I % 2 ? w + I - 1 : I)...);
    x[1] = __builtin_shufflevector(a, b, int(I % 2 ? w + I : I + 1)...);
  } else {
    const auto low = [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) {
      return __builtin_shufflevector(a, b, int(I / 4 * 4 + I % 4 / 2 + (I % 2 ? w : 0))...);
    };
    const auto high = [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) {
      return __builtin_shufflevector(a, b, int(I / 4 * 4 + 2 + I % 4 / 2 + (I % 2 ? w : 0))...);
    };
    const auto left = [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) {
      return __builtin_shufflevector(a, b, int(I / 4 * 4 + I % 2 + (I % 4 / 2 ? w : 0))...);
    };
    const auto right = [](Vec<T> a, Vec<T> b) __attribute__((always_inline)) {
      return __builtin_shufflevector(a, b, int(I / 4 * 4 + 2 + I % 2 + (I % 4 / 2 ? w : 0))...);
    };
    const Vec<T> a = low(x[0], x[1]), b = high(x[0], x[1]), c = low(x[2], x[3]), d = high(x[2], x[3]);
    x[0] = left(a, c), x[1] = right(a, c), x[2] = left(b, d), x[3] = right(b, d);
  }
}
template <class T>
[[gnu::always_inline]] inline void transpose(Vec<T> (&x)[kSize<T>]) {
  transpose<T>(x, std::make_index_sequence<size_t(kWidth<T>)>());
}

// The vector of quads at(0), at(1), ...
template <class T, class F>
[[gnu::always_inline]] inline Vec<T> join(F&& at) {
#if defined(__AVX512F__)
  __m512 v = _mm512_castps128_ps512((__m128)at(0));
  v = _mm512_insertf32x4(v, (__m128)at(1), 1);
  v = _mm512_insertf32x4(v, (__m128)at(2), 2);
  return (Vec<T>)_mm512_insertf32x4(v, (__m128)at(3), 3);
#elif defined(__AVX2__)
  return (Vec<T>)_mm256_insertf128_ps(_mm256_castps128_ps256((__m128)at(0)), (__m128)at(1), 1);
#else
  return at(0);
#endif
}
// to(0), to(1), ... = the quads of a vector.
template <class T, class F>
[[gnu::always_inline]] inline void part(Vec<T> v, F&& to) {
#if defined(__AVX512F__)
  to(0, (Quad<T>)_mm512_castps512_ps128((__m512)v));
  to(1, (Quad<T>)_mm512_extractf32x4_ps((__m512)v, 1));
  to(2, (Quad<T>)_mm512_extractf32x4_ps((__m512)v, 2));
  to(3, (Quad<T>)_mm512_extractf32x4_ps((__m512)v, 3));
#elif defined(__AVX2__)
  to(0, (Quad<T>)_mm256_castps256_ps128((__m256)v));
  to(1, (Quad<T>)_mm256_extractf128_ps((__m256)v, 1));
#else
  to(0, v);
#endif
}

}  // namespace

template <class T>
void interleave(T* to, const T* from, int64_t plane, int count, int64_t elements) {
  constexpr int w = kWidth<T>, q = kSize<T>;
  const auto block = [=](int64_t e, auto&& quad) __attribute__((always_inline)) {
    Vec<T> x[q];
#pragma GCC unroll 4
    for (int i = 0; i < q; ++i)
      x[i] = join<T>([&](int l) __attribute__((always_inline)) { return quad(l * q + i, e); });
    transpose<T>(x);
#pragma GCC unroll 4
    for (int i = 0; i < q; ++i) simd::store<T>(to + (e + i) * w, x[i]);
  };
  const auto every = [=](auto&& quad) __attribute__((always_inline)) {
    for (int64_t e = 0; e + q <= elements; e += q) block(e, quad);
    if (elements % q) block(elements - q, quad);
  };
  const auto whole = [=](int n, int64_t e) __attribute__((always_inline)) {
    return *reinterpret_cast<const Quad<T>*>(from + n * plane + e);
  };
  if (elements < q) {
    for (int64_t e = 0; e < elements; ++e)
      for (int n = 0; n < w; ++n) to[e * w + n] = n < count ? from[n * plane + e] : T(0);
  } else if (count == w) {
    every(whole);
  } else {
    every([=](int n, int64_t e) { return n < count ? whole(n, e) : Quad<T>{}; });
  }
}

template <class T>
void deinterleave(T* to, int64_t plane, const T* from, int count, int64_t elements, T add) {
  constexpr int w = kWidth<T>, q = kSize<T>;
  const Vec<T> sum = simd::broadcast<T>(add);
  const auto change = [=](Vec<T> v)
                          __attribute__((always_inline)) { return add == 0 ? v : v + sum; };  // keeps -0
  const auto block = [=](int64_t e) __attribute__((always_inline)) {
    Vec<T> x[q];
#pragma GCC unroll 4
    for (int i = 0; i < q; ++i) x[i] = change(simd::load<T>(from + (e + i) * w));
    transpose<T>(x);
#pragma GCC unroll 4
    for (int i = 0; i < q; ++i)
      part<T>(x[i], [&](int l, Quad<T> quad) __attribute__((always_inline)) {
        const int n = l * q + i;
        if (n < count) *reinterpret_cast<Quad<T>*>(to + n * plane + e) = quad;
      });
  };
  int64_t e = 0;
  if (count == w)
    for (; e + w <= elements; e += w) {  // whole vectors of every plane: fewer stores
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) x[i] = change(simd::load<T>(from + (e + i) * w));
      tile::transpose<T>(x);
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) simd::store<T>(to + i * plane + e, x[i]);
    }
  if (elements < q) {
    for (; e < elements; ++e) {
      const Vec<T> v = change(simd::load<T>(from + e * w));
      for (int n = 0; n < count; ++n) to[n * plane + e] = v[n];
    }
    return;
  }
  for (; e + q <= elements; e += q) block(e);
  if (e < elements) block(elements - q);
}

#define FASTDL_INSTANTIATE(T)                                       \
  template void interleave<T>(T*, const T*, int64_t, int, int64_t); \
  template void deinterleave<T>(T*, int64_t, const T*, int, int64_t, T);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
