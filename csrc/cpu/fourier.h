// Discrete Fourier transforms of short rows, many of them: see fourier.cpp. Others are NumPy's
// (bindings/cpu/fourier.cpp).
#pragma once

#include <cstdint>
#include <span>

namespace fastdl {

// One axis of an array beside the transformed one, with its strides (bytes) in the result and in the source.
struct Beside {
  int64_t extent, to, from;
};

enum class Fourier { complex, real, inverse_real };  // inverse_real: half a spectrum to a real signal

struct FourierProblem {
  Fourier kind;
  int64_t n;       // samples of the signal, or entries of the whole spectrum
  bool conjugate;  // of the spectrum: what `real` returns, what `inverse_real` is given
  double ends;     // the factor of entries of half a spectrum that stand for one of the whole, not for two
  double factor;   // of all
  const char* from;
  char* to;
  int64_t from_step, to_step;      // bytes, along the transformed axis
  Beside side;                     // along this axis rows are transformed side by side
  std::span<const Beside> others;  // and these are walked
};

constexpr int kLargestFactor = 13;
constexpr int64_t kLongestRow = 8192;  // a megabyte where 16 are side by side

inline bool has_fourier(int64_t n) {
  if (n > kLongestRow) return false;
  for (int64_t factor = 2; factor <= kLargestFactor; ++factor)
    while (n % factor == 0) n /= factor;
  return n == 1;
}

// `roots`: exp(-2 pi i t / n), or its conjugate (for transforms with that sign), in pairs, for all t < n.
template <class T>
void fourier(const FourierProblem& p, const T* roots);

}  // namespace fastdl
