// y[k] = factor sum over j of x[j] w^(j k), w a primitive n-th root of unity, for many rows of complex or
// real numbers.
//
// Algorithm: with n = r m, a pass takes the r entries m apart to r sums, which it turns by powers of w: then r
// transforms of m neighbours are left (r: 4, 2 and odd primes, of which large ones cost r^2). All in place, so the order in the end is that
// of digits reversed, and rows are written from there. A vector holds the same entry of as many rows as it has
// lanes, real and imaginary parts apart: no shuffles but when rows are read and written, and the roots are
// scalars. Real rows of even length are complex ones of half of it, whose spectrum splits into those of even
// and odd samples; of odd length they are complex.
//
// Memory: each array is passed once; a buffer of n complex vectors per thread, of which parts that fit into the
// first-level cache are finished one by one. Work: groups of rows over threads.
#include "cpu/fourier.h"

#include <algorithm>

#include "cpu/gemm/pack.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/interleave.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kFirstCache = 32 << 10;

// Rows as vectors with a lane for each: `count` elements of `parts` numbers (1: real, 2: complex) of `lanes`
// rows. Elements are `step` bytes apart, rows `side` bytes.
template <class T>
struct Rows {
  using V = Vec<T>;
  static constexpr int w = kWidth<T>;
  static constexpr int64_t kSize = sizeof(T);

  // To vectors 0, pitch, 2 pitch ...
  [[gnu::noinline]] static void read(V* to, int64_t count, int parts, int pitch, const char* from,
                                     int64_t step, int64_t side, int lanes) {
    const T* rows[w];  // lanes of no row repeat the last one
    for (int lane = 0; lane < w; ++lane)
      rows[lane] = reinterpret_cast<const T*>(from + std::min(lane, lanes - 1) * side);
    const int64_t numbers = count * parts, far = step / kSize;
    if (side == parts * kSize) {
      const int first = std::min(w, parts * lanes), second = parts * lanes - first;
      for (int64_t j = 0; j < count; ++j) {
        const V low = load_n(rows[0] + j * far, first);
        if (parts == 2) {
          const V high = load_n(rows[0] + j * far + w, second);
          to[2 * j] = even<T>(low, high), to[2 * j + 1] = odd<T>(low, high);
        } else {
          to[pitch * j] = low;
        }
      }
    } else if (step == parts * kSize) {
      V v[w];
      int64_t j = 0;
      for (; j + w <= numbers; j += w) {
#pragma GCC unroll 16
        for (int lane = 0; lane < w; ++lane) v[lane] = load<T>(rows[lane] + j);
        tile::transpose<T>(v);
#pragma GCC unroll 16
        for (int i = 0; i < w; ++i) to[pitch * (j + i)] = v[i];
      }
      if (j < numbers) {
        for (int lane = 0; lane < w; ++lane) v[lane] = load_n(rows[lane] + j, int(numbers - j));
        tile::transpose<T>(v);
        for (int i = 0; j + i < numbers; ++i) to[pitch * (j + i)] = v[i];
      }
    } else {
      for (int64_t j = 0; j < numbers; ++j)
        for (int lane = 0; lane < w; ++lane) to[pitch * j][lane] = rows[lane][j / parts * far + j % parts];
    }
  }

  // Number j of a row is vector at[j].
  [[gnu::noinline]] static void write(const V* from, const int* at, int64_t count, int parts, char* to,
                                      int64_t step, int64_t side, int lanes) {
    T* rows[w];
    for (int lane = 0; lane < w; ++lane)
      rows[lane] = reinterpret_cast<T*>(to + std::min(lane, lanes - 1) * side);
    const int64_t numbers = count * parts, far = step / kSize;
    if (side == parts * kSize) {
      for (int64_t j = 0; j < count; ++j)
        if (parts == 2)
          store_pairs<T>(rows[0] + j * far, from[at[2 * j]], from[at[2 * j + 1]], 2 * lanes);
        else
          store_n(rows[0] + j * far, from[at[j]], lanes);
    } else if (step == parts * kSize) {
      V v[w];
      int64_t j = 0;
      for (; j + w <= numbers; j += w) {
#pragma GCC unroll 16
        for (int i = 0; i < w; ++i) v[i] = from[at[j + i]];
        tile::transpose<T>(v);
        if (lanes == w) {
#pragma GCC unroll 16
          for (int lane = 0; lane < w; ++lane) store<T>(rows[lane] + j, v[lane]);
        } else {
          for (int lane = 0; lane < lanes; ++lane) store<T>(rows[lane] + j, v[lane]);
        }
      }
      if (j < numbers) {
        for (int i = 0; i < w; ++i) v[i] = from[at[std::min(j + i, numbers - 1)]];
        tile::transpose<T>(v);
        for (int lane = 0; lane < lanes; ++lane) store_n(rows[lane] + j, v[lane], int(numbers - j));
      }
    } else {
      for (int64_t j = 0; j < numbers; ++j)
        for (int lane = 0; lane < lanes; ++lane) rows[lane][j / parts * far + j % parts] = from[at[j]][lane];
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
      for (int i = 1, t = k; 2 * i < r; ++i, t = t + k < r ? t + k : t + k - r) {  // t = i k mod r
        const T* of = root + t * far;
        even += of[0] * plus[2 * i - 2], even_i += of[0] * plus[2 * i - 1];
        odd += of[1] * minus[2 * i - 2], odd_i += of[1] * minus[2 * i - 1];
      }
      y[2 * k] = even - odd_i, y[2 * k + 1] = even_i + odd;
      y[2 * (r - k)] = even + odd_i, y[2 * (r - k) + 1] = even_i - odd;
    }
  }
}

// In each of `blocks` blocks of r m entries. R: r where that is known, else 0.
template <int R, class T>
[[gnu::noinline]] void pass(int factor, int64_t m, int64_t blocks, Vec<T>* x, const T* twiddles,
                            const T* root, int64_t far) {
  using V = Vec<T>;
  const int r = R ? R : factor;
  for (int64_t block = 0; block < blocks; ++block, x += 2 * r * m) {
    const T* twiddle = twiddles;
    for (int64_t p = 0; p < m; ++p, twiddle += 2 * (r - 1)) {
      constexpr int kMost = R ? R : kLargestFactor;
      V a[2 * kMost], b[2 * kMost];
      V* const entry = x + 2 * p;
#pragma GCC unroll 7
      for (int i = 0; i < r; ++i) a[2 * i] = entry[2 * m * i], a[2 * i + 1] = entry[2 * m * i + 1];
      sums<R>(r, a, b, root, far);
      entry[0] = b[0], entry[1] = b[1];
#pragma GCC unroll 6
      for (int k = 1; k < r; ++k) {
        const V re = b[2 * k], im = b[2 * k + 1];
        V* const to = entry + 2 * m * k;
        if (p > 0) {
          const T c = twiddle[2 * k - 2], s = twiddle[2 * k - 1];
          to[0] = re * c - im * s;
          to[1] = re * s + im * c;
        } else {
          to[0] = re, to[1] = im;
        }
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

// The transform of a block of n entries, by the plan's factors from `first` on.
template <class T>
void transform(const FourierPlan<T>& plan, size_t first, int64_t n, Vec<T>* x, const T* twiddles) {
  int64_t blocks = 1;
  for (size_t i = first; i < plan.factors.size(); ++i) {
    const int r = plan.factors[i];
    const bool large = 2 * n * int64_t(sizeof(Vec<T>)) > kFirstCache;
    n /= r;
    pass_of<T>(r)(r, n, blocks, x, twiddles, plan.roots.data(), plan.n / r * 2);
    twiddles += 2 * (r - 1) * n;
    if (large) {  // the parts one by one
      for (int k = 0; k < r; ++k) transform<T>(plan, i + 1, n, x + 2 * n * k, twiddles);
      return;
    }
    blocks *= r;
  }
}

// The spectrum of 2 m real numbers, m + 1 entries, from that of the m complex ones that they make up, or the other
// way (twice that): entries k and m - k at a time, in place.
template <class T, class At>
void split(int64_t m, Vec<T>* z, At at, const T* roots, bool inverse) {
  using V = Vec<T>;
  const V first = z[0], first_i = inverse ? z[2 * at(m)] : z[1];
  z[0] = first + first_i;
  z[1] = inverse ? first - first_i : V{};
  if (!inverse) z[2 * at(m)] = first - first_i, z[2 * at(m) + 1] = V{};
  const T half = inverse ? 1 : T(0.5), sign = inverse ? -1 : 1;
  for (int64_t k = 1; 2 * k <= m; ++k) {
    V *a = z + 2 * at(k), *b = z + 2 * at(m - k);
    const V even = half * (a[0] + b[0]), even_i = half * (a[1] - b[1]);
    const V d = half * (a[0] - b[0]), d_i = half * (a[1] + b[1]);
    // odd = -i d, times the root; the other way i times d times the root
    const T c = sign * roots[2 * k], s = sign * roots[2 * k + 1];
    const V odd = c * d_i + s * d, odd_i = s * d_i - c * d;
    b[0] = even - odd, b[1] = odd_i - even_i;
    a[0] = even + odd, a[1] = even_i + odd_i;
  }
}

// Entry k of the row in each lane is turned by that lane's root to the power k: kStep powers next to each other, times
// every kStep-th one.
template <class T>
void turn(int64_t n, Vec<T>* x, const int* place, const T* roots, Vec<Int<T>> lane, Vec<T>* spare) {
  using V = Vec<T>;
  constexpr int64_t kStep = 16;
  V* const far = spare + 2 * kStep;
  const auto power = [&](int64_t k, V* to) {
    to[0] = gather<T>(roots, lane * Int<T>(2 * k));
    to[1] = gather<T>(roots + 1, lane * Int<T>(2 * k));
  };
  for (int64_t k = 0; k < std::min(n, kStep); ++k) power(k, spare + 2 * k);
  for (int64_t k = 0; k < n; k += kStep) power(k, far + k / kStep * 2);
  for (int64_t k = 0; k < n; ++k) {
    const V *a = spare + k % kStep * 2, *b = far + k / kStep * 2;
    const V c = a[0] * b[0] - a[1] * b[1], s = a[0] * b[1] + a[1] * b[0];
    V* const z = x + 2 * place[k];
    const V re = z[0], im = z[1];
    z[0] = re * c - im * s, z[1] = re * s + im * c;
  }
}

template <class T>
void scale(Vec<T>* z, int64_t count, int64_t step, double by) {
  if (by != 1)
    for (int64_t i = 0; i < count; ++i) z[i * step] *= T(by);
}

// One group of rows.
template <class T>
void group(const FourierProblem<T>& p, const T* turns, int64_t first, const char* from, char* to, int lanes,
           Vec<T>* x) {
  using V = Vec<T>;
  const FourierPlan<T>& plan = *p.plan;
  const T* const roots = plan.roots.data();
  const int64_t n = plan.n, half = n / 2 + 1, length = plan.length;
  const auto spectrum = [&](int last) {  // the entries of half of one
    scale<T>(x, 2, 1, p.ends);
    if (n % 2 == 0) scale<T>(x + 2 * last, 2, 1, p.ends);
    if (p.conjugate) scale<T>(x + 1, plan.even ? half : length, 2, -1);
  };
  if (plan.kind == Fourier::real) {
    Rows<T>::read(x, n, 1, plan.even ? 1 : 2, from, p.from_step, p.side.from, lanes);
    if (!plan.even)
      for (int64_t j = 0; j < n; ++j) x[2 * j + 1] = V{};
  } else {
    Rows<T>::read(x, plan.kind == Fourier::complex ? n : half, 2, 1, from, p.from_step, p.side.from, lanes);
  }
  if (plan.kind == Fourier::inverse_real) {
    spectrum(int(half - 1));
    x[1] = V{};
    if (plan.even)
      split<T>(length, x, [](int64_t k) { return k; }, roots, true);
    else
      for (int64_t k = half; k < n; ++k) x[2 * k] = x[2 * (n - k)], x[2 * k + 1] = -x[2 * (n - k) + 1];
  }
  transform<T>(plan, 0, length, x, plan.twiddles.data());
  if (plan.kind == Fourier::real) {
    if (plan.even) split<T>(length, x, [&](int64_t k) { return plan.place[size_t(k)]; }, roots, false);
    spectrum(plan.place[size_t(half - 1)]);
  }
  if (turns) {
    const auto lane = to_int<T>(min(iota<T>(), broadcast<T>(T(lanes - 1)))) + Int<T>(first);
    turn<T>(n, x, plan.place.data(), turns, lane, x + 2 * (n + 2));
  }
  scale<T>(x, 2 * (length + 1), 1, p.factor);
  const bool to_real = plan.kind == Fourier::inverse_real;
  Rows<T>::write(x, plan.at.data(), to_real || plan.kind == Fourier::complex ? n : half, to_real ? 1 : 2, to,
                 p.to_step, p.side.to, lanes);
}

}  // namespace

template <class T>
void fourier(const FourierProblem<T>& p, const T* turns) {
  constexpr int w = kWidth<T>;
  const int64_t n = p.plan->n, groups = ceil_div(p.side.extent, w);
  int64_t total = groups;
  for (const Beside& axis : p.others) total *= axis.extent;
  parallel_for(total, std::max<int64_t>(1, 4096 / (n * w)), [&](int64_t begin, int64_t end) {
    const memory::Buffer<Vec<T>> x(size_t(2 * n + 4 + (turns ? n / 8 + 34 : 0)));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * w;
      const Offsets at(p.others, i / groups);
      const char* from = p.from + first * p.side.from + at.from;
      char* to = p.to + first * p.side.to + at.to;
      group<T>(p, turns, first, from, to, int(std::min<int64_t>(w, p.side.extent - first)), x);
    }
  });
}

template <class T>
void fourier_split(const FourierProblem<T>& p) {
  const T* const roots = p.plan->roots.data();
  const bool inverse = p.plan->kind == Fourier::inverse_real;
  const int64_t m = p.plan->n / 2, pairs = m / 2, pieces = pairs / 2048 + 1;
  int64_t rows = p.side.extent;
  for (const Beside& axis : p.others) rows *= axis.extent;
  const T ends = T(p.ends), mirror = p.conjugate ? -1 : 1;  // of imaginary parts of the half spectrum
  const T half = inverse ? 1 : T(0.5), sign = inverse ? -1 : 1;
  const T in = inverse ? mirror : 1, out = inverse ? 1 : mirror;
  parallel_for(rows * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t piece = i % pieces, row = i / pieces, beside = row % p.side.extent;
      const Offsets at(p.others, row / p.side.extent);
      const char* from = p.from + beside * p.side.from + at.from;
      char* to = p.to + beside * p.side.to + at.to;
      const auto x = [&](int64_t k) { return reinterpret_cast<const T*>(from + k * p.from_step); };
      const auto y = [&](int64_t k) { return reinterpret_cast<T*>(to + k * p.to_step); };
      if (piece == 0) {
        const T first = x(0)[0] * (inverse ? ends : 1), last = inverse ? x(m)[0] * ends : x(0)[1];
        y(0)[0] = (first + last) * (inverse ? 1 : ends);
        y(0)[1] = inverse ? first - last : 0;
        if (!inverse) y(m)[0] = (first - last) * ends, y(m)[1] = 0;
      }
      for (int64_t k = 1 + pairs * piece / pieces; k < 1 + pairs * (piece + 1) / pieces; ++k) {
        const T a = x(k)[0], a_i = in * x(k)[1], b = x(m - k)[0], b_i = in * x(m - k)[1];
        const T even = half * (a + b), even_i = half * (a_i - b_i), d = half * (a - b),
                d_i = half * (a_i + b_i);
        const T c = sign * roots[2 * k], s = sign * roots[2 * k + 1];
        const T odd = c * d_i + s * d, odd_i = s * d_i - c * d;
        y(m - k)[0] = even - odd, y(m - k)[1] = out * (odd_i - even_i);
        y(k)[0] = even + odd, y(k)[1] = out * (even_i + odd_i);
      }
    }
  });
}

template void fourier<float>(const FourierProblem<float>&, const float*);
template void fourier<double>(const FourierProblem<double>&, const double*);
template void fourier_split<float>(const FourierProblem<float>&);
template void fourier_split<double>(const FourierProblem<double>&);

}  // namespace fastdl
