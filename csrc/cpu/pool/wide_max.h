// The maximum of one wide window, and which of the window's elements it is.
//
// Where windows are wide and hardly overlap (adaptive pooling to a few outputs, long strides) there is nothing to
// share between them: a window's rows are read vector by vector, each lane keeps its best value and the number of
// that element, and lanes are compared once at the window's end. One read of the input; a tie goes to the lowest
// number, a NaN beats every value, and of some NaN the last one wins.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/simd/interleave.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

template <class T>
class WideMax {
  using Ints = simd::Vec<simd::Int<T>>;
  static constexpr int w = simd::kWidth<T>;
  static constexpr T kLowest = -std::numeric_limits<T>::infinity();

 public:
  // Windows of `columns` columns and `taps` elements, of which each input is in `overlap` on average.
  static bool worthwhile(int64_t columns, int64_t taps, double overlap) {
    return columns >= w / 2 && taps >= 4 * w && overlap <= 2;
  }
  // `first`: the number that a window of nothing but -inf reports, the lowest of all.
  explicit WideMax(int64_t first)
      : best_(simd::broadcast<T>(kLowest)), number_(simd::broadcast<simd::Int<T>>(simd::Int<T>(first))) {}

  // n neighbours, numbered from `number` on.
  void add(const T* from, int64_t n, int64_t number) {
    const Ints numbers = simd::to_int<T>(simd::iota<T>()) + simd::Int<T>(number);
    int64_t i = 0;
    for (; i + w <= n; i += w) take(simd::load<T>(from + i), numbers + simd::Int<T>(i));
    if (i == n) return;
    if (n >= w)  // some are seen once more, which changes nothing
      take(simd::load<T>(from + n - w), numbers + simd::Int<T>(n - w));
    else
      take(simd::iota<T>() < T(n) ? simd::load_n(from, int(n)) : simd::broadcast<T>(kLowest), numbers);
  }
  // Returns the maximum; `number` becomes its number.
  T result(int64_t& number) const {
    alignas(64) T best[w];
    alignas(64) simd::Int<T> numbers[w];
    simd::store<T>(best, best_);
    simd::store<simd::Int<T>>(numbers, number_);
    T value = best[0];
    simd::Int<T> at = numbers[0];
    bool nan = value != value;
    for (int k = 1; k < w; ++k) {
      nan |= best[k] != best[k];
      value = best[k] > value ? best[k] : value;
    }
    if (nan) {
      at = -1;
      for (int k = 0; k < w; ++k)
        if (best[k] != best[k] && numbers[k] > at) at = numbers[k], value = best[k];
    } else {
      at = std::numeric_limits<simd::Int<T>>::max();
      for (int k = 0; k < w; ++k) at = best[k] == value ? std::min(at, numbers[k]) : at;
    }
    number = at;
    return value;
  }

 private:
  [[gnu::always_inline]] void take(simd::Vec<T> v, Ints numbers) {
    const auto better = (v > best_) | (v != v);
    best_ = better ? v : best_;
    number_ = better ? numbers : number_;
  }
  simd::Vec<T> best_;
  Ints number_;
};

// Something of the rows of a window: for each step along depth, and along height.
struct PerRow {
  int64_t d, h;
};

// The maximum of depth x height rows of `width` elements; `number` becomes that of the element. The first one is at
// `from` and has the number `first`; rows are `places` apart in memory, and their numbers `numbers`.
template <class T>
[[gnu::always_inline]] inline T wide_max(const T* from, int64_t depth, int64_t height, int64_t width,
                                         PerRow places, int64_t first, PerRow numbers, int64_t& number) {
  WideMax<T> winner(first);
  for (int64_t i = 0; i < depth; ++i)
    for (int64_t j = 0; j < height; ++j)
      winner.add(from + i * places.d + j * places.h, width, first + i * numbers.d + j * numbers.h);
  return winner.result(number);
}

}  // namespace
}  // namespace fastdl
