// Rows taken apart by the remainder of their position modulo a stride, and put together again: what strided
// access needs to become contiguous. With `s` the stride, the element at position u = q*s + r of a row that
// starts `shift` positions late (u = index + shift) lives at phases[r*pitch + q].
//
//   even, odd, zip_low, zip_high   (de)interleaving of two vectors
//   gather, gather_pairs, .._quads one element per lane, by index; two, four neighbours
//   split_row                      row -> phases; s = 1 and 2 with vectors, which may write up to two
//                                  vectors of `fill` behind the last element
//   join_row                       phases -> row
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/ceil_div.h"
#include "cpu/simd/simd.h"

namespace fastdl::simd {

template <class T, std::size_t... I>
[[gnu::always_inline]] inline Vec<T> pick(Vec<T> a, Vec<T> b, int first, std::index_sequence<I...>) {
  return first ? __builtin_shufflevector(a, b, (2 * I + 1)...) : __builtin_shufflevector(a, b, (2 * I)...);
}
template <class T, std::size_t... I>
[[gnu::always_inline]] inline Vec<T> zip(Vec<T> a, Vec<T> b, int high, std::index_sequence<I...>) {
  constexpr int w = kWidth<T>;
  return high ? __builtin_shufflevector(a, b, (w / 2 + I / 2 + (I % 2) * w)...)
              : __builtin_shufflevector(a, b, (I / 2 + (I % 2) * w)...);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> even(Vec<T> a, Vec<T> b) {
  return pick<T>(a, b, 0, std::make_index_sequence<kWidth<T>>());
}
template <class T>
[[gnu::always_inline]] inline Vec<T> odd(Vec<T> a, Vec<T> b) {
  return pick<T>(a, b, 1, std::make_index_sequence<kWidth<T>>());
}
template <class T>
[[gnu::always_inline]] inline Vec<T> zip_low(Vec<T> a, Vec<T> b) {
  return zip<T>(a, b, 0, std::make_index_sequence<kWidth<T>>());
}
template <class T>
[[gnu::always_inline]] inline Vec<T> zip_high(Vec<T> a, Vec<T> b) {
  return zip<T>(a, b, 1, std::make_index_sequence<kWidth<T>>());
}

// Every third element of three vectors, from `first` on.
template <int first, class T, std::size_t... I>
[[gnu::always_inline]] inline Vec<T> every_third(Vec<T> a, Vec<T> b, Vec<T> c, std::index_sequence<I...>) {
  constexpr int w = kWidth<T>;
  const Vec<T> two = __builtin_shufflevector(a, b, (3 * I + first < 2 * w ? 3 * I + first : 0)...);
  return __builtin_shufflevector(two, c, (3 * I + first < 2 * w ? I : 3 * I + first - w)...);
}

// p[index] for every lane.
template <class T>
[[gnu::always_inline]] inline Vec<T> gather(const T* p, Vec<Int<T>> index) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_i32gather_ps((__m512i)index, p, 4);
  else
    return (Vec<T>)_mm512_i64gather_pd((__m512i)index, p, 8);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_i32gather_ps(p, (__m256i)index, 4);
  else
    return (Vec<T>)_mm256_i64gather_pd(p, (__m256i)index, 8);
#else
  Vec<T> v;
#pragma GCC unroll 4
  for (int i = 0; i < kWidth<T>; ++i) v[i] = p[index[i]];
  return v;
#endif
}

// p[index[i]] and p[index[i] + 1] for every lane i: floats by a load for each lane, as gathering takes longer.
template <class T>
[[gnu::always_inline]] inline void gather_pairs(const T* p, const Int<T>* index, Vec<T>& first,
                                                Vec<T>& second) {
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const auto pairs = [=](int i) {  // of lanes i and i + 1
      const __m128 low = _mm_castsi128_ps(_mm_loadu_si64(p + index[i]));
      return _mm_loadh_pi(low, reinterpret_cast<const __m64*>(p + index[i + 1]));
    };
    const auto half = [=](int i) {
#if defined(__AVX512F__)
      __m512 all = _mm512_castps128_ps512(pairs(i));
      all = _mm512_insertf32x4(all, pairs(i + 2), 1);
      all = _mm512_insertf32x4(all, pairs(i + 4), 2);
      return (Vec<T>)_mm512_insertf32x4(all, pairs(i + 6), 3);
#else
      return (Vec<T>)_mm256_insertf128_ps(_mm256_castps128_ps256(pairs(i)), pairs(i + 2), 1);
#endif
    };
    const Vec<T> low = half(0), high = half(kWidth<T> / 2);
    first = even<T>(low, high), second = odd<T>(low, high);
    return;
  }
#endif
  first = gather<T>(p, load<Int<T>>(index)), second = gather<T>(p + 1, load<Int<T>>(index));
}

// In every 16 bytes the lower (or higher) halves of a and b, zipped.
template <int high, class V, std::size_t... I>
[[gnu::always_inline]] inline V zip_in_quarters(V a, V b, std::index_sequence<I...>) {
  constexpr std::size_t n = sizeof...(I), quarter = 16 / (sizeof(V) / n);
  return __builtin_shufflevector(
      a, b, (I / quarter * quarter + high * quarter / 2 + I % quarter / 2 + I % 2 * n)...);
}

// p[index[i]] to p[index[i] + 3] for every lane i: floats by a load for each lane, which is turned.
template <class T>
[[gnu::always_inline]] inline void gather_quads(const T* p, const Int<T>* index, Vec<T>* taps) {
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    Vec<T> lanes[4];  // of lane i + 4 n the four neighbours, in the quarter n of lanes[i]
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const auto quad = [=](int n) { return _mm_loadu_ps(p + index[i + 4 * n]); };
#if defined(__AVX512F__)
      __m512 all = _mm512_castps128_ps512(quad(0));
      all = _mm512_insertf32x4(all, quad(1), 1);
      all = _mm512_insertf32x4(all, quad(2), 2);
      lanes[i] = (Vec<T>)_mm512_insertf32x4(all, quad(3), 3);
#else
      lanes[i] = (Vec<T>)_mm256_insertf128_ps(_mm256_castps128_ps256(quad(0)), quad(1), 1);
#endif
    }
    // In each quarter: pairs of lanes, then the pairs' pairs.
    using Pairs = Vec<double>;
    const auto low = [](auto a, auto b) {
      return zip_in_quarters<0>(a, b, std::make_index_sequence<sizeof a / sizeof a[0]>());
    };
    const auto high = [](auto a, auto b) {
      return zip_in_quarters<1>(a, b, std::make_index_sequence<sizeof a / sizeof a[0]>());
    };
    const auto a = (Pairs)low(lanes[0], lanes[1]), b = (Pairs)low(lanes[2], lanes[3]);
    const auto c = (Pairs)high(lanes[0], lanes[1]), d = (Pairs)high(lanes[2], lanes[3]);
    taps[0] = (Vec<T>)low(a, b), taps[1] = (Vec<T>)high(a, b);
    taps[2] = (Vec<T>)low(c, d), taps[3] = (Vec<T>)high(c, d);
    return;
  }
#endif
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) taps[t] = gather<T>(p + t, load<Int<T>>(index));
}

template <class T>
[[gnu::always_inline]] inline Vec<T> iota() {
  Vec<T> v;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) v[i] = T(i);
  return v;
}

// Stores a0 b0 a1 b1 ... at p, of which n are wanted, n > 0.
template <class T>
[[gnu::always_inline]] inline void store_pairs(T* p, Vec<T> a, Vec<T> b, int64_t n) {
  constexpr int64_t w = kWidth<T>;
  const Vec<T> low = zip_low<T>(a, b), high = zip_high<T>(a, b);
  if (n >= 2 * w) {
    store<T>(p, low);
    store<T>(p + w, high);
  } else if (n > w) {
    store<T>(p, low);
    store_n(p + w, high, int(n - w));
  } else if (n == w) {
    store<T>(p, low);
  } else {
    store_n(p, low, int(n));
  }
}

// `value(i)` gives the vector at row[i ...], `value_n(i, n)` its first n lanes only.
template <class T, class Value, class ValueN>
[[gnu::always_inline]] inline void split_row(int64_t n, int64_t s, int64_t shift, T* phases, int64_t pitch,
                                             T fill, Value value, ValueN value_n) {
  constexpr int64_t w = kWidth<T>;
  const auto filled = [&](int64_t i) {
    const int64_t left = n - i;
    if (left >= w) return value(i);
    if (left <= 0) return broadcast<T>(fill);
    return iota<T>() < T(left) ? value_n(i, int(left)) : broadcast<T>(fill);
  };
  if (s == 1) {
    int64_t i = 0;
    for (; i + w <= n; i += w) store<T>(phases + shift + i, value(i));
    if (i < n) store<T>(phases + shift + i, filled(i));
  } else {  // s == 2
    T* first = phases + (shift % 2) * pitch + shift / 2;
    T* second = phases + ((shift + 1) % 2) * pitch + (shift + 1) / 2;
    const auto block = [&](int64_t i, Vec<T> a, Vec<T> b) {
      store<T>(first + i / 2, even<T>(a, b));
      store<T>(second + i / 2, odd<T>(a, b));
    };
    int64_t i = 0;
    for (; i + 2 * w <= n; i += 2 * w) block(i, value(i), value(i + w));
    if (i < n) block(i, filled(i), filled(i + w));
  }
}

template <class T>
void split_row(const T* row, int64_t n, int64_t s, int64_t shift, T* phases, int64_t pitch, T fill) {
  if (s <= 2) {
    split_row<T>(
        n, s, shift, phases, pitch, fill, [=](int64_t i) { return load<T>(row + i); },
        [=](int64_t i, int left) { return load_n(row + i, left); });
  } else {
    constexpr int64_t w = kWidth<T>;
    const Vec<Int<T>> steps = to_int<T>(iota<T>()) * Int<T>(s);
    if (s == 3 && n >= 3 * w) {
      T* to[3];
      for (int64_t r = 0; r < 3; ++r) to[r] = phases + (r + shift) % 3 * pitch + (r + shift) / 3;
      const int64_t whole = n / (3 * w) * w;
      for (int64_t q = 0; q < whole; q += w, row += 3 * w) {
        const Vec<T> a = load<T>(row), b = load<T>(row + w), c = load<T>(row + 2 * w);
        store<T>(to[0] + q, every_third<0, T>(a, b, c, std::make_index_sequence<w>()));
        store<T>(to[1] + q, every_third<1, T>(a, b, c, std::make_index_sequence<w>()));
        store<T>(to[2] + q, every_third<2, T>(a, b, c, std::make_index_sequence<w>()));
      }
      n -= 3 * whole, shift += 3 * whole;
    }
    for (int64_t first = 0; first < std::min(s, n); ++first) {  // the elements first, first + s, ...
      const int64_t u = first + shift, count = ceil_div(n - first, s);
      T* to = phases + u % s * pitch + u / s;
      int64_t k = 0;
      for (; k + w <= count; k += w) store<T>(to + k, gather<T>(row + first + k * s, steps));
      for (; k < count; ++k) to[k] = row[first + k * s];
    }
  }
}

template <class T>
void join_row(const T* phases, int64_t pitch, int64_t s, int64_t shift, T* row, int64_t n) {
  constexpr int64_t w = kWidth<T>;
  if (s == 1) {
    std::memcpy(row, phases + shift, size_t(n) * sizeof(T));
  } else if (s == 2) {
    const T* first = phases + (shift % 2) * pitch + shift / 2;
    const T* second = phases + ((shift + 1) % 2) * pitch + (shift + 1) / 2;
    int64_t i = 0;
    // Reads up to one vector behind the phases' ends: they are padded.
    for (; i < n; i += 2 * w) store_pairs<T>(row + i, load<T>(first + i / 2), load<T>(second + i / 2), n - i);
  } else {
    for (int64_t first = 0; first < std::min(s, n); ++first) {
      const int64_t u = first + shift, count = ceil_div(n - first, s);
      const T* from = phases + u % s * pitch + u / s;
      for (int64_t k = 0; k < count; ++k) row[first + k * s] = from[k];
    }
  }
}

}  // namespace fastdl::simd
