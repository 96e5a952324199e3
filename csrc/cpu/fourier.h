// Discrete Fourier transforms of many rows: see fourier.cpp. How those over several axes and of long rows are made of
// them is in bindings/cpu/fourier.cpp; what has no kernel is NumPy's.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace fastdl {

// One axis of an array beside the transformed one, with its strides (bytes) in the result and in the source.
struct Beside {
  int64_t extent, to, from;
};

// How far (bytes) entry `index` of these axes, the innermost first, is from their first one.
struct Offsets {
  int64_t to = 0, from = 0;

  Offsets(std::span<const Beside> axes, int64_t index) {
    for (const Beside& axis : axes) {
      to += index % axis.extent * axis.to;
      from += index % axis.extent * axis.from;
      index /= axis.extent;
    }
  }
};

enum class Fourier { complex, real, inverse_real };  // inverse_real: half a spectrum to a real signal

constexpr int kLargestFactor = 127;
constexpr int64_t kLongestRow = 8192;  // a megabyte where 16 are side by side

inline bool has_small_factors(int64_t n) {
  for (int64_t factor = 2; factor <= kLargestFactor; ++factor)
    while (n % factor == 0) n /= factor;
  return n == 1;
}

// What the rows of a transform share: how they are taken apart and where results then are. n has small factors.
template <class T>
struct FourierPlan {
  Fourier kind;
  int64_t n;       // samples of the signal, or entries of the whole spectrum
  bool even;       // real, of even length
  int64_t length;  // of the complex transform
  std::vector<int> factors;
  std::vector<int> place;  // of entry k of the spectrum; the one that follows them is not moved
  std::vector<int> at;     // the vector of each number of a result

  std::vector<T> roots;     // exp(-2 pi i t / n), or its conjugates, in pairs
  std::vector<T> twiddles;  // for each factor r of r m entries those of p k, for p < m and 0 < k < r

  // `whole`: else for fourier_split, with the roots only
  FourierPlan(Fourier kind, int64_t n, std::vector<T> roots_of_n, bool whole = true)
      : kind(kind),
        n(n),
        even(kind != Fourier::complex && n % 2 == 0),
        length(even ? n / 2 : n),
        place(whole ? size_t(length + 1) : 0),
        roots(std::move(roots_of_n)) {
    if (!whole) return;
    int64_t have = 1, m = length;
    for (int r = 4; m > 1; r = r == 4 ? 2 : r == 2 ? 3 : r + 2)
      while (m % r == 0) {
        m /= r;
        factors.push_back(r);
        for (int64_t k = have; k < have * r; ++k) place[size_t(k)] = place[size_t(k - have)] + int(m);
        for (int64_t p = 0; p < m; ++p)
          for (int k = 1; k < r; ++k)
            for (int part = 0; part < 2; ++part)
              twiddles.push_back(roots[size_t(2 * (p * k * (n / (m * r))) + part)]);
        have *= r;
      }
    place[size_t(length)] = int(length);
    for (const int p : place) {
      at.push_back(2 * p);
      if (even || kind != Fourier::inverse_real) at.push_back(2 * p + 1);
    }
  }
};

template <class T>
struct FourierProblem {
  const FourierPlan<T>* plan;
  bool conjugate;  // of the spectrum: what `real` returns, what `inverse_real` is given
  double ends;     // the factor of entries of half a spectrum that stand for one of the whole, not for two
  double factor;   // of all
  const char* from;
  char* to;
  int64_t from_step, to_step;      // bytes, along the transformed axis
  Beside side;                     // along this axis rows are transformed side by side
  std::span<const Beside> others;  // and these are walked
};

// For n <= kLongestRow. `turns`: null, or the roots for n times the rows side by side, by whose power j k entry k of
// row j is multiplied: then this is the first half of such a transform (of its entries j, j + rows ...).
template <class T>
void fourier(const FourierProblem<T>& p, const T* turns = nullptr);

// The half spectrum of real rows of even length from the spectrum of the n / 2 complex numbers that they make up, or
// the other way (twice that), which may be in place: what `fourier` does by itself for rows that it takes whole. Of the
// plan only kind, n and roots (those up to n / 4) count; no factor.
template <class T>
void fourier_split(const FourierProblem<T>& p);

}  // namespace fastdl
