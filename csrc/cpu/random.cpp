// Random numbers on Philox 4x32-10 (common/philox.h): uniform, normal (Box-Muller), Bernoulli, integers,
// permutations.
//
//   normal   z0 = sqrt(-2 log u1) cos(2 pi u2), z1 = sqrt(-2 log u1) sin(2 pi u2), u1 in (0, 1], u2 in [0, 1)
//
// Work: ranges of counters over threads; an element's words depend on its position alone, so the numbers are
// the same for any number of threads, and but for the normal ones (log, sin and cos round differently with
// and without FMA) the same on every level. Passes: one write. A permutation is Fisher and Yates' shuffle, on
// one thread.
#include "cpu/random.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/runtime/threads.h"
#include "cpu/simd/math.h"
#include "cpu/simd/philox.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kGrain = 8192;  // elements worth about 10 us

// Elements of T that one vector call yields: two vectors.
template <class T>
inline constexpr int kElements = kPhiloxWords / (int(sizeof(T)) / 4);

// Writes y[0 .. n) from generate(first counter, T out[kElements<T>]), ranges of calls over threads.
template <class T, class Generate>
void fill(T* y, int64_t n, const Generate& generate) {
  constexpr int size = kElements<T>;
  const int64_t calls = ceil_div(n, size);
  parallel_for(calls, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
    for (int64_t call = begin; call < end; ++call) {
      const uint64_t counter = uint64_t(call) * kPhiloxCounters;
      T* to = y + call * size;
      if (n - call * size >= size) {
        generate(counter, to);
      } else {
        alignas(kBytes) T rest[size];
        generate(counter, rest);
        std::copy_n(rest, n - call * size, to);
      }
    }
  });
}

// Uniform numbers in [0, 1) from a vector of words; float: the upper 24 bits of each word.
[[gnu::always_inline]] inline Vec<float> unit(Vec<uint64_t> words, float) {
  return to_float<float>((Vec<int32_t>)((Vec<uint32_t>)words >> 8)) * 0x1p-24f;
}
// double: upper 53 bits of each pair, as (upper 21 bits) * 2^32 + (lower 32), both exact in the mantissa of a
// constant.
[[gnu::always_inline]] inline Vec<double> unit(Vec<uint64_t> words, double) {
  const Vec<uint64_t> bits = words >> 11;
  const Vec<double> upper = (Vec<double>)((bits >> 32) | 0x4530000000000000u) - (0x1p84 + 0x1p52);
  const Vec<double> lower = (Vec<double>)((bits & 0xffffffff) | 0x4330000000000000u);
  return (upper + lower) * 0x1p-53;
}

// One pair of normal numbers from u1 in (0, 1] and u2 in [0, 1), per lane.
template <class T>
[[gnu::always_inline]] inline void box_muller(Vec<T> u1, Vec<T> u2, Vec<T>& z0, Vec<T>& z1) {
  Vec<T> radius = log<T>(u1) * T(-2);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) radius[i] = std::sqrt(radius[i]);
  Vec<T> sine, cosine;
  sincos_2pi<T>(u2, sine, cosine);
  z0 = radius * cosine;
  z1 = radius * sine;
}

// Standard normal numbers from one vector call, in memory order.
[[gnu::always_inline]] inline void normals(const PhiloxStream& stream, uint64_t counter, Vec<float>& low,
                                           Vec<float>& high) {
  Vec<uint64_t> c[4];
  philox_lanes(stream, counter, c);
  // Two pairs per lane: (word 0, word 1) in the lower halves, (word 2, word 3) in the upper.
  const Vec<uint64_t> first = (c[0] & 0xffffffff) | (c[2] << 32), second = (c[1] & 0xffffffff) | (c[3] << 32);
  // 31 bits and half a step: log never sees zero, and the tail reaches 6.6 standard deviations.
  const Vec<float> u1 = to_float<float>((Vec<int32_t>)((Vec<uint32_t>)first >> 1)) * 0x1p-31f + 0x1p-32f;
  Vec<float> z0, z1;
  box_muller<float>(u1, unit(second, float{}), z0, z1);
  const Vec<uint64_t> b0 = (Vec<uint64_t>)z0, b1 = (Vec<uint64_t>)z1;
  Vec<uint64_t> l, h;
  interleave<uint64_t>((b0 & 0xffffffff) | (b1 << 32), (b0 >> 32) | (b1 & 0xffffffff00000000), l, h);
  low = (Vec<float>)l;
  high = (Vec<float>)h;
}
[[gnu::always_inline]] inline void normals(const PhiloxStream& stream, uint64_t counter, Vec<double>& low,
                                           Vec<double>& high) {
  Vec<uint64_t> c[4];
  philox_lanes(stream, counter, c);
  const Vec<double> u1 = 1.0 - unit((c[0] & 0xffffffff) | (c[1] << 32), double{});
  Vec<double> z0, z1;
  box_muller<double>(u1, unit((c[2] & 0xffffffff) | (c[3] << 32), double{}), z0, z1);
  interleave<double>(z0, z1, low, high);
}

// a * b + c rounded twice on every level, so that the same bits come out with and without FMA.
template <class T>
[[gnu::always_inline]] inline Vec<T> multiply_then_add(Vec<T> a, T b, T c) {
  Vec<T> product = a * b;
#if defined(__x86_64__)
  asm("" : "+v"(product));
#else
  asm("" : "+w"(product));
#endif
  return product + c;
}

}  // namespace

template <class T>
void random_uniform(T* y, int64_t n, double low, double high, Philox philox) {
  const PhiloxStream stream(philox);
  const T from = T(low), range = T(high) - T(low), bound = T(high);
  fill<T>(y, n, [=](uint64_t counter, T* to) {
    const PhiloxWords words = philox_words(stream, counter);
    for (int i = 0; i < 2; ++i) {
      const Vec<T> v = multiply_then_add<T>(unit(i == 0 ? words.low : words.high, T{}), range, from);
      store<T>(to + i * kWidth<T>, v < bound ? v : broadcast<T>(from));  // rounding may reach the bound
    }
  });
}

template <class T>
void random_normal(T* y, int64_t n, double mean, double std, Philox philox) {
  const PhiloxStream stream(philox);
  const T m = T(mean), s = T(std);
  fill<T>(y, n, [=](uint64_t counter, T* to) {
    Vec<T> low, high;
    normals(stream, counter, low, high);
    store<T>(to, low * s + m);
    store<T>(to + kWidth<T>, high * s + m);
  });
}

template <class T>
void random_bernoulli(T* y, const T* p, int64_t n, Philox philox) {
  random_uniform<T>(y, n, 0, 1, philox);
  parallel_for(n, kGrain * 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = y[i] < p[i] ? T(1) : T(0);
  });
}

void random_integers(int64_t* y, int64_t n, int64_t low, uint64_t range, Philox philox) {
  const PhiloxStream stream(philox);
  fill<int64_t>(y, n, [=](uint64_t counter, int64_t* to) {
    const PhiloxWords words = philox_words(stream, counter);
    uint64_t bits[kElements<int64_t>];
    store<uint64_t>(bits, words.low);
    store<uint64_t>(bits + kPhiloxCounters, words.high);
    for (int i = 0; i < kElements<int64_t>; ++i) {
      const uint64_t number =
          range == 0 ? bits[i] : uint64_t((static_cast<unsigned __int128>(bits[i]) * range) >> 64);
      to[i] = int64_t(uint64_t(low) + number);
    }
  });
}

void random_permutation(int64_t* y, int64_t n, Philox philox) {
  const PhiloxStream stream(philox);
  std::iota(y, y + n, int64_t{0});
  uint64_t bits[kElements<int64_t>];
  for (int64_t i = 0; i + 1 < n; ++i) {  // position i receives one of the n - i left
    const int lane = int(i % kElements<int64_t>);
    if (lane == 0) {
      const PhiloxWords words = philox_words(stream, uint64_t(i) / 2);
      store<uint64_t>(bits, words.low);
      store<uint64_t>(bits + kPhiloxCounters, words.high);
    }
    std::swap(y[i], y[i + int64_t((static_cast<unsigned __int128>(bits[lane]) * uint64_t(n - i)) >> 64)]);
  }
}

#define FASTDL_INSTANTIATE(T)                                           \
  template void random_uniform<T>(T*, int64_t, double, double, Philox); \
  template void random_normal<T>(T*, int64_t, double, double, Philox);  \
  template void random_bernoulli<T>(T*, const T*, int64_t, Philox);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
