// Half precision on the CPU is a way to store floats: kernels compute in float, and what surrounds them
// converts blocks that stay in the first-level cache. So memory is passed over once, in two bytes a number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace fastdl {

enum class Half : uint8_t { none, float16, bfloat16 };

// y[i] = x[i] on the calling thread: half precision as float, and back (rounded to nearest, ties to even).
void widen(float* y, const uint16_t* x, int64_t n, Half from);
void narrow(uint16_t* y, const float* x, int64_t n, Half to);
// The same on all threads.
void widen_all(float* y, const uint16_t* x, int64_t n, Half from);
void narrow_all(uint16_t* y, const float* x, int64_t n, Half to);

// What computes on floats that convert_rows or its like prepared: the function object, a range, and blocks.
using OnFloats = void (*)(const void* f, int64_t first, int64_t count, float* y, const float* const* x);
template <class F, class... X>
void on_floats(const void* f, int64_t first, int64_t count, float* y, const float* const* x) {
  [&]<size_t... input>(std::index_sequence<input...>) {
    (*static_cast<const F*>(f))(first, count, y, x[input]...);
  }(std::index_sequence_for<X...>());
}
inline constexpr int kMostInputs = 2;

// rows_in_floats, compiled once.
void convert_rows(Half half, uint16_t* y, int64_t rows, int64_t length, int64_t piece,
                  const uint16_t* const* x, int inputs, OnFloats run, const void* f);

// f(first, count, y, x...) for floats of `count` rows from `first` on, some `piece` numbers at a time and on
// all threads, where y and x are `rows` rows of `length` numbers stored in half precision. A single row is
// converted and computed by all threads. y may be null: f keeps its results itself.
template <class F, class... X>
void rows_in_floats(Half half, uint16_t* y, int64_t rows, int64_t length, int64_t piece, const F& f,
                    const X*... x) {
  static_assert(sizeof...(X) <= kMostInputs);
  const uint16_t* const inputs[] = {x...};
  convert_rows(half, y, rows, length, piece, inputs, int(sizeof...(X)), &on_floats<F, X...>, &f);
}

// f(y, x..., n) for n numbers at a time of as many that are stored in half precision.
template <class F, class... X>
void in_floats(Half half, uint16_t* y, int64_t n, F f, const X*... x) {
  constexpr int64_t kBlock = 1024;
  rows_in_floats(
      half, y, n, 1, kBlock,
      [&f](int64_t, int64_t count, float* to, const auto*... from) { f(to, from..., count); }, x...);
}

}  // namespace fastdl
