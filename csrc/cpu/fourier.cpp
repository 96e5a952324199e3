// y[k] = factor sum over j of x[j] w^(j k), w a primitive n-th root of unity, for many rows of complex or
// real numbers.
//
// Algorithm: Stockham's, which sorts as it goes: with n = r m, one pass per factor r (4, 2, 3, 5, 7, 11, 13)
// turns rows of n into r interleaved ones of m. A vector holds the same entry of as many rows as it has lanes,
// real and imaginary parts apart: no shuffles but when rows are read and written, and the roots are scalars.
// Real rows of even length are complex ones of half of it, whose spectrum splits into those of even and odd
// samples; of odd length they are complex.
//
// Memory: each array is passed once; two buffers of n complex vectors per thread. Work: groups of rows over
// threads.
#include "cpu/fourier.h"

#include <algorithm>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;

template <class V, size_t... I>
[[gnu::always_inline]] inline void zip(V a, V b, V& low, V& high, std::index_sequence<I...>) {
  constexpr int w = sizeof...(I);
  low = __builtin_shufflevector(a, b, int(I / 2 + I % 2 * w)...);
  high = __builtin_shufflevector(a, b, int(I / 2 + I % 2 * w + w / 2)...);
}
template <class V, size_t... I>
[[gnu::always_inline]] inline void unzip(V a, V b, V& even, V& odd, std::index_sequence<I...>) {
  even = __builtin_shufflevector(a, b, int(2 * I)...);
  odd = __builtin_shufflevector(a, b, int(2 * I + 1)...);
}

// Entry j of a row of complex numbers is rows[2j] + i rows[2j + 1], a vector with a lane for each row.
template <class T>
struct Rows {
  using V = Vec<T>;
  static constexpr int w = kWidth<T>;
  static constexpr auto lanes_of = std::make_index_sequence<w>();

  static void transpose(V (&v)[w]) {
#pragma GCC unroll 4
    for (int stage = 1; stage < w; stage *= 2) {
      V t[w];
#pragma GCC unroll 8
      for (int i = 0; i < w / 2; ++i) zip(v[i], v[i + w / 2], t[2 * i], t[2 * i + 1], lanes_of);
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) v[i] = t[i];
    }
  }

  // `count` elements of `parts` numbers (1: real, 2: complex) of `lanes` rows, `step` bytes apart, rows `side`
  // bytes. Vectors of real ones are `pitch` apart.
  [[gnu::noinline]] static void read(V* to, int64_t count, int parts, int pitch, const char* from,
                                     int64_t step, int64_t side, int lanes) {
    const auto at = [&](int64_t j, int lane) {
      return reinterpret_cast<const T*>(from + j * step + lane * side);
    };
    if (side == parts * int64_t(sizeof(T))) {
      const int first = std::min(w, parts * lanes), second = parts * lanes - first;
      for (int64_t j = 0; j < count; ++j)
        if (parts == 2)
          unzip(load_n(at(j, 0), first), load_n(at(j, 0) + w, second), to[2 * j], to[2 * j + 1], lanes_of);
        else
          to[pitch * j] = load_n(at(j, 0), first);
    } else if (step == parts * int64_t(sizeof(T))) {
      for (int64_t j = 0; j < count * parts; j += w) {
        const int rest = int(std::min<int64_t>(w, count * parts - j));
        V v[w];
        for (int lane = 0; lane < w; ++lane) v[lane] = load_n(at(0, std::min(lane, lanes - 1)) + j, rest);
        transpose(v);
        for (int i = 0; i < rest; ++i) to[pitch * (j + i)] = v[i];
      }
    } else {
      for (int64_t j = 0; j < count * parts; ++j)
        for (int lane = 0; lane < w; ++lane)
          to[pitch * j][lane] = at(j / parts, std::min(lane, lanes - 1))[j % parts];
    }
  }

  [[gnu::noinline]] static void write(const V* from, int64_t count, int parts, int pitch, char* to,
                                      int64_t step, int64_t side, int lanes) {
    const auto at = [&](int64_t j, int lane) { return reinterpret_cast<T*>(to + j * step + lane * side); };
    if (side == parts * int64_t(sizeof(T))) {
      const int first = std::min(w, parts * lanes), second = parts * lanes - first;
      for (int64_t j = 0; j < count; ++j)
        if (parts == 2) {
          V low, high;
          zip(from[2 * j], from[2 * j + 1], low, high, lanes_of);
          store_n(at(j, 0), low, first);
          store_n(at(j, 0) + w, high, second);
        } else {
          store_n(at(j, 0), from[pitch * j], first);
        }
    } else if (step == parts * int64_t(sizeof(T))) {
      for (int64_t j = 0; j < count * parts; j += w) {
        const int rest = int(std::min<int64_t>(w, count * parts - j));
        V v[w];
        for (int i = 0; i < w; ++i) v[i] = from[pitch * (j + std::min(i, rest - 1))];
        transpose(v);
        for (int lane = 0; lane < lanes; ++lane) store_n(at(0, lane) + j, v[lane], rest);
      }
    } else {
      for (int64_t j = 0; j < count * parts; ++j)
        for (int lane = 0; lane < lanes; ++lane) at(j / parts, lane)[j % parts] = from[pitch * j][lane];
    }
  }
};

// The sums over r entries. `root`: where the r-th roots of unity are, `far` numbers from one to the next.
template <int R, class V, class T>
[[gnu::always_inline]] inline void sums(int r, const V* a, V* y, const T* root, int64_t far) {
  if constexpr (R == 2) {
    for (int part = 0; part < 2; ++part) {
      y[part] = a[part] + a[2 + part];
      y[2 + part] = a[part] - a[2 + part];
    }
  } else if constexpr (R == 4) {
    const T turn = root[far + 1];  // 1 or -1
    const V even = a[0] + a[4], even_i = a[1] + a[5], low = a[0] - a[4], low_i = a[1] - a[5];
    const V odd = a[2] + a[6], odd_i = a[3] + a[7], high = a[2] - a[6], high_i = a[3] - a[7];
    y[0] = even + odd, y[1] = even_i + odd_i;
    y[2] = low - turn * high_i, y[3] = low_i + turn * high;
    y[4] = even - odd, y[5] = even_i - odd_i;
    y[6] = low + turn * high_i, y[7] = low_i - turn * high;
  } else {  // odd: entries i and r - i have the same cosines, and opposite sines
    constexpr int kMost = R ? R : kLargestFactor;
    V plus[kMost + 1], minus[kMost + 1];
    y[0] = a[0], y[1] = a[1];
#pragma GCC unroll 4
    for (int i = 1; 2 * i < r; ++i)
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        plus[2 * i - 2 + part] = a[2 * i + part] + a[2 * (r - i) + part];
        minus[2 * i - 2 + part] = a[2 * i + part] - a[2 * (r - i) + part];
        y[part] += plus[2 * i - 2 + part];
      }
#pragma GCC unroll 4
    for (int k = 1; 2 * k < r; ++k) {
      V even = a[0], even_i = a[1], odd{}, odd_i{};
#pragma GCC unroll 4
      for (int i = 1; 2 * i < r; ++i) {
        const T* of = root + i * k % r * far;
        even += of[0] * plus[2 * i - 2], even_i += of[0] * plus[2 * i - 1];
        odd += of[1] * minus[2 * i - 2], odd_i += of[1] * minus[2 * i - 1];
      }
      y[2 * k] = even - odd_i, y[2 * k + 1] = even_i + odd;
      y[2 * (r - k)] = even + odd_i, y[2 * (r - k) + 1] = even_i - odd;
    }
  }
}

// `s` interleaved rows of r m entries become r s of m. R: r where that is known, else 0.
template <int R, class T>
[[gnu::noinline]] void pass(int factor, int64_t m, int64_t s, const Vec<T>* x, Vec<T>* y, const T* roots,
                            int64_t unit) {
  using V = Vec<T>;
  const int r = R ? R : factor;
  for (int64_t p = 0; p < m; ++p)
    for (int64_t q = 0; q < s; ++q) {
      constexpr int kMost = R ? R : kLargestFactor;
      V a[2 * kMost], b[2 * kMost];
#pragma GCC unroll 7
      for (int i = 0; i < r; ++i) {
        const V* from = x + 2 * (q + s * (p + m * i));
        a[2 * i] = from[0], a[2 * i + 1] = from[1];
      }
      sums<R>(r, a, b, roots, 2 * m * s * unit);
      V* to = y + 2 * (q + s * r * p);
      to[0] = b[0], to[1] = b[1];
#pragma GCC unroll 6
      for (int k = 1; k < r; ++k) {
        const V re = b[2 * k], im = b[2 * k + 1];
        if (p > 0) {
          const T* root = roots + 2 * p * k * s * unit;
          to[2 * s * k] = re * root[0] - im * root[1];
          to[2 * s * k + 1] = re * root[1] + im * root[0];
        } else {
          to[2 * s * k] = re, to[2 * s * k + 1] = im;
        }
      }
    }
}

template <class T>
auto pass_of(int factor) {
  switch (factor) {
    case 2:
      return pass<2, T>;
    case 3:
      return pass<3, T>;
    case 4:
      return pass<4, T>;
    case 5:
      return pass<5, T>;
    case 7:
      if constexpr (sizeof(T) == 4) return pass<7, T>;  // in double not worth its size
  }
  return pass<0, T>;
}

// The transform of n entries in x, by the unit-th powers of the roots; returns where it is, x or y.
template <class T>
Vec<T>* transformed(int64_t n, Vec<T>* x, Vec<T>* y, const T* roots, int64_t unit) {
  int64_t s = 1;
  for (int r : {4, 2, 3, 5, 7, 11, 13})
    while (n % r == 0) {
      n /= r;
      pass_of<T>(r)(r, n, s, x, y, roots, unit);
      std::swap(x, y);
      s *= r;
    }
  return x;
}

// Entries k and m - k of the spectrum of 2 m real numbers from that of the m complex ones that they make up,
// or the other way (twice that), after which the latter is in `z`.
template <class T>
void split(int64_t m, const Vec<T>* z, Vec<T>* y, const T* roots, bool inverse) {
  using V = Vec<T>;
  const T half = inverse ? 1 : T(0.5), sign = inverse ? -1 : 1;
  for (int64_t k = 0; k < (inverse ? m : m + 1); ++k) {
    const V *a = z + 2 * (inverse ? k : k % m), *b = z + 2 * (inverse ? m - k : (m - k) % m);
    const V even = half * (a[0] + b[0]), even_i = half * (a[1] - b[1]);
    const V d = half * (a[0] - b[0]), d_i = half * (a[1] + b[1]);
    // odd = -i d, times the root; the other way i times d times the root
    const T c = roots[2 * (k % (2 * m))], s = roots[2 * (k % (2 * m)) + 1];
    y[2 * k] = even + sign * (c * d_i + s * d);
    y[2 * k + 1] = even_i + sign * (s * d_i - c * d);
  }
}

template <class T>
void scale(Vec<T>* z, int64_t count, int64_t step, double by) {
  if (by != 1)
    for (int64_t i = 0; i < count; ++i) z[i * step] *= T(by);
}

// One group of rows.
template <class T>
void group(const FourierProblem& p, const T* roots, const char* from, char* to, int lanes, Vec<T>* x,
           Vec<T>* y) {
  using V = Vec<T>;
  const int64_t n = p.n, half = n / 2 + 1;  // entries of half a spectrum
  const bool even = p.kind != Fourier::complex && n % 2 == 0;
  const int64_t length = even ? n / 2 : n;
  const auto spectrum = [&](V* z) {  // of the entries of half of one
    scale<T>(z, 2, 1, p.ends);
    if (n % 2 == 0) scale<T>(z + 2 * (half - 1), 2, 1, p.ends);
    if (p.conjugate) scale<T>(z + 1, half, 2, -1);
  };
  if (p.kind == Fourier::real) {
    Rows<T>::read(x, n, 1, even ? 1 : 2, from, p.from_step, p.side.from, lanes);
    if (!even)
      for (int64_t j = 0; j < n; ++j) x[2 * j + 1] = V{};
  } else {
    Rows<T>::read(x, p.kind == Fourier::complex ? n : half, 2, 1, from, p.from_step, p.side.from, lanes);
  }
  if (p.kind == Fourier::inverse_real) {
    spectrum(x);
    x[1] = V{};
    if (even) {
      x[2 * length + 1] = V{};
      split<T>(length, x, y, roots, true);
      std::swap(x, y);
    } else {
      for (int64_t k = half; k < n; ++k) x[2 * k] = x[2 * (n - k)], x[2 * k + 1] = -x[2 * (n - k) + 1];
    }
  }
  V* z = transformed<T>(length, x, y, roots, even ? 2 : 1);
  if (p.kind == Fourier::real && even) {
    V* other = z == x ? y : x;
    split<T>(length, z, other, roots, false);
    z = other;
  }
  if (p.kind == Fourier::real) spectrum(z);
  scale<T>(z, 2 * (p.kind == Fourier::real ? half : length), 1, p.factor);
  if (p.kind == Fourier::inverse_real)
    Rows<T>::write(z, n, 1, even ? 1 : 2, to, p.to_step, p.side.to, lanes);
  else
    Rows<T>::write(z, p.kind == Fourier::complex ? n : half, 2, 1, to, p.to_step, p.side.to, lanes);
}

}  // namespace

template <class T>
void fourier(const FourierProblem& p, const T* roots) {
  constexpr int w = kWidth<T>;
  const int64_t groups = ceil_div(p.side.extent, w);
  int64_t total = groups;
  for (const Beside& axis : p.others) total *= axis.extent;
  parallel_for(total, std::max<int64_t>(1, 4096 / (p.n * w)), [&](int64_t begin, int64_t end) {
    const memory::Buffer<Vec<T>> x(size_t(2 * p.n + 4)), y(size_t(2 * p.n + 4));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * w;
      const char* from = p.from + first * p.side.from;
      char* to = p.to + first * p.side.to;
      int64_t rest = i / groups;
      for (const Beside& axis : p.others) {
        from += rest % axis.extent * axis.from;
        to += rest % axis.extent * axis.to;
        rest /= axis.extent;
      }
      group<T>(p, roots, from, to, int(std::min<int64_t>(w, p.side.extent - first)), x, y);
    }
  });
}

template void fourier<float>(const FourierProblem&, const float*);
template void fourier<double>(const FourierProblem&, const double*);

}  // namespace fastdl
